import asyncio
import math
import multiprocessing
import socket
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from aiohttp import web
from tests.bench import embeddings_server as servers
from tests.bench.embeddings_server import serve
from tests.bench.plans import run, run_point, run_to_json, settings_for

from beicli.bench.client import Progress
from beicli.bench.loads import Load
from beicli.bench.outcome import Outcome
from beicli.bench.run import Stage, measure, run_bench
from beicli.bench.settings import BenchSettings, EncodingFormat, Target, WorkloadKind
from beicli.datasets import bundled_dataset
from beicli.errors import BenchError

SERVERS_OF_OTHER_WORKLOADS = [
    (WorkloadKind.RERANK, servers.reranked),
    (WorkloadKind.PREDICT, servers.predicted),
    (WorkloadKind.PREDICT_TOKENS, servers.with_entities),
]


@pytest.mark.parametrize("encoding_format", EncodingFormat)
def test_a_good_server_is_measured(encoding_format: EncodingFormat) -> None:
    with serve(servers.good) as server:
        result = run_to_json(settings_for(server, encoding_format=encoding_format))

    (point,) = result["points"]
    assert result["served_model"] == "fake-model"
    assert point["num_requests"] > 10
    assert point["num_texts"] == 2 * point["num_requests"]
    assert point["num_tokens"] >= point["num_texts"]
    assert point["errors"] == []
    assert point["window_s"] == pytest.approx(0.3)
    assert 0 < point["latency_ms"]["p50"] <= point["latency_ms"]["max"]
    assert sum(second["texts"] for second in point["timeline"]) == point["num_texts"]
    assert sum(count for _, count in point["latency_histogram"]) == point["num_requests"]


def test_requests_carry_what_was_asked_for() -> None:
    with serve(servers.good) as server:
        target = Target(server.url, "m", "s3cret")
        run(settings_for(server, target=target, dimensions=4))

    payload = server.payloads[-1]
    headers = {name.lower(): value for name, value in server.headers[-1].items()}
    assert payload["model"] == "m"
    assert payload["dimensions"] == 4
    assert payload["encoding_format"] == "base64"
    assert len(payload["input"]) == 2
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["content-type"] == "application/json"


def test_what_was_not_asked_for_is_left_out_of_requests() -> None:
    with serve(servers.good) as server:
        run(settings_for(server))

    assert set(server.payloads[-1]) == {"input", "encoding_format"}
    assert "authorization" not in {name.lower() for name in server.headers[-1]}


def test_each_client_keeps_one_request_in_flight_on_one_connection() -> None:
    with serve(servers.slow) as server:
        point = run_point(settings_for(server))

    assert server.max_requests_in_flight == 4
    # One more for the requests that are no load.
    assert len(server.connections) <= 5
    assert point["latency_ms"]["p50"] >= 50


def test_no_text_is_in_flight_twice() -> None:
    with serve(servers.slow) as server:
        run(settings_for(server, loads=(Load(concurrency=16),), batch_size=10))

    assert not server.saw_a_text_twice_at_once


def test_refused_requests_are_counted_beside_the_others() -> None:
    with serve(servers.overloaded_every_third) as server:
        point = run_point(settings_for(server))

    [error] = point["errors"]
    assert error["kind"] == "status_429"
    assert error["first_message"] == "Model is overloaded"
    assert error["count"] == point["num_failed_requests"]
    assert error["count"] == pytest.approx(point["num_requests"] / 2, rel=0.2, abs=3)


def test_a_server_without_usage_gives_no_tokens() -> None:
    with serve(servers.without_usage) as server:
        result = run_to_json(settings_for(server, encoding_format=EncodingFormat.FLOAT))

    assert result["points"][0]["tokens_per_second"] is None
    assert result["dataset"]["mean_tokens"] is None


