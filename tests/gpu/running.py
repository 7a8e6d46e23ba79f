"""Runs checks one after another; a check that fails or hangs does not end the others."""

import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.gpu.outcomes import CheckResult, Outcome

_MAX_SHOWN_CHARACTERS = 4000


class CheckFailedError(Exception):
    """What was looked at is not as it must be; the message says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Something to find out.

    run: returns what was measured; raises CheckFailedError, or whatever it runs into.
    needs: names of checks without which this one has no meaning.
    """

    name: str
    run: Callable[[], Mapping[str, Any]]
    needs: tuple[str, ...] = ()


def run_checks(
    checks: Iterable[Check], tell: Callable[[CheckResult], None]
) -> tuple[CheckResult, ...]:
    """Run all in turn; tell: hears of each result at once."""
    results: dict[str, CheckResult] = {}
    for check in checks:
        missing = [name for name in check.needs if not _has_passed(results, name)]
        if missing:
            result = CheckResult(
                name=check.name,
                outcome=Outcome.SKIPPED,
                duration_s=0.0,
                message=f"needs `{missing[0]}`, which did not pass",
            )
        else:
            result = _run(check)
        results[check.name] = result
        tell(result)
    return tuple(results.values())


def _has_passed(results: Mapping[str, CheckResult], name: str) -> bool:
    return name in results and results[name].outcome is Outcome.PASSED


def _run(check: Check) -> CheckResult:
    started_at = time.monotonic()
    outcome, message, values = Outcome.PASSED, "", {}
    try:
        values = dict(check.run())
    except CheckFailedError as error:
        outcome, message = Outcome.FAILED, str(error)
    except Exception:  # noqa: BLE001 - whatever it is, it goes into the report
        outcome, message = Outcome.FAILED, traceback.format_exc()
    return CheckResult(
        name=check.name,
        outcome=outcome,
        duration_s=time.monotonic() - started_at,
        message=message[-_MAX_SHOWN_CHARACTERS:],
        values=values,
    )


def run_command(
    command: Iterable[object], *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> str:
    """Return what a command prints; raises CheckFailedError with its last words if it fails."""
    words = [str(part) for part in command]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env=None if environment is None else dict(environment),
        )
    except subprocess.TimeoutExpired as error:
        raise CheckFailedError(f"`{' '.join(words)}` did not end in {timeout_s:g} s") from error
    if done.returncode != 0:
        said = f"{done.stderr}\n{done.stdout}"[-_MAX_SHOWN_CHARACTERS:].strip()
        raise CheckFailedError(f"`{' '.join(words)}` ended with {done.returncode}:\n{said}")
    return done.stdout
