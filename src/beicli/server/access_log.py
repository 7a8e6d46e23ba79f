"""The log: a line for each event, for people or for programs, and one for each request if asked.

Lines go to standard error in one write each, so those of several replicas do not mix. No line of a
request has anything from its body or its path.
"""

import json
import logging
import time
from datetime import UTC, datetime
from typing import Literal

import orjson
from starlette.types import Scope

from beicli.server.records import RequestRecord, shown_method
from beicli.server.request_ids import request_id
from beicli.server.trace_context import given_trace_id

LogFormat = Literal["text", "json"]
Fields = dict[str, str | int | float]

logger = logging.getLogger("beicli.access")


class AccessLog:
    """Writes a line for each request that has ended.

    replica: which of several processes this is; None where there is one.
    """

    def __init__(self, *, replica: int | None = None) -> None:
        self._of_server: Fields = {} if replica is None else {"replica": replica}

    def write(self, scope: Scope, record: RequestRecord, *, route: str, status: int | None) -> None:
        """Tell of one request; status: None if it got no answer."""
        duration_s = time.perf_counter() - record.started_at
        method = shown_method(scope)
        fields: Fields = {
            "request_id": request_id(scope),
            **self._of_server,
            "method": method,
            "route": route,
            "duration_ms": _milliseconds(duration_s),
            **_work(record),
        }
        trace_id = record.trace_id or given_trace_id(scope)
        if trace_id is not None:
            fields["trace_id"] = trace_id
        if status is not None:
            fields["status"] = status
        if record.failure is not None:
            fields["failure"] = record.failure
        logger.info("%s %s", method, route, extra={"fields": fields})


def _work(record: RequestRecord) -> Fields:
    """Return what a request asked for and what it took, as far as that is known."""
    fields: Fields = {}
    if record.num_inputs is not None:
        fields["inputs"] = record.num_inputs
    if record.total_s is not None:
        fields["total_ms"] = _milliseconds(record.total_s)
    if record.usage is not None:
        usage, timing = record.usage, record.usage.timing
        fields["tokenize_ms"] = _milliseconds(timing.tokenization_s)
        fields["queue_ms"] = _milliseconds(timing.queue_s)
        fields["inference_ms"] = _milliseconds(timing.inference_s)
        fields["tokens"] = usage.num_tokens
        fields["truncated"] = usage.num_truncated_inputs
    return fields


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


class JsonFormatter(logging.Formatter):
    """A JSON object a line, whatever is logged."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line).decode()
        except orjson.JSONEncodeError:
            # Names of files may hold what is no UTF-8; this one spells it out.
            return json.dumps(line)


class TextFormatter(logging.Formatter):
    """Time, level and message, and `name=value` for what is known beside them."""

    def format(self, record: logging.LogRecord) -> str:
        known = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{_utc(record.created)} {record.levelname.lower()} {record.getMessage()}{known}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure_logging(log_format: LogFormat) -> logging.Handler:
    """Write what this process logs to standard error; returns what writes."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.getLogger().addHandler(handler)
    # Of other packages only what is a warning.
    logging.getLogger("beicli").setLevel(logging.INFO)
    return handler


def _fields(record: logging.LogRecord) -> Fields:
    found: Fields = getattr(record, "fields", {})
    return found


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
