"""Texts that no model has room for."""

import re
from collections.abc import Mapping
from typing import Any

from beicli.validation.endpoint.checks import Offer, refused
from beicli.validation.endpoint.exchange import Answer

NUM_LONG_WORDS = 20_000
# TEI refuses more than 250 characters for each token of its window, even if it may truncate.
_CHARACTER_LIMIT = re.compile(rb"less than (\d{3,7}) characters")


def long_text_answer(offer: Offer, body: dict[str, Any], key: str) -> Answer:
    """Send a very long text, as long as the server takes at all if it says so."""
    long_body, expression = _long_body(offer, body, key)
    answer = offer.post(long_body, as_python=expression)
    limit = _CHARACTER_LIMIT.search(answer.content[:4000])
    if answer.is_success or limit is None:
        return answer
    long_body, expression = _long_body(offer, body, key, num_characters=int(limit[1]) - 1)
    return offer.post(long_body, as_python=expression)


def no_truncate(offer: Offer) -> None:
    """See that a long text is refused where truncation is forbidden."""
    answer = long_text_answer(offer, {"truncate": False}, "inputs")
    refused(answer, f"{NUM_LONG_WORDS:,} words with `truncate: false`")


def _long_body(
    offer: Offer, body: Mapping[str, Any], key: str, *, num_characters: int = 5 * NUM_LONG_WORDS
) -> tuple[dict[str, Any], str]:
    """Return `body` with a very long text at `key`, and a Python expression for it."""
    words = f'("word " * {NUM_LONG_WORDS})[:{num_characters}]'
    start = "".join(f"{name!r}: {value!r}, " for name, value in body.items())
    expression = f"{{{start}{key!r}: {words if offer.takes_texts else f'[{words}]'}}}"
    return {**body, key: offer.one(("word " * NUM_LONG_WORDS)[:num_characters])}, expression
