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

from beicli.bench.run_format import first_problem
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

    run = json.loads(result.stdout)
    assert result.exit_code == 0
    assert first_problem(run) is None
    assert run["schema_version"] == 2
    assert run["url"] == server.url
    assert run["dataset"]["name"] == "bundled"
    assert run["points"][0]["texts_per_second"] > 0
    assert run["interrupted"] is False
    assert "Warming up   0.1 s\nMeasuring    0.2 s\n" in result.stderr


def test_people_get_a_table(server: EmbeddingsServer) -> None:
    result = invoke("--url", server.url, *SHORT)

    labels = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert labels[:6] == ["server", "model", "load", "dataset", "window", "texts"]
    assert "latency p99" in labels
    assert "bundled, 118 texts, mean 263 characters" in result.stdout


def test_a_sweep_is_a_table_with_a_row_for_each_load(server: EmbeddingsServer) -> None:
    result = invoke("--url", server.url, *SHORT, "--concurrency", "1,3")

    header, *rows = result.stdout[result.stdout.index("load ") :].splitlines()
    assert header.split()[:2] == ["load", "texts/s"]
    assert [row.split()[:2] for row in rows[:2]] == [["concurrency", "1"], ["concurrency", "3"]]
    assert "Measuring    0.2 s  concurrency 3\n" in result.stderr


def test_another_server_is_compared_in_speed_and_answers(server: EmbeddingsServer) -> None:
    with serve(servers.slow) as other:
        result = invoke("--url", server.url, *SHORT, "--against", other.url, "--batch-size", "8")

    assert f"against    {other.url}" in result.stdout
    assert "answers to 64 texts: cosine similarity mean 1.000000" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()[:9]) <= 80


def test_a_kept_run_is_compared_and_a_regression_fails_after_the_report(
    server: EmbeddingsServer, tmp_path: Path
) -> None:
    kept = tmp_path / "run.json"
    invoke("--url", server.url, *SHORT, "--save", str(kept))

    with serve(servers.slow) as slower:
        result = invoke("--url", slower.url, *SHORT, "--compare", str(kept), "--json")

    assert isinstance(result.exception, BenchError)
    assert result.exception.exit_code == 1
    assert "worse than the one before by more than 5 %: texts/s at" in result.exception.message
    assert json.loads(result.stdout)["points"]
    assert "latency p99 (ms)" in result.stderr


def test_no_regression_within_the_threshold(server: EmbeddingsServer, tmp_path: Path) -> None:
    kept = tmp_path / "run.json"
    invoke("--url", server.url, *SHORT, "--save", str(kept))

    threshold = ("--max-regression-percent", "100000")
    result = invoke("--url", server.url, *SHORT, "--compare", str(kept), *threshold)

    assert result.exit_code == 0
    assert "latency p99 (ms)" in result.stdout


def test_a_page_that_cannot_be_written_is_told_after_the_report(
    server: EmbeddingsServer, tmp_path: Path
) -> None:
    result = invoke("--url", server.url, *SHORT, "--html", str(tmp_path / "gone" / "run.html"))

    assert isinstance(result.exception, UsageError)
    assert "cannot write page" in result.exception.message
    assert "texts " in result.stdout


def test_an_engine_that_cannot_be_served_is_told_with_the_servers_own_words(
    tmp_path: Path,
) -> None:
    error = error_of("--engine", str(tmp_path), *SHORT)

    assert "did not start" in error.message
    assert "manifest.json" in error.message


def test_a_message_that_looks_like_markup_is_printed_as_it_came() -> None:
    with serve(servers.overloaded_with_markup) as server:
        result = invoke("--url", server.url, *SHORT)

    assert "[red]busy[/red] [/]" in result.stdout


def test_every_option_has_an_environment_variable(server: EmbeddingsServer, tmp_path: Path) -> None:
    dataset = tmp_path / "queries.txt"
    dataset.write_text("first text\nsecond text\nthird text\nfourth text\n")
    saved, page = tmp_path / "run.json", tmp_path / "run.html"

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
            "BEI_BENCH_WORKLOAD": "embeddings",
            "BEI_BENCH_MIX": "0.5",
            "BEI_BENCH_MAX_CONNECTIONS": "9",
            "BEI_BENCH_CLIENT_PROCESSES": "1",
            "BEI_BENCH_AGAINST": server.url,
            "BEI_BENCH_AGAINST_MODEL": "m",
            "BEI_BENCH_AGAINST_API_KEY": "s3cret",
            "BEI_BENCH_SAVE": str(saved),
            "BEI_BENCH_HTML": str(page),
            "BEI_BENCH_JSON": "1",
        }
    )

    run = json.loads(result.stdout)
    asked: dict[str, object] = {"dimensions": 4, "seed": 3, "batch_size": 2, "mix": 0.5}
    asked |= {"duration_s": 0.2, "warmup_s": 0, "timeout_s": 5, "client_processes": 1}
    asked |= {"model": "m", "encoding_format": "float", "max_connections": 9}
    assert {key: run["settings"][key] for key in asked} == asked
    assert run["points"][0]["load"] == {"kind": "closed", "concurrency": 2}
    assert run["dataset"]["name"] == str(dataset)
    assert run["against"]["url"] == server.url
    assert json.loads(saved.read_text()) == run
    assert "<html" in page.read_text()
    assert "s3cret" not in result.output + saved.read_text() + page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "0"], "concurrency must be 1 or more"),
        (["--batch-size", "0"], "batch size must be 1 or more"),
        (["--duration", "0"], "duration must be more than 0 seconds"),
        (["--encoding-format", "int8"], "unknown encoding format `int8`"),
        (["--url", "127.0.0.1:7997"], "does not start with `http://`"),
        (["--dataset", "gone.txt"], "cannot read dataset `gone.txt`"),
        (["--concurrency", "8", "--rate", "5"], "exclude each other"),
        (["--rate", "fast"], "rate `fast` is not a number"),
        (["--url", "http://h", "--engine", "here"], "`--engine` and `--url` exclude each other"),
        (["--workload", "sparse"], "unknown workload `sparse`"),
        (["--against", "h:80"], "does not start with `http://`"),
        (["--client-processes", "all"], "`--client-processes all` is neither"),
        (["--compare", "gone.json"], "cannot read run `gone.json`"),
        (["--engine", "here", "--batch-size", "0"], "batch size must be 1 or more"),
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
    for name in ("run", "sender", "client", "preparation", "processes", "shares"):
        monkeypatch.delitem(sys.modules, f"beicli.bench.{name}", raising=False)
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

    run = json.loads(stdout)
    (point,) = run["points"]
    assert process.returncode == 0, stderr
    assert run["interrupted"] is True
    assert 0 < point["window_s"] < 20
    assert point["num_requests"] > 0


def test_the_command_can_be_described_without_loading_the_client() -> None:
    code = (
        "import sys, typer; from beicli.cli.bench import bench; "
        "print(sorted({'aiohttp', 'orjson', 'beicli.bench.client', 'beicli.bench.run'} & set(sys.modules)))"
    )

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"
