"""Where `bei serve` sends traces, if anywhere: its own option, else OpenTelemetry's variables."""

import importlib
import os
from urllib.parse import urlsplit

from beicli.cli.console import needs_extra, print_warning
from beicli.errors import UsageError

_PATH = "/v1/traces"
_BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_WHOLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
# The first that is set holds.
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def traces_endpoint(option: str | None) -> str | None:
    """Return the URL that takes spans; None to send none, and to import nothing for it.

    option: the collector's address, to which OTLP's path is added.
    Raises UsageError if the address is none, or the extra is missing.
    """
    if option is not None:
        endpoint = _with_path(option)
        _check(endpoint, said_by="--otlp-endpoint")
        with needs_extra():
            _import_sdk()
        return endpoint
    said_by, from_environment = _from_environment()
    if from_environment is None:
        return None
    if _protocol() == "grpc":
        print_warning(
            f"`{said_by}` is set, and no traces are sent: its collector is to be told by gRPC",
            "OTLP over HTTP is spoken to the address that `--otlp-endpoint` names",
        )
        return None
    _check(from_environment, said_by=said_by)
    try:
        with needs_extra():
            _import_sdk()
    except UsageError as error:
        # Platforms set these variables for whatever runs there: no reason not to serve.
        print_warning(f"`{said_by}` is set, and no traces are sent: {error.message}", error.hint)
        return None
    return from_environment


def _from_environment() -> tuple[str, str | None]:
    """Return what OpenTelemetry's variables say, and which of them does."""
    if os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return _BASE, None
    if whole := os.environ.get(_WHOLE):
        return _WHOLE, whole
    base = os.environ.get(_BASE)
    return _BASE, _with_path(base) if base else None


def _protocol() -> str | None:
    """Return what OpenTelemetry's variables say is spoken; None if they say nothing."""
    said = (os.environ.get(name, "").strip().lower() for name in _PROTOCOLS)
    return next(filter(None, said), None)


def _with_path(address: str) -> str:
    return address if address.endswith(_PATH) else address.rstrip("/") + _PATH


def _check(endpoint: str, *, said_by: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        # Not the address itself: it may have a password in it.
        raise UsageError(
            f"`{said_by}` is not the address of a collector",
            hint="OTLP over HTTP is spoken at addresses such as `http://127.0.0.1:4318`",
        )


def _import_sdk() -> None:
    importlib.import_module("beicli.server.tracing")
