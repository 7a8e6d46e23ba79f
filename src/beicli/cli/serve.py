"""`bei serve`: an engine directory over HTTP."""

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from beicli.cli.console import print_warning, say
from beicli.cli.serve_limits import (
    MaxInteractiveWait,
    MaxWait,
    MaxWaitingTokens,
    ResultCacheMib,
    make_pipeline_limits,
)
from beicli.cli.serve_options import (
    ApiKeyFile,
    ApiKeys,
    BurstPerKey,
    CorsOrigins,
    MaxConnections,
    MaxInputCharacters,
    MaxRequestsPerKey,
    RateLimitPerKey,
    TlsCertificate,
    TlsKey,
    check_origins,
    check_tls_files,
    collect_api_keys,
    make_key_limits,
    warn_if_open,
)
from beicli.cli.traces import traces_endpoint

if TYPE_CHECKING:
    from beicli.artifact.directory import EngineArtifact
    from beicli.artifact.manifest import Manifest
    from beicli.server.options import ServerOptions


def serve(
    engine: Annotated[Path, typer.Argument(help="An engine directory, as `bei build` makes it.")],
    host: Annotated[
        str, typer.Option(envvar="BEI_HOST", help="Address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="BEI_PORT", help="Port to listen on; 0 takes a free one.")
    ] = 7997,
    served_model_name: Annotated[
        str | None,
        typer.Option(envvar="BEI_SERVED_MODEL_NAME", help="What answers call the model."),
    ] = None,
    max_client_batch_size: Annotated[
        int, typer.Option(envvar="BEI_MAX_CLIENT_BATCH_SIZE", min=1, help="Inputs in one request.")
    ] = 128,
    max_concurrent_requests: Annotated[
        int,
        typer.Option(
            envvar="BEI_MAX_CONCURRENT_REQUESTS",
            min=1,
            help="Requests inside the server; the next is told to retry.",
        ),
    ] = 2048,
    max_wait_s: MaxWait = 120.0,
    max_interactive_wait_s: MaxInteractiveWait = None,
    max_waiting_tokens: MaxWaitingTokens = 16_000_000,
    max_body_mib: Annotated[
        int, typer.Option(envvar="BEI_MAX_BODY_MIB", min=1, help="Longest request body, in MiB.")
    ] = 64,
    max_input_characters: MaxInputCharacters = 1_000_000,
    max_connections: MaxConnections = 16_384,
    on_too_long: Annotated[
        Literal["truncate", "error"],
        typer.Option(
            envvar="BEI_ON_TOO_LONG",
            help="What becomes of an input beyond the model's window, unless the request says.",
        ),
    ] = "truncate",
    rerank_order: Annotated[
        Literal["input", "score"],
        typer.Option(
            envvar="BEI_RERANK_ORDER",
            help="Order of what /rerank answers: the texts', or best first.",
        ),
    ] = "input",
    api_key: ApiKeys = None,
    api_key_file: ApiKeyFile = None,
    max_requests_per_key: MaxRequestsPerKey = None,
    rate_limit_per_key: RateLimitPerKey = None,
    burst_per_key: BurstPerKey = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    cors_origin: CorsOrigins = None,
    result_cache_mib: ResultCacheMib = 0,
    drain_timeout_s: Annotated[
        float,
        typer.Option(
            envvar="BEI_DRAIN_TIMEOUT_S", min=0, help="How long a stop waits for running requests."
        ),
    ] = 30.0,
    canary_interval_s: Annotated[
        float,
        typer.Option(
            envvar="BEI_CANARY_INTERVAL_S",
            min=0,
            help="How often a few of the engine's golden inputs are computed and compared with "
            "their reference outputs; while they differ, `/ready` fails. 0 never.",
        ),
    ] = 300.0,
    canary_min_cosine: Annotated[
        float | None,
        typer.Option(
            envvar="BEI_CANARY_MIN_COSINE",
            min=-1,
            max=1,
            help="Least cosine of golden inputs, for embeddings; by default it "
            "follows from the engine's report.",
        ),
    ] = None,
    canary_max_score_error: Annotated[
        float | None,
        typer.Option(
            envvar="BEI_CANARY_MAX_SCORE_ERROR",
            min=0,
            max=1,
            help="The furthest a score of golden inputs may be off, for rerankers and classifiers.",
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="BEI_OTLP_ENDPOINT",
            metavar="URL",
            help="Collector that gets a trace of each request, by OTLP over HTTP, such as "
            "http://127.0.0.1:4318; left out, OTEL_EXPORTER_OTLP_ENDPOINT, and without that none. "
            "Needs the extra `otel`.",
        ),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(envvar="BEI_LOG_FORMAT", help="Lines of the log: for people or for programs."),
    ] = "text",
    access_log: Annotated[
        bool,
        typer.Option(
            "--access-log/--no-access-log",
            envvar="BEI_ACCESS_LOG",
            help="Log a line for each request: counts and times, nothing of its content.",
        ),
    ] = False,
    replicas: Annotated[
        str,
        typer.Option(
            envvar="BEI_REPLICAS",
            metavar="N|auto",
            help="Processes that serve together, each with an engine and its part of the CPUs. "
            "Limits of requests, connections and memory for results are divided among them. "
            "auto takes what suits the CPUs, or one for each GPU.",
        ),
    ] = "1",
    num_slots: Annotated[
        int | None,
        typer.Option(
            envvar="BEI_NUM_SLOTS", min=1, help="Forward passes at the same time, in a replica."
        ),
    ] = None,
    num_threads: Annotated[
        int | None,
        typer.Option(
            envvar="BEI_NUM_THREADS", min=1, help="CPU threads over all slots of a replica."
        ),
    ] = None,
    device_id: Annotated[
        int | None,
        typer.Option(
            envvar="BEI_DEVICE_ID",
            min=0,
            help="GPU to serve on, as CUDA counts; left out, each replica takes the next one.",
        ),
    ] = None,
    compile_plan: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            envvar="BEI_COMPILE",
            help="Compile a plan for this GPU if the engine has none yet; without, that is an "
            "error.",
        ),
    ] = True,
    plan_cache: Annotated[
        Path | None,
        typer.Option(
            envvar="BEI_PLAN_CACHE",
            help="Where compiled plans are kept; by default in the engine directory if it can be "
            "written, else below ~/.cache/beicli.",
        ),
    ] = None,
    max_cuda_graphs: Annotated[
        int,
        typer.Option(
            envvar="BEI_MAX_CUDA_GRAPHS",
            min=0,
            help="Recorded launches of small batches that each slot keeps; 0 launches every kernel "
            "by itself.",
        ),
    ] = 20,
) -> None:
    """Serve an engine directory over HTTP until SIGTERM."""
    from beicli.artifact.directory import EngineArtifact

    # First, as opening reads every byte of the engine.
    num_replicas = _num_replicas(replicas)
    api_keys = collect_api_keys(api_key, api_key_file)
    key_limits = make_key_limits(
        max_requests=max_requests_per_key,
        requests_per_s=rate_limit_per_key,
        burst=burst_per_key,
        api_keys=api_keys,
    )
    collector = traces_endpoint(otlp_endpoint)
    tls = check_tls_files(tls_certificate, tls_key)
    artifact = EngineArtifact.open(engine)
    if replicas == "auto" and artifact.manifest.gpu is not None and device_id is None:
        from beicli.tensorrt.driver import read_driver

        num_replicas = len(read_driver().devices)
    from beicli.engine.options import EngineOptions, GpuOptions
    from beicli.server.access_log import configure_logging
    from beicli.server.options import ServerOptions

    options = ServerOptions(
        host=host,
        port=port,
        served_model_name=served_model_name,
        max_client_batch_size=max_client_batch_size,
        max_concurrent_requests=max_concurrent_requests,
        max_body_bytes=max_body_mib * 1024 * 1024,
        max_input_characters=max_input_characters,
        max_connections=max_connections,
        on_too_long=on_too_long,
        rerank_order=rerank_order,
        api_keys=api_keys,
        key_limits=key_limits,
        tls=tls,
        cors_origins=check_origins(cors_origin),
        pipeline=make_pipeline_limits(
            max_wait_s=max_wait_s,
            max_interactive_wait_s=max_interactive_wait_s,
            max_waiting_tokens=max_waiting_tokens,
            result_cache_mib=result_cache_mib,
        ),
        otlp_endpoint=collector,
        canary_interval_s=canary_interval_s,
        canary_min_cosine=canary_min_cosine,
        canary_max_score_error=canary_max_score_error,
        log_format=log_format,
        access_log=access_log,
        drain_timeout_s=drain_timeout_s,
        engine=EngineOptions(
            num_slots=num_slots,
            num_threads=num_threads,
            gpu=GpuOptions(
                device_index=device_id,
                may_compile=compile_plan,
                plan_cache=plan_cache,
                max_cuda_graphs=max_cuda_graphs,
            ),
        ),
    )
    _warn_of_another_machine(artifact.manifest)
    warn_if_open(host, api_keys)
    configure_logging(log_format)

    _run(artifact, options, num_replicas)


