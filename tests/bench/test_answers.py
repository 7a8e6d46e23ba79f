import base64
import math
import struct
from typing import Any

import orjson
import pytest

from beicli.bench.answers import AnswerComparison, compare_answers
from beicli.bench.settings import WorkloadKind


def vectors(*rows: list[float], as_base64: bool = False) -> bytes:
    def written(row: list[float]) -> Any:
        return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() if as_base64 else row

    items = [{"index": index, "embedding": written(row)} for index, row in enumerate(rows)]
    # In any order, as servers may.
    return orjson.dumps({"data": items[::-1]})


def compare(workload: WorkloadKind, first: bytes, second: bytes, size: int) -> AnswerComparison:
    texts = [f"text {number}" for number in range(size)]
    return compare_answers(workload, texts, [(first, second, size)])


def test_vectors_are_compared_by_angle_whatever_their_length_and_writing() -> None:
    first = vectors([1.0, 0.0], [3.0, 4.0], [0.0, 1.0])
    second = vectors([2.0, 0.0], [4.0, 3.0], [1.0, 0.0], as_base64=True)

    comparison = compare(WorkloadKind.EMBEDDINGS, first, second, 3)

    assert comparison.values == pytest.approx((1.0, 0.96, 0.0))
    found = comparison.to_json()
    assert found["num_compared"] == 3
    assert found["measure"] == "cosine similarity"
    assert found["min"] == pytest.approx(0)
    assert found["mean"] == pytest.approx(1.96 / 3)
    assert [worst["text"] for worst in found["worst"]] == ["text 2", "text 1", "text 0"]
    assert found["finding"] is None


def test_a_vector_of_zeros_is_like_no_other() -> None:
    comparison = compare(WorkloadKind.EMBEDDINGS, vectors([0.0, 0.0]), vectors([1.0, 0.0]), 1)

    assert comparison.values == (0.0,)


def test_batches_are_put_together_in_the_order_of_the_texts() -> None:
    same, other = vectors([1.0, 0.0]), vectors([0.0, 1.0])

    comparison = compare_answers(
        WorkloadKind.EMBEDDINGS, ["a", "b"], [(same, same, 1), (same, other, 1)]
    )

    assert comparison.to_json()["worst"][0] == {"text": "b", "value": 0.0}


def test_vectors_of_another_length_are_a_finding_and_no_figure() -> None:
    comparison = compare(WorkloadKind.EMBEDDINGS, vectors([1.0]), vectors([1.0, 0.0]), 1)

    assert comparison.values == ()
    assert "vectors of 1 numbers, 2 of the other server" in (comparison.finding or "")


def test_scores_are_compared_text_by_text_whatever_their_order() -> None:
    first = orjson.dumps([{"index": 0, "score": 0.25}, {"index": 1, "score": 0.75}])
    second = orjson.dumps([{"index": 1, "score": 0.5}, {"index": 0, "score": 0.25}])

    assert compare(WorkloadKind.RERANK, first, second, 2).values == (1.0, 0.75)


def scores(*values: float) -> bytes:
    return orjson.dumps([{"index": index, "score": score} for index, score in enumerate(values)])


@pytest.mark.parametrize(
    ("one", "other", "agreement"),
    [
        ((0.1, 0.2, 0.9), (0.5, 0.6, 0.7), 1.0),
        ((0.1, 0.2, 0.9), (0.9, 0.2, 0.1), -1.0),
        # Ranks 0 1 2 and 0.5 0.5 2.
        ((0.1, 0.2, 0.9), (0.3, 0.3, 0.9), math.sqrt(0.75)),
        ((0.1, 0.2, 0.9), (0.5, 0.5, 0.5), None),
    ],
)
def test_orders_of_rerankers_agree_by_rank(
    one: tuple[float, ...], other: tuple[float, ...], agreement: float | None
) -> None:
    found = compare(WorkloadKind.RERANK, scores(*one), scores(*other), 3).to_json()

    assert found["order_agreement"] == (agreement and pytest.approx(agreement))


def test_the_order_is_that_of_all_texts_not_of_each_request() -> None:
    comparison = compare_answers(
        WorkloadKind.RERANK,
        ["a", "b"],
        [(scores(0.25), scores(0.75), 1), (scores(0.75), scores(0.25), 1)],
    )

    assert comparison.order_agreement == pytest.approx(-1)


def test_one_server_that_does_not_normalise_is_a_finding_beside_the_figures() -> None:
    unit, longer = vectors([0.6, 0.8], [1.0, 0.0]), vectors([3.0, 4.0], [2.0, 0.0])

    found = compare(WorkloadKind.EMBEDDINGS, unit, longer, 2)
    reverse = compare(WorkloadKind.EMBEDDINGS, longer, unit, 2)

    assert found.values == pytest.approx((1.0, 1.0))
    assert (found.finding or "").startswith("the other server's vectors are not normalised")
    assert "2 to 5" in (found.finding or "")
    assert (reverse.finding or "").startswith("this server's vectors")
    assert compare(WorkloadKind.EMBEDDINGS, longer, longer, 2).finding is None


def test_labels_agree_when_the_best_one_does() -> None:
    def labels(*best: str) -> bytes:
        return orjson.dumps(
            [[{"label": each, "score": 0.9}, {"label": "other", "score": 0.1}] for each in best]
        )

    comparison = compare(WorkloadKind.PREDICT, labels("a", "b"), labels("a", "c"), 2)

    assert comparison.values == (1.0, 0.0)


def test_entities_agree_in_place_and_label() -> None:
    def entities(*texts: list[tuple[int, int, str]]) -> bytes:
        return orjson.dumps(
            [
                [{"start": start, "end": end, "results": {name: 0.9}} for start, end, name in each]
                for each in texts
            ]
        )

    comparison = compare(
        WorkloadKind.PREDICT_TOKENS,
        entities([], [(0, 3, "PER"), (5, 7, "LOC")], [(0, 3, "PER")]),
        entities([], [(0, 3, "PER"), (5, 8, "LOC")], []),
        3,
    )

    # Of three different entities of the second text, one is in both answers.
    assert comparison.values == pytest.approx((1.0, 1 / 3, 0.0))
