"""The verdict on a running server: which contracts it offers, and whether it keeps them."""

from collections.abc import Callable
from typing import Any

from beicli.validation.endpoint.address import parse_address
from beicli.validation.endpoint.contracts import CONTRACTS, Outcome, run_checks
from beicli.validation.endpoint.description import Description, describe
from beicli.validation.endpoint.exchange import NoAnswerError, RateLimitedError, get
from beicli.validation.endpoint.probing import Probe, Verdict, probe_contract
from beicli.validation.endpoint.rules import (
    KEY_NOT_NEEDED,
    KEY_REFUSED,
    NO_CONTRACT,
    NO_HEALTH,
    REDIRECTS,
    SERVER_RULES,
    UNHEALTHY,
    UNREACHABLE,
    WENT_AWAY,
)
from beicli.validation.endpoint.server import Server
from beicli.validation.endpoint.words import shown
from beicli.validation.findings import Finding, TargetKind, TargetReport

RULES = (
    *SERVER_RULES,
    *(check.rule for contract in CONTRACTS for check in contract.checks),
)
_MAX_SHOWN_REFUSALS = 3
_MAX_SHOWN_MODELS = 10

Progress = Callable[[str], None]


def validate_server(
    url: str,
    *,
    api_key: str | None = None,
    model: str | None = None,
    timeout_s: float = 60.0,
    progress: Progress | None = None,
) -> TargetReport:
    """Ask the server at `url` what its clients would ask; raises nothing the server could cause.

    model: what to call its model; None asks the server. timeout_s: for each answer, the
    connection included. progress: hears the name of each contract before it is checked.
    Raises UsageError if `url` has a query, or a user beside a key.
    """
    address = parse_address(url)
    with Server(address, api_key=api_key, timeout_s=timeout_s) as server:
        conversation = _Conversation(server, progress or (lambda _: None))
        conversation.hold(model)
    outcomes = conversation.outcomes
    findings = [*conversation.findings, *(each for one in outcomes for each in one.findings)]
    return TargetReport(
        target=address.shown,
        kind=TargetKind.SERVER,
        findings=tuple(findings),
        num_checks=1 + sum(outcome.num_checks for outcome in outcomes),
        facts=_facts(conversation, address.root) if outcomes else {},
    )


class _Conversation:
    """What was found so far; a server that dies takes nothing of it away."""

    def __init__(self, server: Server, progress: Progress) -> None:
        self.findings: list[Finding] = []
        self.outcomes: list[Outcome] = []
        self.model: str | None = None
        self._server = server
        self._progress = progress

    def hold(self, model: str | None) -> None:
        """Ask everything; model: what to call the model, None asks the server."""
        try:
            health = _check_health(self._server)
            self.findings += health
            about = describe(self._server, model=model)
            self.model = about.models[0]
            probes = [probe_contract(self._server, contract, about) for contract in CONTRACTS]
            obstacle = _key_refused(self._server, probes) or _redirects(self._server, probes)
            if obstacle is not None:
                self.findings = [obstacle]
                return
            self._run(probes, about)
        except NoAnswerError as error:
            self.findings.append(_down(error))

    def _run(self, probes: list[Probe], about: Description) -> None:
        self.outcomes += [Outcome.of(probe, about) for probe in probes]
        offered = [each for each in self.outcomes if each.probe.verdict is Verdict.OFFERED]
        main = [each for each in offered if not each.probe.contract.is_optional]
        if main:
            self.model = main[0].probe.offer.model
            self.findings += _check_without_key(self._server, main[0].probe)
        for outcome in offered:
            self._progress(outcome.probe.contract.name)
            run_checks(outcome)
        if not any(each.is_verdict for each in self.outcomes):
            self.findings.append(_no_contract(probes, about))


def _facts(conversation: _Conversation, root: str) -> dict[str, Any]:
    return {
        "model": conversation.model,
        "base": root,
        "contracts": [outcome.describe() for outcome in conversation.outcomes],
    }


