"""Memory that runs out, and a GPU that is lost."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.engine.tensorrt.fake_device import FakeDevice
from tests.engine.tensorrt.fake_tensorrt import Behaviour
from tests.engine.tensorrt.toys import (
    TOLERANCE,
    Toy,
    expected_pooled,
    expected_tokens,
    make_sequences,
    make_toy,
)

from beicli.engine.batch import Batch
from beicli.engine.tensorrt.device import DeviceLostError, DeviceOutOfMemoryError
from beicli.errors import EngineError, EngineLostError

FREE_BYTES = 1000


def starved_toy() -> Toy:
    """Return an engine whose runs have room for 80 tokens, padding included."""
    toy = make_toy(num_slots=2)
    toy.device.memory_bytes = toy.device.used_bytes + FREE_BYTES
    toy.behaviour.working_bytes = lambda num_sequences, length: (
        num_sequences * length * FREE_BYTES // 80
    )
    return toy


def test_a_batch_without_room_is_answered_in_parts_and_in_order() -> None:
    toy = starved_toy()
    sequences = make_sequences(np.random.default_rng(0), 60, 5, 20, 7, 7, 31, 2)

    output = toy.engine.forward(Batch.from_sequences(sequences, needs_tokens=True))

    assert output.pooled is not None
    assert output.tokens is not None
    np.testing.assert_allclose(output.pooled, expected_pooled(sequences), atol=TOLERANCE)
    np.testing.assert_allclose(output.tokens, expected_tokens(sequences), atol=TOLERANCE)
    assert max(rows * length for rows, length in toy.behaviour.shapes) <= 80


def test_a_single_sequence_without_room_says_so() -> None:
    toy = starved_toy()

    with pytest.raises(DeviceOutOfMemoryError, match=r"one sequence of 99 tokens, with 0\.0 of"):
        toy.answer(99)

    toy.answer(40, 40)
    toy.engine.close()
    toy.device.assert_nothing_left()


@pytest.mark.parametrize("num_slots", [1, 2])
def test_after_memory_ran_out_the_slots_are_as_before(num_slots: int) -> None:
    toy = make_toy(num_slots=num_slots)
    toy.device.memory_bytes = toy.device.used_bytes
    toy.behaviour.working_bytes = lambda num_sequences, length: 1
    for _ in range(3):
        with pytest.raises(DeviceOutOfMemoryError):
            toy.answer(5, 9)

    toy.device.memory_bytes += FREE_BYTES

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: toy.answer(5, 9, seed=seed), range(8)))


def test_a_gpu_that_fails_in_a_kernel_is_lost_for_good() -> None:
    toy = make_toy()
    toy.behaviour.breaks = "cudaErrorIllegalAddress"
    with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
        toy.answer(5, 9)
    log = list(toy.device.log)

    for _ in range(3):
        with pytest.raises(EngineLostError, match="cudaErrorIllegalAddress") as caught:
            toy.answer(5)
        # Not what the GPU says, which is not asked any more.
        assert type(caught.value) is EngineLostError

    assert toy.device.log == log
    assert toy.engine.lost is not None
    assert toy.engine.lost.message == "CUDA answers cudaErrorIllegalAddress"


def test_a_whole_gpu_is_not_called_lost() -> None:
    toy = make_toy()
    toy.answer(5)
    toy.behaviour.refuses = "out of memory"
    with pytest.raises(DeviceOutOfMemoryError):
        toy.answer(5)

    assert toy.engine.lost is None


def test_every_caller_hears_that_the_gpu_is_lost_and_none_waits() -> None:
    toy = make_toy(num_slots=2)
    meeting = threading.Barrier(2, timeout=20)
    toy.device.before_waiting = meeting.wait
    toy.behaviour.breaks = "cudaErrorLaunchFailure"

    def is_lost(seed: int) -> bool:
        with pytest.raises(EngineLostError):
            toy.answer(5, seed=seed)
        return True

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(is_lost, range(6))) == [True] * 6


def test_a_refusal_on_a_lost_gpu_is_the_loss_and_not_the_refusal() -> None:
    toy = make_toy(num_slots=1)
    toy.behaviour.refuses = "Cuda Runtime (unspecified launch failure)"
    toy.behaviour.breaks_when_refusing = "cudaErrorLaunchFailure"

    with pytest.raises(DeviceLostError, match="cudaErrorLaunchFailure"):
        toy.answer(5)


def test_a_context_asks_whether_the_gpu_is_lost_before_it_believes_a_refusal() -> None:
    toy = make_toy(num_slots=1)
    context = toy.engine._lanes[0].contexts[0]
    # No shapes are set, so this is refused in any case.
    with pytest.raises(EngineError, match="not all shapes"):
        context.enqueue(toy.engine._lanes[0].slot.stream)

    toy.device.lose("cudaErrorAssert")

    with pytest.raises(DeviceLostError, match="cudaErrorAssert"):
        context.enqueue(toy.engine._lanes[0].slot.stream)


def test_a_pass_that_fails_while_it_is_copied_in_leaves_no_copy_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = make_toy(num_slots=1)

    def fail(event: object, stream: object) -> None:
        raise EngineError("CUDA answers cudaErrorInvalidResourceHandle")

    with monkeypatch.context() as patch:
        patch.setattr(toy.device, "record", fail)
        with pytest.raises(EngineError, match="cudaErrorInvalidResourceHandle"):
            toy.answer(5, 9)

    # Closing fails if work is left in a stream.
    toy.engine.close()
    toy.device.assert_nothing_left()


@pytest.mark.parametrize("moment", ["context", "capture"])
def test_a_gpu_that_is_lost_while_a_launch_is_recorded_is_lost(
    moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=2)
    for seed in range(2):
        toy.answer(5, seed=seed)
    toy.behaviour.breaks_when_refusing = "cudaErrorLaunchFailure"
    toy.behaviour.makes_contexts = moment != "context"
    toy.behaviour.refuses_capture = "unspecified launch failure" if moment == "capture" else None

    with pytest.raises(DeviceLostError, match="cudaErrorLaunchFailure"):
        toy.answer(5)

    assert toy.engine.lost is not None
    # It is the loss that matters, not that nothing was recorded.
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("set_optimization_profile_async", "does not take profile 0: not now"),
        ("set_tensor_address", "does not take the address of `input_ids`: not now"),
    ],
)
def test_a_context_that_cannot_be_set_up_is_an_error_that_says_by_what(
    method: str, words: str
) -> None:
    device = FakeDevice()

    with pytest.raises(EngineError, match=words):
        make_toy(device=device, behaviour=Behaviour((1, 1, 1), refuses_setting=method))

    device.assert_nothing_left()


def test_a_shape_that_is_refused_is_said_and_set_anew_the_next_time() -> None:
    toy = make_toy(num_slots=1)
    toy.answer(5, 9)
    context = toy.engine._lanes[0].contexts[0]

    with pytest.raises(EngineError, match=r"the shape \(99, 99\) of `input_ids`: \(99, 99\) is"):
        context.set_shapes({"input_ids": (99, 99)})

    assert "input_ids" not in context.shapes
    toy.answer(5, 9)


def test_an_engine_on_a_lost_gpu_closes_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    toy = make_toy(max_cuda_graphs=2)
    for seed in range(8):
        toy.answer(5, seed=seed)
    toy.device.lose("cudaErrorECCUncorrectable")

    with caplog.at_level(logging.WARNING):
        toy.engine.close()

    assert "cudaErrorECCUncorrectable" in caplog.text
    assert toy.engine._lanes == []
