"""TensorRT for RTX, and tiny checkpoints that are exported once a test run."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
from tests.builder.architectures import ARCHITECTURES, Architecture
from tests.builder.random_models import save_random
from tests.tensorrt.networks import Exported, export

from beicli.errors import ToolMissingError
from beicli.model.spec import Pooling
from beicli.tensorrt.api import load_trt


@dataclass(frozen=True, slots=True)
class Case:
    """A random model of an architecture, with one head.

    None leaves to the architecture: pooling; weight_spread, the standard deviation of its weights;
    hidden_size, which 4 heads share.
    """

    architecture: str
    head: str
    pooling: str | None = None
    weight_spread: float | None = None
    hidden_size: int | None = None

    def __str__(self) -> str:
        parts = (self.architecture, self.head.removeprefix("For"), self.pooling)
        numbers = (self.weight_spread, self.hidden_size)
        return "-".join(str(part) for part in (*parts, *numbers) if part is not None)

    def described(self) -> Architecture:
        """Return the architecture, changed as the case wants it."""
        (found,) = (each for each in ARCHITECTURES if str(each) == self.architecture)
        changes: dict[str, float | int] = {}
        if self.weight_spread is not None:
            changes["initializer_range"] = self.weight_spread
        if self.hidden_size is not None:
            changes["hidden_size"] = self.hidden_size
            if "head_dim" in found.config:
                changes["head_dim"] = self.hidden_size // 4
        return replace(
            found, config={**found.config, **changes}, pooling=self.pooling or found.pooling
        )


# Heads of 16 features, for which there are kernels. The first is masked by padding alone, and its
# weights are small enough that what one product loses is not blown up by the next layer; the second
# is masked by a window too, and rotated; the third is causal, with heads that share keys.
BERT = Case("Bert", "Model", weight_spread=0.1, hidden_size=64)
MODERNBERT = Case("ModernBert", "Model", hidden_size=64)
QWEN3 = Case("Qwen3", "Model", hidden_size=64)

Export = Callable[[Case], Exported]


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """TensorRT for RTX; without it a test is skipped, except on CI."""
    try:
        return load_trt("tensorrt-rtx")
    except ToolMissingError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function that exports the model of a case, once."""
    done: dict[Case, Exported] = {}

    def get(case: Case) -> Exported:
        if case not in done:
            done[case] = _export(case, tmp_path_factory.mktemp("network"))
        return done[case]

    return get


def _export(case: Case, directory: Path) -> Exported:
    checkpoint = save_random(directory / "checkpoint", case.described(), case.head)
    pooling = Pooling.SPLADE if case.head == "ForMaskedLM" else None
    return export(checkpoint, directory / "graph", pooling)
