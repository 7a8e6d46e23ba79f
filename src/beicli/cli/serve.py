"""`bei serve`: an engine directory over HTTP."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from beicli.cli.api_keys import read_api_keys
from beicli.cli.serve_limits import (
    MaxInteractiveWait,
    MaxWait,
    MaxWaitingTokens,
    ResultCacheMib,
    make_pipeline_limits,
)
from beicli.cli.serve_options import (
    AdminKeyFile,
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
)
from beicli.cli.serving import count_gpus, read_names, read_number_of_replicas, run_engines
from beicli.cli.traces import traces_endpoint
from beicli.server.signals import ends_at_once


@ends_at_once()
def serve(
    engines: Annotated[
        list[Path],
        typer.Argument(
            metavar="ENGINE...",
            help="Engine directories, as `bei build` makes them; a request's `model` says which of "
            "several it asks.",
            show_default=False,
        ),
    ],
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
    name: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BEI_NAME",
            help="What an engine is called, one for each in their order; by default by its own "
            "name.",
        ),
    ] = None,
    max_client_batch_size: Annotated[
        int, typer.Option(envvar="BEI_MAX_CLIENT_BATCH_SIZE", min=1, help="Inputs in one request.")
    ] = 128,
    max_concurrent_requests: Annotated[
        int,
        typer.Option(
            envvar="BEI_MAX_CONCURRENT_REQUESTS",
            min=1,
            help="Requests of each engine inside the server; the next is told to retry.",
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
    admin_key_file: AdminKeyFile = None,
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
            "Limits of requests, connections, keys, waiting tokens and memory for results are "
            "divided among them. "
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
    """Serve engine directories over HTTP until SIGTERM."""
    from beicli.artifact.directory import EngineArtifact
    from beicli.engine.options import EngineOptions, GpuOptions
    from beicli.server.options import ServerOptions

    # All that may be wrong first, as opening reads every byte of the engines.
    num_replicas = read_number_of_replicas(replicas)
    api_keys = collect_api_keys(api_key, api_key_file)
    key_limits = make_key_limits(
        max_requests=max_requests_per_key,
        requests_per_s=rate_limit_per_key,
        burst=burst_per_key,
        api_keys=api_keys,
    )
    options = ServerOptions(
        host=host,
        port=port,
        model_names=read_names(name, served_model_name, num_engines=len(engines)),
        max_client_batch_size=max_client_batch_size,
        max_concurrent_requests=max_concurrent_requests,
        max_body_bytes=max_body_mib * 1024 * 1024,
        max_input_characters=max_input_characters,
        max_connections=max_connections,
        on_too_long=on_too_long,
        rerank_order=rerank_order,
        api_keys=api_keys,
        admin_keys=() if admin_key_file is None else read_api_keys(admin_key_file),
        key_limits=key_limits,
        tls=check_tls_files(tls_certificate, tls_key),
        cors_origins=check_origins(cors_origin),
        pipeline=make_pipeline_limits(
            max_wait_s=max_wait_s,
            max_interactive_wait_s=max_interactive_wait_s,
            max_waiting_tokens=max_waiting_tokens,
            result_cache_mib=result_cache_mib,
        ),
        otlp_endpoint=traces_endpoint(otlp_endpoint),
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
    artifacts = [EngineArtifact.open(engine) for engine in engines]
    if replicas == "auto" and device_id is None:
        num_replicas = count_gpus(artifacts) or num_replicas
    run_engines(artifacts, options, num_replicas=num_replicas)
