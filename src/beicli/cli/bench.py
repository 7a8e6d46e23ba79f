"""`bei bench`: put load on an embeddings server and tell what it did."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beicli.errors import UsageError

if TYPE_CHECKING:
    from beicli.bench.client import Progress
    from beicli.bench.report import BenchReport
    from beicli.bench.settings import BenchSettings


def bench(
    *,
    url: Annotated[
        str, typer.Option(envvar="BEI_URL", help="Root of an OpenAI-compatible server.")
    ] = "http://127.0.0.1:7997",
    concurrency: Annotated[
        int,
        typer.Option(
            envvar="BEI_BENCH_CONCURRENCY", help="Clients, each with one request in flight."
        ),
    ] = 32,
    batch_size: Annotated[
        int, typer.Option(envvar="BEI_BENCH_BATCH_SIZE", help="Texts in each request.")
    ] = 1,
    duration: Annotated[
        float, typer.Option(envvar="BEI_BENCH_DURATION", help="Seconds that are measured.")
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
    seed: Annotated[
        int, typer.Option(envvar="BEI_BENCH_SEED", help="Decides the order of the texts.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="BEI_BENCH_JSON", help="Print one JSON object.")
    ] = False,
) -> None:
    """Measure an embeddings server: texts per second, latency, errors.

    Each client sends its next request when the last one was answered. A request counts when it
    completed inside the measured seconds. Ctrl-C ends the run early and reports what was measured.
    """
    try:
        from beicli.bench.client import run_bench
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise UsageError(
            "`bei bench` needs aiohttp, which is not installed",
            hint="pip install 'beicli[bench]'",
        ) from error
    from beicli.bench.dataset import bundled_dataset, read_dataset
    from beicli.bench.settings import BenchSettings, EncodingFormat
    from beicli.bench.workload import plan_workload

    settings = BenchSettings(
        url=url,
        concurrency=concurrency,
        batch_size=batch_size,
        duration_s=duration,
        warmup_s=warmup,
        timeout_s=timeout,
        model=model,
        encoding_format=EncodingFormat.parse(encoding_format),
        dimensions=dimensions,
        api_key=api_key,
        seed=seed,
    )
    workload = plan_workload(
        read_dataset(dataset) if dataset else bundled_dataset(),
        concurrency=concurrency,
        batch_size=batch_size,
        seed=seed,
    )
    with _progress_on_stderr(settings) as show:
        report = run_bench(settings, workload, on_progress=show)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        _print_table(report)


@contextmanager
def _progress_on_stderr(settings: "BenchSettings") -> Iterator[Callable[["Progress"], None]]:
    """One line a phase; where stderr is a terminal, a line below it that keeps counting."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    lines = {
        "warm-up": f"Warming up   {settings.warmup_s:g} s",
        "window": f"Measuring    {settings.duration_s:g} s",
        "last requests": "Finishing    the requests in flight",
    }
    # A slow refresh: the client's processor time belongs to the load.
    with console.status("connecting", refresh_per_second=2) as status:

        def show(progress: "Progress") -> None:
            if line := lines.pop(progress.phase, None):
                console.print(line)
            status.update(f"{progress.elapsed_s:.0f} s, {progress.num_samples:,} requests")

        yield show


def _print_table(report: "BenchReport") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for label, value in report.rows():
        # `Text`, since a server's error message may look like markup.
        table.add_row(Text(label), Text(value))
    Console(highlight=False).print(table)
