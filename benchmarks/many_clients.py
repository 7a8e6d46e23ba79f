"""Whether 512 clients with one text each all get their answer, and soon enough.

With so many clients in a closed loop each waits for about the others: 512 texts at the rate of the
server. p99 is to stay within one and a half times that, and no request may fail.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from measuring import bench, make_texts, serving, write_dataset

NUM_CLIENTS = 512
WANTED = 1.5


def main() -> None:
    """Measure and print one JSON line; exit 1 if a request failed or p99 is too far out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--duration", type=float, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, serving(arguments.engine) as (url, _):
        dataset = write_dataset(make_texts(arguments.models / "lee50"), Path(work) / "texts.jsonl")
        point = bench(url, dataset, duration=arguments.duration, concurrency=NUM_CLIENTS)
    fair_s = NUM_CLIENTS / point["texts_per_second"]
    result = {
        "num_requests": point["num_requests"],
        "num_failed_requests": point["num_failed_requests"],
        "texts_per_second": point["texts_per_second"],
        "p99_ms": point["latency_ms"]["p99"],
        "p99_of_fair": round(point["latency_ms"]["p99"] / 1e3 / fair_s, 3),
        "client_is_limit": point["client_is_limit"],
    }
    print(json.dumps(result))
    sys.exit(1 if result["num_failed_requests"] or result["p99_of_fair"] > WANTED else 0)


if __name__ == "__main__":
    main()
