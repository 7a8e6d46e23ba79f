"""Which of the builder's graphs TensorRT for RTX has kernels for, on which GPUs.

Attention must be one kernel everywhere; heads of 8 features, as the tiniest models have, have none.
"""

import re
from types import ModuleType

import numpy as np
import pytest
from tests.tensorrt.conftest import BERT, MODERNBERT, QWEN3, Case, Export

from beicli.builder.gpu_graph.plan import GpuMethod
from beicli.builder.gpu_graph.typed import HalfType
from beicli.errors import PlanError


@pytest.mark.parametrize(("half", "sm"), [("f16", 80), ("bf16", 89), ("f16", 120), ("bf16", 120)])
@pytest.mark.parametrize("case", [BERT, MODERNBERT, QWEN3], ids=str)
def test_16_bit_compiles_with_attention_in_one_kernel(
    case: Case, half: HalfType, sm: int, exported: Export, rtx: ModuleType
) -> None:
    plan = exported(case).write(half=half).compile(rtx, sm)

    assert plan[:4] == b"vtrt"


@pytest.mark.parametrize(
    ("method", "sm"), [("fp8", 89), ("fp8", 120), ("fp8_mlp_only", 89), ("fp4", 120)]
)
@pytest.mark.parametrize("case", [BERT, QWEN3], ids=str)
def test_8_and_4_bit_compile(
    case: Case, method: GpuMethod, sm: int, exported: Export, rtx: ModuleType
) -> None:
    plan = exported(case).write(half="f16", method=method).compile(rtx, sm)

    assert plan[:4] == b"vtrt"


@pytest.mark.parametrize(
    ("half", "method", "sm", "reason"),
    [
        ("f16", "fp8", 86, "fp8_e4m3"),
        ("f16", "fp4", 89, "fp4_e2m1"),
        ("bf16", None, 75, "b16"),
    ],
)
def test_numbers_that_a_gpu_does_not_have_are_refused_by_name(
    half: HalfType,
    method: GpuMethod | None,
    sm: int,
    reason: str,
    exported: Export,
    rtx: ModuleType,
) -> None:
    graph = exported(BERT).write(half=half, method=method)

    with pytest.raises(PlanError, match=rf"sm{sm}.*HW-specific datatypes: .*{re.escape(reason)}"):
        graph.compile(rtx, sm)


def test_float32_compiles_only_if_attention_may_be_several_kernels(
    exported: Export, rtx: ModuleType
) -> None:
    graph = exported(BERT).write()

    with pytest.raises(PlanError, match="not supported by a dedicated kernel"):
        graph.compile(rtx, 89)

    assert graph.compile(rtx, 89, is_attention_fused=False)[:4] == b"vtrt"


def test_a_graph_without_profiles_is_refused(exported: Export, rtx: ModuleType) -> None:
    graph = exported(BERT).write(half="f16")

    with pytest.raises(PlanError, match="no optimization profile has been defined"):
        graph.compile(rtx, 89, profiles=[])


@pytest.mark.parametrize(("method", "sm"), [(None, 89), ("fp4", 120)])
def test_the_same_checkpoint_gives_the_same_graph_and_the_same_plan_but_for_an_order(
    method: GpuMethod | None, sm: int, exported: Export, rtx: ModuleType
) -> None:
    written, plans = [], []
    for _ in range(2):
        graph = exported(BERT).write(half="f16", method=method)
        written.append(graph.path.read_bytes())
        plans.append(np.frombuffer(graph.compile(rtx, sm), dtype=np.uint8))

    assert written[0] == written[1]
    assert len(plans[0]) == len(plans[1])
    # The outputs of a plan lie in one order or the other, and are numbered by it.
    assert (plans[0] != plans[1]).mean() < 0.001
