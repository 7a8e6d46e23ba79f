from typing import Any

import orjson
import pytest

from beicli.bench.predictions import read_entities, read_labels, read_scores
from beicli.bench.response import InvalidResponseError


def ranks(*pairs: tuple[Any, Any]) -> bytes:
    return orjson.dumps([{"index": index, "score": score} for index, score in pairs])


def labels(*scores: Any) -> list[dict[str, Any]]:
    return [{"label": f"LABEL_{number}", "score": score} for number, score in enumerate(scores)]


def entity(**changes: Any) -> dict[str, Any]:
    return {"token": "Ada", "start": 0, "end": 3, "results": {"PER": 0.9, "LOC": 0.1}} | changes


@pytest.mark.parametrize("content", [ranks((0, 0.25), (1, 0.75)), ranks((1, 0.75), (0, 0.25))])
def test_scores_come_in_the_order_of_the_texts(content: bytes) -> None:
    assert read_scores(content, num_texts=2) == [0.25, 0.75]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"data": []}', "not a list of objects"),
        (b"[1, 2, 3]", "not a list of objects"),
        (b"<html>", "not JSON"),
        (ranks((0, 0.5), (1, 0.5)), "2 scores for 3 texts"),
        (ranks((0, 0.5), (1, 0.5), (1, 0.5)), "indices are not 0 to 2"),
        (ranks((0, 0.5), (1, 0.5), (3, 0.5)), "indices are not 0 to 2"),
        (ranks((0, 0.5), (1, None), (2, 0.5)), "None, which is no number"),
        (ranks((0, 0.5), (1, True), (2, 0.5)), "True, which is no number"),
        (ranks((2, 0.1), (0, 0.9), (1, 0.5)), "neither in the texts' order nor best first"),
        (ranks((2, 0.1), (0, 0.2), (1, 0.3)), "neither in the texts' order nor best first"),
    ],
)
def test_incomplete_scores_are_refused_with_the_reason(content: bytes, message: str) -> None:
    with pytest.raises(InvalidResponseError, match=message):
        read_scores(content, num_texts=3)


def test_labels_come_best_first_for_each_text() -> None:
    content = orjson.dumps([labels(0.75, 0.25), labels(1.0)])

    assert read_labels(content, num_texts=2) == [{"LABEL_0": 0.75, "LABEL_1": 0.25}, {"LABEL_0": 1}]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (labels(0.5, 0.5), "not a list of lists"),
        ([labels(1.0)], "1 answers for 2 texts"),
        ([labels(1.0), ["a"]], "not a list of objects"),
        ([labels(1.0), []], "a text has no label"),
        ([labels(1.0), labels(0.25, 0.75)], "not ordered by score"),
        ([labels(1.0), labels("1")], "'1', which is no number"),
        ([labels(1.0), [{"label": 7, "score": 1.0}]], "`label` is 7"),
    ],
)
def test_incomplete_labels_are_refused_with_the_reason(answer: Any, message: str) -> None:
    with pytest.raises(InvalidResponseError, match=message):
        read_labels(orjson.dumps(answer), num_texts=2)


def test_entities_have_a_place_and_their_best_label() -> None:
    content = orjson.dumps([[entity()], []])

    assert read_entities(content, num_texts=2) == [[(0, 3, "PER")], []]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (entity(results={}), "no `results`"),
        (entity(results=["PER"]), "no `results`"),
        (entity(start=None), "from None to 3"),
        (entity(start=4), "from 4 to 3"),
        (entity(results={"PER": None}), "no number"),
    ],
)
def test_a_broken_entity_is_refused_with_the_reason(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidResponseError, match=message):
        read_entities(orjson.dumps([[broken]]), num_texts=1)


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(InvalidResponseError):
        read_scores(b'[{"index": 0, "score": 1e999}]', num_texts=1)
