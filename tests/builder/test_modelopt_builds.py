"""Builds of checkpoints whose weights are in FP8 or NVFP4, for CPUs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builder.builds import run_build, write_config
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.artifact.manifest import Backend
from beicli.model.inspect import inspect_checkpoint
from beicli.model.modelopt import ModelOptAlgorithm
from beicli.modeling.loading import load_module
from beicli.modeling.modelopt_writer import plan_modelopt, write_modelopt_checkpoint
from beicli.pipeline.pipeline import compute_outputs

TEXTS = ["A short text.", "Another one, which is a good deal longer than the first."]


def quantized_bert(directory: Path, algorithm: ModelOptAlgorithm) -> Path:
    checkpoint = save_checkpoint(directory / "bert", tiny_bert())
    module = load_module(checkpoint, inspect_checkpoint(checkpoint))
    tokens = torch.arange(5, 25, dtype=torch.int32).reshape(1, -1)
    plan = plan_modelopt(
        module, checkpoint, [(tokens, torch.ones_like(tokens))], algorithm=algorithm
    )
    write_modelopt_checkpoint(checkpoint, plan, directory / "made")
    for path in (directory / "made").iterdir():
        path.replace(checkpoint / path.name)
    return checkpoint


@pytest.mark.parametrize(("algorithm", "backend"), [("FP8", "openvino"), ("NVFP4", "torch")])
def test_a_backend_for_cpus_computes_the_values_of_the_weights(
    tmp_path: Path, algorithm: ModelOptAlgorithm, backend: Backend
) -> None:
    checkpoint = quantized_bert(tmp_path, algorithm)

    result = run_build(write_config(tmp_path, checkpoint), tmp_path / "engine", backend=backend)

    # The reference is the quantised checkpoint itself, so nothing is lost beside it.
    assert result.report.passed
    vectors = np.stack(compute_outputs(result.artifact, TEXTS))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