@pytest.mark.parametrize(("workload", "behaviour"), SERVERS_OF_OTHER_WORKLOADS)
def test_the_other_workloads_are_measured(
    workload: WorkloadKind, behaviour: servers.Behaviour
) -> None:
    with serve(behaviour, path=workload.path) as server:
        result = run_to_json(settings_for(server, workload=workload))

    (point,) = result["points"]
    assert result["workload"] == workload
    assert point["num_requests"] > 10
    assert point["errors"] == []
    assert (point["num_tokens"] is not None) == (workload is WorkloadKind.RERANK)


def test_a_reranker_gets_a_query_beside_its_texts() -> None:
    with serve(servers.reranked, path="/rerank") as server:
        run(settings_for(server, workload=WorkloadKind.RERANK))

    queries = {payload["query"] for payload in server.payloads}
    assert len(queries) > 1
    assert all(payload["truncate"] is True for payload in server.payloads)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (servers.one_item_short, "1 vectors for 2 texts"),
        (servers.not_json, "not JSON"),
        (servers.floats_only, "of type `list`, which is not base64"),
    ],
)
def test_a_wrong_answer_to_the_first_request_ends_the_run_at_once(
    behaviour: servers.Behaviour, message: str
) -> None:
    with serve(behaviour) as server, pytest.raises(BenchError, match=message) as caught:
        run(settings_for(server, duration_s=60))

    assert len(server.payloads) == 1
    assert "OpenAI-compatible" in (caught.value.hint or "")


@pytest.mark.parametrize("encoding_format", EncodingFormat)
def test_answers_that_turn_wrong_later_are_failures(encoding_format: EncodingFormat) -> None:
    with serve(servers.one_item_short_after_ten) as server:
        point = run_point(settings_for(server, encoding_format=encoding_format, warmup_s=0))

    assert point["num_requests"] <= 10
    assert [error["kind"] for error in point["errors"]] == ["invalid_response"]


def test_when_every_request_is_refused_the_run_fails_with_the_reason() -> None:
    with serve(servers.always_overloaded) as server, pytest.raises(BenchError) as caught:
        run(settings_for(server))

    assert "status_429" in caught.value.message
    assert "Model is overloaded" in caught.value.message
    assert "--concurrency" in (caught.value.hint or "")


def test_a_refused_connection_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

    started_s = time.monotonic()
    with pytest.raises(BenchError, match="connection_refused") as caught:
        run(settings_for(url, duration_s=60))

    assert time.monotonic() - started_s < 2
    assert url in caught.value.message
    assert "`bei serve`" in (caught.value.hint or "")


def test_https_asked_of_a_plain_port_is_told_at_once() -> None:
    with serve(servers.good) as server, pytest.raises(BenchError, match="connection_failed") as err:
        run(settings_for(server.url.replace("http:", "https:"), duration_s=60))

    assert "`https`" in (err.value.hint or "")


def test_a_wrong_route_is_told_at_once() -> None:
    with serve(servers.good) as server, pytest.raises(BenchError, match="status_404") as caught:
        run(settings_for(f"{server.url}/elsewhere", duration_s=60))

    assert "`--url`" in (caught.value.hint or "")


def test_a_server_that_does_not_answer_the_first_request_is_told_after_the_timeout() -> None:
    with serve(servers.stuck) as server, pytest.raises(BenchError, match=r"within 0\.2 s"):
        run(settings_for(server, timeout_s=0.2, duration_s=60))

    assert len(server.payloads) == 1


def test_later_timeouts_are_counted() -> None:
    with (
        serve(servers.stuck_after_the_first) as server,
        pytest.raises(BenchError, match=r"timeout, \d+ times"),
    ):
        run(settings_for(server, timeout_s=0.1))


def test_requests_in_flight_at_the_end_are_awaited_but_do_not_count() -> None:
    with serve(servers.slow) as server:
        outcome = run(settings_for(server, duration_s=0.2, warmup_s=0))

    ((measured,),) = outcome.points
    tally = measured.tally()
    assert tally.num_outside == 4
    # One more that was the first request.
    assert tally.num_requests + 4 + 1 == len(server.payloads)
    # Nothing was due by the clock, so nothing is owed.
    assert tally.unfinished_requests == 0


