"""An engine that is the checkpoint itself: no export, no compiler, every network that loads.

For what cannot be exported, and as a second opinion on the numbers of the other backends.
"""

import shutil
from pathlib import Path

import torch

from beicli.artifact.manifest import TOKEN_OUTPUTS, TORCH_CHECKPOINT, Precision, TensorInfo
from beicli.builder.backend import Network, Step
from beicli.errors import BuildError, UsageError
from beicli.model.modelopt import MODELOPT_NAME
from beicli.model.spec import ModelSpec
from beicli.model.weights import INDEX_NAME, WEIGHTS_NAME, check_weights, list_files
from beicli.modeling.onnx_network import onnx_network
from beicli.modeling.tasks import TaskModule, graph_inputs

TOOLCHAIN: tuple[str, ...] = ("torch", "transformers", "safetensors", "tokenizers", "numpy")


def choose_precision(asked: Precision | None) -> Precision:
    """float32 unless bf16 is asked for: this backend is taken for its numbers, not its speed."""
    if asked == "f16":
        raise UsageError(
            "`--precision f16` is not computed by `--backend torch`",
            hint="use `--precision bf16` or `f32`",
        )
    return asked or "f32"


def cpu_features(precision: Precision) -> tuple[str, ...]:  # noqa: ARG001 - another backend's is used
    """Nothing: torch computes bf16 on every CPU, if slowly on those without it."""
    return ()


def write_engine(network: Network, staging: Path, step: Step) -> tuple[TensorInfo, ...]:
    """Copy below `staging` the files that the network is loaded from."""
    network_in_onnx = onnx_network(network.module)
    if network_in_onnx is not None:
        raise BuildError(
            f"`--backend torch` computes safetensors, and the checkpoint has only "
            f"`{network_in_onnx.interface.name}`",
            hint="build it without `--backend torch`, or from the checkpoint it was made of",
        )
    with step("Copied") as say:
        _copy_checkpoint(network.checkpoint, network.spec, staging / TORCH_CHECKPOINT)
        outputs = _describe_outputs(network.module, network.spec)
        asked = network.is_precision_asked
        why = " as asked" if asked else ": the precision of the reference"
        say(f"torch, {network.precision}{why}")
    return outputs


def _copy_checkpoint(checkpoint: Path, spec: ModelSpec, target: Path) -> None:
    """Copy `config.json`, the weights and the Dense modules, all as they are."""
    names = list_files(checkpoint)
    # Which of the two transformers takes, where a checkpoint has both, is left to it.
    weights = {*check_weights(checkpoint, names), INDEX_NAME, WEIGHTS_NAME} & names
    dense = [
        f"{module.path}/{name}"
        for module in spec.dense_modules
        for name in ("config.json", WEIGHTS_NAME)
    ]
    # It tells that the weights are quantised, and how.
    quantization = {MODELOPT_NAME} & names
    for name in ("config.json", *sorted(weights), *quantization, *dense):
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # Not a hard link: a checkpoint that is trained on would change the engine with it.
        shutil.copyfile(checkpoint / name, file)


def _describe_outputs(module: TaskModule, spec: ModelSpec) -> tuple[TensorInfo, ...]:
    """Describe what the network gives out: no graph says so, so it is run once."""
    tokens = torch.ones(1, 1, dtype=torch.int32)
    with torch.inference_mode():
        outputs = module(*[tokens for _ in graph_inputs(spec)])
    return tuple(
        _describe(name, output) for name, output in zip(module.output_names, outputs, strict=True)
    )


def _describe(name: str, output: torch.Tensor) -> TensorInfo:
    varying = ("batch", "length") if name in TOKEN_OUTPUTS else ("batch",)
    return TensorInfo(name=name, dtype="float32", shape=(*varying, *output.shape[len(varying) :]))
