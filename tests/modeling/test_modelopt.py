"""Checkpoints in FP8 and NVFP4: written, read again, and compared with the formats themselves."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.builder.tiny_models import (
    save_checkpoint,
    save_model,
    tiny_bert,
    tiny_classifier,
    tiny_qwen3,
    tiny_qwen3_reranker,
    vocab_size,
)

from beicli.builder.gpu_graph import number_formats
from beicli.errors import BuildError, CheckpointError, UnsupportedModelError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.modelopt import ModelOptAlgorithm, emulating
from beicli.modeling.loading import load_module
from beicli.modeling.modelopt import dequantize_fp4, read_dequantized, read_quantization
from beicli.modeling.modelopt_writer import (
    ModelOptPlan,
    plan_modelopt,
    write_modelopt_checkpoint,
)
from beicli.modeling.tasks import graph_inputs

ALGORITHMS: tuple[ModelOptAlgorithm, ...] = ("FP8", "NVFP4")
# How near vectors of a tiny random model stay; measured 0.9998 and 0.98.
CLOSE = {"FP8": 0.999, "NVFP4": 0.95}


def tiny_llama() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=vocab_size(),
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return transformers.LlamaModel(config).eval()


MODELS: dict[str, Callable[[Path], Path]] = {
    "qwen3": lambda path: save_checkpoint(path, tiny_qwen3(), pooling="lasttoken"),
    "llama": lambda path: save_checkpoint(path, tiny_llama(), pooling="lasttoken"),
    "bert": lambda path: save_checkpoint(path, tiny_bert()),
    "bert-classifier": lambda path: save_model(path, tiny_classifier("A", "B", "C")),
    "qwen3-classifier": lambda path: save_model(path, tiny_qwen3_reranker("A", "B", "C")),
}


def random_ids(num_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.randint(5, vocab_size(), (1, num_tokens), generator=generator, dtype=torch.int32)


def arguments(checkpoint: Path, num_tokens: int) -> list[torch.Tensor]:
    ids = random_ids(num_tokens)
    values = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    return [values[tensor.name] for tensor in graph_inputs(inspect_checkpoint(checkpoint))]


def run(checkpoint: Path) -> torch.Tensor:
    module = load_module(checkpoint, inspect_checkpoint(checkpoint))
    with torch.inference_mode():
        output: torch.Tensor = module(*arguments(checkpoint, 20))[0]
    return output


def plan(checkpoint: Path, algorithm: ModelOptAlgorithm, **options: bool) -> ModelOptPlan:
    module = load_module(checkpoint, inspect_checkpoint(checkpoint))
    samples = [arguments(checkpoint, num_tokens) for num_tokens in (5, 20)]
    return plan_modelopt(module, checkpoint, samples, algorithm=algorithm, **options)


def quantize(checkpoint: Path, algorithm: ModelOptAlgorithm, **options: bool) -> Path:
    """Write the quantised checkpoint with all that lies beside the weights."""
    directory = checkpoint.parent / f"{checkpoint.name}-{algorithm}"
    write_modelopt_checkpoint(checkpoint, plan(checkpoint, algorithm, **options), directory)
    for path in checkpoint.rglob("*.json"):
        target = directory / path.relative_to(checkpoint)
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            target.write_bytes(path.read_bytes())
    return directory


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", MODELS)
def test_a_quantised_checkpoint_is_loaded_and_gives_nearly_the_same(
    tmp_path: Path, name: str, algorithm: ModelOptAlgorithm
) -> None:
    checkpoint = MODELS[name](tmp_path / name)

    quantized = run(quantize(checkpoint, algorithm))

    original = run(checkpoint)
    similarity = torch.nn.functional.cosine_similarity(quantized, original, dim=-1)
    assert CLOSE[algorithm] < float(similarity.min()) < 1.0 - 1e-7


def test_fp8_is_laid_out_as_the_model_optimizer_does(tmp_path: Path) -> None:
    checkpoint = MODELS["qwen3"](tmp_path / "qwen3")
    made = quantize(checkpoint, "FP8")

    tensors = load_file(made / "model.safetensors")
    name = "layers.0.mlp.up_proj"
    assert tensors[f"{name}.weight"].dtype == torch.float8_e4m3fn
    assert tensors[f"{name}.weight"].shape == (64, 32)
    for scale in ("weight_scale", "input_scale"):
        assert tensors[f"{name}.{scale}"].dtype == torch.float32
        assert tensors[f"{name}.{scale}"].shape == ()
    assert tensors["embed_tokens.weight"].dtype == torch.float32
    assert f"{name}.weight_scale_2" not in tensors
    assert json.loads((made / "hf_quant_config.json").read_text())["quantization"] == {
        "quant_algo": "FP8",
        "kv_cache_quant_algo": None,
        "exclude_modules": [],
    }


def test_nvfp4_is_laid_out_as_the_model_optimizer_does(tmp_path: Path) -> None:
    made = quantize(MODELS["bert-classifier"](tmp_path / "bert"), "NVFP4")

    tensors = load_file(made / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense"
    assert (tensors[f"{name}.weight"].dtype, tensors[f"{name}.weight"].shape) == (
        torch.uint8,
        (32, 32),
    )
    scales = tensors[f"{name}.weight_scale"]
    assert (scales.dtype, scales.shape) == (torch.float8_e4m3fn, (32, 4))
    for scale in ("weight_scale_2", "input_scale"):
        assert (tensors[f"{name}.{scale}"].dtype, tensors[f"{name}.{scale}"].shape) == (
            torch.float32,
            (),
        )
    quantization = json.loads((made / "hf_quant_config.json").read_text())["quantization"]
    assert quantization["exclude_modules"] == ["bert.pooler.dense", "classifier"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_are_rounded_as_the_formats_say(
    tmp_path: Path, algorithm: ModelOptAlgorithm
) -> None:
    checkpoint = MODELS["qwen3"](tmp_path / "qwen3")
    name = "layers.0.self_attn.o_proj.weight"
    original = load_file(checkpoint / "model.safetensors")[name].numpy()

    values = read_dequantized(quantize(checkpoint, algorithm))[name].numpy()

    if algorithm == "FP8":
        scale = number_formats.fp8_scale(float(np.abs(original).max()))
        expected = number_formats.emulate_fp8(original, scale)
    else:
        # Blocks lie along the input features: rows there, columns here.
        expected = number_formats.quantize_fp4(np.ascontiguousarray(original.T)).values.T
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=0)


def test_codes_of_4_bit_stand_for_what_ml_dtypes_says(tmp_path: Path) -> None:
    codes = np.arange(16, dtype=np.uint8)
    # Two codes a byte, the low half first.
    packed = torch.from_numpy(codes[::2] | (codes[1::2] << 4)).reshape(1, 8)

    values = dequantize_fp4(packed, torch.ones(1, 1, dtype=torch.float8_e4m3fn), 0.5)

    expected = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32) * 0.5
    np.testing.assert_array_equal(values.numpy()[0], expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_recorded_scales_are_those_that_were_written(
    tmp_path: Path, algorithm: ModelOptAlgorithm
) -> None:
    checkpoint = MODELS["qwen3-classifier"](tmp_path / "qwen3")
    planned = plan(checkpoint, algorithm)

    recorded = read_quantization(quantize(checkpoint, algorithm))

    assert recorded is not None
    assert recorded.algorithm == algorithm
    assert recorded.linears.keys() == planned.input_amax.keys()
    assert all(name.startswith("model.layers.") for name in recorded.linears)
    largest = 448.0 * (6.0 if algorithm == "NVFP4" else 1.0)
    linear = recorded.linears["model.layers.1.mlp.down_proj"]
    assert linear.input_scale == pytest.approx(
        planned.input_amax["model.layers.1.mlp.down_proj"] / largest, rel=1e-6
    )
    assert (linear.block_scales is not None) == (algorithm == "NVFP4")
    assert recorded.find("layers.1.mlp.down_proj") is linear
    assert recorded.find("decoder.model.layers.1.mlp.down_proj") is linear
    assert recorded.find("mlp.down_proj") is None


def test_what_gets_the_same_input_gets_the_same_scales(tmp_path: Path) -> None:
    recorded = read_quantization(quantize(MODELS["llama"](tmp_path / "llama"), "NVFP4"))

    assert recorded is not None
    for names in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        parent = "layers.0.self_attn" if "q_proj" in names else "layers.0.mlp"
        linears = [recorded.linears[f"{parent}.{name}"] for name in names]
        assert len({(linear.weight_scale, linear.input_scale) for linear in linears}) == 1
    assert (
        recorded.linears["layers.0.mlp.down_proj"].weight_scale
        != recorded.linears["layers.0.mlp.up_proj"].weight_scale
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
        ("bert", {"intermediate.dense", "output.dense"}),
    ],
)
def test_mlp_only_leaves_attention_as_it_was(tmp_path: Path, name: str, expected: set[str]) -> None:
    planned = plan(MODELS[name](tmp_path / name), "FP8", is_mlp_only=True)

    assert {re.sub(r".*\.\d+\.", "", module) for module in planned.input_amax} == expected
    assert all("attention" not in module and "attn" not in module for module in planned.input_amax)
    assert any("attention" in module or "attn" in module for module in planned.excluded)


def test_a_sharded_checkpoint_stays_sharded(tmp_path: Path) -> None:
    checkpoint = MODELS["qwen3"](tmp_path / "qwen3")
    (checkpoint / "model.safetensors").unlink()
    tiny_qwen3().save_pretrained(checkpoint, max_shard_size="50KB")
    assert len(list(checkpoint.glob("*.safetensors"))) > 1

    made = quantize(checkpoint, "FP8")

    index = json.loads((made / "model.safetensors.index.json").read_text())["weight_map"]
    stored = {name: file.name for file in made.glob("*.safetensors") for name in load_file(file)}
    assert index == stored
    assert run(made).isfinite().all()


def damaged(tmp_path: Path, algorithm: ModelOptAlgorithm) -> tuple[Path, dict[str, torch.Tensor]]:
    made = quantize(MODELS["qwen3"](tmp_path / "qwen3"), algorithm)
    return made / "model.safetensors", load_file(made / "model.safetensors")


def test_a_scale_that_is_missing_is_named(tmp_path: Path) -> None:
    file, tensors = damaged(tmp_path, "FP8")
    del tensors["layers.0.mlp.up_proj.weight_scale"]
    save_file(tensors, file)

    with pytest.raises(CheckpointError, match=r"lack `layers\.0\.mlp\.up_proj\.weight_scale`"):
        read_dequantized(file.parent)


def test_scales_of_another_shape_are_refused(tmp_path: Path) -> None:
    file, tensors = damaged(tmp_path, "NVFP4")
    tensors["layers.0.mlp.up_proj.weight_scale"] = torch.ones(2, 2, dtype=torch.float8_e4m3fn)
    save_file(tensors, file)

    with pytest.raises(CheckpointError, match="64 x 32 numbers in NVFP4 has scales of shape"):
        read_dequantized(file.parent)


def test_a_scale_for_each_channel_is_refused(tmp_path: Path) -> None:
    file, tensors = damaged(tmp_path, "FP8")
    tensors["layers.0.mlp.up_proj.weight_scale"] = torch.ones(64)
    save_file(tensors, file)

    with pytest.raises(UnsupportedModelError, match=r"a scale of shape \(64,\)"):
        read_dequantized(file.parent)


def test_awq_is_refused(tmp_path: Path) -> None:
    file, tensors = damaged(tmp_path, "NVFP4")
    tensors["layers.0.mlp.up_proj.pre_quant_scale"] = torch.ones(32)
    save_file(tensors, file)

    with pytest.raises(UnsupportedModelError, match="AWQ"):
        read_dequantized(file.parent)


def test_scales_of_caches_are_left_out(tmp_path: Path) -> None:
    file, tensors = damaged(tmp_path, "FP8")
    expected = run(file.parent)
    tensors["layers.0.self_attn.k_proj.k_scale"] = torch.ones(())
    save_file(tensors, file)

    assert torch.equal(run(file.parent), expected)


def test_a_checkpoint_without_anything_to_quantise_is_refused(tmp_path: Path) -> None:
    checkpoint = MODELS["qwen3"](tmp_path / "qwen3")

    with pytest.raises(BuildError, match="no linear layer of this checkpoint"):
        plan_modelopt(torch.nn.Linear(2, 2), checkpoint, [], algorithm="FP8")


def test_a_plan_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    planned = ModelOptPlan(algorithm="FP8", input_amax={"layers.9.x": 1.0}, excluded=())

    with pytest.raises(BuildError, match=r"no linear layer `layers\.9\.x`"):
        write_modelopt_checkpoint(MODELS["qwen3"](tmp_path / "a"), planned, tmp_path / "b")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_inputs_are_rounded_as_the_formats_say_where_that_is_asked(
    tmp_path: Path, algorithm: ModelOptAlgorithm
) -> None:
    made = quantize(MODELS["qwen3"](tmp_path / "qwen3"), algorithm)
    plain = run(made)
    values = json.loads((made / "hf_quant_config.json").read_text())
    (made / "hf_quant_config.json").write_text(json.dumps(emulating(values)))

    module = load_module(made, inspect_checkpoint(made))

    recorded = read_quantization(made)
    assert recorded is not None
    name = "layers.0.self_attn.o_proj"
    scale = recorded.linears[name].input_scale
    assert scale is not None
    rows = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    if algorithm == "FP8":
        rounded = number_formats.emulate_fp8(rows, scale)
    else:
        rounded = number_formats.emulate_fp4(rows, scale)
    weight = read_dequantized(made)[f"{name}.weight"].numpy()
    layer = next(part for path, part in module.named_modules() if path.endswith(name))
    with torch.inference_mode():
        given = layer(torch.from_numpy(rows)).numpy()
        emulated = module(*arguments(made, 20))[0]
    np.testing.assert_allclose(given, rounded @ weight.T, rtol=1e-4, atol=1e-4)
    similarity = float(torch.nn.functional.cosine_similarity(emulated, plain, dim=-1).min())
    assert CLOSE[algorithm] < similarity < 1.0 - 1e-7
