"""An engine that TensorRT-LLM computes: the checkpoint itself, or one of it in FP8 or NVFP4.

TensorRT-LLM runs in an environment of its own, on a GPU, so nothing of it runs here. What is
checked here is the checkpoint that it gets, in the precision that it computes in; what it makes of
that is checked with a probe whenever the engine is loaded.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from beicli.artifact.directory import EngineArtifact, seal_artifact
from beicli.artifact.manifest import (
    TORCH_CHECKPOINT,
    Manifest,
    Precision,
    Quantization,
    QuantizationMethod,
    TensorInfo,
)
from beicli.artifact.report import AccuracyReport
from beicli.artifact.tensorrt_llm import LLM_CHECKPOINT
from beicli.builder.backend import Network, Step
from beicli.builder.gate import AccuracyGate, start_emulation
from beicli.builder.gpu_graph.plan import (
    GPU_METHODS,
    METHOD_PRECISIONS,
    MLP_ONLY,
    GpuMethod,
)
from beicli.builder.gpu_graph.quantize import LowPrecision
from beicli.builder.llm_files import (
    CLASSIFIER,
    EMBEDDER,
    choose_architecture,
    copy_checkpoint,
    link_emulated,
    set_architecture,
    write_probe,
)
from beicli.builder.quantization.calibration import (
    CalibrationSet,
    encode_samples,
)
from beicli.builder.record import Computed
from beicli.config.schema import QuantizationType
from beicli.errors import UsageError
from beicli.model.modelopt import (
    ALGORITHM_PRECISIONS,
    GROUP_SIZE,
    ModelOptAlgorithm,
    read_modelopt_config,
)
from beicli.modeling.modelopt import read_quantization
from beicli.modeling.modelopt_writer import (
    linear_layers,
    plan_modelopt,
    write_modelopt_checkpoint,
)
from beicli.modeling.tasks import graph_inputs

TOOLCHAIN: tuple[str, ...] = ("torch", "transformers", "safetensors", "tokenizers", "numpy")

# What the Model Optimizer calls a precision.
_ALGORITHMS: Mapping[LowPrecision, ModelOptAlgorithm] = {
    precision: algorithm for algorithm, precision in ALGORITHM_PRECISIONS.items()
}


@dataclass(frozen=True, slots=True)
class _Method:
    name: QuantizationMethod
    algorithm: ModelOptAlgorithm
    is_mlp_only: bool

    @classmethod
    def of(cls, method: GpuMethod) -> Self:
        return cls(method, _ALGORITHMS[METHOD_PRECISIONS[method]], method in MLP_ONLY)


def choose_precision(asked: Precision | None) -> Precision:
    """bf16 unless f16 is asked for: it computes nothing in float32."""
    if asked == "f32":
        raise UsageError(
            "`--precision f32` is not computed by `--backend tensorrt-llm`",
            hint="use `--precision bf16` or `f16`",
        )
    return asked or "bf16"


def cpu_features(precision: Precision) -> tuple[str, ...]:  # noqa: ARG001 - another backend's is used
    """Nothing: a GPU computes."""
    return ()


def write_engine(network: Network, staging: Path, step: Step) -> tuple[TensorInfo, ...]:
    """Copy below `staging` what TensorRT-LLM loads; raises BuildError if it has no such model."""
    architecture = choose_architecture(network.spec)
    with step("Copied") as say:
        copy_checkpoint(network.checkpoint, staging / LLM_CHECKPOINT, architecture)
        say(f"TensorRT-LLM, {architecture}, {network.precision}")
    return write_probe(network, staging)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmBuild:
    """A build for TensorRT-LLM, with what the steps before it have found.

    describe: makes the manifest of what was computed, in a precision. make_gate: of a manifest.
    """

    quantization_type: QuantizationType
    choose_calibration: Callable[[], CalibrationSet]
    network: Network
    staging: Path
    describe: Callable[[Computed, Precision], Manifest]
    make_gate: Callable[[Manifest], AccuracyGate]
    step: Step
    warn: Callable[[str], None]

    def run(self) -> tuple[Manifest, AccuracyReport]:
        """Write the engine and return its manifest, not yet sealed, with its report."""
        method = self._method()
        network = replace(self.network, precision=self._residual_precision())
        quantization: Quantization | None = None
        if method is None:
            outputs = write_engine(network, self.staging, self.step)
            quantization = self._given_quantization(network.precision)
        else:
            outputs, quantization = self._write_quantized(network, method)
        precision = network.precision
        if quantization is not None:
            precision = "fp8" if quantization.static else "fp4"
        computed = Computed(
            backend="tensorrt-llm",
            cpu_features=(),
            toolchain=TOOLCHAIN,
            inputs=graph_inputs(network.spec),
            outputs=outputs,
            gpu=None,
        )
        manifest = replace(self.describe(computed, precision), quantization=quantization)
        report = self._judge(manifest)
        return seal_artifact(self.staging, manifest), report

    def _method(self) -> _Method | None:
        """Return how weights are put into 8 or 4 bit; raises UsageError for what it has not."""
        wanted = self.quantization_type
        if wanted is QuantizationType.NO_QUANT:
            return None
        named = GPU_METHODS.get(wanted)
        if named is None:
            raise UsageError(
                f"`quantization_type: {wanted.value}` is not computed by `--backend tensorrt-llm`",
                hint="write `no_quant`, `fp8` or `fp4`",
            )
        if choose_architecture(self.network.spec) != EMBEDDER:
            raise UsageError(
                f"TensorRT-LLM computes `{self.network.spec.architecture}` in 16 bit only",
                hint="write `quantization_type: no_quant`, or use `--backend tensorrt`",
            )
        if read_modelopt_config(self.network.checkpoint) is not None:
            raise UsageError(
                "the checkpoint is quantised already, and the configuration asks for it again",
                hint="write `quantization_type: no_quant`: it is used as it is",
            )
        return _Method.of(named)

    def _residual_precision(self) -> Precision:
        """Return what is computed in where nothing is quantised; BERT is always in f16 there."""
        return "f16" if self.network.spec.architecture == CLASSIFIER else self.network.precision

    def _given_quantization(self, residual: Precision) -> Quantization | None:
        """Describe that of the checkpoint itself; None if it has none."""
        found = read_quantization(self.network.checkpoint)
        config = read_modelopt_config(self.network.checkpoint)
        if found is None or config is None:
            return None
        if config.note is not None:
            self.warn(config.note)
        return self._describe(
            _Method("modelopt", config.algorithm, is_mlp_only=False),
            residual,
            names=tuple(found.linears),
            excluded=config.excluded,
            calibration="the checkpoint's own",
        )

    def _write_quantized(
        self, network: Network, method: _Method
    ) -> tuple[tuple[TensorInfo, ...], Quantization]:
        architecture = choose_architecture(network.spec)
        calibration = self.choose_calibration()
        with self.step("Quantised") as say:
            plan = plan_modelopt(
                network.module,
                network.checkpoint,
                self._samples(calibration),
                algorithm=method.algorithm,
                is_mlp_only=method.is_mlp_only,
            )
            target = self.staging / LLM_CHECKPOINT
            write_modelopt_checkpoint(network.checkpoint, plan, target)
            set_architecture(target, architecture)
            say(f"{len(plan.input_amax):,} linear layers in {method.algorithm}")
        outputs = write_probe(network, self.staging)
        return outputs, self._describe(
            method,
            network.precision,
            names=tuple(plan.input_amax),
            excluded=plan.excluded,
            calibration=f"{len(calibration.samples):,} of {calibration.name}",
        )

    def _samples(self, calibration: CalibrationSet) -> Iterator[list[torch.Tensor]]:
        spec = self.network.spec
        names = [tensor.name for tensor in graph_inputs(spec)]
        for inputs in encode_samples(
            calibration,
            self.network.checkpoint,
            spec,
            max_input_length=spec.max_input_length,
        ):
            yield [torch.from_numpy(inputs[name]) for name in names]

    def _describe(
        self,
        method: _Method,
        residual: Precision,
        *,
        names: tuple[str, ...],
        excluded: tuple[str, ...],
        calibration: str,
    ) -> Quantization:
        assert residual in {"bf16", "f16"}, "nothing is computed in float32"
        is_fp8 = method.algorithm == "FP8"
        return Quantization(
            method=method.name,
            residual_precision="bf16" if residual == "bf16" else "f16",
            # Blocks of 4 bit are scaled when they come.
            static=names if is_fp8 else (),
            dynamic=() if is_fp8 else names,
            kept=excluded,
            quantized_fraction=_fraction(self.network, names),
            dynamic_group_size=0 if is_fp8 else GROUP_SIZE,
            calibration=calibration,
        )

    def _judge(self, manifest: Manifest) -> AccuracyReport:
        """Compare what TensorRT-LLM is given, computed by torch, with the reference."""
        emulation = start_emulation(self.staging)
        link_emulated(self.staging / LLM_CHECKPOINT, emulation / TORCH_CHECKPOINT)
        with self.step("Checked") as say:
            gate = self.make_gate(manifest)
            computed = replace(
                manifest,
                backend="torch",
                precision=manifest.residual_precision,
                quantization=None,
                files={},
            )
            report = gate.compare_emulation(
                EngineArtifact(path=emulation, manifest=computed), manifest.precision
            )
            say(report.summary)
        shutil.rmtree(emulation)
        gate.pass_with(report)
        return report


def _fraction(network: Network, names: Sequence[str]) -> float:
    """Return the share of the linear layers' weights that is quantised."""
    sizes: dict[str, int] = {
        name: linear.in_features * linear.out_features
        for name, linear in linear_layers(network.module, network.checkpoint).items()
    }
    quantized: int = sum(sizes[name] for name in names)
    return quantized / sum(sizes.values())
