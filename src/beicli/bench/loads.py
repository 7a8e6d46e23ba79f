"""How hard a server is pressed: so many clients, or so many requests a second.

Pure: the moments at which an open loop sends depend on its rate and seed alone.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from beicli.errors import UsageError

DEFAULT_CONCURRENCY = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load; exactly one of the two is given.

    concurrency: clients, each with one request in flight (closed loop).
    rate_per_second: requests that start by the clock, answered or not (open loop).
    """

    concurrency: int | None = None
    rate_per_second: float | None = None

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate_per_second is None):
            raise UsageError("a load is either a number of clients or a rate")
        if self.concurrency is not None and self.concurrency < 1:
            raise UsageError(f"concurrency must be 1 or more, got {self.concurrency}")
        rate = self.rate_per_second
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise UsageError(f"rate must be more than 0 requests/s, got {rate:g}")

    @property
    def is_open(self) -> bool:
        return self.rate_per_second is not None

    @property
    def label(self) -> str:
        """Such as `concurrency 32` or `rate 150/s`."""
        if self.concurrency is not None:
            return f"concurrency {self.concurrency:,}"
        return f"rate {self.rate_per_second:,g}/s"

    def to_json(self) -> dict[str, Any]:
        if self.concurrency is not None:
            return {"kind": "closed", "concurrency": self.concurrency}
        return {"kind": "open", "rate_per_second": self.rate_per_second}


def parse_loads(concurrency: str | None, rate: str | None) -> tuple[Load, ...]:
    """Read `8`, or a sweep such as `1,8,64`, of one kind; without either, 32 clients.

    Raises `UsageError` when both are given, and for what is no number.
    """
    if concurrency is not None and rate is not None:
        raise UsageError(
            "`--concurrency` and `--rate` exclude each other",
            hint="`--concurrency` sends when an answer came, `--rate` by the clock",
        )
    if rate is not None:
        return tuple(Load(rate_per_second=value) for value in _numbers(rate, "rate", float))
    if concurrency is None:
        return (Load(concurrency=DEFAULT_CONCURRENCY),)
    return tuple(
        Load(concurrency=int(value)) for value in _numbers(concurrency, "concurrency", int)
    )


def arrivals(rate_per_second: float, *, start_s: float, seed: int) -> Iterator[float]:
    """Yield endlessly the moments at which independent callers would send: a Poisson process."""
    # Not for secrets: the moments have to be the same in every run.
    source = random.Random(seed)  # noqa: S311 - see above
    moment_s = start_s
    while True:
        moment_s += source.expovariate(rate_per_second)
        yield moment_s


def _numbers(text: str, name: str, kind: type[int] | type[float]) -> list[float]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{name} `{text}` is not a number or a list of numbers",
            hint=f"for example `--{name} 32`, or `--{name} 1,8,64` for one point each",
        ) from error
