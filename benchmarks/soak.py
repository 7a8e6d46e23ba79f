"""Whether a server stays as fast and as small as it is over 100,000 different texts.

Eight clients send 32 texts a request. After each tenth of the texts: texts/s and resident memory.
The first tenth is warm-up: kernels are made for new shapes and memory is taken.
"""

import argparse
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from measuring import connect, serving

NUM_CLIENTS = 8
BATCH_SIZE = 32
NUM_PARTS = 10
WANTED = 0.05


def main() -> None:
    """Run and print one JSON line; exit 1 if either moves by more than a twentieth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=100_000)
    arguments = parser.parse_args()
    texts = different_texts(arguments.models / "lee50")
    rates, resident = [], []
    with serving(arguments.engine) as (url, pid):
        for number in range(NUM_PARTS):
            part = list(islice(texts, arguments.texts // NUM_PARTS))
            rates.append(rate(url, part))
            resident.append(resident_mb(pid))
            print(
                f"part {number + 1}  {rates[-1]:8.1f} texts/s {resident[-1]:8.1f} MB",
                file=sys.stderr,
            )
    result = {
        "texts_per_second": [round(each, 1) for each in rates],
        "resident_mb": [round(each, 1) for each in resident],
        "rate_moves_by": round(deviation(rates[1:]), 4),
        "memory_moves_by": round(deviation(resident[1:]), 4),
    }
    print(json.dumps(result))
    sys.exit(1 if max(result["rate_moves_by"], result["memory_moves_by"]) > WANTED else 0)


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


def rate(url: str, texts: Sequence[str]) -> float:
    """Send texts and return how many were answered a second."""
    requests = [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]

    def client(number: int) -> None:
        connection = connect(url)
        for batch in requests[number::NUM_CLIENTS]:
            body = json.dumps({"input": batch, "encoding_format": "base64"})
            connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:  # noqa: PLR2004 - HTTP's word for success
                raise RuntimeError(f"status {response.status}: {content[:200]!r}")
        connection.close()

    started_at = time.perf_counter()
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        list(clients.map(client, range(NUM_CLIENTS)))
    return len(texts) / (time.perf_counter() - started_at)


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) / 1024


def deviation(values: Sequence[float]) -> float:
    """Return how far any value is from their mean, as a share of it."""
    mean = statistics.fmean(values)
    return max(abs(value - mean) for value in values) / mean


if __name__ == "__main__":
    main()