def test_a_server_that_goes_away_is_not_hammered() -> None:
    with serve(servers.good) as server:

        async def measure_while_it_stops() -> Outcome:
            settings = settings_for(server, duration_s=0.6, warmup_s=0)
            task = asyncio.create_task(measure(settings, bundled_dataset()))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.stop)
            return await task

        outcome = asyncio.run(measure_while_it_stops())

    (point,) = outcome.to_json()["points"]
    assert 4 <= point["num_failed_requests"] <= 4 * 8
    kinds = {error["kind"] for error in point["errors"]}
    assert kinds <= {"connection_closed", "connection_refused"}


@pytest.mark.parametrize("client_processes", [1, 2])
def test_cancelling_ends_the_window_and_keeps_what_was_measured(client_processes: int) -> None:
    with serve(servers.good) as server:
        settings = settings_for(
            server, duration_s=60, warmup_s=0, client_processes=client_processes
        )
        outcome = cancel_when(lambda progress: progress.elapsed_s > 0.4, settings)

    (point,) = outcome.to_json()["points"]
    assert outcome.is_interrupted
    assert 0.3 < point["window_s"] < 5
    assert point["num_requests"] > 0


def cancel_when(is_time: Callable[[Progress], bool], settings: BenchSettings) -> Outcome:
    async def run_and_cancel() -> Outcome:
        def watch(_stage: Stage, progress: Progress) -> None:
            if is_time(progress):
                task.cancel()

        task = asyncio.create_task(measure(settings, bundled_dataset(), on_progress=watch))
        return await task

    return asyncio.run(run_and_cancel())


def test_an_interruption_before_the_window_is_told() -> None:
    with serve(servers.good) as server, pytest.raises(BenchError, match="interrupted before"):
        cancel_when(lambda progress: progress.phase == "warm-up", settings_for(server, warmup_s=60))


def test_progress_names_the_phases_in_order() -> None:
    seen: list[tuple[Stage, Progress]] = []
    with serve(servers.slow) as server:
        run_bench(
            settings_for(server),
            bundled_dataset(),
            on_progress=lambda stage, progress: seen.append((stage, progress)),
        )

    phases = [progress.phase for _, progress in seen]
    assert list(dict.fromkeys(phases)) == ["warm-up", "window", "last requests"]
    assert all(0 <= progress.elapsed_s <= progress.total_s for _, progress in seen)
    assert {(stage.load, stage.server) for stage, _ in seen} == {("concurrency 4", None)}


def test_a_body_above_a_megabyte_is_sent() -> None:
    with serve(servers.good) as server:
        settings = settings_for(server, batch_size=4000, loads=(Load(concurrency=1),), warmup_s=0)
        point = run_point(settings)

    assert point["request_bytes"] > 2**20


def test_a_sweep_has_a_point_for_each_load_in_order() -> None:
    loads = (Load(concurrency=3), Load(concurrency=1))
    with serve(servers.slow) as server:
        result = run_to_json(settings_for(server, loads=loads, warmup_s=0))

    assert [point["load"]["concurrency"] for point in result["points"]] == [3, 1]
    assert server.max_requests_in_flight == 3


def test_a_load_that_nothing_answers_is_left_out_of_a_sweep_and_told() -> None:
    async def only_one_at_a_time(payload: dict[str, object], number: int) -> web.Response:
        is_alone = len(server.texts_in_flight) == 2
        return await (servers.good if is_alone else servers.always_overloaded)(payload, number)

    with serve(only_one_at_a_time) as server:
        result = run_to_json(
            settings_for(
                server, loads=(Load(concurrency=1), Load(concurrency=2)), duration_s=0.2, warmup_s=0
            )
        )

    loads = [point["load"]["concurrency"] for point in result["points"]]
    skipped = [skipped["load"]["concurrency"] for skipped in result["skipped_points"]]
    # Two callers now and then find it free, which is then a point with many failures.
    assert sorted([*loads, *skipped]) == [1, 2]
    assert 1 in loads


