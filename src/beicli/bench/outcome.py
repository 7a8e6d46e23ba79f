"""All that one benchmark saw, and how it becomes the JSON that `run_format.Run` describes.

`bei bench --json` prints that object; its keys are a promise, kept as long as `schema_version`
stays the same.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from beicli import __version__
from beicli.bench.answers import AnswerComparison
from beicli.bench.loads import Load
from beicli.bench.report import PointMeasurement, latency_ratios, point_to_json, ratio_of_rounds
from beicli.bench.run_format import SCHEMA_VERSION
from beicli.bench.settings import BenchSettings
from beicli.bench.texts import LengthClass, Texts
from beicli.errors import BenchError
from beicli.machine import this_machine


@dataclass(frozen=True, slots=True)
class SkippedPoint:
    """A load under which a server answered nothing that counts."""

    load: Load
    url: str
    error: BenchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """points: one a load, of each server in the settings' order; none without a success.

    served_models: what each server calls its model, None where it does not say.
    """

    settings: BenchSettings
    texts: Texts
    points: tuple[tuple[PointMeasurement, ...], ...]
    skipped: tuple[SkippedPoint, ...]
    served_models: tuple[str | None, ...]
    answers: AnswerComparison | None
    is_interrupted: bool

    def to_json(self) -> dict[str, Any]:
        points = [point_to_json(each[0]) for each in self.points]
        machine = asdict(this_machine())
        return {
            "schema_version": SCHEMA_VERSION,
            "bei_version": __version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "machine": machine | {"cpu_features": list(machine["cpu_features"])},
            "url": self.settings.target.url,
            "served_model": self.served_models[0],
            "workload": str(self.settings.workload),
            "dataset": self._dataset_to_json(points),
            "settings": self._settings_to_json(),
            "points": points,
            "skipped_points": [
                {"load": each.load.to_json(), "url": each.url, "reason": each.error.message}
                for each in self.skipped
            ],
            "against": self._against_to_json(),
            "interrupted": self.is_interrupted,
        }

    def _dataset_to_json(self, points: list[dict[str, Any]]) -> dict[str, Any]:
        dataset = self.texts.dataset
        num_tokens = [point["num_tokens"] for point in points]
        num_texts = sum(point["num_texts"] for point in points)
        return {
            "name": dataset.name,
            **_size_of(dataset.texts),
            # As sent: short texts that come round more often count more often.
            "mean_tokens": None if None in num_tokens else round(sum(num_tokens) / num_texts, 1),
            "by_length": self._lengths_to_json(),
        }

    def _lengths_to_json(self) -> list[dict[str, Any]] | None:
        """Describe both parts of a mix; None without one."""
        if self.texts.longest_short is None:
            return None
        parts: dict[LengthClass | None, list[str]] = {"short": [], "long": []}
        for text in self.texts.dataset.texts:
            parts[self.texts.length_class(text)].append(text)
        return [{"length": length} | _size_of(texts) for length, texts in parts.items() if texts]

    def _settings_to_json(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "model": settings.target.model,
            "batch_size": settings.batch_size,
            "encoding_format": str(settings.encoding_format),
            "dimensions": settings.dimensions,
            "duration_s": settings.duration_s,
            "warmup_s": settings.warmup_s,
            "timeout_s": settings.timeout_s,
            "max_connections": settings.max_connections,
            "client_processes": settings.client_processes,
            "length": settings.length,
            "mix": settings.mix,
            "seed": settings.seed,
        }

    def _against_to_json(self) -> dict[str, Any] | None:
        if self.settings.against is None:
            return None
        return {
            "url": self.settings.against.url,
            "served_model": self.served_models[1],
            "points": [point_to_json(each[1]) for each in self.points],
            "texts_per_second_ratios": [ratio_of_rounds(*each) for each in self.points],
            "latency_ratios": [latency_ratios(*each) for each in self.points],
            "answers": None if self.answers is None else self.answers.to_json(),
        }


def _size_of(texts: Sequence[str]) -> dict[str, Any]:
    mean_characters = round(sum(map(len, texts)) / len(texts), 1)
    return {"num_texts": len(texts), "mean_characters": mean_characters}
