"""The fakes are as strict as they say, and have the names that TensorRT has."""

import inspect
import random
import re
import threading

import numpy as np
import pytest
from tests.engine.tensorrt.fake_device import FakeDevice
from tests.engine.tensorrt.fake_tensorrt import (
    FakeCudaEngine,
    FakeExecutionContext,
    FakeRtxRuntimeConfig,
    FakeRuntimeConfig,
    fake_trt,
    read_api,
)
from tests.engine.tensorrt.toys import make_toy

from beicli.artifact.gpu import Flavor
from beicli.engine.tensorrt.cuda import CudaDevice
from beicli.engine.tensorrt.device import DeviceMemory, Stream

FAKES: list[tuple[str, type, Flavor]] = [
    ("ICudaEngine", FakeCudaEngine, "tensorrt"),
    ("ICudaEngine", FakeCudaEngine, "tensorrt-rtx"),
    ("IExecutionContext", FakeExecutionContext, "tensorrt"),
    ("IExecutionContext", FakeExecutionContext, "tensorrt-rtx"),
    ("IRuntimeConfig", FakeRuntimeConfig, "tensorrt"),
    ("IRuntimeConfig", FakeRtxRuntimeConfig, "tensorrt-rtx"),
]
# What a fake has for tests, beside TensorRT's own.
OWN_NAMES = {"as_plan"}


def public_names(fake: type) -> set[str]:
    return {name for name in dir(fake) if not name.startswith("_")} - OWN_NAMES


@pytest.fixture
def device() -> FakeDevice:
    made = FakeDevice()
    made.make_current()
    return made


@pytest.mark.parametrize(("name", "fake", "flavor"), FAKES)
def test_whatever_a_fake_offers_is_there_in_tensorrt(name: str, fake: type, flavor: Flavor) -> None:
    assert public_names(fake)
    assert public_names(fake) <= set(read_api(flavor)[name])


@pytest.mark.parametrize(
    ("name", "fake"), [(name, fake) for name, fake, flavor in FAKES if flavor == "tensorrt-rtx"]
)
def test_a_fake_takes_the_arguments_that_tensorrt_takes(name: str, fake: type) -> None:
    trt = pytest.importorskip("tensorrt_rtx")

    for method in public_names(fake):
        real = getattr(getattr(trt, name), method)
        if isinstance(real, property):
            continue
        # pybind11 writes signatures into docstrings: `name(self: ..., shape: tuple) -> bool`.
        signatures = [
            re.findall(r"(\w+): ", re.sub(r"<[^>]*>", "", line).split("->")[0])
            for line in (real.__doc__ or "").splitlines()
            if re.match(rf"(\d+\. )?{method}\(self", line)
        ]
        assert list(inspect.signature(getattr(fake, method)).parameters) in signatures, method


def test_enumerations_have_the_values_of_the_installed_tensorrt() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for name, members in vars(fake_trt("tensorrt-rtx")).items():
        if not name.startswith("_"):
            real = getattr(trt, name).__members__
            assert {key: int(value) for key, value in real.items()} == dict(members.__members__)


@pytest.mark.parametrize("implementation", [CudaDevice, FakeDevice])
def test_a_device_has_every_method_with_the_arguments_of_the_protocol(
    implementation: type,
) -> None:
    for name, method in vars(DeviceMemory).items():
        if name.startswith("_"):
            continue
        wanted = inspect.signature(method)
        assert inspect.signature(getattr(implementation, name)) == wanted, name


def test_a_copy_reads_its_source_when_the_stream_comes_to_it(device: FakeDevice) -> None:
    stream, address = device.create_stream(), device.allocate(4)
    pinned = device.allocate_pinned(4)
    pinned[:] = 1
    device.copy_to_device(address, pinned, stream)
    pinned[:] = 2

    device.synchronize_stream(stream)

    assert list(device.view(address, 4)) == [2] * 4


