"""What an operator may set about the server, with the values it has when nobody does."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from beicli.engine.options import EngineOptions
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.scheduler.admission import AdmissionLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What each API key may ask of the routes that ask the model; None: as much as it likes.

    max_requests: at the same time. requests_per_s: in the long run; burst: at once after a pause.
    """

    max_requests: int | None = None
    requests_per_s: float | None = None
    burst: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where the server's certificate is, with those that signed it, and its key; both in PEM."""

    certificate: Path
    key: Path


# Of a server; whoever computes a file waits for it as long as it takes.
SERVED = PipelineLimits(admission=AdmissionLimits(max_wait_s=120.0, max_waiting_tokens=16_000_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server listens, what it accepts, and how long it takes to stop.

    port: 0 takes a free one.
    model_names: what answers call the model of each engine, in their order; this is what the
        command line says. None of them: served_model_name.
    served_model_name: of the one engine that is served with these options; None takes its own name.
    max_client_batch_size: inputs in one request.
    max_concurrent_requests: inference requests inside the server at once; the next gets 429.
    max_input_characters: of one text; a model reads its beginning, or refuses it, by tokens.
    max_connections: open at once; others wait until one closes.
    max_body_bytes: 64 MiB hold 128 texts of half a megabyte, far beyond any model's window.
    on_too_long: what becomes of an input beyond the model's window when the request does not say.
    rerank_order: of the answers of `/rerank`: that of the texts, or best first.
    api_keys: one of them must come with every request but those for health; empty lets all in.
    admin_keys: one of them must come with whatever changes the server; without any, an api_key
        will do. key_limits: of each of the api_keys. tls: None to speak HTTP in the clear.
    cors_origins: sites whose pages may ask from a browser; `*` is all of them.
    pipeline: how much may wait for the engine, and memory for results.
    num_replicas: processes that serve together; the limits here are those of each.
    log_format: of what the server logs. access_log: whether each request gets a line there.
    canary_interval_s: between two canaries; 0 has none. canary_min_cosine, canary_max_score_error:
        what a canary must reach, of engines for vectors and of those for scores; None takes what
        follows from the engine's own report.
    otlp_endpoint: the URL that takes spans of requests, by OTLP over HTTP; None sends none.
    drain_timeout_s: how long running requests may go on after the server was told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 7997
    served_model_name: str | None = None
    model_names: tuple[str, ...] = ()
    max_client_batch_size: int = 128
    max_concurrent_requests: int = 2048
    max_body_bytes: int = 64 * 1024 * 1024
    max_input_characters: int = 1_000_000
    max_connections: int = 16_384
    on_too_long: Literal["truncate", "error"] = "truncate"
    rerank_order: Literal["input", "score"] = "input"
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_keys: tuple[str, ...] = field(default=(), repr=False)
    key_limits: KeyLimits = field(default_factory=KeyLimits)
    pipeline: PipelineLimits = SERVED
    tls: TlsFiles | None = None
    cors_origins: tuple[str, ...] = ()
    num_replicas: int = 1
    log_format: Literal["text", "json"] = "text"
    access_log: bool = False
    otlp_endpoint: str | None = field(default=None, repr=False)
    canary_interval_s: float = 300.0
    canary_min_cosine: float | None = None
    canary_max_score_error: float | None = None
    drain_timeout_s: float = 30.0
    engine: EngineOptions = field(default_factory=EngineOptions)
