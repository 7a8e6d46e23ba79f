"""Configurations against the small files of a checkpoint; each finding from one change."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.model.checkpoint_folder import BERT_CONFIG, change_json, write_checkpoint, write_json

from beicli.config.load import load_config
from beicli.config.schema import Config, QuantizationType
from beicli.model.weights import list_files
from beicli.validation import checkpoint as checkpoint_module
from beicli.validation.checkpoint import (
    RULES,
    CheckpointListing,
    CheckpointVerdict,
    check_checkpoint,
)

LABELS = {"id2label": {"0": "O", "1": "B-PER", "2": "I-PER"}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = write_checkpoint(tmp_path / "checkpoint")
    save_file({"a": np.zeros((100, 32), np.float32)}, directory / "model.safetensors")
    return directory


def listing(directory: Path) -> CheckpointListing:
    sizes = {name: (directory / name).stat().st_size for name in list_files(directory)}
    return CheckpointListing(path=directory, sizes=sizes)


def config_of(checkpoint: Path, *overrides: str) -> Config:
    path = checkpoint.parent / "config.yaml"
    path.write_text(
        "trt_llm: {build: {base_model: encoder_bert, checkpoint_repository: "
        f"{{source: LOCAL, repo: '{checkpoint}'}}}}}}"
    )
    return load_config(path, overrides=overrides).config


def check(checkpoint: Path, *overrides: str) -> CheckpointVerdict:
    return check_checkpoint(config_of(checkpoint, *overrides), listing(checkpoint))


def to_classifier(directory: Path, architecture: str, labels: dict[str, Any] = LABELS) -> None:
    change_json(directory / "config.json", architectures=[architecture], **labels)
    (directory / "modules.json").unlink()


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def test_a_sound_checkpoint_has_no_findings_and_is_described(checkpoint: Path) -> None:
    verdict = check(checkpoint)

    assert verdict.findings == ()
    assert verdict.architecture == "BertModel"
    assert verdict.facts["task"] == "embedding"
    assert verdict.facts["num_parameters"] == 3200
    assert verdict.facts["routes"][0] == "/v1/embeddings"
    assert json.loads(json.dumps(verdict.facts)) == verdict.facts


def test_an_onnx_model_is_weights_enough_and_measured_by_its_size(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "onnx").mkdir()
    (checkpoint / "onnx" / "model.onnx").write_bytes(bytes(400))
    (checkpoint / "onnx" / "model.onnx_data").write_bytes(bytes(4000))
    (checkpoint / "onnx" / "model_quantized.onnx").write_bytes(bytes(1100))

    verdict = check(checkpoint)

    assert verdict.findings == ()
    assert verdict.facts["num_parameters"] == 1100
    assert verdict.facts["estimates"][0]["engine_bytes"] == 4400


@pytest.mark.parametrize(
    ("change", "overrides", "rule", "what"),
    [
        (remove("tokenizer.json"), (), "checkpoint-file", "has no `tokenizer.json`"),
        (remove("model.safetensors"), (), "checkpoint-file", "has no `model.safetensors`"),
        (
            lambda directory: (directory / "model.safetensors").rename(
                directory / "model_quantized.onnx"
            ),
            (),
            "checkpoint-file",
            "found `model_quantized.onnx`",
        ),
        (remove("modules.json"), (), "checkpoint-file", "missing `modules.json`"),
        (remove("1_Pooling/config.json"), (), "checkpoint-file", "1_Pooling/config.json"),
        (remove("config.json"), (), "checkpoint-file", "has no `config.json`"),
        (
            lambda directory: (directory / "model.safetensors").write_bytes(b"{}"),
            (),
            "checkpoint-file",
            "is no safetensors file",
        ),
        (
            lambda directory: to_classifier(directory, "BertForTokenClassification", {}),
            (),
            "checkpoint-file",
            "does not contain `id2label`",
        ),
        (
            lambda directory: change_json(
                directory / "config.json", quantization_config={"bits": 4}
            ),
            (),
            "unsupported-model",
            "quantised already",
        ),
        (
            lambda directory: to_classifier(directory, "BertForTokenClassification"),
            ("trt_llm.runtime.webserver_default_route=/rerank",),
            "route-of-another-task",
            "a token classifier, which `/rerank` does not serve",
        ),
        (
            lambda directory: None,
            ("trt_llm.runtime.webserver_default_route=/predict",),
            "route-of-another-task",
            "an embedding model, which `/predict` does not serve",
        ),
        (
            lambda directory: to_classifier(directory, "BertForTokenClassification"),
            (),
            "route-chosen",
            "`/predict_tokens` is taken",
        ),
        (
            lambda directory: to_classifier(directory, "BertForTokenClassification"),
            (
                "trt_llm.build.base_model=encoder",
                "trt_llm.runtime.webserver_default_route=/predict_tokens",
            ),
            "token-classifier-on-encoder",
            "labels tokens",
        ),
        (
            lambda directory: None,
            ("trt_llm.build.max_num_tokens=128",),
            "window-cut-short",
            "`max_num_tokens` is 128, and the model reads 512",
        ),
        (
            lambda directory: to_classifier(
                directory,
                "BertForSequenceClassification",
                LABELS | {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}},
            ),
            (),
            "activation-not-applied",
            "`activation_fn` is `Tanh`",
        ),
        (
            lambda directory: change_json(
                directory / "config.json", auto_map={"AutoModel": "modeling.Model"}
            ),
            (),
            "checkpoint-code-ignored",
            "`auto_map`",
        ),
    ],
)
def test_each_misfit_is_one_finding_with_its_place(
    checkpoint: Path,
    change: Callable[[Path], None],
    overrides: tuple[str, ...],
    rule: str,
    what: str,
) -> None:
    change(checkpoint)

    (finding,) = check(checkpoint, *overrides).findings

    assert finding.rule == rule
    assert what in finding.what
    assert finding.place
    assert finding.why
    level = next(known.level for known in RULES if known.name == rule)
    assert finding.level is level


def test_everything_missing_is_told_at_once(checkpoint: Path) -> None:
    for name in ("tokenizer.json", "model.safetensors", "modules.json"):
        (checkpoint / name).unlink()

    found = [finding.what for finding in check(checkpoint).findings]

    assert len(found) == 3
    assert all(name in " ".join(found) for name in ("tokenizer", "safetensors", "modules.json"))


def test_a_causal_reranker_without_its_prompt_is_warned_of(checkpoint: Path) -> None:
    config = BERT_CONFIG | {
        "architectures": ["Qwen3ForSequenceClassification"],
        "model_type": "qwen3",
        "id2label": {"0": "LABEL_0"},
    }
    write_json(checkpoint / "config.json", config)

    (finding,) = check(checkpoint).findings

    assert finding.rule == "rerank-prompt-unknown"


def test_a_route_that_the_model_serves_besides_its_own_is_no_misfit(checkpoint: Path) -> None:
    to_classifier(checkpoint, "BertForSequenceClassification", {"id2label": {"0": "LABEL_0"}})

    for route in ("/predict", "/rerank"):
        assert check(checkpoint, f"trt_llm.runtime.webserver_default_route={route}").findings == ()


def test_a_model_beyond_this_machines_memory_is_warned_of(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "count_parameters", lambda _, size_bytes: 10**13)

    (finding,) = check(checkpoint).findings

    assert finding.rule == "memory-too-small"
    assert "90,0" in finding.what


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_of_a_checkpoint_far_away_parameters_are_told_from_sizes(
    checkpoint: Path, dtype: str, width: int
) -> None:
    change_json(checkpoint / "config.json", torch_dtype=dtype)
    known = listing(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    far = replace(known, sizes=known.sizes | {"model.safetensors": 1_000_000})

    verdict = check_checkpoint(config_of(checkpoint), far)

    assert verdict.findings == ()
    assert verdict.facts["num_parameters"] == 1_000_000 // width


def test_every_backend_is_estimated(checkpoint: Path) -> None:
    estimates = check(checkpoint).facts["estimates"]

    assert [(e["backend"], e["precision"]) for e in estimates] == [
        ("openvino", "bf16"),
        ("openvino", "f32"),
        ("tensorrt", "fp16"),
    ]
    assert all(e["memory_bytes"] > e["engine_bytes"] > 0 for e in estimates)


def test_an_engine_in_8_bit_is_estimated_as_such(checkpoint: Path) -> None:
    config = config_of(checkpoint)
    in_16_bit = check_checkpoint(config, listing(checkpoint)).facts["estimates"][0]
    build = replace(config.trt_llm.build, quantization_type=QuantizationType.SMOOTH_QUANT)
    config = replace(config, trt_llm=replace(config.trt_llm, build=build))

    estimates = check_checkpoint(config, listing(checkpoint)).facts["estimates"]

    assert [e["precision"] for e in estimates if e["backend"] == "openvino"] == ["int8"]
    assert estimates[0]["engine_bytes"] * 4 == in_16_bit["engine_bytes"]


@pytest.mark.models
def test_the_estimate_of_a_real_model_is_near_what_its_engine_weighs(
    models_directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "trt_llm: {build: {base_model: encoder_bert, checkpoint_repository: "
        f"{{source: LOCAL, repo: '{models_directory / 'all-minilm-l6-v2'}'}}}}}}"
    )
    verdict = check_checkpoint(
        load_config(path).config, listing(models_directory / "all-minilm-l6-v2")
    )

    assert verdict.findings == ()
    assert verdict.facts["num_parameters"] == pytest.approx(22.7e6, rel=0.01)
    bf16 = verdict.facts["estimates"][0]
    # Measured: 290 MB serving it in bf16, a directory of 91 MB.
    assert bf16["memory_bytes"] == pytest.approx(290e6, rel=0.5)
    assert bf16["engine_bytes"] == pytest.approx(91e6, rel=0.05)