def test_one_stream_waits_for_another_only_by_an_event(device: FakeDevice) -> None:
    first, second = device.create_stream(), device.create_stream()
    done: list[str] = []
    device.launch(first, lambda: done.append("first"))
    device.launch(second, lambda: done.append("second"))
    device.synchronize_stream(second)
    assert done == ["second"]

    event = device.create_event()
    device.record(event, first)
    device.wait(second, event)
    device.launch(second, lambda: done.append("third"))
    device.synchronize_stream(second)

    assert done == ["second", "first", "third"]


def test_with_a_random_order_work_is_done_before_anyone_waits() -> None:
    device = FakeDevice(rng=random.Random(0))
    device.make_current()
    stream = device.create_stream()
    done: list[int] = []
    for number in range(20):
        device.launch(stream, lambda number=number: done.append(number))  # type: ignore[misc]

    assert 0 < len(done) < 20
    device.synchronize_stream(stream)
    assert done == list(range(20))


def test_freed_and_foreign_addresses_are_refused(device: FakeDevice) -> None:
    stream, address = device.create_stream(), device.allocate(8)
    pinned = device.allocate_pinned(8)
    device.copy_to_host(pinned, address, stream)
    device.free(address)

    with pytest.raises(AssertionError, match="are not allocated"):
        device.synchronize_stream(stream)
    with pytest.raises(AssertionError, match="are not allocated"):
        device.view(device.allocate(8), 9)


def test_pinned_memory_is_poisoned_when_freed_and_other_memory_is_not_taken(
    device: FakeDevice,
) -> None:
    stream, address = device.create_stream(), device.allocate(8)
    pinned = device.allocate_pinned(8)
    pinned[:] = 7
    device.free_pinned(pinned)
    assert 7 not in pinned

    for memory in (pinned, np.zeros(8, dtype=np.uint8)):
        device.copy_to_device(address, memory, stream)
        with pytest.raises(AssertionError, match="not pinned"):
            device.synchronize_stream(stream)


def test_a_thread_must_say_what_gpu_it_uses() -> None:
    with pytest.raises(AssertionError, match="has not said"):
        FakeDevice().create_stream()


def test_nobody_else_may_put_work_into_what_is_captured(device: FakeDevice) -> None:
    stream = device.create_stream()
    failures: list[BaseException] = []

    def intrude() -> None:
        device.make_current()
        try:
            device.launch(stream, lambda: None)
        except AssertionError as error:
            failures.append(error)

    def enqueue() -> None:
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()

    device.capture(stream, enqueue)

    assert ["another thread" in str(error) for error in failures] == [True]


def test_what_was_captured_runs_only_when_launched(device: FakeDevice) -> None:
    stream = device.create_stream()
    done: list[int] = []
    graph = device.capture(stream, lambda: device.launch(stream, lambda: done.append(1)))
    device.synchronize_stream(stream)
    assert done == []

    device.launch_graph(graph, stream)
    device.launch_graph(graph, stream)
    device.synchronize_stream(stream)

    assert done == [1, 1]
    device.destroy_graph(graph)
    with pytest.raises(KeyError):
        device.launch_graph(graph, stream)


def test_what_is_left_over_is_named(device: FakeDevice) -> None:
    device.allocate(8)

    with pytest.raises(AssertionError, match="'blocks': 1"):
        device.assert_nothing_left()


def test_a_context_that_changed_after_it_was_recorded_is_noticed() -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=2)
    for seed in range(3):
        toy.answer(5, 9, seed=seed)
    (recording,) = toy.engine._lanes[0].recordings._recordings.values()

    recording.context.raw.set_input_shape("input_ids", (2, 8))

    with pytest.raises(AssertionError, match="its context was changed"):
        toy.answer(5, 9)


def test_a_context_does_not_run_on_scratch_memory_of_another_stream() -> None:
    toy = make_toy(num_slots=1)
    toy.answer(5)

    raw = toy.engine._lanes[0].contexts[0].raw
    with pytest.raises(AssertionError):
        raw.execute_async_v3(Stream(toy.device.create_stream()))
