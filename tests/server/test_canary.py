"""The canary, with an engine that begins to compute nonsense while it serves."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send
from tests.server.fakes import (
    FakeEngine,
    live_server,
    logits,
    make_manifest,
    make_pipeline,
    token_rows,
    vector,
    wait_until,
    weights,
    word_ids,
)
from tests.server.test_metrics import parse_samples

from beicli.artifact.accuracy import compare_golden
from beicli.artifact.golden import Float32, Sample, read_golden, write_golden
from beicli.artifact.names import GOLDEN_NAME, REPORT_NAME
from beicli.artifact.report import ScoreReport, VectorReport, dump_report
from beicli.engine.batch import Batch, EngineOutput
from beicli.engine.options import EngineOptions
from beicli.errors import BeiError, OverloadedError, UnhealthyError
from beicli.model.spec import Task
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.server.app import create_app
from beicli.server.canary import NUM_INPUTS, Canary, default_limit, open_canary
from beicli.server.front import Generation
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.watchers import Watchers

SAMPLES = ["w1", "w2 w3", "w4", "w5", "w6 w7", "w8 w9 w10"]
# All the canary takes of them, the shortest.
SHORTEST = ["w1", "w4", "w5", "w2 w3"]


@dataclass
class BreaksLater(FakeEngine):
    """is_broken: whether its numbers are wrong now, and to no request."""

    is_broken: bool = False

    def forward(self, batch: Batch) -> EngineOutput:
        output = super().forward(batch)
        if not self.is_broken:
            return output
        wrong = [None if rows is None else -rows for rows in (output.pooled, output.tokens)]
        return EngineOutput(*wrong)


def reference(task: Task, text: str) -> Float32:
    ids = word_ids(*(int(word[1:]) for word in text.split()))
    match task:
        case Task.EMBEDDING:
            return vector(ids)
        case Task.SPARSE_EMBEDDING:
            return weights(ids)
        case Task.TOKEN_CLASSIFICATION:
            return token_rows(ids, task)
        case _:
            return logits(ids, task)


def fill(directory: Path, task: Task = Task.EMBEDDING, samples: list[str] = SAMPLES) -> Path:
    """Write what a build leaves of an engine whose numbers are right to the last bit."""
    outputs = [reference(task, text) for text in samples]
    write_golden(directory / GOLDEN_NAME, samples, outputs)
    report = compare_golden(
        read_golden(directory / GOLDEN_NAME),
        outputs,
        spec=make_manifest(task).model,
        precision="f32",
    )
    (directory / REPORT_NAME).write_text(dump_report(report))
    return directory


@dataclass
class Watched:
    """A server without a network, and its canary, which sings when it is told."""

    canary: Canary
    client: httpx2.AsyncClient

    async def sing(self) -> tuple[httpx2.Response, dict[str, float]]:
        """Run the canary; return what `/ready` says then, and what the page has of it."""
        await self.canary.check()
        page = parse_samples((await self.client.get("/metrics")).text)
        figures = {name: value for name, value in page.items() if "canary" in name}
        return await self.client.get("/ready"), figures


def watch(
    engine: FakeEngine,
    directory: Path,
    scenario: Callable[[Watched], Awaitable[None]],
    options: ServerOptions | None = None,
) -> None:
    async def run() -> None:
        given, metrics = options or ServerOptions(), ServerMetrics()
        with make_pipeline(engine, metrics=metrics, limits=given.pipeline) as pipeline:
            pipeline.directory = directory
            canary = open_canary(pipeline, given)
            assert canary is not None
            app = create_app(pipeline, given, metrics=metrics, watchers=Watchers(canary))
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                await scenario(Watched(canary, client))

    asyncio.run(run())


def test_a_server_whose_numbers_go_wrong_is_not_ready_until_they_are_right_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = BreaksLater()

    async def scenario(server: Watched) -> None:
        ready, figures = await server.sing()
        assert ready.status_code == 200
        assert figures["bei_canary_cosine_min"] == pytest.approx(1)
        assert figures["bei_canary_cosine_min_allowed"] == 0.9999
        assert figures["bei_canary_passed"] == 1
        assert figures["bei_canary_timestamp_seconds"] == pytest.approx(time.time(), abs=60)

        engine.is_broken = True
        ready, figures = await server.sing()
        assert figures["bei_canary_cosine_min"] == pytest.approx(-1)
        assert figures["bei_canary_passed"] == 0
        assert ready.status_code == 503
        assert ready.json()["error"] == (
            "the engine's numbers are wrong: a golden input comes out with a cosine of -1.000000 "
            "to the reference, at least 0.999900 is wanted"
        )
        # It still answers; whether to ask it is for others to decide.
        assert (await server.client.get("/health")).status_code == 200
        await server.sing()

        engine.is_broken = False
        ready, figures = await server.sing()
        assert (ready.status_code, figures["bei_canary_passed"]) == (200, 1)

    watch(engine, fill(tmp_path), scenario)

    # Once when it comes and once when it goes, however often the canary runs meanwhile.
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == [logging.ERROR, logging.WARNING]
    assert not any(text in message for _, message in said for text in SAMPLES)


@pytest.mark.parametrize(
    ("task", "gauge", "wrong"),
    [
        (Task.SPARSE_EMBEDDING, "bei_canary_cosine_min", -1.0),
        (Task.CLASSIFICATION, "bei_canary_score_error_max", None),
        (Task.RERANKING, "bei_canary_score_error_max", None),
        (Task.TOKEN_CLASSIFICATION, "bei_canary_score_error_max", None),
    ],
)
def test_numbers_of_other_tasks_are_compared_by_their_own_measure(
    tmp_path: Path, task: Task, gauge: str, wrong: float | None
) -> None:
    engine = BreaksLater(task)

    async def scenario(server: Watched) -> None:
        ready, figures = await server.sing()
        assert (ready.status_code, figures["bei_canary_passed"]) == (200, 1)
        assert figures[gauge] == pytest.approx(0 if "error" in gauge else 1)

        engine.is_broken = True
        ready, figures = await server.sing()
        assert (ready.status_code, figures["bei_canary_passed"]) == (503, 0)
        assert figures[gauge] == wrong or (wrong is None and figures[gauge] > 0.1)

    watch(engine, fill(tmp_path, task), scenario)


def test_a_canary_that_cannot_be_computed_has_failed(tmp_path: Path) -> None:
    engine = FakeEngine(poison_id=word_ids(4)[1])

    async def scenario(server: Watched) -> None:
        ready, figures = await server.sing()
        assert ready.status_code == 503
        assert "the golden inputs cannot be computed" in ready.json()["error"]
        assert (figures["bei_canary_passed"], math.isnan(figures["bei_canary_cosine_min"])) == (
            0,
            True,
        )

    watch(engine, fill(tmp_path), scenario)


def test_a_bug_in_the_canary_is_for_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(server: Watched) -> None:
        async def buggy(samples: object) -> list[Float32]:
            raise KeyError("/secret/path")

        server.canary._pipeline.outputs = buggy  # type: ignore[method-assign,assignment]
        ready, _ = await server.sing()
        assert ready.status_code == 503
        assert "secret" not in ready.text

    watch(FakeEngine(), fill(tmp_path), scenario)

    (record,) = caplog.records
    assert record.exc_info is not None


def test_a_golden_output_of_another_shape_has_failed(tmp_path: Path) -> None:
    directory = fill(tmp_path)
    write_golden(directory / GOLDEN_NAME, ["w1"], [vector(word_ids(1))[:4]])

    async def scenario(server: Watched) -> None:
        ready, _ = await server.sing()
        assert ready.status_code == 503

    watch(FakeEngine(), directory, scenario)


def test_the_cache_of_results_is_neither_asked_nor_filled(tmp_path: Path) -> None:
    engine = BreaksLater()
    options = ServerOptions(pipeline=PipelineLimits(result_cache_bytes=2**20))

    async def scenario(server: Watched) -> None:
        await server.client.post("/embed", json={"inputs": SHORTEST[:2]})
        engine.is_broken = True
        ready, _ = await server.sing()
        assert ready.status_code == 503
        page = parse_samples((await server.client.get("/metrics")).text)
        assert page["bei_result_cache_misses_total"] == 2
        assert page["bei_result_cache_hits_total"] == 0

    watch(engine, fill(tmp_path), scenario, options)


def test_a_canary_is_a_few_short_inputs_one_after_the_other(tmp_path: Path) -> None:
    engine, sizes = FakeEngine(), []
    forward = engine.forward

    def counted(batch: Batch) -> EngineOutput:
        sizes.append((batch.num_sequences, len(batch.input_ids)))
        return forward(batch)

    engine.forward = counted  # type: ignore[method-assign]

    async def scenario(server: Watched) -> None:
        await server.canary.check()

    watch(engine, fill(tmp_path), scenario)

    assert len(SHORTEST) == NUM_INPUTS
    assert sizes == [(1, 2 + len(text.split())) for text in SHORTEST]


def test_before_the_first_canary_nothing_is_known(tmp_path: Path) -> None:
    async def scenario(server: Watched) -> None:
        page = parse_samples((await server.client.get("/metrics")).text)
        assert math.isnan(page["bei_canary_cosine_min"])
        assert math.isnan(page["bei_canary_passed"])
        assert (await server.client.get("/ready")).status_code == 200

    watch(FakeEngine(), fill(tmp_path), scenario)


@pytest.mark.parametrize(
    ("task", "options", "status"),
    [
        (Task.EMBEDDING, ServerOptions(canary_min_cosine=-1.01), 200),
        (Task.EMBEDDING, ServerOptions(canary_max_score_error=1), 503),
        (Task.CLASSIFICATION, ServerOptions(canary_max_score_error=1), 200),
        (Task.CLASSIFICATION, ServerOptions(canary_min_cosine=-1), 503),
    ],
)
def test_the_operator_says_how_far_off_numbers_may_be(
    tmp_path: Path, task: Task, options: ServerOptions, status: int
) -> None:
    async def scenario(server: Watched) -> None:
        ready, _ = await server.sing()
        assert ready.status_code == status

    watch(BreaksLater(task, is_broken=True), fill(tmp_path, task), scenario, options)


def vector_report(directory: Path) -> VectorReport:
    golden = read_golden(fill(directory) / GOLDEN_NAME)
    outputs = [vector(word_ids(1))] * len(golden)
    report = compare_golden(golden, outputs, spec=make_manifest().model, precision="int8")
    assert isinstance(report, VectorReport)
    return report


@pytest.mark.parametrize(
    ("built", "least"), [(0.99999, 0.95), (0.975, 0.95), (0.96, 0.92), (0.95, 0.9)]
)
def test_vectors_may_be_as_far_off_as_a_build_allows_or_twice_what_it_found(
    tmp_path: Path, built: float, least: float
) -> None:
    report = replace(vector_report(tmp_path), cosine_min=built)

    assert default_limit(report) == pytest.approx(least)


@pytest.mark.parametrize(("built", "most"), [(0.0, 0.1), (0.05, 0.1), (0.08, 0.16)])
def test_scores_may_be_as_far_off_as_a_build_allows_or_twice_what_it_found(
    tmp_path: Path, built: float, most: float
) -> None:
    golden = read_golden(fill(tmp_path, Task.RERANKING) / GOLDEN_NAME)
    outputs = [rows[0] for _, rows in golden]
    spec = make_manifest(Task.RERANKING).model
    report = compare_golden(golden, outputs, spec=spec, precision="int8")
    assert isinstance(report, ScoreReport)

    assert default_limit(replace(report, max_difference=built)) == pytest.approx(most)


@pytest.mark.parametrize("replica", [0, 1])
def test_an_engine_whose_golden_inputs_cannot_be_read_is_said_to_have_no_canary_once(
    tmp_path: Path, replica: int, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / GOLDEN_NAME).write_bytes(b"damaged")
    options = ServerOptions(port=0, engine=EngineOptions(replica_number=replica))

    with live_server(options=options, directory=tmp_path) as server:
        assert httpx2.get(f"{server.url}/ready").status_code == 200
        assert "canary" not in httpx2.get(f"{server.url}/metrics").text

    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (1 if replica == 0 else 0)
    assert all("no canary watches the engine's numbers: `golden.npz`" in line for line in said)


def test_an_engine_made_without_golden_inputs_has_no_canary_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with live_server(directory=tmp_path) as server:
        assert "canary" not in httpx2.get(f"{server.url}/metrics").text

    assert caplog.records == []


def test_a_golden_file_without_inputs_is_as_good_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples: list[Sample] = ["w1"]
    write_golden(tmp_path / GOLDEN_NAME, samples, [vector(word_ids(1))])

    # And one without a report has no limit.
    with live_server(directory=tmp_path) as server:
        assert "canary" not in httpx2.get(f"{server.url}/metrics").text

    assert REPORT_NAME in caplog.text


def test_no_canary_runs_where_it_is_switched_off(tmp_path: Path) -> None:
    options = ServerOptions(port=0, canary_interval_s=0)

    with live_server(options=options, directory=fill(tmp_path)) as server:
        assert "canary" not in httpx2.get(f"{server.url}/metrics").text


@pytest.mark.parametrize("reason", [UnhealthyError("shutting down"), OverloadedError("full")])
def test_a_server_that_stops_or_is_full_has_not_failed(tmp_path: Path, reason: BeiError) -> None:
    async def scenario(server: Watched) -> None:
        async def closing(samples: object) -> list[Float32]:
            raise reason

        server.canary._pipeline.outputs = closing  # type: ignore[method-assign,assignment]
        await server.canary.check()
        assert server.canary.problem is None

    watch(FakeEngine(), fill(tmp_path), scenario)


def test_a_live_server_runs_its_canary_by_itself_and_ends_with_it(tmp_path: Path) -> None:
    engine = BreaksLater()
    options = ServerOptions(port=0, canary_interval_s=0.01)

    with live_server(engine, options, directory=fill(tmp_path)) as server:

        def status() -> int:
            return httpx2.get(f"{server.url}/ready").status_code

        wait_until(lambda: engine.num_sequences >= 2 * NUM_INPUTS)
        assert status() == 200
        engine.is_broken = True
        wait_until(lambda: status() == 503)
        assert httpx2.get(f"{server.url}/v1/models/model").status_code == 503
        engine.is_broken = False
        wait_until(lambda: status() == 200)


def test_a_server_that_failed_is_looked_at_again_before_the_interval_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beicli.server.canary.RETRY_S", 0.01)
    engine = BreaksLater(is_broken=True)

    with live_server(engine, directory=fill(tmp_path)) as server:

        def status() -> int:
            return httpx2.get(f"{server.url}/ready").status_code

        wait_until(lambda: status() == 503)
        engine.is_broken = False
        wait_until(lambda: status() == 200)


async def no_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nobody asks")


def test_a_canary_ends_with_the_generation_that_it_watches(tmp_path: Path) -> None:
    async def scenario(server: Watched) -> None:
        before = asyncio.all_tasks()
        generation = Generation(no_app, [], [server.canary])
        assert len(asyncio.all_tasks() - before) == 1
        generation.unwatch()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    watch(FakeEngine(), fill(tmp_path), scenario)
