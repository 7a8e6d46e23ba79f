"""Builds for GPUs of checkpoints that were quantised already: their codes are what is served."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.torch import load_file
from tests.builder.builds import run_build, with_build, write_config
from tests.builder.test_modelopt_builds import quantized_bert

from beicli.artifact.gpu import TENSORRT_GRAPH
from beicli.builder.build import BuildResult
from beicli.errors import UsageError
from beicli.model.modelopt import ModelOptAlgorithm

NUM_LINEARS = 12


def graph_constants(result: BuildResult) -> Mapping[str, NDArray[Any]]:
    graph = onnx.load(result.artifact.path / TENSORRT_GRAPH).graph
    return {each.name: numpy_helper.to_array(each) for each in graph.initializer}


def checkpoint_codes(checkpoint: Path, algorithm: ModelOptAlgorithm) -> list[NDArray[Any]]:
    """Return the codes of every quantised weight, [out_features, in_features], as numbers."""
    tensors = load_file(checkpoint / "model.safetensors")
    wanted = torch.float8_e4m3fn if algorithm == "FP8" else torch.uint8
    stored = [tensor for tensor in tensors.values() if tensor.dtype == wanted and tensor.ndim == 2]
    if algorithm == "FP8":
        return [tensor.float().numpy() for tensor in stored]
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
    table = np.concatenate([values, -values])
    return [
        table[torch.stack((tensor & 15, tensor >> 4), dim=-1).flatten(start_dim=1).long().numpy()]
        for tensor in stored
    ]


@pytest.mark.parametrize(("algorithm", "sm"), [("FP8", 89), ("NVFP4", 120)])
def test_the_codes_of_the_checkpoint_are_the_engines(
    tmp_path: Path, algorithm: ModelOptAlgorithm, sm: int
) -> None:
    checkpoint = quantized_bert(tmp_path, algorithm)

    result = run_build(
        write_config(tmp_path, checkpoint), tmp_path / "engine", sm=sm, precision=None
    )

    manifest = result.artifact.manifest
    assert manifest.precision == ("fp8" if algorithm == "FP8" else "fp4")
    assert manifest.quantization is not None
    assert manifest.quantization.method == "modelopt"
    assert manifest.quantization.calibration == "the checkpoint's own"
    assert manifest.quantization.quantized_fraction == 1.0
    names = (*manifest.quantization.static, *manifest.quantization.dynamic)
    assert len(names) == NUM_LINEARS
    found = [
        values.astype(np.float32)
        for name, values in graph_constants(result).items()
        if name.endswith("/codes")
    ]
    # The graph has FP8 as products take it, and FP4 with its blocks last, as the checkpoint does.
    rows = [codes.T if algorithm == "FP8" else codes for codes in found]
    wanted = checkpoint_codes(checkpoint, algorithm)
    assert len(rows) == len(wanted) == NUM_LINEARS
    as_bytes = {np.ascontiguousarray(codes + 0.0).tobytes() for codes in rows}
    assert as_bytes == {np.ascontiguousarray(codes + 0.0).tobytes() for codes in wanted}


def test_scales_of_activations_are_the_checkpoints(tmp_path: Path) -> None:
    checkpoint = quantized_bert(tmp_path, "FP8")

    result = run_build(
        write_config(tmp_path, checkpoint), tmp_path / "engine", sm=90, precision=None
    )

    tensors = load_file(checkpoint / "model.safetensors")
    wanted = {float(value) for name, value in tensors.items() if name.endswith(".input_scale")}
    found = [
        float(values)
        for name, values in graph_constants(result).items()
        if name.endswith("/fp8/scale") and values.ndim == 0
    ]
    assert found
    assert all(min(abs(each / other - 1) for other in wanted) < 1e-6 for each in found)


def test_a_method_that_says_the_same_is_taken_and_another_is_refused(tmp_path: Path) -> None:
    loaded = write_config(tmp_path, quantized_bert(tmp_path, "FP8"))

    same = with_build(loaded, quantization_type="fp8")
    result = run_build(same, tmp_path / "engine", sm=90, precision=None)
    assert result.artifact.manifest.precision == "fp8"

    other = with_build(loaded, quantization_type="fp4")
    with pytest.raises(UsageError, match="the checkpoint is in FP8 already") as raised:
        run_build(other, tmp_path / "other", sm=100, precision=None)
    assert "no_quant" in (raised.value.hint or "")


def test_a_gpu_without_the_format_is_refused(tmp_path: Path) -> None:
    loaded = write_config(tmp_path, quantized_bert(tmp_path, "FP8"))

    with pytest.raises(UsageError, match="sm86 does not multiply in fp8"):
        run_build(loaded, tmp_path / "engine", sm=86, precision=None)
