"""How much of the engine's speed arrives over HTTP, and how far ahead of sentence-transformers.

Measures, in rounds within one run and on the same texts:
  reference   sentence-transformers in process, torch float32, both cores
  raw         the engine in process, all texts sorted by length, no server: the ceiling
  http 8x32   `bei serve`, 8 clients that send 32 texts a request
  http 64x1   `bei serve`, 64 clients that send one text a request
then a lone short text on an idle server, the time to readiness and the memory.

Rounds alternate because a shared machine's speed drifts: read the ratios, not the figures. The
client runs on the same cores as the server and is part of what HTTP costs here.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import torch
from idle import measure_idle
from measuring import (
    bench,
    build,
    cpu_name,
    make_texts,
    measure_raw,
    serving,
    time_texts,
    write_dataset,
)
from sentence_transformers import SentenceTransformer

from beicli.artifact.directory import EngineArtifact
from beicli.machine import available_cpus

NUM_STARTS = 5
Measure = Callable[[], float]


def main() -> None:
    """Measure everything and print the table and one JSON line."""
    arguments = parse_arguments()
    texts = make_texts(arguments.models / "lee50")
    with tempfile.TemporaryDirectory(prefix="bei-bench-") as directory:
        work = Path(directory)
        engine_path = work / "engine"
        build(arguments.models / "all-minilm-l6-v2", engine_path)
        dataset = write_dataset(texts, work / "texts.jsonl")
        artifact = EngineArtifact.open(engine_path)
        rates = measure_rates(arguments, artifact, texts, dataset)
        idle = measure_idle(artifact)
        starts = [measure_start(engine_path) for _ in range(NUM_STARTS)]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_name(),
        "num_cpus": available_cpus(),
        "precision": artifact.manifest.precision,
        "texts_per_second": {name: round(statistics.median(r)) for name, r in rates.items()},
        "ratios": ratios(rates),
        "idle": idle,
        "ready_s": round(statistics.median(ready for ready, _ in starts), 2),
        "resident_mb": round(max(resident for _, resident in starts)),
    }
    print_table(result)
    print(json.dumps(result))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=15, help="seconds of each HTTP run")
    return parser.parse_args()


def measure_rates(
    arguments: argparse.Namespace, artifact: EngineArtifact, texts: list[str], dataset: Path
) -> dict[str, list[float]]:
    """Texts per second of each contender, one value a round."""
    reference = SentenceTransformer(
        str(arguments.models / "all-minilm-l6-v2"), device="cpu", local_files_only=True
    )
    torch.set_num_threads(available_cpus())
    contenders: dict[str, Measure] = {
        "reference": lambda: time_texts(texts, lambda: reference.encode(texts, batch_size=32)),
        "raw": lambda: measure_raw(artifact, texts),
        "http 8x32": lambda: measure_http(artifact, dataset, arguments.duration, 8, 32),
        "http 64x1": lambda: measure_http(artifact, dataset, arguments.duration, 64, 1),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(arguments.rounds):
        for name, measure in contenders.items():
            rates[name].append(measure())
            print(f"round {number + 1}  {name:<10} {rates[name][-1]:8.1f} texts/s", file=sys.stderr)
    return rates


def measure_http(
    artifact: EngineArtifact, dataset: Path, duration_s: float, concurrency: int, batch_size: int
) -> float:
    """Texts per second over HTTP, by `bei bench` against a fresh server."""
    with serving(artifact.path) as (url, _):
        point = bench(
            url, dataset, duration=duration_s, concurrency=concurrency, batch_size=batch_size
        )
    return float(point["texts_per_second"])


def measure_start(engine_path: Path) -> tuple[float, float]:
    """Seconds from starting `bei serve` to its first 200 on /ready, and resident megabytes."""
    started_at = time.perf_counter()
    with serving(engine_path) as (url, pid):
        with urlopen(f"{url}/ready") as response:  # noqa: S310 - our own server
            response.read()
        ready_s = time.perf_counter() - started_at
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    resident = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert resident is not None
    return ready_s, int(resident.group(1)) / 1024


def ratios(rates: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds of ratios within a round."""
    pairs = {
        "http 8x32 / raw": ("http 8x32", "raw"),
        "http 64x1 / raw": ("http 64x1", "raw"),
        "http 8x32 / reference": ("http 8x32", "reference"),
        "http 64x1 / reference": ("http 64x1", "reference"),
        "raw / reference": ("raw", "reference"),
    }
    return {
        label: round(
            statistics.median(a / b for a, b in zip(rates[over], rates[under], strict=True)), 3
        )
        for label, (over, under) in pairs.items()
    }


def print_table(result: dict[str, object]) -> None:
    """Print the figures for people, on stderr: stdout has the JSON line."""
    for key, value in result.items():
        if isinstance(value, dict):
            print(key, file=sys.stderr)
            for name, figure in value.items():
                print(f"  {name:<24} {figure}", file=sys.stderr)
        else:
            print(f"{key:<26} {value}", file=sys.stderr)


if __name__ == "__main__":
    main()
