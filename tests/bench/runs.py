"""Made-up runs that look like measured ones: figures grow with the load as those of servers do."""

import math
import random
from typing import Any

LATENCY_KEYS = ("p50", "p90", "p95", "p99", "p999")


def make_point(
    load: int = 8,
    *,
    is_open: bool = False,
    speed: float = 1.0,
    num_seconds: int = 10,
    **changes: Any,
) -> dict[str, Any]:
    """A point of a server that saturates; speed: times that of the usual server."""
    rng = random.Random(load)
    texts_per_second = speed * 900 * load / (load + 6)
    median_ms = 1000 * load / texts_per_second
    num_requests = round(texts_per_second * num_seconds)
    latencies_ms = sorted(
        median_ms * math.exp(rng.gauss(0, 0.18)) * (3 if rng.random() < 0.012 else 1)
        for _ in range(min(num_requests, 4000))
    )
    point = {
        "load": {"kind": "open", "rate_per_second": load}
        if is_open
        else {"kind": "closed", "concurrency": load},
        "batch_size": 1,
        "window_s": float(num_seconds),
        "num_requests": num_requests,
        "num_failed_requests": 0,
        "num_texts": num_requests,
        "num_tokens": num_requests * 41,
        "requests_per_second": texts_per_second,
        "texts_per_second": texts_per_second,
        "tokens_per_second": texts_per_second * 41,
        "latency_ms": _latencies(latencies_ms),
        "latency_histogram": _histogram(latencies_ms),
        "timeline": [
            _second(second, texts_per_second, median_ms, rng) for second in range(num_seconds)
        ],
        "late_requests": 0,
        "batch_fill": {
            "sequences_per_batch": min(load * 0.8, 24.5),
            "real_token_fraction": 0.96 - 0.004 * load**0.5,
            "num_batches": 4000,
        },
        "client_cpu_fraction": 0.21,
        "client_loop_lag_p99_ms": 0.8,
        "client_is_limit": False,
        "request_bytes": num_requests * 230,
        "response_bytes": num_requests * 2200,
        "errors": [],
    }
    return point | changes


def make_run(*points: dict[str, Any], **changes: Any) -> dict[str, Any]:
    run = {
        "schema_version": 2,
        "bei_version": "0.4.0",
        "date": "2026-11-20T09:30:12Z",
        "machine": {
            "cpu": "Example CPU 9000",
            "cpu_features": ["avx2", "avx512_vnni"],
            "num_cpus": 8,
            "memory_bytes": 33_500_000_000,
        },
        "url": "http://127.0.0.1:7997",
        "served_model": "BAAI/bge-small-en-v1.5",
        "workload": "embeddings",
        "dataset": {
            "name": "bundled",
            "num_texts": 118,
            "mean_characters": 212.4,
            "mean_tokens": 41.2,
        },
        "settings": {"duration_s": 10, "warmup_s": 2, "model": None, "encoding_format": "base64"},
        "points": list(points) or [make_point()],
        "against": None,
        "interrupted": False,
    }
    return run | changes


def make_against(run: dict[str, Any], *points: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The other server's part of `run`, with answers compared."""
    pairs = zip(run["points"], points, strict=True)
    against = {
        "url": "http://127.0.0.1:8080",
        "served_model": "bge-small",
        "points": list(points),
        "texts_per_second_ratios": [
            first["texts_per_second"] / second["texts_per_second"] for first, second in pairs
        ],
        "answers": {
            "num_compared": 118,
            "measure": "cosine similarity",
            "min": 0.99871,
            "mean": 0.99993,
            "worst": [
                {"text": "a text on which they differ", "value": 0.99871},
                {"text": "another one", "value": 0.9991},
            ],
        },
    }
    return against | changes


def _latencies(sorted_ms: list[float]) -> dict[str, float]:
    latencies = {"mean": sum(sorted_ms) / len(sorted_ms), "max": sorted_ms[-1]}
    for key in LATENCY_KEYS:
        share = float(f"0.{key.removeprefix('p')}")
        latencies[key] = sorted_ms[math.ceil(share * len(sorted_ms)) - 1]
    return latencies


def _histogram(sorted_ms: list[float]) -> list[list[float]]:
    """Buckets whose bounds grow by a twentieth."""
    counts: dict[int, int] = {}
    for value in sorted_ms:
        bucket = math.ceil(math.log(value, 1.05))
        counts[bucket] = counts.get(bucket, 0) + 1
    return [[1.05**bucket, count] for bucket, count in sorted(counts.items())]


def _second(
    second: int, texts_per_second: float, median_ms: float, rng: random.Random
) -> dict[str, Any]:
    return {
        "second": second,
        "texts": round(texts_per_second * rng.uniform(0.93, 1.05)),
        "p50_ms": median_ms * rng.uniform(0.95, 1.06),
        "p99_ms": median_ms * rng.uniform(1.5, 2.4),
        "errors": 0,
    }
