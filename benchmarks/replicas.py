"""What a second replica brings, and what it costs in memory.

Measures `bei serve --replicas 1` and `--replicas 2`, side by side in rounds within one run:
  8x32   8 clients that send 32 texts a request
  64x1   64 clients that send one text a request
and the memory of each server, all its processes together, right after the load:
  rss    resident, where what processes share counts for each of them
  pss    the same with shared pages divided among those who share them: what the server costs

Rounds alternate because a shared machine's speed drifts: read the ratios, not the figures. The
client runs on the same cores as the server, so that fewer are left for more replicas.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from measuring import bench, build, make_texts, serving, write_dataset

from beicli.machine import this_machine

# Clients, and texts in each of their requests.
LOADS = ((8, 32), (64, 1))


@dataclass(frozen=True, slots=True)
class Run:
    """One server under each load: texts per second, and megabytes of all its processes."""

    rates: tuple[float, ...]
    rss_mb: float
    pss_mb: float


def main() -> None:
    """Measure everything and print the table and one JSON line."""
    arguments = parse_arguments()
    machine = this_machine()
    texts = make_texts(arguments.models / "lee50")
    with tempfile.TemporaryDirectory(prefix="bei-bench-") as directory:
        engine = Path(directory) / "engine"
        build(arguments.models / "all-minilm-l6-v2", engine)
        dataset = write_dataset(texts, Path(directory) / "texts.jsonl")
        runs = measure_rounds(arguments, engine, dataset)
    by_replicas = {str(number): summary(of) for number, of in runs.items()}
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": machine.cpu,
        "num_cpus": machine.num_cpus,
        "replicas": by_replicas,
        "ratios": ratios(runs),
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
    parser.add_argument("--duration", type=float, default=15, help="seconds of each load")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], metavar="N")
    return parser.parse_args()


def measure_rounds(
    arguments: argparse.Namespace, engine: Path, dataset: Path
) -> dict[int, list[Run]]:
    """Measure every number of replicas once a round."""
    runs: dict[int, list[Run]] = {number: [] for number in arguments.replicas}
    for round_number in range(arguments.rounds):
        for number, so_far in runs.items():
            so_far.append(measure(engine, dataset, number, duration_s=arguments.duration))
            shown = "  ".join(
                f"{load_name(load)} {rate:8.1f}"
                for load, rate in zip(LOADS, so_far[-1].rates, strict=True)
            )
            print(
                f"round {round_number + 1}  replicas {number}  {shown} texts/s  "
                f"pss {so_far[-1].pss_mb:,.0f} MB",
                file=sys.stderr,
            )
    return runs


def measure(engine: Path, dataset: Path, num_replicas: int, *, duration_s: float) -> Run:
    """Put each load on a fresh server, and look at its memory afterwards."""
    with serving(engine, "--replicas", str(num_replicas)) as (url, pid):
        rates = tuple(
            float(
                bench(
                    url, dataset, duration=duration_s, concurrency=clients, batch_size=batch_size
                )["texts_per_second"]
            )
            for clients, batch_size in LOADS
        )
        processes = [pid, *children(pid)]
        return Run(rates, memory_mb(processes, "Rss"), memory_mb(processes, "Pss"))


def children(pid: int) -> list[int]:
    """Return the processes that `pid` has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def memory_mb(processes: Sequence[int], name: str) -> float:
    """Megabytes that `processes` hold together; name: `Rss` or `Pss`."""
    total_kb = 0
    for pid in processes:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        found = re.search(rf"^{name}:\s+(\d+) kB", rollup, flags=re.MULTILINE)
        assert found is not None
        total_kb += int(found.group(1))
    return total_kb * 1024 / 1e6


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Medians over the rounds."""
    rates = {
        load_name(load): round(statistics.median(run.rates[index] for run in runs))
        for index, load in enumerate(LOADS)
    }
    return {
        **rates,
        "rss_mb": round(statistics.median(run.rss_mb for run in runs)),
        "pss_mb": round(statistics.median(run.pss_mb for run in runs)),
    }


def ratios(runs: dict[int, list[Run]]) -> dict[str, float]:
    """Medians over the rounds of each number of replicas against the first, within a round."""
    (first, under), *others = runs.items()
    return {
        f"{load_name(load)}, {number} / {first} replicas": round(
            statistics.median(
                a.rates[index] / b.rates[index] for a, b in zip(over, under, strict=True)
            ),
            3,
        )
        for number, over in others
        for index, load in enumerate(LOADS)
    }


def load_name(load: tuple[int, int]) -> str:
    """Clients x texts in a request."""
    return "{}x{}".format(*load)


def print_table(result: dict[str, object]) -> None:
    """Print the figures for people, on stderr: stdout has the JSON line."""
    by_replicas = result["replicas"]
    assert isinstance(by_replicas, dict)
    columns = [*map(load_name, LOADS), "rss_mb", "pss_mb"]
    print(f"{result['cpu']}, {result['num_cpus']} CPUs", file=sys.stderr)
    print("replicas  " + "".join(f"{column:>10}" for column in columns), file=sys.stderr)
    for number, figures in by_replicas.items():
        row = "".join(f"{figures[column]:>10,}" for column in columns)
        print(f"{number:<10}{row}", file=sys.stderr)
    found = result["ratios"]
    assert isinstance(found, dict)
    for name, ratio in found.items():
        print(f"{name:<28} {ratio:.3f}", file=sys.stderr)


if __name__ == "__main__":
    main()
