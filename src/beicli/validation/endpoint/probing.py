"""Which contracts a server offers, by its answer to the plainest request of each."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus

from beicli.validation.endpoint.checks import Contract, Offer
from beicli.validation.endpoint.description import Description
from beicli.validation.endpoint.exchange import Answer, NoAnswerError, RateLimitedError
from beicli.validation.endpoint.server import Server

_NO_ROUTE = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
_OTHER_KIND = {HTTPStatus.FAILED_DEPENDENCY, HTTPStatus.NOT_IMPLEMENTED}
_WRONG = (
    r"does not exist|not found|not support|unsupported|unknown|not available|not loaded"
    r"|not deployed|is not an? "
)
_SPEAKS_OF_MODEL = re.compile(
    rf"model_not_found|\bmodel\b.{{0,100}}?({_WRONG})"
    r"|(unknown|no such|not allowed|not support|not found|not exist)\b.{0,60}\bmodel\b",
    re.IGNORECASE | re.DOTALL,
)


class Verdict(StrEnum):
    """What the plainest request shows. ABSENT: no such route. REFUSED: not for this model."""

    OFFERED = "offered"
    ABSENT = "absent"
    REFUSED = "refused"
    LOCKED = "locked"
    BROKEN = "broken"
    LIMITED = "limited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What became of the plainest request.

    what: why it is not offered, in words. command: what shows it. answer: None if none came.
    """

    contract: Contract
    offer: Offer
    verdict: Verdict
    what: str
    command: str
    answer: Answer | None


def probe_contract(server: Server, contract: Contract, about: Description) -> Probe:
    """Ask at each place, with each name of a model, until there is an answer.

    Raises NoAnswerError if the server is down.
    """
    first: Probe | None = None
    for route in contract.routes:
        offer = Offer(
            server=server,
            route=route,
            model=about.models[0],
            max_batch_size=about.max_batch_size,
        )
        found = _probe_at(offer, contract, about)
        if found.verdict is Verdict.OFFERED:
            return found
        first = first or found
        if found.verdict is Verdict.REFUSED and first.verdict is Verdict.ABSENT:
            return found
        if first.verdict not in {Verdict.ABSENT, Verdict.LOCKED}:
            break
    assert first is not None
    return first


def _probe_at(offer: Offer, contract: Contract, about: Description) -> Probe:
    try:
        offer, answer = _ask(offer, contract, about)
        verdict = _judge(offer, contract, answer, about)
    except (NoAnswerError, RateLimitedError) as error:
        if isinstance(error, NoAnswerError) and error.is_down:
            raise
        is_limited = isinstance(error, RateLimitedError)
        return Probe(
            contract=contract,
            offer=offer,
            verdict=Verdict.LIMITED if is_limited else Verdict.BROKEN,
            what=error.what,
            command=error.command,
            answer=None,
        )
    return Probe(
        contract=contract,
        offer=offer,
        verdict=verdict,
        what=f"{answer.status} {answer.excerpt}".strip(),
        command=answer.command,
        answer=answer,
    )


def _ask(offer: Offer, contract: Contract, about: Description) -> tuple[Offer, Answer]:
    """Send the plainest request, with other names of the model and with a list where refused."""
    answers = []
    for model in about.models:
        named = replace(offer, model=model)
        answer = offer.server.send_once(contract.probe(named))
        if answer.is_refusal and answer.status not in _NO_ROUTE | _OTHER_KIND:
            in_list = replace(named, takes_texts=False)
            second = offer.server.send_once(contract.probe(in_list))
            if second.is_success:
                named, answer = in_list, second
        answers.append((named, answer))
        if answer.is_success or not _speaks_of_model(answer):
            return named, answer
    return answers[0]


def _judge(offer: Offer, contract: Contract, answer: Answer, about: Description) -> Verdict:
    is_foreign = contract.is_optional and about.kind is None
    if answer.is_success:
        value = answer.value
        is_right = value is not None and (contract.looks_right(value) or not is_foreign)
        return Verdict.OFFERED if is_right else Verdict.ABSENT
    if _speaks_of_model(answer) or answer.status in _OTHER_KIND:
        return Verdict.REFUSED
    if answer.status in _NO_ROUTE or answer.is_redirect:
        return Verdict.ABSENT
    if answer.is_key_wanted:
        return Verdict.LOCKED
    if answer.is_refusal:
        return Verdict.REFUSED if is_foreign else _judge_refusal(offer, contract)
    return Verdict.BROKEN


def _judge_refusal(offer: Offer, contract: Contract) -> Verdict:
    """Say whether a route that refuses this contract's form belongs to another API."""
    if offer.route != contract.routes[0]:
        return Verdict.ABSENT
    if contract.other_form is not None:
        answer = offer.server.send_once(contract.other_form(offer))
        if answer.is_success:
            return Verdict.ABSENT
        if _speaks_of_model(answer):
            return Verdict.REFUSED
    return Verdict.BROKEN


def _speaks_of_model(answer: Answer) -> bool:
    """Whether a refusal is about the model, not about the route or the request."""
    if not 400 <= answer.status < 500 or not isinstance(answer.value, dict):  # noqa: PLR2004 - 4xx
        return False
    text = answer.content[:2000].decode("utf-8", "replace").replace("\\", "")
    return _SPEAKS_OF_MODEL.search(text) is not None
