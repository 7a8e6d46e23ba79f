"""Options of `bei serve` about what may wait for the engine, and what is kept of its results."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from beicli.pipeline.loaded_engine import PipelineLimits

MaxWait = Annotated[
    float,
    typer.Option(
        envvar="BEI_MAX_WAIT_S",
        min=0,
        help="Longest estimated wait for the engine; who would wait longer is told to retry.",
    ),
]
MaxInteractiveWait = Annotated[
    float | None,
    typer.Option(
        envvar="BEI_MAX_INTERACTIVE_WAIT_S",
        min=0,
        help="The same of interactive requests, which go before bulk work; left out, it is the "
        "same limit.",
    ),
]
MaxWaitingTokens = Annotated[
    int,
    typer.Option(
        envvar="BEI_MAX_WAITING_TOKENS",
        min=1,
        help="Tokens that may wait for the engine, of all requests; divided among replicas.",
    ),
]
ResultCacheMib = Annotated[
    int,
    typer.Option(
        envvar="BEI_RESULT_CACHE_MIB",
        min=0,
        help="Memory for results of earlier inputs, in MiB; 0 computes each anew.",
    ),
]


def make_pipeline_limits(
    *,
    max_wait_s: float,
    max_interactive_wait_s: float | None,
    max_waiting_tokens: int,
    result_cache_mib: int,
) -> "PipelineLimits":
    """Return what the options say."""
    from beicli.pipeline.loaded_engine import PipelineLimits
    from beicli.scheduler.admission import AdmissionLimits

    return PipelineLimits(
        admission=AdmissionLimits(
            max_wait_s=max_wait_s,
            max_interactive_wait_s=max_interactive_wait_s,
            max_waiting_tokens=max_waiting_tokens,
        ),
        result_cache_bytes=result_cache_mib * 1024 * 1024,
    )
