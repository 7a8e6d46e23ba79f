import pytest

from beicli.artifact.manifest import Precision
from beicli.config.choices import Accelerator
from beicli.errors import UsageError
from beicli.tensorrt.targets import (
    ACCELERATOR_SM,
    accelerator_sm,
    check_flavor,
    check_precision,
    compiles_without_gpu,
    default_flavor,
    parse_target,
)


@pytest.mark.parametrize(("text", "sm"), [("sm89", 89), ("SM_90", 90), (" sm120 ", 120)])
def test_a_target_is_a_compute_capability_without_the_point(text: str, sm: int) -> None:
    assert parse_target(text) == sm


@pytest.mark.parametrize("text", ["", "89", "sm", "sm8.9", "sm70", "sm999", "h100"])
def test_another_target_is_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(UsageError, match=f"`--target {text}` is not a GPU") as raised:
        parse_target(text)

    assert "sm90" in (raised.value.hint or "")


def test_every_gpu_that_has_a_name_has_a_number_or_a_reason() -> None:
    for accelerator in Accelerator:
        if accelerator in ACCELERATOR_SM:
            assert parse_target(f"sm{accelerator_sm(accelerator)}") == ACCELERATOR_SM[accelerator]
        else:
            with pytest.raises(UsageError, match=f"`resources.accelerator` is `{accelerator}`"):
                accelerator_sm(accelerator)
    assert set(Accelerator) - set(ACCELERATOR_SM) == {Accelerator.V100, Accelerator.B10}


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 120, 121])
def test_what_can_be_compiled_without_the_gpu_is(sm: int) -> None:
    assert default_flavor(sm) == "tensorrt-rtx"
    assert compiles_without_gpu("tensorrt-rtx", sm)
    assert not compiles_without_gpu("tensorrt", sm)


@pytest.mark.parametrize("sm", [90, 100, 103])
def test_data_centre_gpus_are_compiled_for_where_they_are(sm: int) -> None:
    assert default_flavor(sm) == "tensorrt"
    assert not compiles_without_gpu("tensorrt", sm)
    check_flavor("tensorrt", sm)
    with pytest.raises(UsageError, match=f"tensorrt-rtx has no kernels for sm{sm}"):
        check_flavor("tensorrt-rtx", sm)


@pytest.mark.parametrize(
    ("precision", "first"), [("bf16", 80), ("fp8", 89), ("fp4", 100), ("f16", 75), ("f32", 75)]
)
def test_a_precision_begins_with_a_generation(precision: Precision, first: int) -> None:
    for sm in (75, 80, 86, 89, 90, 100, 120):
        if sm >= first:
            check_precision(precision, sm)
        else:
            with pytest.raises(UsageError, match=f"sm{sm} does not multiply in {precision}"):
                check_precision(precision, sm)