def test_an_open_loop_sends_by_the_clock_and_charges_a_stall_to_the_requests_that_waited() -> None:
    async def stalls_for_a_while(payload: dict[str, object], number: int) -> web.Response:
        await asyncio.sleep(max(stall_until_s - time.perf_counter(), 0))
        return await servers.good(payload, number)

    stall_until_s = 0.0
    with serve(stalls_for_a_while) as server:
        # The first request has to be answered at once.
        settings = settings_for(
            server,
            loads=(Load(rate_per_second=200),),
            duration_s=0.8,
            warmup_s=0,
            max_connections=8,
        )

        def begin_the_stall(_stage: Stage, progress: Progress) -> None:
            nonlocal stall_until_s
            if progress.phase == "window" and not stall_until_s:
                stall_until_s = time.perf_counter() + 0.4

        outcome = run_bench(settings, bundled_dataset(), on_progress=begin_the_stall)

    (point,) = outcome.to_json()["points"]
    # About 160 requests were due, half of them in the stall. With 8 connections the server saw
    # only 8 wait, but the others waited too: the median is far above what an answer takes.
    assert point["load"] == {"kind": "open", "rate_per_second": 200}
    assert 110 < point["num_requests"] < 210
    assert point["latency_ms"]["max"] > 350
    assert point["latency_ms"]["p90"] > 250
    assert point["late_requests"] > 30


def test_an_open_loop_tells_what_a_slow_server_left_unanswered() -> None:
    with serve(servers.slow) as server:
        settings = settings_for(
            server,
            loads=(Load(rate_per_second=400),),
            duration_s=0.5,
            warmup_s=0,
            max_connections=2,
        )
        point = run_point(settings)

    # Two connections with 50 ms a request make 40 a second.
    assert point["num_requests"] <= 24
    assert point["unfinished_requests"] > 100
    assert point["num_requests"] + point["unfinished_requests"] == pytest.approx(200, abs=60)


def test_two_servers_are_measured_turn_by_turn() -> None:
    seen: list[str | None] = []
    with serve(servers.good) as server, serve(servers.slow) as other:
        settings = settings_for(server, against=Target(other.url, "b", "key"), batch_size=8)
        outcome = run_bench(
            settings, bundled_dataset(), on_progress=lambda stage, _: seen.append(stage.server)
        )

    result = outcome.to_json()
    turns = [url for url, before in zip(seen, [None, *seen], strict=False) if url != before]
    assert turns == [server.url, other.url] * 3
    assert result["against"]["points"][0]["latency_ms"]["p50"] >= 50
    assert result["against"]["texts_per_second_ratios"][0] > 2
    assert result["against"]["latency_ratios"][0]["p50"] < 0.5
    assert result["against"]["answers"]["num_compared"] == 64
    assert result["against"]["answers"]["min"] == pytest.approx(1)
    assert other.payloads[-1]["model"] == "b"
    assert "model" not in server.payloads[-1]


def test_vectors_of_another_length_are_a_finding() -> None:
    async def longer(payload: dict[str, object], _number: int) -> web.Response:
        return servers.json_response(servers.embeddings({**payload, "dimensions": 9}))

    with serve(servers.good) as server, serve(longer) as other:
        result = run_to_json(settings_for(server, against=Target(other.url)))

    answers = result["against"]["answers"]
    assert "vectors of 8 numbers, 9 of the other server" in answers["finding"]
    assert answers["num_compared"] == 0


def test_an_answer_that_cannot_be_compared_is_a_finding_and_the_figures_stay() -> None:
    async def refuses_the_longest(payload: dict[str, Any], number: int) -> web.Response:
        is_refused = longest in payload["input"]
        return await (servers.always_overloaded if is_refused else servers.good)(payload, number)

    longest = max(bundled_dataset().texts[:64], key=len)
    with serve(servers.good) as server, serve(refuses_the_longest) as other:
        result = run_to_json(settings_for(server, against=Target(other.url)))

    assert f"a request to `{other.url}" in result["against"]["answers"]["finding"]
    assert "status_429" in result["against"]["answers"]["finding"]
    assert result["points"][0]["num_requests"] > 0


