"""Which engines are built and checked on a GPU, as far as it and what is installed allow."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from beicli.artifact.gpu import Flavor
from beicli.artifact.manifest import Precision
from beicli.errors import UsageError
from beicli.tensorrt.targets import check_precision, compiles_without_gpu

# What `make models` gives, and how their engines are asked for: BERT, and Llama as an embedder.
MODELS = ("all-minilm-l6-v2", "smollm2-135m")
PRECISIONS: tuple[Literal["f16", "bf16", "fp8", "fp4"], ...] = ("f16", "bf16", "fp8", "fp4")
# How near the vectors must be to those in float32: the mean cosine over all texts.
MIN_COSINE: dict[Precision, float] = {"f16": 0.9995, "bf16": 0.998, "fp8": 0.98, "fp4": 0.9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One engine."""

    model: str
    flavor: Flavor
    precision: Literal["f16", "bf16", "fp8", "fp4"]

    @property
    def name(self) -> str:
        return f"{self.model} {self.flavor} {self.precision}"

    @property
    def quantization_type(self) -> str:
        """What the configuration says; 16 bit is said on the command line."""
        return self.precision if self.precision.startswith("fp") else "no_quant"


def choose_cases(sm: int, installed: Collection[Flavor]) -> Iterator[Case]:
    """Yield every engine that a GPU can have; sm: 90 for compute capability 9.0."""
    flavors: tuple[Flavor, ...] = ("tensorrt", "tensorrt-rtx")
    for flavor in flavors:
        if flavor not in installed or not _has_kernels(flavor, sm):
            continue
        for model in MODELS:
            for precision in PRECISIONS:
                if _computes(precision, sm):
                    yield Case(model=model, flavor=flavor, precision=precision)


def _has_kernels(flavor: Flavor, sm: int) -> bool:
    return flavor == "tensorrt" or compiles_without_gpu(flavor, sm)


def _computes(precision: Precision, sm: int) -> bool:
    try:
        check_precision(precision, sm)
    except UsageError:
        return False
    return True
