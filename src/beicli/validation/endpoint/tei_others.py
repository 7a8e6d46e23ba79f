"""What clients of text-embeddings-inference may find beside `/embed`."""

from http import HTTPStatus
from typing import Any

from beicli.validation.endpoint.checks import (
    SHORT_TEXT,
    TEXTS,
    CheckSkippedError,
    Contract,
    Offer,
    array_of,
    brief,
    check,
    fail,
    is_count,
    is_number,
    mapping,
    succeeded,
)
from beicli.validation.endpoint.exchange import get, post
from beicli.validation.endpoint.vectors import cosine, vector

_MAX_COSINE_ERROR = 1e-2


def _info(offer: Offer) -> None:
    answer = offer.server.send_once(get(offer.route))
    body = mapping(succeeded(answer), answer, "the answer")
    for key in ("max_input_length", "max_client_batch_size", "max_concurrent_requests"):
        if not is_count(body.get(key)):
            fail(f"`{key}` must be a number; found {brief(body.get(key))}", answer)
    if not isinstance(body.get("model_id"), str):
        fail("`model_id` is missing", answer)
    mapping(body.get("model_type"), answer, "`model_type`")


def _similarity_body() -> dict[str, Any]:
    return {"inputs": {"source_sentence": SHORT_TEXT, "sentences": [SHORT_TEXT, TEXTS[0]]}}


def _similarity(offer: Offer) -> None:
    # The source sentence counts too.
    offer.at_most(3, at_least=3)
    answer = offer.post_once(_similarity_body())
    found = array_of(succeeded(answer), 2, answer, "the answer")
    if not all(map(is_number, found)) or abs(found[0] - 1) > _MAX_COSINE_ERROR:
        fail(f"the first sentence is the source, so the cosine must be 1; found {found}", answer)
    own = offer.server.send_once(post("/embed", {"inputs": [SHORT_TEXT, TEXTS[0]]}))
    if not own.is_success:
        raise CheckSkippedError
    pair = [vector(values, own) for values in array_of(own.value, 2, own, "the answer")]
    wanted = cosine(pair[0], pair[1])
    if abs(wanted - found[1]) > _MAX_COSINE_ERROR:
        fail(f"the second cosine is {found[1]:.4f}; `/embed` gives {wanted:.4f}", own, answer)


def _tokenize(offer: Offer) -> None:
    answer = offer.post_once({"inputs": SHORT_TEXT})
    (tokens,) = array_of(succeeded(answer), 1, answer, "the answer")
    if not isinstance(tokens, list) or not tokens:
        fail("the answer must hold a list of tokens for the text", answer)
    for token in tokens:
        values = mapping(token, answer, "a token")
        if not is_count(values.get("id")) or not isinstance(values.get("special"), bool):
            fail(f"a token must have `id` and `special`; found {brief(values)}", answer)
    _decode(offer, [token["id"] for token in tokens if not token["special"]])


def _decode(offer: Offer, ids: list[int]) -> None:
    answer = offer.server.send_once(post("/decode", {"ids": ids}))
    if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        raise CheckSkippedError
    (text,) = array_of(succeeded(answer), 1, answer, "the answer")
    if not isinstance(text, str) or not text.strip():
        fail("`/decode` must answer with the text", answer)


def _embed_all(offer: Offer) -> None:
    answer = offer.post_once({"inputs": SHORT_TEXT})
    (rows,) = array_of(succeeded(answer), 1, answer, "the answer")
    if not isinstance(rows, list) or not rows:
        fail("the answer must hold a list of vectors for the text", answer)
    if len({len(vector(row, answer)) for row in rows}) != 1:
        fail("the vectors of tokens must be equally long", answer)


def _is_info(value: Any) -> bool:
    return isinstance(value, dict) and bool({"model_id", "model_type"} & value.keys())


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


INFO = Contract(
    name="TEI info",
    routes=("/info",),
    probe=lambda offer: get(offer.route),
    is_optional=True,
    looks_right=_is_info,
    checks=(check("tei-info", _info, "clients split their requests by these numbers"),),
)
SIMILARITY = Contract(
    name="TEI similarity",
    routes=("/similarity",),
    probe=lambda offer: post(offer.route, _similarity_body()),
    is_optional=True,
    looks_right=_is_list,
    checks=(
        check(
            "tei-similarity",
            _similarity,
            "these are cosines of the vectors that `/embed` gives",
        ),
    ),
)
TOKENIZE = Contract(
    name="TEI tokens",
    routes=("/tokenize",),
    probe=lambda offer: post(offer.route, {"inputs": SHORT_TEXT}),
    is_optional=True,
    looks_right=_is_list,
    checks=(check("tei-tokenize", _tokenize, "clients count tokens with it before they send"),),
)
EMBED_ALL = Contract(
    name="TEI embeddings of tokens",
    routes=("/embed_all",),
    probe=lambda offer: post(offer.route, {"inputs": SHORT_TEXT}),
    is_optional=True,
    looks_right=_is_list,
    checks=(
        check(
            "tei-embed-all",
            _embed_all,
            "late interaction compares the vectors of single tokens",
        ),
    ),
)
