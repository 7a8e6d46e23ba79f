import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.model.checkpoint_folder import change_json, write_json

from beicli.errors import CheckpointError, ConfigError
from beicli.model.adapters import choose_adapter, configured_adapter
from beicli.model.files import CheckpointFile
from beicli.model.inspect import inspect_checkpoint

NAMES = ["retrieval.query", "retrieval.passage"]


def config(**values: Any) -> CheckpointFile:
    return CheckpointFile("config.json", values)


@pytest.mark.parametrize(
    ("values", "asked", "expected"),
    [
        ({}, None, None),
        ({}, "none", None),
        ({"lora_adaptations": None}, None, None),
        ({"lora_adaptations": NAMES}, "retrieval.passage", "retrieval.passage"),
        ({"lora_adaptations": NAMES}, "none", None),
    ],
)
def test_the_adapter_that_was_asked_for_is_chosen(
    values: Mapping[str, Any], asked: str | None, expected: str | None
) -> None:
    assert choose_adapter(config(**values), asked) == expected


@pytest.mark.parametrize(
    ("values", "asked", "message"),
    [
        (
            {"lora_adaptations": NAMES},
            None,
            "is not set",
        ),
        (
            {"lora_adaptations": NAMES},
            "query",
            "is `query`, which is none of them",
        ),
        ({}, "query", "is `query`, but `config.json` names no adapters"),
    ],
)
def test_without_a_choice_the_build_stops(
    values: Mapping[str, Any], asked: str | None, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_adapter(config(**values), asked)

    assert caught.value.message.endswith(f"`model_metadata.adapter` {message}")
    assert caught.value.hint
    assert all(name in caught.value.message for name in values.get("lora_adaptations", []))


def test_names_of_another_kind_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"`lora_adaptations` .* is not a list"):
        choose_adapter(config(lora_adaptations={"a": 1}), None)
    with pytest.raises(ConfigError, match=re.escape("`model_metadata.adapter` is 3, wanted")):
        configured_adapter({"adapter": 3})
    assert configured_adapter({"adapter": "text-matching"}) == "text-matching"
    assert configured_adapter({}) is None


def test_an_adapter_brings_its_prompt(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", lora_adaptations=NAMES)
    write_json(
        checkpoint / "config_sentence_transformers.json",
        {"prompts": {"retrieval.query": "query: ", "retrieval.passage": ""}},
    )

    spec = inspect_checkpoint(checkpoint, adapter="retrieval.query")

    assert (spec.adapter, spec.default_prompt_name) == ("retrieval.query", "retrieval.query")
    assert inspect_checkpoint(checkpoint, adapter="retrieval.passage").default_prompt_name is None
    assert inspect_checkpoint(checkpoint, adapter="none").adapter is None
