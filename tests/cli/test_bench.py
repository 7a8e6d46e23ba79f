import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tests.bench import embeddings_server as servers
from tests.bench.embeddings_server import EmbeddingsServer, serve
from typer.testing import CliRunner, Result

from beicli.cli.bench import bench
from beicli.errors import BeiError, BenchError, UsageError

SHORT = ["--duration", "0.2", "--warmup", "0.1", "--concurrency", "2"]


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    with serve(servers.good) as running:
        yield running


def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
    app = typer.Typer()
    app.command()(bench)
    return CliRunner().invoke(app, arguments, env={"NO_COLOR": "1", "COLUMNS": "80"} | (env or {}))


def error_of(*arguments: str, env: dict[str, str] | None = None) -> BeiError:
    result = invoke(*arguments, env=env)
    assert isinstance(result.exception, BeiError), result.output
    assert result.stdout == ""
    return result.exception


def test_json_on_stdout_is_one_object_and_the_talk_is_on_stderr(server: EmbeddingsServer) -> None:
    result = invoke("--url", server.url, *SHORT, "--json")

    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["schema_version"] == 1
    assert report["url"] == server.url
    assert report["dataset"] == "bundled"
    assert report["texts_per_second"] > 0
    assert report["errors"] == []
    assert report["interrupted"] is False
    assert "Warming up   0.1 s\nMeasuring    0.2 s\n" in result.stderr


def test_people_get_a_table(server: EmbeddingsServer) -> None:
    result = invoke("--url", server.url, *SHORT)

    labels = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert labels[:6] == ["server", "model", "load", "dataset", "window", "texts"]
    assert "latency p99" in labels
    assert "bundled, 118 texts, mean 263 characters" in result.stdout


def test_a_message_that_looks_like_markup_is_printed_as_it_came() -> None:
    with serve(servers.overloaded_with_markup) as server:
        result = invoke("--url", server.url, *SHORT)

    assert "[red]busy[/red] [/]" in result.stdout


def test_every_option_has_an_environment_variable(server: EmbeddingsServer, tmp_path: Path) -> None:
    dataset = tmp_path / "queries.txt"
    dataset.write_text("first text\nsecond text\nthird text\nfourth text\n")

    result = invoke(
        env={
            "BEI_URL": server.url,
            "BEI_API_KEY": "s3cret",
            "BEI_BENCH_CONCURRENCY": "2",
            "BEI_BENCH_BATCH_SIZE": "2",
            "BEI_BENCH_DURATION": "0.2",
            "BEI_BENCH_WARMUP": "0",
            "BEI_BENCH_TIMEOUT": "5",
            "BEI_BENCH_DATASET": str(dataset),
            "BEI_BENCH_MODEL": "m",
            "BEI_BENCH_ENCODING_FORMAT": "float",
            "BEI_BENCH_DIMENSIONS": "4",
            "BEI_BENCH_SEED": "3",
            "BEI_BENCH_JSON": "1",
        }
    )

    report = json.loads(result.stdout)
    asked: dict[str, object] = {"dimensions": 4, "seed": 3, "dataset_num_texts": 4}
    asked |= {"concurrency": 2, "batch_size": 2, "duration_s": 0.2, "warmup_s": 0, "timeout_s": 5}
    asked |= {"dataset": str(dataset), "model": "m", "encoding_format": "float"}
    assert {key: report[key] for key in asked} == asked
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "0"], "concurrency must be 1 or more"),
        (["--batch-size", "0"], "batch size must be 1 or more"),
        (["--duration", "0"], "duration must be more than 0 seconds"),
        (["--encoding-format", "int8"], "unknown encoding format `int8`"),
        (["--url", "127.0.0.1:7997"], "does not start with `http://`"),
        (["--dataset", "gone.txt"], "cannot read dataset `gone.txt`"),
    ],
)
def test_a_senseless_option_is_a_usage_error(arguments: list[str], message: str) -> None:
    error = error_of(*arguments)

    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert message in error.message


def test_when_nothing_succeeds_the_command_fails_with_a_hint() -> None:
    with serve(servers.always_overloaded) as server:
        error = error_of("--url", server.url, *SHORT)

    assert isinstance(error, BenchError)
    assert error.exit_code == 1
    assert error.hint


def test_without_aiohttp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "beicli.bench.client", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    error = error_of()

    assert isinstance(error, UsageError)
    assert "aiohttp" in error.message
    assert "beicli[bench]" in (error.hint or "")


def test_ctrl_c_ends_the_run_and_reports_what_was_measured(server: EmbeddingsServer) -> None:
    code = "import typer; from beicli.cli.bench import bench; typer.run(bench)"
    command = [sys.executable, "-c", code, "--url", server.url, "--duration", "60", "--json"]
    with subprocess.Popen(
        [*command, "--warmup", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Measuring")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=10)

    report = json.loads(stdout)
    assert process.returncode == 0, stderr
    assert report["interrupted"] is True
    assert 0 < report["window_s"] < 20
    assert report["num_requests"] > 0


def test_the_command_can_be_described_without_loading_the_client() -> None:
    code = (
        "import sys, typer; from beicli.cli.bench import bench; "
        "print(sorted({'aiohttp', 'orjson', 'beicli.bench.client'} & set(sys.modules)))"
    )

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"
