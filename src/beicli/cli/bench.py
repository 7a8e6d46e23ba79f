"""`bei bench`: put load on a server and tell what it did."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from beicli.errors import BenchError, UsageError

if TYPE_CHECKING:
    from beicli.bench.settings import BenchSettings

_DEFAULT_URL = "http://127.0.0.1:7997"


class _Outputs(NamedTuple):
    """What becomes of the run; before: the run to compare it with."""

    as_json: bool
    html: Path | None
    save: Path | None
    before: dict[str, Any] | None
    max_regression_percent: float


def bench(
    *,
    url: Annotated[
        str | None,
        typer.Option(envvar="BEI_URL", help=f"Root of a server; {_DEFAULT_URL} if not given."),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option(
            envvar="BEI_BENCH_ENGINE", help="Engine directory to serve for the run, instead."
        ),
    ] = None,
    workload: Annotated[
        str,
        typer.Option(
            envvar="BEI_BENCH_WORKLOAD",
            metavar="embeddings|rerank|predict|predict_tokens",
            help="What to ask for.",
        ),
    ] = "embeddings",
    concurrency: Annotated[
        str | None,
        typer.Option(
            envvar="BEI_BENCH_CONCURRENCY",
            metavar="N[,N...]",
            help="Clients, each with one request in flight; 32 if not given. A list is a sweep.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            envvar="BEI_BENCH_RATE",
            metavar="R[,R...]",
            help="Requests a second to send by the clock, instead. A list is a sweep.",
        ),
    ] = None,
    max_connections: Annotated[
        int,
        typer.Option(envvar="BEI_BENCH_MAX_CONNECTIONS", help="Most connections with `--rate`."),
    ] = 512,
    batch_size: Annotated[
        int, typer.Option(envvar="BEI_BENCH_BATCH_SIZE", help="Texts in each request.")
    ] = 1,
    duration: Annotated[
        float,
        typer.Option(envvar="BEI_BENCH_DURATION", help="Seconds that are measured, each point."),
    ] = 10.0,
    warmup: Annotated[
        float, typer.Option(envvar="BEI_BENCH_WARMUP", help="Seconds of load before that.")
    ] = 2.0,
    timeout: Annotated[
        float, typer.Option(envvar="BEI_BENCH_TIMEOUT", help="Seconds until a request is given up.")
    ] = 60.0,
    dataset: Annotated[
        Path | None,
        typer.Option(
            envvar="BEI_BENCH_DATASET",
            help="Texts to send, `.txt` or `.jsonl`; without it, bundled English ones.",
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            envvar="BEI_BENCH_LENGTH", help="Tokens in each text, made of the dataset's words."
        ),
    ] = None,
    mix: Annotated[
        float | None,
        typer.Option(
            envvar="BEI_BENCH_MIX",
            help="Share of short texts, 0 to 1; the others are long ones of the dataset.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(envvar="BEI_BENCH_MODEL", help="Model to name in each request.")
    ] = None,
    encoding_format: Annotated[
        str,
        typer.Option(
            envvar="BEI_BENCH_ENCODING_FORMAT",
            metavar="base64|float",
            help="How the server is to write vectors.",
        ),
    ] = "base64",
    dimensions: Annotated[
        int | None,
        typer.Option(envvar="BEI_BENCH_DIMENSIONS", help="Vector length to ask the server for."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="BEI_API_KEY", show_envvar=True, help="Sent as a bearer token."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            envvar="BEI_BENCH_AGAINST",
            metavar="URL",
            help="Another server, measured turn by turn; answers are compared too.",
        ),
    ] = None,
    against_model: Annotated[
        str | None,
        typer.Option(envvar="BEI_BENCH_AGAINST_MODEL", help="Model to name to that one."),
    ] = None,
    against_api_key: Annotated[
        str | None, typer.Option(envvar="BEI_BENCH_AGAINST_API_KEY", help="Key of that one.")
    ] = None,
    client_processes: Annotated[
        str,
        typer.Option(
            envvar="BEI_BENCH_CLIENT_PROCESSES",
            metavar="NUMBER/auto",
            help="Processes that share the clients; auto: half of the CPUs.",
        ),
    ] = "1",
    seed: Annotated[
        int, typer.Option(envvar="BEI_BENCH_SEED", help="Decides the order of the texts.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="BEI_BENCH_JSON", help="Print one JSON object.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(envvar="BEI_BENCH_HTML", help="File for a page with plots of the run."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(envvar="BEI_BENCH_SAVE", help="File to keep the run in.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            envvar="BEI_BENCH_COMPARE",
            help="Kept run to compare with; exits with 1 on a regression.",
        ),
    ] = None,
    max_regression_percent: Annotated[
        float,
        typer.Option(
            envvar="BEI_BENCH_MAX_REGRESSION_PERCENT",
            help="What texts/s, p99 and failures may worsen by.",
        ),
    ] = 5.0,
) -> None:
    """Measure a server: texts per second, latency, errors.

    Clients send their next request when the last one was answered, or, with `--rate`, by the clock.
    A request counts when it completed inside the measured seconds. Ctrl-C ends the run early and
    reports what was measured.
    """
    _require_aiohttp()
    from beicli.bench.history import load_run
    from beicli.bench.loads import parse_loads
    from beicli.bench.served_engine import serving
    from beicli.bench.settings import BenchSettings, EncodingFormat, Target, WorkloadKind
    from beicli.datasets import bundled_dataset, read_dataset

    if engine is not None and url is not None:
        raise UsageError(
            "`--engine` and `--url` exclude each other",
            hint="both name a server; is `BEI_URL` set?",
        )
    outputs = _Outputs(
        as_json, html, save, load_run(compare) if compare else None, max_regression_percent
    )
    texts = read_dataset(dataset) if dataset else bundled_dataset()

    def settings_for(address: str) -> BenchSettings:
        return BenchSettings(
            target=Target(address, model, api_key),
            against=Target(against, against_model, against_api_key) if against else None,
            workload=WorkloadKind.parse(workload),
            loads=parse_loads(concurrency, rate),
            batch_size=batch_size,
            duration_s=duration,
            warmup_s=warmup,
            timeout_s=timeout,
            encoding_format=EncodingFormat.parse(encoding_format),
            dimensions=dimensions,
            seed=seed,
            max_connections=max_connections,
            client_processes=_num_processes(client_processes),
            length=length,
            mix=mix,
        )

    # Checked before an engine is loaded, which takes a while.
    settings = settings_for(url or _DEFAULT_URL)
    with ExitStack() as stack:
        if engine is not None:
            settings = settings_for(stack.enter_context(serving(engine)))
        run = _measure(settings, texts)
    _report(run, outputs)


def _require_aiohttp() -> None:
    try:
        import beicli.bench.run  # noqa: F401 - whether it can be
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise UsageError(
            "`bei bench` needs aiohttp, which is not installed",
            hint="pip install 'beicli[bench]'",
        ) from error


def _num_processes(text: str) -> int:
    """Read `--client-processes`; the server is left at least half of the machine."""
    from beicli.machine import available_cpus

    if text == "auto":
        return max(available_cpus() // 2, 1)
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"`--client-processes {text}` is neither a number nor `auto`") from error


def _measure(settings: "BenchSettings", texts: Any) -> dict[str, Any]:
    from beicli.bench.run import run_bench
    from beicli.cli.bench_progress import progress_on_stderr

    with progress_on_stderr(settings) as show:
        outcome = run_bench(settings, texts, on_progress=show)
    return outcome.to_json()


def _report(run: dict[str, Any], outputs: _Outputs) -> None:
    """Print the run and write the files; raises `BenchError` on a regression, after all that."""
    from beicli.bench.history import compare_runs, save_run
    from beicli.bench.html import render_html
    from beicli.cli.bench_table import print_comparison, print_run
    from beicli.cli.console import say

    if outputs.as_json:
        import json

        typer.echo(json.dumps(run))
    else:
        print_run(run)
    if outputs.save is not None:
        save_run(run, outputs.save)
        say(f"Saved        {outputs.save}")
    if outputs.html is not None:
        _write_page(render_html(run), outputs.html)
        say(f"Drew         {outputs.html}")
    if outputs.before is None:
        return
    comparison = compare_runs(
        outputs.before, run, max_regression_percent=outputs.max_regression_percent
    )
    print_comparison(comparison, to_stderr=outputs.as_json)
    if comparison.is_regression:
        worse = [row for row in comparison.rows if row.is_decisive and row.verdict == "worse"]
        first = worse[0]
        raise BenchError(
            f"this run is worse than the one before by more than "
            f"{outputs.max_regression_percent:g} %: {first.quantity} at {first.point} went from "
            f"{first.before:,.4g} to {first.after:,.4g}",
            hint="measure both again, one after the other on a quiet machine, before believing it",
        )


def _write_page(page: str, path: Path) -> None:
    try:
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"cannot write page `{path}`: {error.strerror or error}") from error
