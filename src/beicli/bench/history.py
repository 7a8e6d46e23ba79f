"""Runs on disk, and what changed between two of them.

A run is the mapping that `run_format.Run` describes. Comparing is pure: it reads two runs and says
which figures moved by more than the reader is willing to overlook.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from beicli.bench.points import PointMapping, load_label, points_by_load
from beicli.bench.run_format import first_problem
from beicli.errors import UsageError

Verdict = Literal["better", "same", "worse"]

_SAVE_HINT = "wanted a file that `bei bench --save` wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One figure before and after.

    quantity: what it is, with its unit.
    change_percent: of the value before; None where that was 0 and the new one is not.
    verdict: `same` up to and including the threshold.
    is_decisive: whether `worse` here makes the whole comparison a regression.
    """

    point: str
    quantity: str
    before: float
    after: float
    change_percent: float | None
    verdict: Verdict
    is_decisive: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every figure that both runs have, and the reasons to doubt the comparison."""

    rows: tuple[ComparisonRow, ...]
    warnings: tuple[str, ...]

    @property
    def is_regression(self) -> bool:
        return any(row.is_decisive and row.verdict == "worse" for row in self.rows)


def save_run(run: Mapping[str, Any], path: Path) -> None:
    """Write `run` as indented JSON, so that `path` holds all of it or what it held before.

    Raises `UsageError` when the place cannot be written.
    """
    # ASCII only: a server's message may hold half of a surrogate pair, which UTF-8 cannot.
    content = json.dumps(run, indent=2, allow_nan=False) + "\n"
    # The process id keeps two runs that save to one place out of each other's way.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("w", encoding="ascii") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write run `{path}`: {reason}") from error


def load_run(path: Path) -> dict[str, Any]:
    """Read what `save_run` wrote; raises `UsageError` naming the file and what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot read run `{path}`: {reason}", hint=_SAVE_HINT) from error
    try:
        run = json.loads(content, parse_constant=_refuse_constant)
    # A recursion error is what deeply nested brackets end in.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"run `{path}` is not JSON: {error}", hint=_SAVE_HINT) from error
    if (problem := first_problem(run)) is not None:
        raise UsageError(f"run `{path}` {problem}", hint=_SAVE_HINT)
    assert isinstance(run, dict)  # or it would have had a problem
    return run


def compare_runs(
    before: Mapping[str, Any], after: Mapping[str, Any], *, max_regression_percent: float
) -> Comparison:
    """Compare the points that both runs have, matched by their load.

    A regression is: texts per second lower or p99 latency higher by more than
    `max_regression_percent`, or a share of failed requests that grew by more than that; from none,
    any failure is more. Raises `UsageError` for a threshold that is no percentage, and when the
    runs have no load in common.
    """
    if not (math.isfinite(max_regression_percent) and max_regression_percent >= 0):
        raise UsageError(
            f"the largest regression must be 0 percent or more, got {max_regression_percent:g}"
        )
    points_before = points_by_load(before["points"])
    points_after = points_by_load(after["points"])
    common = [key for key in points_after if key in points_before]
    if not common:
        raise UsageError(
            f"the two runs have no load in common: {_loads(before)} before, {_loads(after)} after",
            hint="run both with the same `--concurrency` or `--rate`",
        )
    return Comparison(
        rows=tuple(
            row
            for key in common
            for row in _compare_points(
                points_before[key], points_after[key], max_percent=max_regression_percent
            )
        ),
        warnings=(
            *_differences(before, after),
            *_one_sided(points_before, points_after),
            *(w for key in common for w in _point_warnings(points_before[key], points_after[key])),
        ),
    )


