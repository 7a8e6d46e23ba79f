from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.builder.architectures import ARCHITECTURES, Architecture
from tests.builder.random_models import save_random
from tests.builder.tiny_models import save_checkpoint, save_splade, tiny_bert, tiny_qwen3

from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module
from beicli.modeling.precision import convert

HALVES = (torch.bfloat16, torch.float16)


def store_as(checkpoint: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Store the weights of a checkpoint in another precision, and return them."""
    path = checkpoint / "model.safetensors"
    weights = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return weights


def outputs_of(module: torch.nn.Module) -> torch.Tensor:
    """Compute the pooled outputs of two texts, one of them padded."""
    ids = torch.arange(5, 45, dtype=torch.int32).reshape(2, 20)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    with torch.inference_mode():
        output: torch.Tensor = module(ids, mask)[0]
    return output


@pytest.mark.parametrize("stored", [torch.float32, *HALVES])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_architecture_computes_in_either_precision_whatever_it_is_stored_in(
    tmp_path: Path, architecture: Architecture, stored: torch.dtype
) -> None:
    checkpoint = save_random(tmp_path / "checkpoint", architecture, "Model")
    store_as(checkpoint, stored)
    spec = inspect_checkpoint(checkpoint)
    loaded, f32, bf16 = (load_module(checkpoint, spec) for _ in range(3))

    convert(f32, torch.float32)
    convert(bf16, torch.bfloat16)

    assert {parameter.dtype for parameter in f32.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in bf16.parameters()} == {torch.bfloat16}
    expected = outputs_of(loaded)
    torch.testing.assert_close(outputs_of(f32), expected, rtol=0, atol=1e-5)
    in_bf16 = outputs_of(bf16)
    assert in_bf16.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(in_bf16, expected).min() > 0.99
    assert not torch.equal(in_bf16, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_of_the_file_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_bert())
    weights = store_as(checkpoint, torch.bfloat16)
    module = load_module(checkpoint, inspect_checkpoint(checkpoint))

    convert(module, dtype)

    found = dict(module.named_parameters())
    for name, tensor in weights.items():
        torch.testing.assert_close(
            found[f"encoder.{name}"].data, tensor.to(dtype), rtol=0, atol=0, msg=name
        )
    assert len(found) == len(weights)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_weights_that_are_shared_stay_shared(tmp_path: Path, stored: torch.dtype) -> None:
    checkpoint = save_splade(tmp_path / "checkpoint")
    store_as(checkpoint, stored)
    module = load_module(checkpoint, inspect_checkpoint(checkpoint))

    convert(module, torch.bfloat16)

    model = module.language_model
    decoder, table = model.get_output_embeddings(), model.get_input_embeddings()
    assert decoder.weight.data_ptr() == table.weight.data_ptr()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_frequencies_of_rotary_embeddings_stay_in_float32(
    tmp_path: Path, stored: torch.dtype
) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_qwen3(), pooling="lasttoken")
    spec = inspect_checkpoint(checkpoint)
    expected = {
        name: tensor
        for name, tensor in load_module(checkpoint, spec).named_buffers()
        if tensor.is_floating_point()
    }
    store_as(checkpoint, stored)
    module = load_module(checkpoint, spec)

    convert(module, torch.bfloat16)

    found = dict(module.named_buffers())
    assert expected
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)
