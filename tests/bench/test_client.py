import asyncio
import socket
import time
from dataclasses import replace

import pytest
from tests.bench import embeddings_server as servers
from tests.bench.embeddings_server import EmbeddingsServer, serve

from beicli.bench.client import Progress, measure, run_bench
from beicli.bench.dataset import bundled_dataset
from beicli.bench.measurement import Measurement
from beicli.bench.report import BenchReport, summarize
from beicli.bench.settings import BenchSettings, EncodingFormat
from beicli.bench.workload import Workload, plan_workload
from beicli.errors import BenchError


def settings_for(server: EmbeddingsServer, **changes: object) -> BenchSettings:
    base = BenchSettings(
        url=server.url, concurrency=4, batch_size=2, duration_s=0.3, warmup_s=0.1, timeout_s=5
    )
    return replace(base, **changes)  # type: ignore[arg-type] # each field has its own type


def plan(settings: BenchSettings) -> Workload:
    return plan_workload(
        bundled_dataset(),
        concurrency=settings.concurrency,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )


def run(settings: BenchSettings) -> BenchReport:
    return run_bench(settings, plan(settings))


@pytest.mark.parametrize("encoding_format", EncodingFormat)
def test_a_good_server_is_measured(encoding_format: EncodingFormat) -> None:
    with serve(servers.good) as server:
        report = run(settings_for(server, encoding_format=encoding_format))

    assert report.num_requests > 10
    assert report.num_texts == 2 * report.num_requests
    assert report.num_tokens is not None
    assert report.num_tokens >= report.num_texts
    assert report.failures == ()
    assert report.served_model == "fake-model"
    assert report.window_s == pytest.approx(0.3)
    assert 0 < report.latency_ms(50) <= report.latency_ms(100)


def test_requests_carry_what_was_asked_for() -> None:
    with serve(servers.good) as server:
        run(settings_for(server, model="m", dimensions=4, api_key="s3cret"))

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
        report = run(settings_for(server))

    assert server.max_requests_in_flight == 4
    # One more for the first request, whose connection is then taken over by a client.
    assert len(server.connections) <= 5
    assert report.latency_ms(50) >= 50


def test_no_text_is_in_flight_twice() -> None:
    with serve(servers.slow) as server:
        run(settings_for(server, concurrency=16, batch_size=10))

    assert not server.saw_a_text_twice_at_once


def test_refused_requests_are_counted_beside_the_others() -> None:
    with serve(servers.overloaded_every_third) as server:
        report = run(settings_for(server))

    [(failure, count)] = report.failures
    assert failure.kind == "status_429"
    assert failure.message == "Model is overloaded"
    assert count == pytest.approx(report.num_requests / 2, rel=0.2, abs=3)


def test_a_server_without_usage_gives_no_tokens() -> None:
    with serve(servers.without_usage) as server:
        report = run(settings_for(server, encoding_format=EncodingFormat.FLOAT))

    assert report.num_requests > 0
    assert report.tokens_per_second is None


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
        report = run(settings_for(server, encoding_format=encoding_format, warmup_s=0))

    assert report.num_requests <= 10
    assert [failure.kind for failure, _ in report.failures] == ["invalid_response"]


def test_when_every_request_is_refused_the_run_fails_with_the_reason() -> None:
    with serve(servers.always_overloaded) as server, pytest.raises(BenchError) as caught:
        run(settings_for(server))

    assert "status_429" in caught.value.message
    assert "Model is overloaded" in caught.value.message
    assert "--concurrency" in (caught.value.hint or "")


def test_a_refused_connection_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    settings = BenchSettings(url=url, duration_s=60)

    started_s = time.monotonic()
    with pytest.raises(BenchError, match="connection_refused") as caught:
        run(settings)

    assert time.monotonic() - started_s < 2
    assert url in caught.value.message
    assert "`bei serve`" in (caught.value.hint or "")


def test_https_asked_of_a_plain_port_is_told_at_once() -> None:
    with serve(servers.good) as server, pytest.raises(BenchError, match="connection_failed") as err:
        run(settings_for(server, url=server.url.replace("http:", "https:"), duration_s=60))

    assert "`https`" in (err.value.hint or "")


def test_a_wrong_route_is_told_at_once() -> None:
    with serve(servers.good) as server, pytest.raises(BenchError, match="status_404") as caught:
        run(settings_for(server, url=f"{server.url}/elsewhere", duration_s=60))

    assert "`--url`" in (caught.value.hint or "")


def test_a_server_that_does_not_answer_the_first_request_is_told_after_the_timeout() -> None:
    with serve(servers.stuck) as server, pytest.raises(BenchError, match=r"within 0\.2 s"):
        run(settings_for(server, timeout_s=0.2, duration_s=60))

    assert len(server.payloads) == 1


def test_later_timeouts_are_counted() -> None:
    with serve(servers.stuck_after_the_first) as server:
        settings = settings_for(server, timeout_s=0.1)
        measurement = asyncio.run(measure(settings, plan(settings)))

    kinds = {sample.failure.kind for sample in measurement.samples if sample.failure}
    assert kinds == {"timeout"}


def test_requests_in_flight_at_the_end_are_awaited_but_do_not_count() -> None:
    with serve(servers.slow) as server:
        settings = settings_for(server, duration_s=0.2, warmup_s=0)
        measurement = asyncio.run(measure(settings, plan(settings)))

    report = summarize(measurement, settings=settings, workload=plan(settings))
    late = [s for s in measurement.samples if s.completed_at_s > measurement.window_end_s]
    assert len(late) == 4
    assert report.num_requests == len(measurement.samples) - 4


def test_a_server_that_goes_away_is_not_hammered() -> None:
    with serve(servers.good) as server:
        settings = settings_for(server, duration_s=0.6, warmup_s=0)

        async def measure_while_it_stops() -> Measurement:
            task = asyncio.create_task(measure(settings, plan(settings)))
            await asyncio.sleep(0.2)
            server.stop()
            return await task

        measurement = asyncio.run(measure_while_it_stops())

    failed = [sample for sample in measurement.samples if sample.failure]
    assert 4 <= len(failed) <= 4 * 8
    assert {s.failure.kind for s in failed if s.failure} <= {
        "connection_closed",
        "connection_refused",
    }


def test_cancelling_ends_the_window_and_keeps_what_was_measured() -> None:
    with serve(servers.good) as server:
        settings = settings_for(server, duration_s=60, warmup_s=0)

        async def cancel_soon() -> Measurement:
            task = asyncio.create_task(measure(settings, plan(settings)))
            await asyncio.sleep(0.3)
            task.cancel()
            return await task

        measurement = asyncio.run(cancel_soon())

    report = summarize(measurement, settings=settings, workload=plan(settings))
    assert report.is_interrupted
    assert 0 < report.window_s < 5
    assert report.num_requests > 0


def test_progress_names_the_phases_in_order() -> None:
    seen: list[Progress] = []
    with serve(servers.slow) as server:
        settings = settings_for(server)
        run_bench(settings, plan(settings), on_progress=seen.append)

    assert list(dict.fromkeys(progress.phase for progress in seen)) == [
        "warm-up",
        "window",
        "last requests",
    ]
    assert all(0 <= progress.elapsed_s <= progress.total_s for progress in seen)


def test_a_body_above_a_megabyte_is_sent() -> None:
    with serve(servers.good) as server:
        settings = settings_for(server, batch_size=4000, concurrency=1, warmup_s=0)
        report = run(settings)

    assert report.request_bytes > 2**20
