"""What a saved benchmark run holds: the keys, their types, and how to find what is wrong with one.

`history.py` reads such files and `html.py` shows them. A key that may be null may also be missing;
keys that are not named here are kept and ignored.
"""

from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Len
from pydantic import Discriminator, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

SCHEMA_VERSION = 2

PlainValue = str | bool | int | FiniteFloat | None


class MachineFacts(TypedDict):
    """Where the client ran, and the server too unless its URL says otherwise."""

    cpu: str
    cpu_features: list[str]
    num_cpus: int
    memory_bytes: int


class DatasetFacts(TypedDict):
    """The texts that were sent; `mean_tokens` only where somebody counted them."""

    name: str
    num_texts: int
    mean_characters: FiniteFloat
    mean_tokens: NotRequired[FiniteFloat | None]


class ClosedLoad(TypedDict):
    """So many clients, each with one request in flight."""

    kind: Literal["closed"]
    concurrency: int


class OpenLoad(TypedDict):
    """Requests that start by the clock, whether or not earlier ones were answered."""

    kind: Literal["open"]
    rate_per_second: FiniteFloat


class Latencies(TypedDict):
    """Milliseconds from sending a request to its whole answer."""

    mean: FiniteFloat
    p50: FiniteFloat
    p90: FiniteFloat
    p95: FiniteFloat
    p99: FiniteFloat
    p999: FiniteFloat
    max: FiniteFloat


class Second(TypedDict):
    """What completed within one second of the window; no percentile where nothing did."""

    second: NonNegativeInt
    texts: NonNegativeInt
    p50_ms: NotRequired[FiniteFloat | None]
    p99_ms: NotRequired[FiniteFloat | None]
    errors: NonNegativeInt


class BatchFill(TypedDict):
    """How the server filled its batches, as it tells itself."""

    sequences_per_batch: FiniteFloat
    real_token_fraction: FiniteFloat
    num_batches: NonNegativeInt


class ErrorCount(TypedDict):
    """One kind of failure; the message may be a foreign server's."""

    kind: str
    count: NonNegativeInt
    first_message: str


class Point(TypedDict):
    """One load and what came of it."""

    load: Annotated[ClosedLoad | OpenLoad, Discriminator("kind")]
    batch_size: int
    window_s: FiniteFloat
    num_requests: NonNegativeInt
    num_failed_requests: NonNegativeInt
    num_texts: NonNegativeInt
    num_tokens: NotRequired[NonNegativeInt | None]
    requests_per_second: FiniteFloat
    texts_per_second: FiniteFloat
    tokens_per_second: NotRequired[FiniteFloat | None]
    latency_ms: Latencies
    latency_histogram: list[Annotated[list[FiniteFloat], Len(2, 2)]]
    timeline: list[Second]
    late_requests: NonNegativeInt
    batch_fill: NotRequired[BatchFill | None]
    client_cpu_fraction: FiniteFloat
    client_loop_lag_p99_ms: FiniteFloat
    client_is_limit: bool
    request_bytes: NonNegativeInt
    response_bytes: NonNegativeInt
    errors: list[ErrorCount]


class WorstAnswer(TypedDict):
    """A text on which the two servers agree least."""

    text: str
    value: FiniteFloat


class Answers(TypedDict):
    """How far the answers of the two servers are apart."""

    num_compared: NonNegativeInt
    measure: str
    min: FiniteFloat
    mean: FiniteFloat
    order_agreement: NotRequired[FiniteFloat | None]
    finding: NotRequired[str | None]
    worst: list[WorstAnswer]


class Against(TypedDict):
    """The other server, under the same loads."""

    url: str
    served_model: NotRequired[str | None]
    points: list[Point]
    texts_per_second_ratios: list[FiniteFloat]
    answers: NotRequired[Answers | None]


class Run(TypedDict):
    """One `bei bench`, from its settings to its figures."""

    schema_version: Literal[2]
    bei_version: str
    date: str
    machine: MachineFacts
    url: str
    served_model: NotRequired[str | None]
    workload: Literal["embeddings", "rerank", "predict", "predict_tokens"]
    dataset: DatasetFacts
    settings: dict[str, PlainValue | list[PlainValue]]
    points: Annotated[list[Point], Len(1)]
    against: NotRequired[Against | None]
    interrupted: bool


_RUN: TypeAdapter[Run] = TypeAdapter(Run)


def first_problem(value: Any) -> str | None:
    """What is wrong with `value` as a run, in half a sentence, or None when nothing is."""
    if not isinstance(value, dict):
        return "is not a JSON object"
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        return f"has `schema_version` {version!r}, wanted {SCHEMA_VERSION}"
    try:
        _RUN.validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = _place(problem["loc"])
        if problem["type"] == "missing":
            return f"lacks `{place}`"
        message = problem["msg"]
        return f"has a wrong `{place}`: {message[:1].lower()}{message[1:]}"
    return None


def _place(keys: tuple[int | str, ...]) -> str:
    """Keys and positions as they are written in code: `points[0].latency_ms.p99`."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys]
    return "".join(parts).removeprefix(".")
