"""What TensorRT for RTX really does with graphs, on a machine without a GPU."""

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from onnx import TensorProto
from tests.tensorrt.onnx_graphs import write_attention, write_perceptron

from beicli.errors import GpuUnavailableError, PlanError, ToolMissingError
from beicli.tensorrt import api, compiler
from beicli.tensorrt.api import Messages, create_runtime, load_trt, make_logger
from beicli.tensorrt.compiler import CompileOptions, compile_plan
from beicli.tensorrt.driver import Driver

REPOSITORY = Path(__file__).parents[2]
SHAPES = ((1, 1, 64), (4, 32, 64), (8, 64, 64))
OPTIONS = CompileOptions(
    flavor="tensorrt-rtx",
    sm=89,
    profiles=[{"x": SHAPES}],
    hardware_compatibility="none",
    is_attention_fused=True,
)


@pytest.fixture(scope="module")
def trt() -> ModuleType:
    return load_trt("tensorrt-rtx")


@pytest.fixture
def perceptron(tmp_path: Path) -> Path:
    return write_perceptron(tmp_path / "model.onnx")


def test_a_plan_is_the_same_every_time(trt: ModuleType, perceptron: Path) -> None:
    plan = compile_plan(trt, perceptron, OPTIONS)

    assert plan[:4] == b"vtrt"
    assert compile_plan(trt, perceptron, OPTIONS) == plan


@pytest.mark.parametrize("sm", [75, 80, 86, 120])
def test_a_plan_is_for_one_gpu(trt: ModuleType, perceptron: Path, sm: int) -> None:
    assert compile_plan(trt, perceptron, replace(OPTIONS, sm=sm)) != compile_plan(
        trt, perceptron, OPTIONS
    )


def test_a_gpu_that_nothing_compiles_for_is_refused(trt: ModuleType, perceptron: Path) -> None:
    with pytest.raises(PlanError, match="does not compile for sm90"):
        compile_plan(trt, perceptron, replace(OPTIONS, sm=90))


def test_numbers_that_a_gpu_does_not_have_are_refused_by_name(
    trt: ModuleType, tmp_path: Path
) -> None:
    graph = write_perceptron(tmp_path / "model.onnx", TensorProto.BFLOAT16)

    with pytest.raises(PlanError, match="HW-specific datatypes: b16") as raised:
        compile_plan(trt, graph, replace(OPTIONS, sm=75))

    # Said of every machine without a GPU, and no reason.
    assert "cudaError" not in raised.value.message


def test_attention_in_float32_is_one_kernel_nowhere_and_may_be_several(
    trt: ModuleType, tmp_path: Path
) -> None:
    graph = write_attention(tmp_path / "model.onnx", TensorProto.FLOAT)
    options = replace(OPTIONS, profiles=[{"x": ((1, 4, 1, 64), (2, 4, 32, 64), (4, 4, 64, 64))}])

    with pytest.raises(PlanError, match="not supported by a dedicated kernel"):
        compile_plan(trt, graph, options)

    assert compile_plan(trt, graph, replace(options, is_attention_fused=False))


def test_a_graph_that_is_none_is_refused(trt: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")

    with pytest.raises(PlanError, match="TensorRT cannot read"):
        compile_plan(trt, path, OPTIONS)


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ([{"y": SHAPES}], "the graph takes x, and a profile has y"),
        ([{}], "the graph takes x, and a profile has "),
        ([{"x": (SHAPES[1], SHAPES[0], SHAPES[2])}], "the profile of `x` goes from"),
        ([{"x": (SHAPES[0], SHAPES[2], SHAPES[1])}], "the profile of `x` goes from"),
        ([{"x": ((1, 1, 64), (4, 32, 64), (8, 64, 65))}], "cannot compile|refuses the profile"),
        ([], "no optimization profile has been defined"),
    ],
)
def test_profiles_that_do_not_fit_are_refused(
    trt: ModuleType, perceptron: Path, profiles: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        compile_plan(trt, perceptron, replace(OPTIONS, profiles=profiles))


def test_tensorrt_itself_is_kept_from_a_machine_without_a_driver(
    trt: ModuleType, perceptron: Path
) -> None:
    # Its Builder would be a null pointer, and the next call the end of the process.
    with pytest.raises(GpuUnavailableError):
        compile_plan(trt, perceptron, replace(OPTIONS, flavor="tensorrt"))
    with pytest.raises(GpuUnavailableError):
        create_runtime(trt, make_logger(trt, Messages()))


def test_tensorrt_is_kept_from_a_driver_that_is_too_old_for_it(
    trt: ModuleType, perceptron: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "read_driver", lambda: Driver((12, 8), ()))
    message = r"the driver runs CUDA up to 12\.8; 13\.0 is wanted"

    with pytest.raises(GpuUnavailableError, match=message) as raised:
        create_runtime(trt, make_logger(trt, Messages()))
    with pytest.raises(GpuUnavailableError, match=message):
        compile_plan(trt, perceptron, replace(OPTIONS, flavor="tensorrt"))

    assert raised.value.hint == "update the NVIDIA driver to 580 or newer"


_COLLECTS_IN_A_LOGGER = """
import gc
from pathlib import Path
from tests.tensorrt.test_compiler import OPTIONS
from beicli.tensorrt import api
from beicli.tensorrt.compiler import compile_plan

class Garbage(tuple):
    def __iter__(self):
        [[] for _ in range(200_000)]
        return super().__iter__()

trt = api.load_trt("tensorrt-rtx")
logger = api.make_logger(trt, api.Messages())
gc.collect()
gc.set_threshold(50_000)
cycle = [trt.Builder(logger)]
cycle.append(cycle)
del cycle
api._NO_ERRORS = Garbage(api._NO_ERRORS)
compile_plan(trt, Path({graph!r}), OPTIONS)
"""


def test_garbage_of_tensorrt_is_not_collected_while_it_calls_its_logger(perceptron: Path) -> None:
    # In a process of its own, which would hang for ever.
    code = _COLLECTS_IN_A_LOGGER.format(graph=str(perceptron))

    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)


