"""What one benchmark run is asked to do, checked before anything is sent."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from beicli.bench.loads import DEFAULT_CONCURRENCY, Load
from beicli.errors import UsageError

DEFAULT_TIMEOUT_S = 60.0
# Together with what else is open, below the 1,024 files that a process may open on most systems.
DEFAULT_MAX_CONNECTIONS = 512


class EncodingFormat(StrEnum):
    """How the server is asked to write a vector.

    base64 is what the OpenAI client libraries ask for, and what costs the client least to read.
    """

    BASE64 = "base64"
    FLOAT = "float"

    @classmethod
    def parse(cls, name: str) -> "EncodingFormat":
        if name not in tuple(cls):
            raise UsageError(f"unknown encoding format `{name}`", hint="wanted `base64` or `float`")
        return cls(name)


class WorkloadKind(StrEnum):
    """What a server is asked for; each has a route."""

    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    PREDICT = "predict"
    PREDICT_TOKENS = "predict_tokens"

    @classmethod
    def parse(cls, name: str) -> "WorkloadKind":
        if name not in tuple(cls):
            known = ", ".join(f"`{kind}`" for kind in cls)
            raise UsageError(f"unknown workload `{name}`", hint=f"wanted one of {known}")
        return cls(name)

    @property
    def path(self) -> str:
        return "/v1/embeddings" if self is WorkloadKind.EMBEDDINGS else f"/{self}"


@dataclass(frozen=True, slots=True)
class Target:
    """A server; raises `UsageError` for an address or key that cannot be one.

    url: its root; a trailing `/v1` is tolerated. model: sent with each request unless None.
    """

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_url(self.url)
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            # The key itself stays out of the message: messages end up in logs.
            raise UsageError(
                "the API key holds a character that cannot travel in an HTTP header",
                hint="look for a line break at its end",
            )

    @property
    def root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """One run; raises `UsageError` for a value that makes no sense.

    against: another server, measured under the same loads turn by turn, or None.
    loads: one measured point each.
    batch_size: texts in a request.
    duration_s: measured seconds a point and server; warmup_s comes before them and does not count.
    timeout_s: after which one request is given up.
    max_connections: most connections of an open loop; beyond them requests are sent late.
    client_processes: processes that share the clients.
    length, mix: what the texts were made with, None for the dataset's own.
    """

    target: Target
    against: Target | None = None
    workload: WorkloadKind = WorkloadKind.EMBEDDINGS
    loads: tuple[Load, ...] = (Load(concurrency=DEFAULT_CONCURRENCY),)
    batch_size: int = 1
    duration_s: float = 10.0
    warmup_s: float = 2.0
    timeout_s: float = DEFAULT_TIMEOUT_S
    encoding_format: EncodingFormat = EncodingFormat.BASE64
    dimensions: int | None = None
    seed: int = 0
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    client_processes: int = 1
    length: int | None = None
    mix: float | None = None

    def __post_init__(self) -> None:
        _check_at_least_one("batch size", self.batch_size)
        _check_at_least_one("connections", self.max_connections)
        _check_at_least_one("client processes", self.client_processes)
        _check_at_least_one("dimensions", self.dimensions)
        _check_at_least_one("length", self.length)
        _check_positive_seconds("duration", self.duration_s)
        _check_positive_seconds("timeout", self.timeout_s)
        if not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise UsageError(f"warm-up must be 0 seconds or more, got {self.warmup_s:g}")
        if self.mix is not None and not 0 <= self.mix <= 1:
            raise UsageError(f"mix must be 0 to 1, got {self.mix:g}")
        if self.mix is not None and self.length is not None:
            raise UsageError(
                "`--length` and `--mix` exclude each other",
                hint="one makes texts of equal length, the other takes short and long ones",
            )

    @property
    def targets(self) -> tuple[Target, ...]:
        return (self.target,) if self.against is None else (self.target, self.against)


def _check_url(url: str) -> None:
    hint = "wanted the server's root, for example `http://127.0.0.1:7997`"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        # What the resolver will do with it; a label that is empty or too long fails here.
        (host or "").encode("idna")
    except ValueError as error:
        raise UsageError(f"`{url}` is not a URL: {error}", hint=hint) from error
    if parts.username is not None or parts.password is not None:
        # Not quoted: it holds a password.
        raise UsageError(
            "the URL holds a user name or a password", hint="give a key with `--api-key` instead"
        )
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"`{url}` does not start with `http://` or `https://`", hint=hint)
    if not host:
        raise UsageError(f"`{url}` names no host", hint=hint)
    if parts.query or parts.fragment:
        raise UsageError(f"`{url}` holds a query or a fragment", hint=hint)


def _check_at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{name} must be 1 or more, got {value}")


def _check_positive_seconds(name: str, value_s: float) -> None:
    if not (math.isfinite(value_s) and value_s > 0):
        raise UsageError(f"{name} must be more than 0 seconds, got {value_s:g}")