def _compare_points(
    before: PointMapping, after: PointMapping, *, max_percent: float
) -> Iterator[ComparisonRow]:
    def row(
        quantity: str, values: tuple[float, float], *, sign: int, is_decisive: bool
    ) -> ComparisonRow:
        change = _change_percent(*values)
        return ComparisonRow(
            point=load_label(after),
            quantity=quantity,
            before=values[0],
            after=values[1],
            change_percent=change,
            verdict=_verdict(math.inf if change is None else change, sign, max_percent),
            is_decisive=is_decisive,
        )

    def latency(percentile: str) -> tuple[float, float]:
        return before["latency_ms"][percentile], after["latency_ms"][percentile]

    texts = (before["texts_per_second"], after["texts_per_second"])
    yield row("texts/s", texts, sign=1, is_decisive=True)
    tokens_before, tokens_after = before.get("tokens_per_second"), after.get("tokens_per_second")
    if tokens_before is not None and tokens_after is not None:
        yield row("tokens/s", (tokens_before, tokens_after), sign=1, is_decisive=False)
    yield row("latency p50 (ms)", latency("p50"), sign=-1, is_decisive=False)
    yield row("latency p90 (ms)", latency("p90"), sign=-1, is_decisive=False)
    yield row("latency p99 (ms)", latency("p99"), sign=-1, is_decisive=True)
    failed = (_failed_percent(before), _failed_percent(after))
    yield row("failed requests (%)", failed, sign=-1, is_decisive=True)


def _change_percent(before: float, after: float) -> float | None:
    if before == after:
        return 0.0
    return None if before == 0 else (after / before - 1) * 100


def _verdict(change_percent: float, sign: int, max_percent: float) -> Verdict:
    """sign: 1 where more is better, -1 where less is."""
    # 110 by 100 is a little more than 10 percent in floating point, and is meant to be 10.
    if abs(change_percent) <= max_percent * (1 + 1e-9):
        return "same"
    return "better" if change_percent * sign > 0 else "worse"


def _failed_percent(point: PointMapping) -> float:
    """Failed requests by all; two windows may have different lengths, so counts say little."""
    failed = point["num_failed_requests"]
    total = failed + point["num_requests"]
    return float(100 * failed / total) if total else 0.0


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What differs around the points, one warning a key."""
    for key, old, new in _changed(before["machine"], after["machine"]):
        yield f"the machines differ: `{key}` was {_shown(old)}, is {_shown(new)}"
    for key in ("workload", "served_model"):
        if before.get(key) != after.get(key):
            yield f"`{key}` was {_shown(before.get(key))}, is {_shown(after.get(key))}"
    for key, old, new in _changed(before["dataset"], after["dataset"]):
        yield f"the datasets differ: `{key}` was {_shown(old)}, is {_shown(new)}"
    for key, old, new in _changed(before["settings"], after["settings"]):
        yield f"the settings differ: `{key}` was {_shown(old)}, is {_shown(new)}"
    for name, run in (("before", before), ("after", after)):
        if run["interrupted"]:
            yield f"the run {name} was interrupted"


def _changed(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, object, object]]:
    # A dictionary keeps the order of the files, which is the order people know.
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            yield key, before.get(key), after.get(key)


def _one_sided(
    before: Mapping[Any, PointMapping], after: Mapping[Any, PointMapping]
) -> Iterator[str]:
    for key, point in before.items():
        if key not in after:
            yield f"{load_label(point)} was measured before and not after"
    for key, point in after.items():
        if key not in before:
            yield f"{load_label(point)} was measured after and not before"


def _point_warnings(before: PointMapping, after: PointMapping) -> Iterator[str]:
    label = load_label(after)
    if before["batch_size"] != after["batch_size"]:
        yield f"{label}: batch size was {before['batch_size']}, is {after['batch_size']}"
    # Windows end with a clock tick, so only a difference that shows is one.
    if not math.isclose(before["window_s"], after["window_s"], rel_tol=0.05):
        seconds = f"{before['window_s']:.3g} s before, {after['window_s']:.3g} s after"
        yield f"{label}: the measured windows differ: {seconds}"
    for name, point in (("before", before), ("after", after)):
        if point["client_is_limit"]:
            yield f"{label}: the client was the limit {name}, not the server"


def _loads(run: Mapping[str, Any]) -> str:
    return ", ".join(load_label(point) for point in run["points"])


def _shown(value: object) -> str:
    if value is None:
        return "not given"
    if isinstance(value, list):
        return "`" + " ".join(map(str, value)) + "`"
    return f"`{value}`"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"`{name}` is not a JSON number")
