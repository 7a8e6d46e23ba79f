"""What an ONNX model must be to be computed, and what is said of one that is not."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.errors import BuildError, CheckpointError, UnsupportedModelError
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module

HIDDEN_SIZE = 32


def small_model(
    *,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
    shape: tuple[str | int, ...] = ("batch", "length"),
    width: int = HIDDEN_SIZE,
    output: str = "last_hidden_state",
    opset: int = 14,
) -> onnx.ModelProto:
    """A table of random vectors, which is all the network there is."""
    table = np.random.default_rng(0).normal(size=(600, width)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], [output])]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ("batch", "length", width))],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def rounded() -> onnx.ModelProto:
    model = small_model(output="rounded_state")
    scale = numpy_helper.from_array(np.array(0.1, dtype=np.float32), "scale")
    model.graph.initializer.append(scale)
    ends = ("rounded_state", "integers", "last_hidden_state")
    for operator, start, end in zip(
        ("QuantizeLinear", "DequantizeLinear"), ends[:2], ends[1:], strict=True
    ):
        model.graph.node.append(helper.make_node(operator, [start, "scale"], [end]))
    model.graph.output[0].name = "last_hidden_state"
    return model


def half() -> onnx.ModelProto:
    model = small_model()
    table = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def pooled() -> onnx.ModelProto:
    model = small_model(output="sentence_embedding")
    shape = model.graph.output[0].type.tensor_type.shape
    del shape.dim[1]
    return model


def in_a_branch() -> onnx.ModelProto:
    """The quantised node is inside an If."""
    model = small_model()
    branch = rounded().graph
    model.graph.node.append(
        helper.make_node("If", ["is_so"], ["unused"], then_branch=branch, else_branch=branch)
    )
    return model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint that lacks nothing but its weights."""
    directory = save_checkpoint(tmp_path / "checkpoint", tiny_bert())
    (directory / "model.safetensors").unlink()
    (directory / "onnx").mkdir()
    return directory


def load(checkpoint: Path, model: onnx.ModelProto) -> torch.nn.Module:
    (checkpoint / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
    return load_module(checkpoint, inspect_checkpoint(checkpoint))


def test_hidden_states_are_pooled_as_any_model_s(checkpoint: Path) -> None:
    model = small_model()
    table = numpy_helper.to_array(model.graph.initializer[0])

    vectors, hidden = load(checkpoint, model)(torch.tensor([[5, 7, 9]]), torch.tensor([[1, 1, 0]]))

    np.testing.assert_allclose(hidden[0].numpy(), table[[5, 7, 9]], rtol=1e-6)
    np.testing.assert_allclose(vectors[0].numpy(), table[[5, 7]].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("output", ["token_embeddings", "output_0"])
def test_an_output_is_found_under_another_name(checkpoint: Path, output: str) -> None:
    module = load(checkpoint, small_model(output=output))

    assert module(torch.tensor([[5]]), torch.tensor([[1]]))[1].shape == (1, 1, HIDDEN_SIZE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (rounded, "is quantised: it has `DequantizeLinear` nodes"),
        (in_a_branch, "is quantised: it has `DequantizeLinear` nodes"),
        (half, "computes in 16 bit: `table` is in float16"),
        (pooled, "gives sentence_embedding; `BertModel` is read from `last_hidden_state`"),
        (lambda: small_model(opset=9), "is of ONNX opset 9; 11 or later is read"),
        (
            lambda: small_model(shape=("batch", 128)),
            "takes `input_ids` of the fixed size [batch, 128]",
        ),
        (
            lambda: small_model(inputs=("input_ids", "attention_mask", "past_key_values")),
            "takes `past_key_values`; known inputs are input_ids, attention_mask",
        ),
        (lambda: small_model(inputs=("input_ids",)), "takes no `attention_mask`"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(
    checkpoint: Path, make: Callable[[], onnx.ModelProto], message: str
) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        load(checkpoint, make())

    assert raised.value.message.startswith("`onnx/model.onnx`")
    assert message in raised.value.message
    assert raised.value.hint


def test_a_model_of_another_width_is_refused(checkpoint: Path) -> None:
    module = load(checkpoint, small_model(width=16))

    with pytest.raises(BuildError, match=r"is 16 wide, and `config\.json` describes 32"):
        module(torch.tensor([[5]]), torch.tensor([[1]]))


@pytest.mark.parametrize("location", ["elsewhere.bin", "../config.json"])
def test_weights_that_are_not_beside_the_graph_are_refused(checkpoint: Path, location: str) -> None:
    model = small_model()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL

    with pytest.raises(CheckpointError, match=f"has weights in `{location}`, which is not beside"):
        load(checkpoint, model)


def test_a_file_that_is_no_onnx_is_said_to_be_none(checkpoint: Path) -> None:
    (checkpoint / "onnx" / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")

    with pytest.raises(CheckpointError, match="cannot be read as ONNX"):
        load_module(checkpoint, inspect_checkpoint(checkpoint))


def test_an_operator_nobody_knows_is_explained(checkpoint: Path) -> None:
    model = small_model()
    model.graph.node[0].op_type = "GatherByMagic"

    with pytest.raises(BuildError, match=r"ONNX Runtime cannot load `onnx/model\.onnx`"):
        load(checkpoint, model)


def test_onnx_runtime_reports_to_nobody(checkpoint: Path, tmp_path: Path) -> None:
    onnx.save(small_model(), checkpoint / "onnx" / "model.onnx")
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import pathlib, sys\n"
        "from beicli.model.inspect import inspect_checkpoint\n"
        "from beicli.modeling.loading import load_module\n"
        "checkpoint = pathlib.Path(sys.argv[1])\n"
        "load_module(checkpoint, inspect_checkpoint(checkpoint))\n"
    )
    # Neither of these may be what keeps it quiet.
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("CI", "ORT_"))
    }

    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)],
        env=kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    # It keeps what it is going to send in a database there.
    assert not [path for path in home.rglob("*") if "onnxruntime" in path.name]
    assert done.stderr == ""
