"""The verdict on a running server: which contracts it offers, and whether it keeps them."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from beicli.validation.endpoint.checks import Check, CheckFailedError, Contract
from beicli.validation.endpoint.exchange import Answer, NoAnswerError, Server
from beicli.validation.endpoint.openai import OPENAI
from beicli.validation.endpoint.scores import (
    COHERE_RERANK,
    JINA_RERANK,
    PREDICT,
    PREDICT_TOKENS,
    RERANK,
)
from beicli.validation.endpoint.tei import EMBED, SPARSE
from beicli.validation.findings import Finding, Level, Rule, TargetKind, TargetReport

CONTRACTS = (
    OPENAI,
    EMBED,
    SPARSE,
    RERANK,
    COHERE_RERANK,
    JINA_RERANK,
    PREDICT,
    PREDICT_TOKENS,
)
UNREACHABLE = Rule(
    name="server-unreachable", level=Level.ERROR, why="nothing can be checked where nobody answers"
)
UNHEALTHY = Rule(
    name="server-unhealthy",
    level=Level.WARNING,
    why="balancers and orchestrators send traffic by `/health`",
)
KEY_REFUSED = Rule(
    name="server-key-refused", level=Level.ERROR, why="nothing can be checked without a valid key"
)
KEY_NOT_NEEDED = Rule(
    name="server-key-not-needed",
    level=Level.WARNING,
    why="whoever reaches the server can use it",
)
NO_CONTRACT = Rule(
    name="server-no-contract",
    level=Level.ERROR,
    why="no client of OpenAI, TEI, Cohere, Jina or BEI can use this server",
)
CONTRACT_BROKEN = Rule(
    name="server-contract-broken",
    level=Level.ERROR,
    why="the plainest request of this contract already fails on the server's side",
)
CONTRACT_REFUSED = Rule(
    name="server-contract-refused",
    level=Level.INFO,
    why="the route is there, but not for this model",
)
RULES = (
    UNREACHABLE,
    UNHEALTHY,
    KEY_REFUSED,
    KEY_NOT_NEEDED,
    NO_CONTRACT,
    CONTRACT_BROKEN,
    CONTRACT_REFUSED,
    *(check.rule for contract in CONTRACTS for check in contract.checks),
)

_NOT_OFFERED = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}
_KEY_WANTED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of one contract. verdict: `kept`, `broken`, `refused` or `not offered`."""

    contract: Contract
    verdict: str
    findings: tuple[Finding, ...] = ()
    num_checks: int = 0

    def describe(self) -> dict[str, Any]:
        return {
            "contract": self.contract.name,
            "verdict": self.verdict,
            "num_checks": self.num_checks,
            "num_failed": len(self.findings) if self.num_checks else 0,
        }


def validate_server(
    url: str, *, api_key: str | None = None, model: str | None = None, timeout_s: float = 60.0
) -> TargetReport:
    """Ask the server at `url` what its clients would ask; raises nothing the server could cause.

    model: what to call its model; None asks the server. timeout_s: for each answer.
    """
    findings: list[Finding] = []
    outcomes: list[_Outcome] = []
    name = model
    try:
        with Server(url, api_key=api_key, timeout_s=timeout_s) as server:
            findings += _check_health(server)
            server.model = name = model or _model_name(server)
            refusal = _check_key(server)
            findings += refusal
            if not any(finding.level is Level.ERROR for finding in refusal):
                outcomes = [_try(server, contract) for contract in CONTRACTS]
    except NoAnswerError as error:
        findings.append(
            UNREACHABLE.broken(
                f"no answer: {error.what}",
                fix="check the address, and that the server runs",
                reproduce=error.command,
            )
        )
    findings += [finding for outcome in outcomes for finding in outcome.findings]
    if outcomes and not any(outcome.verdict in {"kept", "broken"} for outcome in outcomes):
        routes = ", ".join(f"`{contract.checks[0].route}`" for contract in CONTRACTS)
        findings.append(
            NO_CONTRACT.broken(
                f"none of {routes} answers",
                fix="name the root of the server, without a route; name its model with `--model`",
            )
        )
    return TargetReport(
        target=url,
        kind=TargetKind.SERVER,
        findings=tuple(findings),
        num_checks=1 + sum(outcome.num_checks for outcome in outcomes),
        facts={"model": name, "contracts": [outcome.describe() for outcome in outcomes]}
        if outcomes
        else {},
    )


