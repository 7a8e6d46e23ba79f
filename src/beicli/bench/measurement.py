"""What a benchmark run saw: one sample a request, successes and failures alike.

Values only; `client.py` makes them and `report.py` turns them into figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_HINTS = {
    "connection_refused": "is the server running? try `bei serve`, or name another with `--url`",
    "connection_failed": "check `--url`, and whether it is `http` or `https`",
    "name_not_found": "check the host in `--url`",
    "timeout": "try a lower `--concurrency` or a longer `--timeout`",
    "invalid_response": "is this an OpenAI-compatible embeddings server? "
    "try `--encoding-format float` or leave `--dimensions` out",
    "status_401": "give the server's key with `--api-key` or `BEI_API_KEY`",
    "status_403": "give the server's key with `--api-key` or `BEI_API_KEY`",
    "status_404": "give the root of the server as `--url`, and a `--model` that it serves",
    "status_405": "give the root of the server as `--url`",
    "status_413": "try a smaller `--batch-size` or shorter texts",
    "status_422": "try a smaller `--batch-size` or shorter texts",
    "status_429": "try a lower `--concurrency`",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed.

    kind: `status_` and the HTTP status, `timeout`, `connection_refused`, `connection_failed`,
    `connection_closed`, `name_not_found` or `invalid_response`.
    """

    kind: str
    message: str

    @property
    def hint(self) -> str:
        return _HINTS.get(self.kind, "the server's own log may tell more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request that came to an end; times on one clock with any zero.

    num_tokens: the server's count, None when it gave none. Bytes are those of the bodies.
    """

    completed_at_s: float
    latency_s: float
    num_tokens: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Everything seen during a run, warm-up and the requests in flight at its end included.

    The window is the part that counts. client_cpu_s: processor time of this process within it.
    """

    samples: Sequence[Sample]
    window_start_s: float
    window_end_s: float
    client_cpu_s: float
    is_interrupted: bool = False
    served_model: str | None = None