def test_clients_in_two_processes_share_the_load() -> None:
    with serve(servers.slow) as server:
        settings = settings_for(server, loads=(Load(concurrency=5),), client_processes=2)
        point = run_point(settings)

    assert server.max_requests_in_flight == 5
    assert not server.saw_a_text_twice_at_once
    # Five clients for 0.3 s of 50 ms each.
    assert 20 <= point["num_requests"] <= 30


def test_a_process_may_have_no_client_at_all() -> None:
    with serve(servers.slow) as server:
        settings = settings_for(server, loads=(Load(concurrency=1),), client_processes=2)
        point = run_point(settings)

    assert server.max_requests_in_flight == 1
    assert point["num_requests"] >= 3


def test_a_client_process_that_dies_ends_the_run_with_the_reason() -> None:
    def kill_one(_stage: Stage, progress: Progress) -> None:
        if progress.phase == "window":
            for process in multiprocessing.active_children():
                process.kill()

    with serve(servers.good) as server:
        settings = settings_for(server, client_processes=2, duration_s=60)
        with pytest.raises(BenchError, match="client process ended unexpectedly"):
            run_bench(settings, bundled_dataset(), on_progress=kill_one)

    assert multiprocessing.active_children() == []


def test_an_open_loop_in_two_processes_has_the_rate_of_both_together() -> None:
    with serve(servers.good) as server:
        settings = settings_for(
            server, loads=(Load(rate_per_second=300),), client_processes=2, duration_s=0.6
        )
        point = run_point(settings)

    assert point["requests_per_second"] == pytest.approx(300, rel=0.3)


def test_texts_of_a_length_have_as_many_tokens_as_the_server_counts() -> None:
    with serve(servers.good) as server:
        result = run_to_json(settings_for(server, length=17))

    assert result["dataset"]["mean_tokens"] == pytest.approx(17, rel=0.02)
    assert {len(text.split()) for text in server.payloads[-1]["input"]} == {17}


def test_a_length_needs_a_server_that_counts_tokens() -> None:
    with (
        serve(servers.without_usage) as server,
        pytest.raises(BenchError, match="17 tokens") as err,
    ):
        run(settings_for(server, length=17))

    assert "`--length`" in (err.value.hint or "")


def test_a_mix_sends_short_and_long_texts_in_its_share() -> None:
    with serve(servers.good) as server:
        run(settings_for(server, mix=0.75, batch_size=1))

    texts = {text for payload in server.payloads[1:] for text in payload["input"]}
    lengths = sorted(len(text.split()) for text in texts)
    share_of_short = sum(length < 20 for length in lengths) / len(lengths)
    assert share_of_short == pytest.approx(0.75, abs=0.05)


def test_how_batches_were_filled_comes_from_the_servers_own_counters() -> None:
    with serve(servers.good) as server:

        def count_up(_stage: Stage, progress: Progress) -> None:
            share = 1 if progress.phase == "warm-up" else 2
            server.metrics_page = metrics_page(10 * share, 40 * share, 900 * share, 1000 * share)

        server.metrics_page = metrics_page(0, 0, 0, 0)
        outcome = run_bench(settings_for(server), bundled_dataset(), on_progress=count_up)

    (point,) = outcome.to_json()["points"]
    assert point["batch_fill"] == {
        "num_batches": 20,
        "sequences_per_batch": 4.0,
        "real_token_fraction": 0.9,
    }


def metrics_page(*counts: int) -> str:
    names = ("te_batch_next_size_count", "te_batch_next_size_sum", "te_batch_next_tokens_sum")
    names = (*names, "bei_batch_padded_tokens_total")
    return "".join(f"{name} {count}.0\n" for name, count in zip(names, counts, strict=True))


def test_a_run_is_a_number_everywhere_that_json_can_hold() -> None:
    with serve(servers.good) as server:
        result = run_to_json(settings_for(server))

    assert orjson.loads(orjson.dumps(result)) == result
    assert math.isfinite(result["points"][0]["client_loop_lag_p99_ms"])
