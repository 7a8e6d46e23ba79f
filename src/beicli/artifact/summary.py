"""What an engine directory holds, and in what two of them differ, as plain values."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from beicli.artifact.manifest import Manifest
from beicli.artifact.report import AccuracyReport

# Two builds of the same thing differ in these; they say nothing about what is served.
_INCIDENTAL = ("created_at",)
_ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One value that two engines do not share; a JSON value, or `absent`."""

    place: str
    left: Any
    right: Any


def summarise(manifest: Manifest, report: AccuracyReport | None) -> dict[str, Any]:
    """Return what people ask of an engine, JSON values, in the order they ask."""
    model = asdict(manifest.model)
    limits = asdict(manifest.limits)
    return {
        "name": manifest.name,
        "task": manifest.model.task,
        "architecture": manifest.model.architecture,
        **{key: model[key] for key in _model_keys(manifest)},
        "precision": manifest.precision,
        **_quantization(manifest),
        "backend": manifest.backend,
        "cpu_features": list(manifest.cpu_features),
        **_gpu(manifest),
        **limits,
        "prompts": dict(manifest.model.prompts),
        "default_route": manifest.default_route,
        "tuning": None if manifest.tuning is None else asdict(manifest.tuning),
        "accuracy": None if report is None else report.summary,
        "source": asdict(manifest.source),
        "created_at": manifest.created_at,
        "bei_version": manifest.bei_version,
        "format_version": manifest.format_version,
        "toolchain": dict(manifest.toolchain),
        "size_bytes": sum(entry.size_bytes for entry in manifest.files.values()),
        "files": [
            {"file": name, "size_bytes": entry.size_bytes, "sha256": entry.sha256}
            for name, entry in sorted(manifest.files.items())
        ],
    }


def differences(
    left: tuple[Manifest, AccuracyReport | None], right: tuple[Manifest, AccuracyReport | None]
) -> list[Difference]:
    """Return every value in which two engines differ, in the order of their fields.

    Each with its report, if it has one: its figures follow the manifest's, under `accuracy`.
    Files are told apart by size and sha256. The time of the build is left out.
    """
    left_values, right_values = _values(*left), _values(*right)
    return [
        Difference(
            place=place,
            left=left_values.get(place, _ABSENT),
            right=right_values.get(place, _ABSENT),
        )
        for place in left_values | right_values
        if place not in _INCIDENTAL
        and left_values.get(place, _ABSENT) != right_values.get(place, _ABSENT)
    ]


def _quantization(manifest: Manifest) -> dict[str, str]:
    """Say what of an engine is in 8 bit; the names of its products are in the manifest."""
    found = manifest.quantization
    if found is None:
        return {}
    counts = {
        "with fixed scales": len(found.static),
        f"scaled by {'block' if manifest.precision == 'fp4' else 'token'}": len(found.dynamic),
        f"left in {found.residual_precision}": len(found.kept),
    }
    products = ", ".join(f"{count:,} {words}" for words, count in counts.items() if count)
    return {
        "quantization": f"{found.method}, {found.quantized_fraction:.0%} of the multiplications in "
        f"{'4' if manifest.precision == 'fp4' else '8'} bit; products: {products}; calibrated on "
        f"{found.calibration}"
    }


def _gpu(manifest: Manifest) -> dict[str, str]:
    """Say what GPU an engine is for, and how it is laid out there."""
    target = manifest.gpu
    if target is None:
        return {}
    largest = ", ".join(
        f"{each.maximum.num_sequences:,} x {each.maximum.length:,}" for each in target.profiles
    )
    return {
        "gpu": f"sm{target.sm}, {target.layout}; profiles up to {largest}; hardware compatibility "
        f"{target.hardware_compatibility.replace('_', ' ')}"
    }


def _model_keys(manifest: Manifest) -> tuple[str, ...]:
    if manifest.model.score_activation is not None:
        return ("labels", "score_activation")
    adapter = ("adapter",) if manifest.model.adapter else ()
    return ("pooling", "embedding_dimension", "normalize", *adapter)


def _values(manifest: Manifest, report: AccuracyReport | None) -> dict[str, Any]:
    figures = {} if report is None else asdict(report)
    figures.pop("worst_samples", None)
    return dict(_flat(asdict(manifest) | {"accuracy": figures}))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf with its dotted key; a file is one leaf."""
    for key, value in values.items():
        place = f"{prefix}{key}"
        if prefix == "files.":
            yield place, f"{value['size_bytes']:,} bytes, sha256 {value['sha256'][:12]}"
        elif isinstance(value, Mapping) and value:
            yield from _flat(value, f"{place}.")
        else:
            yield place, value
