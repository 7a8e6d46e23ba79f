"""What one benchmark run is asked to do, checked before anything is sent."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from beicli.errors import UsageError

DEFAULT_TIMEOUT_S = 60.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """One closed-loop run; raises `UsageError` for a value that makes no sense.

    url: root of an OpenAI-compatible server; a trailing `/v1` is tolerated.
    concurrency: clients, each with one request in flight.
    batch_size: texts in a request.
    duration_s: length of the measured window; warmup_s comes before it and is not counted.
    timeout_s: after which one request is given up.
    model, dimensions: sent with each request, or left out when None.
    """

    url: str
    concurrency: int = 32
    batch_size: int = 1
    duration_s: float = 10.0
    warmup_s: float = 2.0
    timeout_s: float = DEFAULT_TIMEOUT_S
    model: str | None = None
    encoding_format: EncodingFormat = EncodingFormat.BASE64
    dimensions: int | None = None
    api_key: str | None = field(default=None, repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        _check_url(self.url)
        _check_at_least_one("concurrency", self.concurrency)
        _check_at_least_one("batch size", self.batch_size)
        if self.dimensions is not None:
            _check_at_least_one("dimensions", self.dimensions)
        _check_positive_seconds("duration", self.duration_s)
        _check_positive_seconds("timeout", self.timeout_s)
        if not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise UsageError(f"warm-up must be 0 seconds or more, got {self.warmup_s:g}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            # The key itself stays out of the message: messages end up in logs.
            raise UsageError(
                "the API key holds a character that cannot travel in an HTTP header",
                hint="look for a line break at its end",
            )

    @property
    def embeddings_url(self) -> str:
        root = self.url.rstrip("/").removesuffix("/v1").rstrip("/")
        return f"{root}/v1/embeddings"


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


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name} must be 1 or more, got {value}")


def _check_positive_seconds(name: str, value_s: float) -> None:
    if not (math.isfinite(value_s) and value_s > 0):
        raise UsageError(f"{name} must be more than 0 seconds, got {value_s:g}")
