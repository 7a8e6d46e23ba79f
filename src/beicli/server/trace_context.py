"""The trace that a request belongs to, as its header `traceparent` says it (W3C Trace Context)."""

import re

from starlette.types import Scope

# Version, trace id, parent id and flags; later versions may have more behind them, in ASCII.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?"
)


def traceparent(scope: Scope) -> bytes | None:
    """Return the header; None if it is missing, there twice, or not what the standard says."""
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    if len(found) != 1 or _parse(found[0]) is None:
        return None
    header: bytes = found[0]
    return header


def given_trace_id(scope: Scope) -> str | None:
    """Return the id of the trace that the client began; None if it says none."""
    header = traceparent(scope)
    return None if header is None else _parse(header)


def _parse(header: bytes) -> str | None:
    """Return the trace id in a header; None if the header is not what the standard says."""
    match = _TRACEPARENT.fullmatch(header)
    # Version 00 ends after the flags.
    if match is None or (header.startswith(b"00") and match[2] is not None):
        return None
    return match[1].decode()
