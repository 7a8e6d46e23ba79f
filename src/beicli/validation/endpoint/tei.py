"""What clients of text-embeddings-inference rely on: embeddings, tokens, `/info` and errors."""

from typing import Any

from beicli.findings import Level
from beicli.validation.endpoint.checks import (
    NUM_LONG_WORDS,
    SHORT_TEXT,
    TEXTS,
    Contract,
    array_of,
    check,
    cosine,
    fail,
    is_count,
    is_number,
    mapping,
    refused,
    same_vector,
    succeeded,
    vector,
)
from beicli.validation.endpoint.exchange import Answer, Server

_MAX_COSINE_ERROR = 1e-3
_RETRIED = "clients retry what is not said to be their own fault"


def _embed(server: Server, inputs: Any, **others: Any) -> Answer:
    return server.post("/embed", {"inputs": inputs, **others})


def _order(server: Server) -> None:
    alone = []
    for text in TEXTS:
        answer = _embed(server, text)
        alone.append(vector(array_of(succeeded(answer), 1, answer, "the answer")[0], answer))
    answer = _embed(server, list(TEXTS))
    found = array_of(succeeded(answer), len(TEXTS), answer, "the answer")
    for number, (wanted, values) in enumerate(zip(alone, found, strict=True)):
        what = f"input {number} among others is not as it is alone"
        same_vector(wanted, vector(values, answer), answer, what)


def _normalize(server: Server) -> None:
    answer = _embed(server, SHORT_TEXT, normalize=True)
    unit = vector(array_of(succeeded(answer), 1, answer, "the answer")[0], answer)
    if abs(float(unit @ unit) - 1) > 2e-2:  # noqa: PLR2004 - 16 bit on the way
        fail(f"with `normalize` an embedding has squared length {float(unit @ unit):.3f}", answer)
    answer = _embed(server, SHORT_TEXT, normalize=False)
    raw = vector(array_of(succeeded(answer), 1, answer, "the answer")[0], answer)
    same_vector(unit, raw, answer, "`normalize` changes more than the length")


def _truncate(server: Server) -> None:
    body = {"inputs": "word " * NUM_LONG_WORDS, "truncate": True}
    expression = f'{{"inputs": "word " * {NUM_LONG_WORDS}, "truncate": True}}'
    answer = server.post("/embed", body, as_python=expression)
    vector(array_of(succeeded(answer), 1, answer, "the answer")[0], answer)


def _empty(server: Server) -> None:
    answer = _embed(server, [])
    refused(answer, "an empty list of inputs")
    body = answer.value if isinstance(answer.value, dict) else {}
    if not isinstance(body.get("error"), str) or not isinstance(body.get("error_type"), str):
        fail("a refusal must have the texts `error` and `error_type`", answer)


def _missing(server: Server) -> None:
    refused(server.post("/embed", {}), "a body without `inputs`")


def _broken_json(server: Server) -> None:
    refused(server.post_text("/embed", '{"inputs": "cut off'), "a body that is no JSON")


def _batch_limit(server: Server) -> None:
    info = server.get("/info")
    limit = info.value.get("max_client_batch_size") if isinstance(info.value, dict) else None
    if not is_count(limit) or not 0 < limit < 10_000:  # noqa: PLR2004 - no larger request is sent
        return  # the check of `/info` speaks of it
    body = {"inputs": ["a"] * (limit + 1)}
    answer = server.post("/embed", body, as_python=f'{{"inputs": ["a"] * {limit + 1}}}')
    refused(answer, f"{limit + 1} inputs, one more than `/info` allows,")
    wanted = f"batch size {limit + 1} > maximum allowed batch size {limit}"
    if wanted not in answer.content.decode("utf-8", "replace"):
        fail(f"the refusal must say `{wanted}`", answer)


def _info(server: Server) -> None:
    answer = server.get("/info")
    body = mapping(succeeded(answer), answer, "the answer")
    for key in ("max_input_length", "max_client_batch_size", "max_concurrent_requests"):
        if not is_count(body.get(key)):
            fail(f"`{key}` must be a number; found {body.get(key)!r}", answer)
    if not isinstance(body.get("model_id"), str):
        fail("`model_id` is missing", answer)
    mapping(body.get("model_type"), answer, "`model_type`")


def _similarity(server: Server) -> None:
    sentences = [SHORT_TEXT, TEXTS[0]]
    body = {"inputs": {"source_sentence": SHORT_TEXT, "sentences": sentences}}
    answer = server.post("/similarity", body)
    found = array_of(succeeded(answer), 2, answer, "the answer")
    if not all(map(is_number, found)) or abs(found[0] - 1) > 10 * _MAX_COSINE_ERROR:
        fail(f"the first sentence is the source, so the cosine must be 1; found {found}", answer)
    own = _embed(server, sentences)
    pair = [vector(values, own) for values in array_of(succeeded(own), 2, own, "the answer")]
    wanted = cosine(pair[0], pair[1], own)
    if abs(wanted - found[1]) > 10 * _MAX_COSINE_ERROR:
        fail(f"the second cosine is {found[1]:.4f}; `/embed` gives {wanted:.4f}", answer)


