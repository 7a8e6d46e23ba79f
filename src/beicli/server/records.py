"""What is known of one request by the time it is answered, each part from where it is known.

Counts and times alone: what a request says stays out of metrics and logs.
"""

import time
from dataclasses import dataclass, field

from starlette.routing import Route
from starlette.types import Scope

from beicli.pipeline.results import Usage

# A path that no route takes; its own name would let clients fill metrics and logs.
UNKNOWN_ROUTE = "unknown"
# The client left before there was an answer.
DROPPED = "dropped"
_SCOPE_KEY = "bei.record"
# Of a client's own method only these are repeated.
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request; filled on its way through the server, and read at its end.

    num_inputs: None until the body has been understood. usage: None where no model was asked.
    read_at: when the body was complete, None until then.
    total_s: from then to the encoded answer, None without one; encode_s: the last part of it.
    trace_id: of the spans that were made of it.
    failure: why there is no answer, in the words of `code` where errors have one.
    """

    started_at: float = field(default_factory=time.perf_counter)
    num_inputs: int | None = None
    usage: Usage | None = None
    read_at: float | None = None
    total_s: float | None = None
    encode_s: float = 0.0
    trace_id: str | None = None
    failure: str | None = None


def begin_record(scope: Scope) -> RequestRecord:
    """Begin the record of a request."""
    record = scope[_SCOPE_KEY] = RequestRecord()
    return record


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of a request; one that nobody reads where none was begun."""
    record: RequestRecord | None = scope.get(_SCOPE_KEY)
    return record or RequestRecord()


def shown_method(scope: Scope) -> str:
    """Return the request's method, or `other` for what a client made up."""
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def shown_route(scope: Scope) -> str:
    """Return the route that took the request's path, or UNKNOWN_ROUTE."""
    route = scope.get("route")
    return route.path_format if isinstance(route, Route) else UNKNOWN_ROUTE
