"""What a checkpoint of the Model Optimizer says of itself, and what is not read."""

import json
from pathlib import Path
from typing import Any

import pytest

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.modelopt import (
    ModelOptConfig,
    is_modelopt,
    modelopt_values,
    read_modelopt_config,
    without_quantization,
)


def write(directory: Path, name: str, value: Any) -> Path:
    (directory / name).write_text(json.dumps(value), encoding="utf-8")
    return directory


def quantized(directory: Path, **quantization: Any) -> Path:
    return write(directory, "hf_quant_config.json", {"quantization": quantization})


def test_a_plain_checkpoint_says_nothing(tmp_path: Path) -> None:
    assert read_modelopt_config(write(tmp_path, "config.json", {"model_type": "bert"})) is None


@pytest.mark.parametrize("algorithm", ["FP8", "NVFP4"])
def test_the_file_of_its_own_is_read(tmp_path: Path, algorithm: str) -> None:
    quantized(
        tmp_path,
        quant_algo=algorithm,
        kv_cache_quant_algo=None,
        group_size=16,
        exclude_modules=["lm_head", "*.pooler*"],
    )

    config = read_modelopt_config(tmp_path)

    assert config is not None
    assert (config.algorithm, config.note) == (algorithm, None)
    assert config.excludes("lm_head")
    assert config.excludes("bert.pooler.dense")
    assert not config.excludes("model.layers.0.mlp.up_proj")


def test_the_section_of_config_json_is_read_in_its_own_words(tmp_path: Path) -> None:
    section = {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "ignore": ["lm_head"],
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False},
        "config_groups": {"group_0": {"targets": ["Linear"]}},
    }
    values = {"model_type": "qwen3", "quantization_config": section}

    config = read_modelopt_config(write(tmp_path, "config.json", values))

    assert is_modelopt(values)
    assert config == ModelOptConfig(
        algorithm="NVFP4", excluded=("lm_head",), kv_cache_algorithm="8 bit float"
    )
    assert without_quantization(values) == {"model_type": "qwen3"}


def test_another_method_is_none_of_the_model_optimizer(tmp_path: Path) -> None:
    values = {"quantization_config": {"quant_method": "gptq", "bits": 4}}

    assert read_modelopt_config(write(tmp_path, "config.json", values)) is None


def test_a_cache_of_keys_and_values_is_noted(tmp_path: Path) -> None:
    config = read_modelopt_config(quantized(tmp_path, quant_algo="FP8", kv_cache_quant_algo="FP8"))

    assert config is not None
    assert config.note is not None
    assert "caches of keys and values into FP8" in config.note


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    values = modelopt_values("NVFP4", ("lm_head",), "1.2.3")

    config = read_modelopt_config(write(tmp_path, "hf_quant_config.json", values))

    assert values["producer"] == {"name": "beicli", "version": "1.2.3"}
    assert values["quantization"] == {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": None,
        "group_size": 16,
        "exclude_modules": ["lm_head"],
    }
    assert config == ModelOptConfig(
        algorithm="NVFP4", excluded=("lm_head",), kv_cache_algorithm=None
    )


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_algo": "W4A8_AWQ"}, "`quant_algo: W4A8_AWQ`; FP8 and NVFP4 are read"),
        ({}, "`quant_algo: None`"),
        ({"quant_algo": ["FP8"]}, "`quant_algo: ['FP8']`"),
        ({"quant_algo": "NVFP4", "group_size": 32}, "`group_size: 32`; NVFP4 has 16"),
    ],
)
def test_other_algorithms_are_refused_by_name(
    tmp_path: Path, quantization: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        read_modelopt_config(quantized(tmp_path, **quantization))

    assert words in refused.value.message
    assert refused.value.hint is not None


@pytest.mark.parametrize("value", [[], {}, {"quantization": "FP8"}])
def test_a_file_without_its_section_is_damaged(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="has no `quantization`"):
        read_modelopt_config(write(tmp_path, "hf_quant_config.json", value))


def test_names_that_are_no_names_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not quantised as"):
        read_modelopt_config(quantized(tmp_path, quant_algo="FP8", exclude_modules=[1]))
