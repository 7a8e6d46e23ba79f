import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.fakes import make_tokenizer, word_ids

from beicli.errors import EmptyInputError, RequestError
from beicli.pipeline.scoring import Ranking, ScoringEncoder
from beicli.pipeline.tokenizer import Truncation

REFUSED = Truncation(allowed=False)
# Sixteen tokens fit; of a pair 13 beside the special ones.
LONG = "w1 " * 15
PROMPT = "w1 {{ query }} w2 {{ document }} w3"


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1))
def test_a_ranking_has_each_text_once_and_finds_it_again(texts: list[str]) -> None:
    ranking = Ranking.of("q", texts)

    assert len(set(ranking.distinct)) == len(ranking.distinct)
    assert [ranking.distinct[row] for row in ranking.rows] == texts
    assert [texts[position] for position in ranking.positions] == list(ranking.distinct)
    assert list(ranking.positions) == [texts.index(text) for text in ranking.distinct]
    assert ranking.pairs() == [("q", text) for text in ranking.distinct]


def test_a_ranking_needs_a_query_and_texts() -> None:
    with pytest.raises(EmptyInputError, match="`texts` cannot be empty"):
        Ranking.of("q", [])
    with pytest.raises(EmptyInputError, match="`query` cannot be empty") as failure:
        Ranking.of("", ["a"])

    assert failure.value.param == "query"


def test_texts_and_pairs_go_side_by_side_in_their_order() -> None:
    encoder = ScoringEncoder(make_tokenizer(), None)

    encodings = encoder.encode([("w1", "w2"), "w3", ("w4", ""), "w5"], Truncation())

    assert [encoding.input_ids.tolist() for encoding in encodings] == [
        [2, 5, 3, 6, 3],
        word_ids(3),
        [2, 8, 3, 3],
        word_ids(5),
    ]


@pytest.mark.parametrize(
    ("overlong", "length"), [(LONG, 17), (("w1", LONG), 19), ((LONG, "w1"), 19)]
)
@pytest.mark.parametrize("place", range(4))
def test_an_overlong_input_is_named_by_its_place_among_texts_and_pairs(
    overlong: str | tuple[str, str], length: int, place: int
) -> None:
    inputs: list[str | tuple[str, str]] = [("w1", "w2"), "w3", ("w4", "w5")]
    inputs.insert(place, overlong)

    with pytest.raises(RequestError) as failure:
        ScoringEncoder(make_tokenizer(), None).encode(inputs, REFUSED)

    assert failure.value.message == (
        f"Input validation error: `inputs` must have less than 16 tokens. Given: {length}"
    )
    assert f"input {place} is too long" in (failure.value.hint or "")


def test_an_empty_input_is_named_by_its_place_among_texts_and_pairs() -> None:
    encoder = ScoringEncoder(make_tokenizer(), None)
    with pytest.raises(EmptyInputError) as text_failure:
        encoder.encode([("w1", "w2"), "w3", ""], Truncation())
    with pytest.raises(EmptyInputError) as pair_failure:
        encoder.encode(["w3", ("w1", ""), "w3", ("", "")], Truncation())

    assert "input 2" in (text_failure.value.hint or "")
    assert "input 3" in (pair_failure.value.hint or "")


@pytest.mark.parametrize("template", [None, PROMPT])
def test_an_overlong_text_of_a_ranking_is_named_by_where_it_comes_first(
    template: str | None,
) -> None:
    ranking = Ranking.of("w1", ["w2", "w2", "", "w2", LONG, "w3", LONG])
    with pytest.raises(RequestError, match="Given: 19") as failure:
        ScoringEncoder(make_tokenizer(), template).encode_ranking(ranking, REFUSED)

    assert "text 4 is too long; " in (failure.value.hint or "")


@pytest.mark.parametrize(
    ("template", "blamed"),
    [
        (None, "the query alone has 15 tokens"),
        (PROMPT, "the query and the prompt around it alone have 18 tokens"),
    ],
)
def test_an_overlong_query_is_blamed_and_not_its_texts(template: str | None, blamed: str) -> None:
    ranking = Ranking.of(LONG, ["w2", "w3"])
    with pytest.raises(RequestError) as failure:
        ScoringEncoder(make_tokenizer(), template).encode_ranking(ranking, REFUSED)

    assert blamed in (failure.value.hint or "")


def test_a_prompt_is_for_pairs_and_texts_have_written_theirs() -> None:
    encoder = ScoringEncoder(make_tokenizer(), PROMPT)

    encodings = encoder.encode(["w9", ("w4", "w5")], Truncation())

    # Texts get the tokenizer's special tokens; a prompt writes its own.
    assert [encoding.input_ids.tolist() for encoding in encodings] == [
        word_ids(9),
        word_ids(1, 4, 2, 5, 3)[1:-1],
    ]
    assert encoder.num_characters(["w9", ("w4", "w5")]) == 2 + 4 + len(PROMPT)
