"""Whether a server can be left alone: stays as small, as fast and as right as it was.

For `--minutes` there are short queries, batches of documents, clients that leave, reconnect or send
nonsense, together against a server that is started here. Every vector is compared with the one that
its text got in the beginning, alone. Trends count after a fifth of the time, and are judged only in
runs long enough for any.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from measuring import serving
from soak_clients import Clients, Seen, find_references
from trends import WARM_UP_SHARE, Sample, drift, percentile, rise, slope, take_sample

MAX_RESIDENT_MB_PER_MINUTE = 0.5
MAX_P99_DRIFT = 0.10
# Connections come and go, so moments differ by a few.
MAX_RISE = 3
MIN_MINUTES_FOR_TRENDS = 10.0
SAMPLE_S = 5.0
NUM_TEXTS = 2_000


def main() -> None:
    """Run and print one JSON line; exit 1 if anything moves too far, or any answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--models", type=Path, help="has the corpus that texts are cut from")
    parser.add_argument("--texts", type=Path, help="use these instead, one JSON string a line")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--replicas", default="1")
    arguments = parser.parse_args()
    if arguments.texts is not None:
        lines = arguments.texts.read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line) for line in lines]
    elif arguments.models is not None:
        texts = list(islice(different_texts(arguments.models / "lee50"), NUM_TEXTS))
    else:
        parser.error("one of --models and --texts is needed")
    seconds = arguments.minutes * 60
    with serving(arguments.engine, "--replicas", arguments.replicas) as (url, pid):
        started_at, samples, seen = asyncio.run(soak(url, pid, texts, seconds))
    result = summarise(started_at, seconds, samples, seen)
    print(json.dumps(result))
    sys.exit(0 if result["verdict"] == "passed" else 1)


def different_texts(corpus: Path) -> Iterator[str]:
    """Yield endlessly many pieces of news of 6 to 190 words, no two alike."""
    words = (corpus / "lee_background.cor").read_text(encoding="utf-8").split()
    source = random.Random(0)  # noqa: S311 - a fixed sequence is the point
    number = 0
    while True:
        length = round(6 * (190 / 6) ** source.random())
        start = source.randrange(len(words) - length)
        number += 1
        yield f"{number} {' '.join(words[start : start + length])}"


async def soak(
    url: str, pid: int, texts: Sequence[str], seconds: float
) -> tuple[float, list[Sample], Seen]:
    """Run the clients, and look at the server meanwhile; returns also when they began."""
    clients = Clients(url, await find_references(url, texts))
    started_at = time.monotonic()
    running = asyncio.create_task(clients.run(seconds))
    samples = [take_sample(pid)]
    pause_s = min(SAMPLE_S, seconds / 20)
    while not running.done():
        await asyncio.wait({running}, timeout=pause_s)
        samples.append(take_sample(pid))
        seen = clients.seen
        print(
            f"{time.monotonic() - started_at:7.0f} s {samples[-1].resident_mb:8.1f} MB"
            f" {samples[-1].descriptors:5} files {samples[-1].threads:4} threads"
            f" {seen.num_texts:9,} texts {len(seen.wrong)} wrong {len(seen.failures)} failed",
            file=sys.stderr,
        )
    await running
    # The last one was taken when the clients had gone.
    return started_at, samples[:-1], clients.seen


def summarise(
    started_at: float, seconds: float, samples: Sequence[Sample], seen: Seen
) -> dict[str, object]:
    """Judge a run; the keys of `broken` name what was not kept."""
    warm_at = started_at + WARM_UP_SHARE * seconds
    warm = [sample for sample in samples if sample.at >= warm_at] or list(samples)
    windows = latencies_ms(seen, warm_at, started_at + seconds)
    p99s = [percentile(window, 0.99) for window in windows]
    growth = slope([(sample.at / 60, sample.resident_mb) for sample in warm])
    has_trends = seconds >= MIN_MINUTES_FOR_TRENDS * 60
    broken = {
        "wrong_answers": bool(seen.wrong),
        "failures": bool(seen.failures),
        "descriptors": rise([sample.descriptors for sample in warm]) > MAX_RISE,
        "threads": rise([sample.threads for sample in warm]) > MAX_RISE,
        "resident": has_trends and growth >= MAX_RESIDENT_MB_PER_MINUTE,
        "p99": has_trends and drift(p99s) >= MAX_P99_DRIFT,
    }
    return {
        "verdict": "failed" if any(broken.values()) else "passed",
        "broken": [name for name, is_broken in broken.items() if is_broken],
        "minutes": round(seconds / 60, 2),
        "trends_judged": has_trends,
        "resident_mb": round(warm[-1].resident_mb, 1),
        "resident_mb_per_minute": round(growth, 3),
        "descriptors": [warm[0].descriptors, warm[-1].descriptors],
        "threads": [warm[0].threads, warm[-1].threads],
        "p50_ms": [round(percentile(window, 0.5), 1) for window in windows],
        "p99_ms": [round(p99, 1) for p99 in p99s],
        "p99_drift": round(drift(p99s), 4),
        "texts": seen.num_texts,
        "texts_per_second": round(seen.num_texts / seconds, 1),
        "left": seen.num_left,
        "refused": seen.num_refused,
        "wrong_answers": len(seen.wrong),
        "failures": seen.failures[:5],
    }


def latencies_ms(seen: Seen, begin: float, end: float) -> list[list[float]]:
    """Return the queries' latencies by minute, or in ten parts of a shorter run; none is empty."""
    window_s = min(60.0, (end - begin) / 10)
    windows: dict[int, list[float]] = {}
    for sent_at, latency_s in seen.queries:
        if begin <= sent_at < end:
            windows.setdefault(int((sent_at - begin) / window_s), []).append(latency_s * 1e3)
    return [windows[number] for number in sorted(windows)] or [[0.0]]


if __name__ == "__main__":
    main()
