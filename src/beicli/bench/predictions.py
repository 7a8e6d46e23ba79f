"""Read what `/rerank`, `/predict` and `/predict_tokens` answer, and check that it is complete.

Pure. Each function returns the values in the order of the texts that were sent, and raises
`InvalidResponseError` for an answer that another text's values could hide in.
"""

import math
from typing import Any

from beicli.bench.response import InvalidResponseError, read_json

# Start and end in the text's characters, and the label.
Entity = tuple[int, int, str]


def read_scores(body: bytes, *, num_texts: int) -> list[float]:
    """Return the score of each text from a reranker's list, which may come best first."""
    items = read_json(body)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidResponseError("the response is not a list of objects")
    if len(items) != num_texts:
        raise InvalidResponseError(f"{len(items)} scores for {num_texts} texts")
    scores = {item.get("index"): item.get("score") for item in items}
    if set(scores) != set(range(num_texts)):
        raise InvalidResponseError(f"the indices are not 0 to {num_texts - 1}")
    given = [_number(item.get("score")) for item in items]
    is_in_order = [item["index"] for item in items] == list(range(num_texts))
    if not is_in_order and given != sorted(given, reverse=True):
        raise InvalidResponseError("the scores are neither in the texts' order nor best first")
    return [_number(scores[index]) for index in range(num_texts)]


def read_labels(body: bytes, *, num_texts: int) -> list[dict[str, float]]:
    """Return the labels of each text with their scores, in the order they came: best first."""
    answers = _lists(read_json(body), num_texts)
    labels = [
        {_text(item, "label"): _number(item.get("score")) for item in each} for each in answers
    ]
    for scores in labels:
        if not scores:
            raise InvalidResponseError("a text has no label")
        in_order = list(scores.values())
        if in_order != sorted(in_order, reverse=True):
            raise InvalidResponseError("the labels of a text are not ordered by score")
    return labels


def read_entities(body: bytes, *, num_texts: int) -> list[list[Entity]]:
    """Return the entities of each text with their best label; a text may have none."""
    return [[_entity(item) for item in entities] for entities in _lists(read_json(body), num_texts)]


def _lists(answer: Any, num_texts: int) -> list[list[dict[str, Any]]]:
    if not isinstance(answer, list) or not all(isinstance(each, list) for each in answer):
        raise InvalidResponseError("the response is not a list of lists")
    if len(answer) != num_texts:
        raise InvalidResponseError(f"{len(answer)} answers for {num_texts} texts")
    if not all(isinstance(item, dict) for each in answer for item in each):
        raise InvalidResponseError("the answer to a text is not a list of objects")
    return answer


def _entity(item: dict[str, Any]) -> Entity:
    results = item.get("results")
    if not isinstance(results, dict) or not results:
        raise InvalidResponseError("an entity has no `results`")
    start, end = item.get("start"), item.get("end")
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end):
        raise InvalidResponseError(f"an entity goes from {start!r} to {end!r}")
    return start, end, max(results, key=lambda label: _number(results[label]))


def _text(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidResponseError(f"`{key}` is {value!r}, which is no text")
    return value


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value)):
        raise InvalidResponseError(f"a score is {value!r}, which is no number")
    return float(value)
