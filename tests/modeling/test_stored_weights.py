"""16 bit weights stay in their files, and what is computed with them is what float32 gives."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.builder.architectures import ARCHITECTURES, Architecture
from tests.builder.random_models import save_random

from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.stored_weights import are_mapped, stored_dtype
from beicli.modeling.tasks import TaskModule

NAMES = ("Bert", "MPNet", "DebertaV2", "ModernBert", "Qwen3", "Gemma3Text")
CASES = [(name, "Model") for name in NAMES] + [
    ("Bert", "ForMaskedLM"),
    ("Roberta", "ForSequenceClassification"),
    ("Llama", "ForSequenceClassification"),
]
IDS = torch.tensor([[7, 20, 9, 31, 5, 11, 8, 6, 10, 40, 12, 21]])


def architecture_of(name: str) -> Architecture:
    return next(a for a in ARCHITECTURES if str(a) == name)


def store_in(checkpoint: Path, dtype: torch.dtype, *, but: str = "-") -> None:
    """Write the weights in `dtype`, except those whose name holds `but`."""
    path = checkpoint / "model.safetensors"
    weights = {
        name: weight if but in name else weight.to(dtype)
        for name, weight in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})


def load(checkpoint: Path, head: str = "Model") -> TaskModule:
    pooling = Pooling.SPLADE if head == "ForMaskedLM" else None
    return load_module(checkpoint, inspect_checkpoint(checkpoint, pooling=pooling))


def run(module: TaskModule) -> torch.Tensor:
    with torch.no_grad():
        return module(IDS, torch.ones_like(IDS))[0][0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "head"), CASES)
def test_numbers_are_those_of_float32(
    tmp_path: Path, name: str, head: str, dtype: torch.dtype
) -> None:
    checkpoint = save_random(tmp_path, architecture_of(name), head)
    store_in(checkpoint, dtype)
    stored = load(checkpoint, head)
    weights = {k: v.float() for k, v in load_file(checkpoint / "model.safetensors").items()}
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})

    widened = load(checkpoint, head)

    assert {parameter.dtype for parameter in stored.parameters()} == {dtype}
    assert {parameter.dtype for parameter in widened.parameters()} == {torch.float32}
    assert torch.equal(run(stored), run(widened))
    assert run(stored).dtype == torch.float32


def test_weights_are_mapped_from_their_file(tmp_path: Path) -> None:
    checkpoint = save_random(tmp_path, architecture_of("Qwen3"), "Model")
    store_in(checkpoint, torch.bfloat16)

    module = load(checkpoint)

    mapped = mapped_addresses(checkpoint / "model.safetensors")
    assert all(any(p.data_ptr() in area for area in mapped) for p in module.parameters())


def test_weights_in_several_files_are_those_of_one(tmp_path: Path) -> None:
    whole = save_random(tmp_path / "whole", architecture_of("Qwen3"), "Model")
    store_in(whole, torch.bfloat16)
    parts = shutil.copytree(whole, tmp_path / "parts")
    weights = load_file(parts / "model.safetensors")
    (parts / "model.safetensors").unlink()
    weight_map = {name: f"model-{i % 3}.safetensors" for i, name in enumerate(weights)}
    for file in set(weight_map.values()):
        held = {name: weights[name] for name in weights if weight_map[name] == file}
        save_file(held, parts / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (parts / "model.safetensors.index.json").write_text(json.dumps(index))

    module = load(parts)

    assert torch.equal(run(module), run(load(whole)))
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


def mapped_addresses(path: Path) -> list[range]:
    """Return where this process has pages of a file in its memory."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [range(int(start, 16), int(end, 16)) for start, end in spans]


def test_a_checkpoint_of_several_precisions_is_read_in_float32(tmp_path: Path) -> None:
    checkpoint = save_random(tmp_path, architecture_of("Bert"), "Model")
    assert stored_dtype(checkpoint) == torch.float32
    store_in(checkpoint, torch.bfloat16, but="LayerNorm")
    exact = load_file(checkpoint / "model.safetensors")["embeddings.LayerNorm.weight"]

    module = load(checkpoint)

    assert stored_dtype(checkpoint) == torch.float32
    assert not are_mapped(checkpoint)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert torch.equal(module.get_parameter("encoder.embeddings.LayerNorm.weight"), exact)


def test_ids_of_positions_that_are_stored_beside_them_change_nothing(tmp_path: Path) -> None:
    checkpoint = save_random(tmp_path, architecture_of("Bert"), "Model")
    store_in(checkpoint, torch.bfloat16)
    path = checkpoint / "model.safetensors"
    positions = {"embeddings.position_ids": torch.arange(48)[None]}
    save_file(load_file(path) | positions, path, metadata={"format": "pt"})

    assert stored_dtype(checkpoint) == torch.bfloat16
    assert are_mapped(checkpoint)
    assert {p.dtype for p in load(checkpoint).parameters()} == {torch.bfloat16}


def test_what_a_model_makes_of_its_configuration_is_not_rounded(tmp_path: Path) -> None:
    """Gemma scales its embeddings by the root of their size, which 16 bits do not hold."""
    checkpoint = save_random(tmp_path, architecture_of("Gemma3Text"), "Model")
    store_in(checkpoint, torch.bfloat16)

    rounded = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.bfloat16)
    module = load(checkpoint)

    with torch.no_grad():
        wanted = rounded.float()(input_ids=IDS)[0][0, -1]
    assert not torch.allclose(run(module), wanted, atol=1e-4)
