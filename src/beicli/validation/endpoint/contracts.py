"""The contracts there are, and what becomes of each when its checks are run."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from beicli.validation.endpoint.checks import (
    Check,
    CheckFailedError,
    CheckSkippedError,
)
from beicli.validation.endpoint.description import Description
from beicli.validation.endpoint.entities import PREDICT_TOKENS
from beicli.validation.endpoint.exchange import NoAnswerError, RateLimitedError
from beicli.validation.endpoint.openai import OPENAI
from beicli.validation.endpoint.predict import PREDICT
from beicli.validation.endpoint.probing import Probe, Verdict
from beicli.validation.endpoint.rerank import COHERE_RERANK, JINA_RERANK, RERANK
from beicli.validation.endpoint.rules import (
    CONTRACT_BROKEN,
    CONTRACT_MISSING,
    CONTRACT_REFUSED,
    LISTS_ONLY,
    RATE_LIMITED,
)
from beicli.validation.endpoint.sparse import SPARSE
from beicli.validation.endpoint.tei import EMBED
from beicli.validation.endpoint.tei_others import EMBED_ALL, INFO, SIMILARITY, TOKENIZE
from beicli.validation.endpoint.words import shown
from beicli.validation.findings import Finding, Level

CONTRACTS = (
    OPENAI,
    EMBED,
    SPARSE,
    RERANK,
    COHERE_RERANK,
    JINA_RERANK,
    PREDICT,
    PREDICT_TOKENS,
    INFO,
    SIMILARITY,
    TOKENIZE,
    EMBED_ALL,
)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one contract.

    verdict: `kept`, `broken`, `missing`, `refused`, `not offered` or `not checked`.
    num_checks: those that could be asked; num_skipped: those that could not.
    """

    probe: Probe
    verdict: str
    findings: list[Finding] = field(default_factory=list)
    num_checks: int = 0
    num_skipped: int = 0
    num_failed: int = 0

    @classmethod
    def of(cls, probe: Probe, about: Description) -> "Outcome":
        """Say what the plainest request shows; of an offer nothing is known yet."""
        route, said = probe.offer.route, f"`{probe.offer.route}` answers a valid request with"
        match probe.verdict:
            case Verdict.OFFERED:
                return cls(probe=probe, verdict="not checked")
            case Verdict.BROKEN:
                what = f"{said} {probe.what}" if probe.answer else probe.what
                rule, verdict = CONTRACT_BROKEN, "broken"
            case Verdict.LIMITED if probe.contract.is_optional:
                return cls(probe=probe, verdict="not checked")
            case Verdict.LIMITED:
                what, rule, verdict = f"not checked: {probe.what}", RATE_LIMITED, "not checked"
            case _ if about.kind in probe.contract.kinds:
                what = f"`/info` says the model is a {about.kind}, but {said} {probe.what}"
                rule, verdict = CONTRACT_MISSING, "missing"
            case Verdict.LOCKED if probe.answer and probe.answer.status == HTTPStatus.FORBIDDEN:
                # What gateways say of routes they do not know.
                return cls(probe=probe, verdict="not offered")
            case Verdict.REFUSED | Verdict.LOCKED:
                what = f"`{route}` refuses a valid request: {probe.what}"
                rule, verdict = CONTRACT_REFUSED, "refused"
            case _:
                return cls(probe=probe, verdict="not offered")
        finding = rule.broken(shown(what), place=route, reproduce=probe.command)
        num_checks = 1 if verdict in {"broken", "missing"} else 0
        return cls(
            probe=probe,
            verdict=verdict,
            findings=[finding],
            num_checks=num_checks,
            num_failed=num_checks,
        )

    @property
    def is_verdict(self) -> bool:
        """Whether a main contract was found, whatever became of it."""
        is_main = not self.probe.contract.is_optional
        return is_main and self.verdict in {"kept", "broken", "missing", "not checked"}

    def count(self, finding: Finding | None) -> None:
        """Add a check that was asked; finding: what it found, None if all is well."""
        self.num_checks += 1
        if finding is not None:
            self.num_failed += 1
            self.findings.append(finding)

    def describe(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "contract": self.probe.contract.name,
            "route": self.probe.offer.route,
            "verdict": self.verdict,
            "num_checks": self.num_checks,
            "num_skipped": self.num_skipped,
            "num_failed": self.num_failed,
        }


def run_checks(outcome: Outcome) -> None:
    """Run the checks of an offered contract; what is found stays, also if the server dies.

    Raises NoAnswerError if the server is down.
    """
    outcome.findings += _lists_only(outcome.probe)
    limited: list[RateLimitedError] = []
    for check in outcome.probe.contract.checks:
        try:
            finding = _run(outcome, check)
        except CheckSkippedError:
            outcome.num_skipped += 1
        except RateLimitedError as error:
            outcome.num_skipped += 1
            limited.append(error)
        else:
            outcome.count(finding)
    if limited:
        what = f"{len(limited)} checks could not be asked: {limited[0].what}"
        outcome.findings.append(
            RATE_LIMITED.broken(
                shown(what), place=outcome.probe.offer.route, reproduce=limited[0].command
            )
        )
    if any(finding.level is Level.ERROR for finding in outcome.findings):
        outcome.verdict = "broken"
    elif not limited and outcome.num_checks:
        outcome.verdict = "kept"


def _lists_only(probe: Probe) -> list[Finding]:
    route = probe.offer.route
    if probe.offer.takes_texts:
        return []
    what = f"`{route}` refuses a text that stands in no list"
    return [LISTS_ONLY.broken(what, place=route, reproduce=probe.command)]


def _run(outcome: Outcome, check: Check) -> Finding | None:
    route = outcome.probe.offer.route
    try:
        check.run(outcome.probe.offer)
    except CheckFailedError as error:
        commands = dict.fromkeys(answer.command for answer in error.answers)
        return check.rule.broken(shown(error.what), place=route, reproduce="\n".join(commands))
    except NoAnswerError as error:
        if error.is_down:
            raise
        return check.rule.broken(shown(error.what), place=route, reproduce=error.command)
    except (CheckSkippedError, RateLimitedError):
        raise
    except Exception as error:  # noqa: BLE001 - the boundary: nothing a server sends may escape
        what = f"the answer cannot be read: {type(error).__name__}"
        return check.rule.broken(what, place=route, reproduce=outcome.probe.command)
    return None