def _run(artifact: "EngineArtifact", options: "ServerOptions", num_replicas: int) -> None:
    """Serve in this process, or in several that it watches."""
    from beicli.server.run import run_server

    announce = partial(_announce, artifact.manifest, options, num_replicas)
    if num_replicas == 1:
        run_server(artifact, options, on_ready=announce)
    else:
        from beicli.server.replicas.supervisor import run_replicas

        run_replicas(artifact, options, num_replicas=num_replicas, on_ready=announce)


def _announce(manifest: "Manifest", options: "ServerOptions", num_replicas: int, url: str) -> None:
    """Say what is served, and where."""
    name = options.served_model_name or manifest.name
    together = f", {num_replicas} replicas" if num_replicas > 1 else ""
    # Whatever reads JSON is to find nothing else once requests are served.
    tell = say if options.log_format == "text" else logging.getLogger("beicli.serve").info
    tell(
        f"Serving {name} ({manifest.model.task}, {manifest.precision}, inputs up to "
        f"{manifest.limits.max_input_length:,} tokens{together}) at {url}"
    )


def _num_replicas(asked: str) -> int:
    """Read `--replicas`; warns where replicas would share CPUs."""
    from beicli.errors import UsageError
    from beicli.machine import available_cpus
    from beicli.server.replicas.plan import auto_replicas

    num_cpus = available_cpus()
    if asked == "auto":
        return auto_replicas(num_cpus)
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(
            f"`--replicas {asked}` is neither a number of processes nor `auto`",
            hint="a number is 1 or more; `auto` takes what suits the CPUs",
        )
    if int(asked) > num_cpus:
        print_warning(
            f"{asked} replicas share {num_cpus} CPU{'' if num_cpus == 1 else 's'}, and slow each "
            "other down",
            "`--replicas auto` takes what suits the CPUs",
        )
    return int(asked)


def _warn_of_another_machine(manifest: "Manifest") -> None:
    """Say in what this machine is not the one that an engine was tuned on."""
    from beicli.machine import this_machine

    if manifest.tuning is None:
        return
    differences = this_machine().differences(manifest.tuning.machine)
    if differences:
        print_warning(
            f"this engine was tuned on another machine: {'; '.join(differences)}",
            "slots and batches are the usual ones instead; tune it here with `bei build --tune`",
        )
