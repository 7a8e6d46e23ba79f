"""The whole way of a real network's numbers, computed by OpenVINO where a GPU would."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray
from tests.engine.asking import batch_of
from tests.engine.tensorrt.fake_device import FakeDevice
from tests.engine.tensorrt.fake_tensorrt import Behaviour, FakeCudaEngine

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.gpu import GpuTarget
from beicli.artifact.manifest import OPENVINO_MODEL
from beicli.engine.batch import Int32
from beicli.engine.openvino import OpenVinoEngine
from beicli.engine.options import EngineOptions
from beicli.engine.tensorrt.engine import RuntimeOptions, TensorRtEngine
from beicli.tensorrt.profiles import choose_profiles

TOLERANCE = 1e-5


@pytest.mark.parametrize("max_cuda_graphs", [0, 16])
def test_an_engine_answers_as_that_of_openvino_does(
    artifact: EngineArtifact, sequences: list[Int32], max_cuda_graphs: int
) -> None:
    compiled = ov.Core().compile_model(
        artifact.path / OPENVINO_MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def network(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        outputs = compiled(dict(inputs))
        return {output.get_any_name(): outputs[output] for output in compiled.outputs}

    profiles = choose_profiles(artifact.manifest.limits)
    gpu = GpuTarget(sm=90, layout="padded", hardware_compatibility="none", profiles=profiles)
    manifest = replace(artifact.manifest, backend="tensorrt", precision="f16", gpu=gpu)
    device, behaviour = FakeDevice(), Behaviour(scratch_bytes=(512,) * len(profiles))
    cuda_engine = FakeCudaEngine("tensorrt", device, manifest, network, behaviour)
    options = RuntimeOptions(preferred_num_tokens=256, max_cuda_graphs=max_cuda_graphs)
    engine = TensorRtEngine(cuda_engine.as_plan(), device, manifest, options)
    reference = OpenVinoEngine.load(artifact, EngineOptions(num_slots=1, num_threads=1))

    batches = [batch_of(*sequences[start : start + 5]) for start in range(0, 60, 5)]
    small = [sequence for sequence in sequences if len(sequence) <= 16][:4]
    for batch in [*batches, *[batch_of(*small)] * 8]:
        answer, wanted = (
            each.forward(replace(batch, needs_tokens=True)) for each in (engine, reference)
        )
        for mine, theirs in ((answer.pooled, wanted.pooled), (answer.tokens, wanted.tokens)):
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                np.testing.assert_allclose(mine, theirs, rtol=0, atol=TOLERANCE)

    assert (device.num_graphs > 0) == (max_cuda_graphs > 0)
    engine.close()
    reference.close()
    device.assert_nothing_left()
