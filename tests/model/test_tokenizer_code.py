"""Which checkpoints have a tokenizer whose code puts a token after every text."""

from pathlib import Path
from typing import Any

import pytest
from tests.model.checkpoint_folder import BERT_CONFIG, write_json

from beicli.model.files import CheckpointFile
from beicli.model.tokenizer_code import appended_token, stated_token

FIRST_QWEN2 = {"AutoModel": "modeling_qwen.Qwen2Model"}


def token_of(directory: Path, auto_map: Any, **tokenizer_config: Any) -> str | None:
    write_json(directory / "config.json", BERT_CONFIG | {"auto_map": auto_map})
    write_json(directory / "tokenizer_config.json", tokenizer_config)
    return appended_token(directory)


@pytest.mark.parametrize(
    "name",
    ["modeling_qwen.Qwen2Model", "Alibaba-NLP/gte-Qwen2-1.5B-instruct--modeling_qwen.Qwen2Model"],
)
def test_the_first_qwen2_models_append_a_token(tmp_path: Path, name: str) -> None:
    assert token_of(tmp_path, {"AutoModel": name}, add_eos_token=True) == "<|endoftext|>"


@pytest.mark.parametrize(
    "auto_map",
    [
        None,
        {},
        "modeling_qwen.Qwen2Model",
        {"AutoModel": ["modeling_qwen.Qwen2Model"]},
        {"AutoModel": "modeling_qwen.Qwen2ModelForAll"},
        {"AutoModel": "modeling_other.Qwen2Model"},
        {"AutoModelForCausalLM": "modeling_qwen.Qwen2Model"},
    ],
)
def test_other_models_append_none(tmp_path: Path, auto_map: Any) -> None:
    assert token_of(tmp_path, auto_map, add_eos_token=True) is None


def test_a_tokenizer_config_decides_whether_and_which(tmp_path: Path) -> None:
    assert token_of(tmp_path, FIRST_QWEN2, add_eos_token=False) is None
    assert token_of(tmp_path, FIRST_QWEN2, eos_token="<end>") == "<end>"
    assert token_of(tmp_path, FIRST_QWEN2, eos_token={"content": "<e>", "special": True}) == "<e>"
    assert token_of(tmp_path, FIRST_QWEN2, eos_token=None) == "<|endoftext|>"


def test_without_a_tokenizer_config_the_known_token_is_appended(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", BERT_CONFIG | {"auto_map": FIRST_QWEN2})

    assert appended_token(tmp_path) == "<|endoftext|>"


@pytest.mark.parametrize("stated", [None, "", 3, {"special": True}, {"content": None}])
def test_what_names_no_token_is_none(stated: Any) -> None:
    assert (
        stated_token(CheckpointFile("tokenizer_config.json", {"eos_token": stated}), "eos_token")
        is None
    )