def _check_health(server: Server) -> list[Finding]:
    try:
        answer = server.get("/health")
    except NoAnswerError as error:
        if error.is_down:
            raise
        return [
            UNHEALTHY.broken(error.what, place="/health", reproduce=error.command),
        ]
    if answer.is_success or answer.status in _KEY_WANTED:
        return []
    what = f"`/health` answers {answer.status} {answer.excerpt}".strip()
    return [UNHEALTHY.broken(what, place="/health", reproduce=answer.command)]


def _model_name(server: Server) -> str:
    """Return what the server calls its model, or something: many servers do not care."""
    models = _value(server, "/v1/models")
    entries = models.get("data")
    if isinstance(entries, list) and entries and isinstance(entries[0], dict):
        name = entries[0].get("id")
        if isinstance(name, str):
            return name
    name = _value(server, "/info").get("model_id")
    return name if isinstance(name, str) else "model"


def _value(server: Server, path: str) -> dict[str, Any]:
    try:
        value = server.get(path).value
    except NoAnswerError as error:
        if error.is_down:
            raise
        return {}
    return value if isinstance(value, dict) else {}


def _check_key(server: Server) -> list[Finding]:
    """See whether the key is taken, and whether one is needed at all."""
    try:
        for contract in CONTRACTS:
            answer = contract.probe(server)
            if answer.status in _KEY_WANTED:
                return [_key_refused(server, answer)]
            if answer.is_success:
                return _check_without_key(server, contract.checks[0].route)
    except NoAnswerError as error:
        if error.is_down:
            raise
    return []


def _key_refused(server: Server, answer: Answer) -> Finding:
    said = f": {answer.excerpt}" if answer.excerpt else ""
    return KEY_REFUSED.broken(
        f"the server answers {answer.status}{said}",
        fix="put a key that it accepts into the file"
        if server.has_key
        else "name a file with the key: `--api-key-file FILE`",
        reproduce=answer.command,
    )


def _check_without_key(server: Server, route: str) -> list[Finding]:
    if not server.has_key:
        return []
    answer = server.post(route, {}, with_key=False)
    if answer.status in _KEY_WANTED:
        return []
    return [
        KEY_NOT_NEEDED.broken(
            f"a request without the key is answered with {answer.status}, not 401",
            fix="start the server with a key",
            place=route,
            reproduce=answer.command,
        )
    ]


def _try(server: Server, contract: Contract) -> _Outcome:
    """Run the checks of a contract, if the server offers it."""
    route = contract.checks[0].route
    try:
        answer = contract.probe(server)
    except NoAnswerError as error:
        if error.is_down:
            raise
        broken = CONTRACT_BROKEN.broken(error.what, place=route, reproduce=error.command)
        return _Outcome(contract=contract, verdict="broken", findings=(broken,), num_checks=1)
    if answer.status in _NOT_OFFERED:
        return _Outcome(contract=contract, verdict="not offered")
    said = f"{answer.status} {answer.excerpt}".strip()
    if answer.is_refusal:
        refused = CONTRACT_REFUSED.broken(
            f"`{route}` refuses a valid request: {said}", place=route, reproduce=answer.command
        )
        return _Outcome(contract=contract, verdict="refused", findings=(refused,))
    if not answer.is_success:
        broken = CONTRACT_BROKEN.broken(
            f"`{route}` answers a valid request with {said}",
            place=route,
            reproduce=answer.command,
        )
        return _Outcome(contract=contract, verdict="broken", findings=(broken,), num_checks=1)
    findings = tuple(
        finding for check in contract.checks if (finding := _run(server, check)) is not None
    )
    is_broken = any(finding.level is Level.ERROR for finding in findings)
    return _Outcome(
        contract=contract,
        verdict="broken" if is_broken else "kept",
        findings=findings,
        num_checks=len(contract.checks),
    )


def _run(server: Server, check: Check) -> Finding | None:
    try:
        check.run(server)
    except CheckFailedError as error:
        return check.rule.broken(error.what, place=check.route, reproduce=error.answer.command)
    except NoAnswerError as error:
        if error.is_down:
            raise
        return check.rule.broken(error.what, place=check.route, reproduce=error.command)
    return None