def _tokenize(server: Server) -> None:
    answer = server.post("/tokenize", {"inputs": SHORT_TEXT})
    (tokens,) = array_of(succeeded(answer), 1, answer, "the answer")
    if not isinstance(tokens, list) or not tokens:
        fail("the answer must hold a list of tokens for the text", answer)
    for token in tokens:
        values = mapping(token, answer, "a token")
        if not is_count(values.get("id")) or not isinstance(values.get("special"), bool):
            fail(f"a token must have `id` and `special`; found {values}", answer)
    ids = [token["id"] for token in tokens if not token["special"]]
    decoded = server.post("/decode", {"ids": ids})
    (text,) = array_of(succeeded(decoded), 1, decoded, "the answer")
    if not isinstance(text, str) or not text.strip():
        fail("`/decode` must answer with the text", decoded)


def _embed_all(server: Server) -> None:
    answer = server.post("/embed_all", {"inputs": SHORT_TEXT})
    if answer.is_refusal:
        return  # engines without outputs of single tokens say so
    (rows,) = array_of(succeeded(answer), 1, answer, "the answer")
    if not isinstance(rows, list) or not rows:
        fail("the answer must hold a list of vectors for the text", answer)
    if len({len(vector(row, answer)) for row in rows}) != 1:
        fail("the vectors of tokens must be equally long", answer)


def _sparse_rows(answer: Answer, number: int) -> list[dict[int, float]]:
    rows = []
    for row in array_of(succeeded(answer), number, answer, "the answer"):
        if not isinstance(row, list):
            fail("the answer must hold a list for each input", answer)
        weights: dict[int, float] = {}
        for entry in row:
            values = mapping(entry, answer, "an entry")
            index, value = values.get("index"), values.get("value")
            if not is_count(index) or not is_number(value) or index in weights:
                fail(f"an entry must have an `index` of its own and a `value`: {values}", answer)
            weights[index] = value
        rows.append(weights)
    return rows


def _sparse(server: Server) -> None:
    texts = list(TEXTS[:3])
    alone = [_sparse_rows(server.post("/embed_sparse", {"inputs": text}), 1)[0] for text in texts]
    answer = server.post("/embed_sparse", {"inputs": texts})
    for number, (wanted, found) in enumerate(
        zip(alone, _sparse_rows(answer, len(texts)), strict=True)
    ):
        product = sum(value * found.get(index, 0.0) for index, value in wanted.items())
        lengths = [sum(value**2 for value in row.values()) ** 0.5 for row in (wanted, found)]
        is_missing = bool(wanted) != bool(found)
        if is_missing or product < (1 - 10 * _MAX_COSINE_ERROR) * lengths[0] * lengths[1]:
            fail(f"input {number} among others is not as it is alone", answer)


EMBED = Contract(
    "TEI embeddings",
    lambda server: _embed(server, SHORT_TEXT),
    (
        check(
            "tei-order",
            "/embed",
            _order,
            "a vector of another text, or one that depends on its neighbours, is a wrong answer",
        ),
        check("tei-normalize", "/embed", _normalize, "clients choose whether length matters"),
        check("tei-truncate", "/embed", _truncate, "who asks for truncation has long texts"),
        check(
            "tei-empty",
            "/embed",
            _empty,
            "clients tell errors apart by `error_type`, and retry a 5xx",
        ),
        check("tei-missing", "/embed", _missing, _RETRIED),
        check("tei-no-json", "/embed", _broken_json, _RETRIED),
        check("tei-batch-limit", "/embed", _batch_limit, "clients read the limit from this text"),
        check("tei-info", "/info", _info, "clients split their requests by these numbers"),
        check(
            "tei-similarity",
            "/similarity",
            _similarity,
            "these are cosines of the vectors that `/embed` gives",
        ),
        check(
            "tei-tokenize",
            "/tokenize",
            _tokenize,
            "clients count tokens with it before they send",
        ),
        check(
            "tei-embed-all",
            "/embed_all",
            _embed_all,
            "late interaction compares the vectors of single tokens",
        ),
    ),
)
SPARSE = Contract(
    "TEI sparse embeddings",
    lambda server: server.post("/embed_sparse", {"inputs": SHORT_TEXT}),
    (
        check(
            "tei-sparse",
            "/embed_sparse",
            _sparse,
            "an inverted index is built of these pairs",
            level=Level.ERROR,
        ),
    ),
)
