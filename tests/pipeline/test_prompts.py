from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.server.fakes import make_spec

from beicli.errors import RequestError
from beicli.model.spec import ModelSpec
from beicli.pipeline.prompts import INPUT_TYPES, choose_prompt, find_prompt


def spec(prompts: Mapping[str, str], default: str | None = None) -> ModelSpec:
    return replace(make_spec(), prompts=prompts, default_prompt_name=default)


E5 = spec({"query": "query: ", "passage": "passage: "}, "passage")


def test_a_prompt_is_found_by_its_name() -> None:
    assert find_prompt(E5, prompt_name="query", input_type=None) == "query: "


def test_a_name_goes_before_a_purpose() -> None:
    assert find_prompt(E5, prompt_name="passage", input_type="search_query") == "passage: "


def test_without_a_name_it_is_the_checkpoints_default_or_none() -> None:
    assert find_prompt(E5, prompt_name=None, input_type=None) == "passage: "
    assert find_prompt(spec({"query": "q"}), prompt_name=None, input_type=None) == ""


@pytest.mark.parametrize(
    ("prompts", "input_type", "wanted"),
    [
        ({"query": "q", "passage": "p"}, "search_query", "q"),
        ({"query": "q", "passage": "p"}, "search_document", "p"),
        ({"query": "q", "passage": "p"}, "document", "p"),
        ({"search_query": "sq", "query": "q"}, "query", "q"),
        ({"search_query": "sq", "query": "q"}, "search_query", "sq"),
        ({"retrieval.query": "rq", "retrieval.passage": "rp"}, "query", "rq"),
        ({"retrieval.query": "rq", "retrieval.passage": "rp"}, "passage", "rp"),
        ({"Clustering": "c"}, "clustering", "c"),
        ({"query": "q"}, "document", ""),
        ({}, "query", ""),
    ],
)
def test_a_purpose_finds_the_prompt_whatever_the_checkpoint_calls_it(
    prompts: Mapping[str, str], input_type: str, wanted: str
) -> None:
    # A purpose the checkpoint has no prompt for takes none, not the default, which is for another.
    found = find_prompt(spec(prompts, "other"), prompt_name=None, input_type=input_type)

    assert found == wanted


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(RequestError) as failure:
        find_prompt(E5, prompt_name="Query", input_type=None)
    with pytest.raises(RequestError) as without_prompts:
        find_prompt(spec({}), prompt_name="query", input_type=None)

    assert failure.value.message == (
        "Input validation error: `prompt_name` is set to `Query` but it was not found in the "
        "Sentence Transformers prompts. Available prompts: ['passage', 'query']"
    )
    assert without_prompts.value.message == (
        "Input validation error: `prompt_name` is set to `query` but no prompts were found in the "
        "Sentence Transformers configuration"
    )
    assert failure.value.param == without_prompts.value.param == "prompt_name"


def test_an_unknown_purpose_is_refused_with_those_there_are() -> None:
    with pytest.raises(RequestError) as failure:
        find_prompt(E5, prompt_name=None, input_type="image" * 100)

    assert all(name in failure.value.message for name in INPUT_TYPES)
    assert len(failure.value.message) < 200
    assert failure.value.param == "input_type"


def test_the_default_prompt_is_chosen_also_beside_token_ids() -> None:
    assert choose_prompt(E5, ["a", [1]], None) == "passage: "
    assert choose_prompt(E5, ["a", [1]], "") == ""
    assert choose_prompt(E5, ["a", "b"], "x ") == "x "


def test_a_prompt_asked_for_token_ids_is_refused() -> None:
    with pytest.raises(RequestError, match="a prompt cannot be put before token ids"):
        choose_prompt(E5, ["a", [1]], "x ")
