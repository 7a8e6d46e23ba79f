from contextlib import suppress
from enum import StrEnum

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.errors import RequestError
from beicli.pipeline.tokenizer import Truncation, TruncationDirection
from beicli.server import fields

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
IDS = st.lists(st.integers(0, 2**63), min_size=1, max_size=5)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def read_inputs(value: object) -> tuple[list[str | list[int]], bool]:
    body = orjson.loads(orjson.dumps({"input": value}))
    return fields.inputs(body, "input", max_batch_size=8, hint="…")


@given(st.lists(TEXTS | IDS, min_size=1, max_size=8))
def test_a_batch_comes_out_as_it_was_sent(sent: list[str | list[int]]) -> None:
    assert read_inputs(sent) == (sent, True)


@given(TEXTS | IDS)
def test_a_single_input_is_a_batch_of_one_but_is_not_called_a_batch(item: str | list[int]) -> None:
    assert read_inputs(item) == ([item], False)


@given(st.binary(max_size=40))
def test_any_bytes_are_either_an_object_or_refused_with_an_expected_error(body: bytes) -> None:
    with suppress(RequestError):
        assert isinstance(fields.parse_json_object(body, example="{}"), dict)


def test_only_texts_have_characters() -> None:
    assert fields.num_characters(["naïve", [1, 2, 3], "🙂"]) == 6


@pytest.mark.parametrize("value", ["Red", "RED", "red"])
def test_a_choice_is_understood_in_any_case(value: str) -> None:
    assert fields.choice({"c": value}, "c", Colour, default=Colour.BLUE) is Colour.RED


@pytest.mark.parametrize("body", [{}, {"c": None}])
def test_a_choice_that_is_absent_or_null_is_the_default(body: dict[str, None]) -> None:
    assert fields.choice(body, "c", Colour, default=Colour.BLUE) is Colour.BLUE


@pytest.mark.parametrize(
    ("value", "found"), [("green", "`green`"), ("", "``"), (0, "an integer"), ([], "a list")]
)
def test_a_wrong_choice_names_the_right_ones(value: object, found: str) -> None:
    with pytest.raises(RequestError) as caught:
        fields.choice({"c": value}, "c", Colour, default=Colour.BLUE)

    assert caught.value.message == f"`c` is {found}; `red` or `blue` is wanted"
    assert caught.value.param == "c"


@pytest.mark.parametrize("default", [True, False])
def test_truncation_that_nobody_asks_for_is_the_servers(*, default: bool) -> None:
    body = {"truncate": None, "truncation_direction": None}

    assert fields.truncation(body, default=default) == Truncation(allowed=default)


def test_truncation_may_be_asked_for_in_text_embeddings_inferences_spelling() -> None:
    body = {"truncate": False, "truncation_direction": "Left"}

    assert fields.truncation(body, default=True) == Truncation(
        allowed=False, direction=TruncationDirection.LEFT
    )