def _down(error: NoAnswerError) -> Finding:
    if error.suspect is None:
        return UNREACHABLE.broken(
            shown(f"no answer: {error.what}"),
            fix="check the address, and that the server runs",
            reproduce=error.command,
        )
    return WENT_AWAY.broken(
        shown(f"the server went away after: {error.suspect}"),
        fix=shown(f"see the server's log; the next request found: {error.what}"),
        reproduce=error.suspect,
    )


def _check_health(server: Server) -> list[Finding]:
    try:
        answer = server.send(get("/health"))
    except NoAnswerError as error:
        if error.is_down:
            raise
        return [UNHEALTHY.broken(shown(error.what), place="/health", reproduce=error.command)]
    except RateLimitedError as error:
        return [UNHEALTHY.broken(shown(error.what), place="/health", reproduce=error.command)]
    if answer.is_success or answer.is_key_wanted:
        return []
    what = f"`/health` answers {answer.status} {answer.excerpt}".strip()
    if answer.status >= 500:  # noqa: PLR2004 - the class of statuses
        return [UNHEALTHY.broken(shown(what), place="/health", reproduce=answer.command)]
    if server.address.origin != server.address.root:
        # Where the API has a path of its own, the server's health need not.
        at_origin = server.look_up(f"{server.address.origin}/health")
        if at_origin is not None and at_origin.is_success:
            return []
    return [NO_HEALTH.broken(shown(what), place="/health", reproduce=answer.command)]


def _key_refused(server: Server, probes: list[Probe]) -> Finding | None:
    """See whether everybody who answered wants another key."""
    main = [probe for probe in probes if not probe.contract.is_optional]
    answered = [probe for probe in main if probe.verdict is not Verdict.ABSENT]
    if not answered or any(probe.verdict is not Verdict.LOCKED for probe in answered):
        return None
    return KEY_REFUSED.broken(
        shown(f"the server answers {answered[0].what}"),
        fix="put a key that it accepts into the file"
        if server.has_key
        else "name a file with the key: `--api-key-file FILE`",
        reproduce=answered[0].command,
    )


def _redirects(server: Server, probes: list[Probe]) -> Finding | None:
    """See whether the server is somewhere else."""
    main = [probe for probe in probes if not probe.contract.is_optional]
    moved = [probe.answer for probe in main if probe.answer and probe.answer.is_redirect]
    if not moved or any(probe.verdict is Verdict.OFFERED for probe in main):
        return None
    location = shown(moved[0].headers["location"])
    return REDIRECTS.broken(
        shown(f"`{server.address.shown}` answers {moved[0].status} and leads to `{location}`"),
        fix="name the address it leads to, without the route at its end",
        reproduce=moved[0].command,
    )


def _check_without_key(server: Server, probe: Probe) -> list[Finding]:
    """See whether the key is needed at all."""
    if not server.has_key or probe.answer is None:
        return []
    try:
        answer = server.send(probe.answer.request, with_key=False)
    except NoAnswerError as error:
        if error.is_down:
            raise
        return []
    except RateLimitedError:
        return []
    if not answer.is_success:
        return []
    return [
        KEY_NOT_NEEDED.broken(
            f"a request without the key is answered with {answer.status}, not 401",
            fix="start the server with a key",
            place=probe.offer.route,
            reproduce=answer.command,
        )
    ]


def _no_contract(probes: list[Probe], about: Description) -> Finding:
    routes = ", ".join(f"`{each.routes[0]}`" for each in CONTRACTS if not each.is_optional)
    refusals = [probe for probe in probes if probe.verdict is Verdict.REFUSED]
    said = [f"`{each.offer.route}`: {each.what}" for each in refusals[:_MAX_SHOWN_REFUSALS]]
    listed = about.listed_models[:_MAX_SHOWN_MODELS]
    models = f"; it lists the models {', '.join(map(shown, listed))}" if listed else ""
    what = "; ".join([f"none of {routes} answers", *said]) + models
    return NO_CONTRACT.broken(
        shown(what, max_characters=1_000),
        fix="name the root of the server, without a route; name its model with `--model`",
        reproduce="\n".join(each.command for each in refusals[:_MAX_SHOWN_REFUSALS]) or None,
    )
