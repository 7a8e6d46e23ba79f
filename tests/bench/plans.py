"""Short runs against a server of the tests, and a reader of their JSON."""

from dataclasses import replace
from typing import Any

from tests.bench.embeddings_server import EmbeddingsServer

from beicli.bench.loads import Load
from beicli.bench.outcome import Outcome
from beicli.bench.run import run_bench
from beicli.bench.run_format import first_problem
from beicli.bench.settings import BenchSettings, Target
from beicli.datasets import bundled_dataset


def settings_for(server: EmbeddingsServer | str, **changes: Any) -> BenchSettings:
    url = server if isinstance(server, str) else server.url
    base = BenchSettings(
        target=Target(url),
        loads=(Load(concurrency=4),),
        batch_size=2,
        duration_s=0.3,
        warmup_s=0.1,
        timeout_s=5,
    )
    return replace(base, **changes)


def run(settings: BenchSettings) -> Outcome:
    return run_bench(settings, bundled_dataset())


def run_to_json(settings: BenchSettings) -> dict[str, Any]:
    """The run as JSON, which has to be what `bei bench --save` may write."""
    result = run(settings).to_json()
    assert first_problem(result) is None
    return result


def run_point(settings: BenchSettings) -> dict[str, Any]:
    (point,) = run_to_json(settings)["points"]
    assert isinstance(point, dict)
    return point
