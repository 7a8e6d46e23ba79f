"""Whether a text's answer is its own: what every contract is asked.

Texts alone are compared with the same texts among others, in a large batch, and in requests that
are sent at the same time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from beicli.validation.endpoint.checks import (
    TEXTS,
    Check,
    CheckSkippedError,
    Offer,
    check,
    fail,
)
from beicli.validation.endpoint.exchange import Answer, post

T = TypeVar("T")

_BATCH_SIZE = 32
_NUM_TOGETHER = 16
_SENTENCE = (
    "Every text of this batch begins alike and has one more word than the one before it, so that "
    "two of them are never the same and none may take the place of its neighbour in an answer."
)
# The sentence, growing word by word.
_GROWING_TEXTS = tuple(" ".join(_SENTENCE.split()[: number + 1]) for number in range(_BATCH_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue(Generic[T]):
    """How a contract is asked about texts.

    body, body_of_one: what is sent for several texts, and for a text alone.
    read: what an answer says of each of so many texts, in their order; raises CheckFailedError.
    difference: what differs between two answers about one text, None if nothing that matters.
    """

    body: Callable[[Sequence[str]], dict[str, Any]]
    body_of_one: Callable[[str], dict[str, Any]]
    read: Callable[[Answer, int], list[T]]
    difference: Callable[[T, T], str | None]
    texts: tuple[str, ...] = TEXTS


def own_answer_checks(
    prefix: str, dialogue: Callable[[Offer], Dialogue[T]], *, why: str
) -> tuple[Check, ...]:
    """Make the checks of a contract that ask whether a text's answer is its own.

    why: what an answer that is another text's means to who reads it.
    """
    return (
        check(f"{prefix}-order", lambda offer: among_others(offer, dialogue(offer)), why),
        check(
            f"{prefix}-batch",
            lambda offer: in_a_large_batch(offer, dialogue(offer)),
            "corpora are computed in batches, and nobody looks at each answer",
        ),
        check(
            f"{prefix}-parallel",
            lambda offer: in_parallel(offer, dialogue(offer)),
            "many clients ask at the same time, and each must get its own answer",
        ),
    )


def among_others(offer: Offer, dialogue: Dialogue[T]) -> None:
    """See that a text among others, in another order too, is answered as it is alone."""
    texts = dialogue.texts[: offer.at_most(len(dialogue.texts))]
    for order in (texts, (*texts[1:], texts[0])):
        answer = offer.post(dialogue.body(order))
        found = dialogue.read(answer, len(order))
        for number, text in enumerate(order):
            alone = offer.post_once(dialogue.body_of_one(text))
            difference = dialogue.difference(dialogue.read(alone, 1)[0], found[number])
            if difference is not None:
                what = f"input {number} of {len(order)} is not as it is alone: {difference}"
                fail(what, alone, answer)


def in_a_large_batch(offer: Offer, dialogue: Dialogue[T]) -> None:
    """See that a batch of a common size keeps its order; the first, a middle and the last."""
    texts = _GROWING_TEXTS[: offer.at_most(_BATCH_SIZE)]
    answer = offer.post(dialogue.body(texts))
    if answer.is_refusal or answer.proves_nothing:
        raise CheckSkippedError
    found = dialogue.read(answer, len(texts))
    for number in (0, len(texts) // 3, len(texts) - 1):
        alone = offer.post_once(dialogue.body_of_one(texts[number]))
        difference = dialogue.difference(dialogue.read(alone, 1)[0], found[number])
        if difference is not None:
            what = f"input {number} of {len(texts)} is not as it is alone: {difference}"
            fail(what, alone, answer)


def in_parallel(offer: Offer, dialogue: Dialogue[T]) -> None:
    """See that requests at the same time each get their own answer."""
    texts = [dialogue.texts[number % len(dialogue.texts)] for number in range(_NUM_TOGETHER)]
    requests = [post(offer.route, dialogue.body_of_one(text)) for text in texts]
    alone = [offer.server.send_once(request) for request in requests]
    together = offer.server.send_together(requests)
    for before, answer in zip(alone, together, strict=True):
        wanted, found = dialogue.read(before, 1)[0], dialogue.read(answer, 1)[0]
        difference = dialogue.difference(wanted, found)
        if difference is not None:
            others = _NUM_TOGETHER - 1
            what = f"sent together with {others} others, a request is answered differently: "
            fail(what + difference, before, answer)