def test_collecting_goes_on_as_before(trt: ModuleType, perceptron: Path) -> None:
    assert gc.isenabled()

    compile_plan(trt, perceptron, OPTIONS)
    with pytest.raises(PlanError):
        compile_plan(trt, perceptron, replace(OPTIONS, sm=90))

    assert gc.isenabled()


def test_an_error_holds_nothing_that_tensorrt_made(trt: ModuleType, perceptron: Path) -> None:
    with pytest.raises(PlanError) as raised:
        compile_plan(trt, perceptron, replace(OPTIONS, sm=90))

    names = {name for entry in raised.traceback for name in entry.locals}
    assert "builder" not in names
    assert "options" in names


# To tensorrt-rtx, which stands in here, such a cache is nothing any more.
@pytest.mark.filterwarnings("ignore:Use Deprecated:DeprecationWarning")
@pytest.mark.parametrize("content", [None, b"", b"half a cache"])
def test_what_tensorrt_measured_is_kept_whole_beside_the_plans(
    trt: ModuleType,
    perceptron: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
) -> None:
    monkeypatch.setattr(api, "read_driver", lambda: Driver((13, 0), ()))
    path = tmp_path / "plans" / "tensorrt.timing"
    options = replace(OPTIONS, flavor="tensorrt", timing_cache=path)
    # Nothing can be written there yet, and the plan is not lost for that.
    assert compile_plan(trt, perceptron, options)
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)

    assert compile_plan(trt, perceptron, options)

    assert len(path.read_bytes()) > 100
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_float32_is_not_multiplied_with_fewer_bits(
    trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_fewer: list[bool] = []
    set_target = compiler._set_target

    def see(trt: ModuleType, config: Any, options: CompileOptions) -> None:
        are_fewer.append(config.get_flag(trt.BuilderFlag.TF32))
        set_target(trt, config, options)

    monkeypatch.setattr(compiler, "_set_target", see)

    assert compile_plan(trt, write_perceptron(tmp_path / "model.onnx", TensorProto.FLOAT), OPTIONS)
    assert are_fewer == [False]


def test_a_runtime_never_runs_code_of_a_plan(
    trt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "read_driver", lambda: Driver((13, 0), ()))

    runtime = create_runtime(trt, make_logger(trt, Messages()))

    assert runtime.engine_host_code_allowed is False


def test_a_missing_package_is_named_with_how_to_install_it() -> None:
    with pytest.raises(ToolMissingError, match="the package `tensorrt` is not installed") as raised:
        load_trt("tensorrt")

    assert raised.value.hint == "install it with `pip install 'beicli[tensorrt]'`"


def test_another_version_is_refused(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "__version__", "1.8.0.1")

    with pytest.raises(ToolMissingError, match=r"1\.8\.0\.1 is installed; 1\.7 is wanted"):
        load_trt("tensorrt-rtx")


def test_messages_are_told_once_and_in_one_line() -> None:
    messages = Messages()
    messages.errors += ["no\n kernel", "no\n kernel", "other"]

    assert messages.take_errors() == "no kernel; other"
    assert messages.take_errors() == "it gives no reason"
