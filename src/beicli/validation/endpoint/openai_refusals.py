"""What `/v1/embeddings` must refuse, or at least not break at, and in which words."""

from typing import Any

from beicli.findings import Level
from beicli.validation.endpoint.checks import (
    SHORT_TEXT,
    CheckSkippedError,
    Offer,
    brief,
    check,
    fail,
    not_crashed,
    refused,
)
from beicli.validation.endpoint.exchange import Answer
from beicli.validation.endpoint.long_texts import NUM_LONG_WORDS, long_text_answer

_RETRIED = "clients retry what is not said to be their own fault"
# Low ids are in every vocabulary.
_TOKEN_IDS = [5, 6, 7]
_MANY_DIMENSIONS = 10**6


def embeddings_body(offer: Offer, texts: object, **others: object) -> dict[str, Any]:
    """Return a body; texts: a text, a list of them, or token ids."""
    return {"model": offer.model, "input": texts, **others}


def ask_for_embedding(offer: Offer, **others: object) -> Answer:
    """Ask about a short text, once for each set of `others`."""
    return offer.post_once(embeddings_body(offer, offer.one(SHORT_TEXT), **others))


def _too_many_dimensions(offer: Offer) -> None:
    refused(ask_for_embedding(offer, dimensions=_MANY_DIMENSIONS), "`dimensions` of a million")


_STRANGE_VALUES: dict[str, object] = {"encoding_format": "sundial", "dimensions": 0}


def _strange_values(offer: Offer) -> None:
    for key, value in _STRANGE_VALUES.items():
        not_crashed(ask_for_embedding(offer, **{key: value}), f"`{key}: {value}`")


def _ignored_values(offer: Offer) -> None:
    for key, value in _STRANGE_VALUES.items():
        answer = ask_for_embedding(offer, **{key: value})
        if answer.is_success:
            fail(f"`{key}: {value}` was not refused", answer)


def _token_ids(offer: Offer) -> None:
    for ids in (_TOKEN_IDS, [_TOKEN_IDS]):
        not_crashed(offer.post(embeddings_body(offer, ids)), f"a list of token ids, `{ids}`,")


def _empty(offer: Offer) -> None:
    refused(offer.post(embeddings_body(offer, [])), "an empty list of inputs")


def _missing(offer: Offer) -> None:
    refused(offer.post_once({"model": offer.model}), "a body without `input`")


def _broken_json(offer: Offer) -> None:
    refused(offer.post_text('{"input": "cut off'), "a body that is no JSON")


def _batch_limit(offer: Offer) -> None:
    number = 1 + (offer.max_batch_size or 0)
    if number == 1:
        raise CheckSkippedError
    expression = f'{{"model": {offer.model!r}, "input": ["a"] * {number}}}'
    answer = offer.post(embeddings_body(offer, ["a"] * number), as_python=expression)
    refused(answer, f"{number} inputs, one more than `/info` allows,")


def _error_body(offer: Offer) -> None:
    answer = offer.post_once({"model": offer.model})
    value = answer.value
    body = value if isinstance(value, dict) else {}
    inner = body.get("error")
    text = inner.get("message") if isinstance(inner, dict) else body.get("message", inner)
    if text is None:
        # FastAPI's own; and a router before the server may answer in plain words.
        text = _detail(body.get("detail")) if body else answer.excerpt
    if not isinstance(text, str) or not text.strip():
        fail("a refusal must say what is wrong", answer)


def _detail(detail: object) -> str:
    """Return what FastAPI says is wrong: a text, or a list of the fields with their faults."""
    return brief(detail) if detail else ""


def _long_text(offer: Offer) -> None:
    answer = long_text_answer(offer, {"model": offer.model}, "input")
    not_crashed(answer, f"{NUM_LONG_WORDS:,} words")


REFUSALS = (
    check(
        "openai-too-many-dimensions",
        _too_many_dimensions,
        "whoever asks for more than there is must hear of it",
        level=Level.WARNING,
    ),
    check("openai-strange-values", _strange_values, _RETRIED),
    check(
        "openai-ignored-values",
        _ignored_values,
        "whoever asks for what there is not must hear of it",
        level=Level.WARNING,
    ),
    check("openai-token-ids", _token_ids, "LangChain sends token ids and retries a 5xx"),
    check("openai-empty", _empty, "clients retry a 5xx and take a 200 for vectors"),
    check("openai-missing", _missing, _RETRIED),
    check("openai-no-json", _broken_json, _RETRIED),
    check(
        "openai-batch-limit",
        _batch_limit,
        "clients split their requests by the limit that `/info` tells",
    ),
    check(
        "openai-error-body",
        _error_body,
        "people see this text and nothing else",
        level=Level.WARNING,
    ),
    check(
        "openai-long-text",
        _long_text,
        "one long document must not look like a server that is down",
    ),
)
