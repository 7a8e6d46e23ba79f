import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tests.engine.tensorrt.fake_device import FakeDevice
from tests.engine.tensorrt.fake_tensorrt import Behaviour
from tests.engine.tensorrt.toys import MANIFEST_OF_TOY, Toy, make_sequences, make_toy

from beicli.engine.batch import Batch, Float32
from beicli.engine.tensorrt.engine import RuntimeOptions, TensorRtEngine
from beicli.engine.tensorrt.graphs import GraphSwitch
from beicli.errors import EngineError

# The longest that a thread of a test waits for another.
TIMEOUT_S = 20.0


def names(toy: Toy) -> list[str]:
    """Return how runs were put in streams, in order."""
    return [name for name, _ in toy.device.log if name in {"kernel", "launch_graph"}]


def run(toy: Toy, *lengths: int, seed: int = 0) -> Float32:
    sequences = make_sequences(np.random.default_rng(seed), *lengths)
    pooled = toy.engine.forward(Batch.from_sequences(sequences)).pooled
    assert pooled is not None
    return pooled


def test_a_small_batch_is_padded_to_a_bucket_with_dummies() -> None:
    toy = make_toy(max_cuda_graphs=4)

    toy.answer(17, 5, 20)

    assert toy.behaviour.shapes == [(4, 32)]


def test_a_size_is_recorded_after_two_plain_runs_and_replayed_from_then_on() -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=4)

    for seed in range(6):
        toy.answer(5, 9, seed=seed)

    # The third run is plain too, on a context of its own, and then recorded without running.
    plain, recorded = ["kernel"] * 3, ["kernel"]
    assert names(toy) == [*plain, *recorded, *["launch_graph"] * 3]
    assert toy.behaviour.num_runs == 6


def test_a_replay_gives_exactly_what_a_plain_run_gives() -> None:
    plain, recorded = make_toy(num_slots=1), make_toy(num_slots=1, max_cuda_graphs=4)
    for seed in range(4):
        run(recorded, 16, 16, seed=seed)

    replayed = run(recorded, 16, 16, seed=9)

    assert names(recorded)[-1] == "launch_graph"
    assert np.array_equal(replayed, run(plain, 16, 16, seed=9))


def test_batches_of_nearly_the_same_size_share_a_recording() -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=4)

    for lengths in ([17, 20, 3], [30, 1, 1, 1], [18, 18, 18], [25, 2, 2], [32] * 4):
        toy.answer(*lengths)

    assert toy.device.num_graphs == 1
    assert set(toy.behaviour.shapes) == {(4, 32)}
    assert names(toy)[-2:] == ["launch_graph"] * 2


def test_other_sizes_between_do_not_disturb_what_was_recorded() -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=4)

    for seed in range(5):
        toy.answer(5, 9, seed=seed)
        toy.answer(3, seed=seed)
        toy.answer(60, 60, seed=seed)
        toy.answer(30, 30, 30, 30, 30, seed=seed)

    assert toy.device.num_graphs == 2


def test_larger_batches_are_never_recorded() -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=4)

    for seed in range(5):
        toy.answer(40, 40, seed=seed)

    assert toy.device.num_graphs == 0
    assert set(toy.behaviour.shapes) == {(2, 40)}


def test_what_was_longest_unused_makes_room_and_is_destroyed() -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=2)
    memory_bytes = toy.device.used_bytes
    for lengths in ([5], [12], [5]):
        for seed in range(3):
            toy.answer(*lengths, seed=seed)

    # A third size pushes out that of 12 tokens, as that of 5 was used since.
    for seed in range(3):
        toy.answer(30, seed=seed)

    assert toy.device.num_graphs == 2
    assert toy.device.used_bytes - memory_bytes == 2 * toy.behaviour.context_bytes
    num_made = toy.device.num_graphs_made
    toy.answer(5)
    assert toy.device.num_graphs_made == num_made
    assert names(toy)[-1] == "launch_graph"
    toy.answer(12)
    assert names(toy)[-1] == "kernel"


def test_each_caller_records_for_itself_since_its_addresses_are_its_own() -> None:
    toy = make_toy(num_slots=2, max_cuda_graphs=4)

    for seed in range(8):
        toy.answer(5, 9, seed=seed)

    assert toy.device.num_graphs == 2


def test_nothing_is_recorded_or_padded_to_buckets_if_no_graphs_are_wanted() -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=0)

    for seed in range(5):
        toy.answer(17, 5, 20, seed=seed)

    assert toy.device.num_graphs_made == 0
    assert set(toy.behaviour.shapes) == {(3, 24)}


@pytest.mark.parametrize("how", ["refused", "not_instantiated", "no_context"])
def test_what_cannot_be_recorded_is_run_plainly_with_one_warning(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    toy = make_toy(num_slots=2, max_cuda_graphs=4)
    toy.behaviour.refuses_capture = "captures are not allowed" if how == "refused" else None
    toy.device.fails_to_instantiate = how == "not_instantiated"
    toy.behaviour.makes_contexts = how != "no_context"

    with caplog.at_level(logging.WARNING):
        for seed in range(12):
            toy.answer(5, 9, seed=seed)
            toy.answer(20, seed=seed)

    assert len(caplog.records) == 1
    assert "launches cannot be recorded" in caplog.text
    assert toy.device.num_graphs == 0
    # Nor is anything padded for it any more.
    assert toy.behaviour.shapes[-1] == (1, 24)
    toy.engine.close()
    toy.device.assert_nothing_left()


def test_tensorrt_rtx_records_by_itself_in_the_smallest_profile() -> None:
    toy = make_toy(flavor="tensorrt-rtx", num_slots=2, max_cuda_graphs=4)

    for seed in range(6):
        toy.answer(5, 9, seed=seed)

    strategy = toy.cuda_engine.as_plan().trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    strategies = [config.cuda_graph_strategy for config in toy.cuda_engine._configs]
    assert strategies == [strategy, None, None] * 2
    assert toy.device.num_graphs_made == 0
    assert set(toy.behaviour.shapes) == {(2, 16)}


def test_tensorrt_rtx_is_left_alone_if_no_graphs_are_wanted() -> None:
    toy = make_toy(flavor="tensorrt-rtx", max_cuda_graphs=0)

    toy.answer(17, 5, 20)

    assert {config.cuda_graph_strategy for config in toy.cuda_engine._configs} == {None}
    assert toy.behaviour.shapes == [(3, 24)]


def test_recordings_are_dropped_when_memory_runs_out_and_the_batch_is_answered() -> None:
    toy = make_toy(
        num_slots=2,
        max_cuda_graphs=4,
        behaviour=Behaviour((1, 1, 1), context_bytes=100_000),
    )
    for seed in range(8):
        toy.answer(5, 9, seed=seed)
    assert toy.device.num_graphs == 2
    # What is free is not enough for it; what the recordings of both callers hold is.
    toy.device.memory_bytes = toy.device.used_bytes + 10_000
    toy.behaviour.working_bytes = lambda num_sequences, length: 180_000 if length > 32 else 0

    toy.answer(60, 60)

    assert toy.device.num_graphs == 0
    assert toy.behaviour.shapes[-1] == (2, 64)
    toy.answer(5, 9)


def test_recording_begins_anew_after_memory_ran_out() -> None:
    toy = make_toy(num_slots=1, max_cuda_graphs=4)
    for seed in range(4):
        toy.answer(5, 9, seed=seed)
    toy.device.memory_bytes = toy.device.used_bytes
    toy.behaviour.working_bytes = lambda num_sequences, length: 500 if length > 32 else 0
    toy.answer(60)
    toy.device.memory_bytes = 1 << 34

    for seed in range(3):
        toy.answer(5, 9, seed=seed)

    assert toy.device.num_graphs == 1


def test_a_profile_that_ends_between_two_buckets_is_recorded_at_its_end() -> None:
    assert MANIFEST_OF_TOY.gpu is not None
    first, *others = MANIFEST_OF_TOY.gpu.profiles
    small = replace(first, maximum=replace(first.maximum, num_sequences=3, length=25))
    gpu = replace(MANIFEST_OF_TOY.gpu, profiles=(replace(small, optimum=small.maximum), *others))
    toy = make_toy(max_cuda_graphs=2, manifest=replace(MANIFEST_OF_TOY, gpu=gpu))

    toy.answer(20, 20, 20)

    assert toy.behaviour.shapes == [(3, 25)]
    assert isinstance(toy.device, FakeDevice)


def test_kernels_that_tensorrt_rtx_finished_before_are_given_to_every_context() -> None:
    toy = make_toy(flavor="tensorrt-rtx", num_slots=1)
    cache = object()

    engine = TensorRtEngine(
        toy.cuda_engine.as_plan(runtime_cache=cache),
        toy.device,
        MANIFEST_OF_TOY,
        RuntimeOptions(num_slots=1, preferred_num_tokens=256, max_cuda_graphs=0),
    )

    configs = toy.cuda_engine._configs[3:]
    assert [config.get_runtime_cache() for config in configs] == [cache] * 3
    engine.close()


def test_a_recording_of_another_caller_is_not_dropped_while_it_runs() -> None:
    toy = make_toy(num_slots=4, max_cuda_graphs=4)
    for seed in range(16):
        toy.answer(5, 9, seed=seed)
    toy.device.memory_bytes = toy.device.used_bytes
    toy.behaviour.working_bytes = lambda num_sequences, length: 500 if length > 32 else 0
    launched, dropped = threading.Event(), threading.Event()

    def wait_for_the_other() -> None:
        if not launched.is_set():
            launched.set()
            assert dropped.wait(TIMEOUT_S)

    toy.device.before_waiting = wait_for_the_other
    # One caller after the other is in another stream.
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(toy.answer, 5, 9)
        assert launched.wait(TIMEOUT_S)
        toy.answer(60)
        assert toy.device.num_graphs == 0
        dropped.set()
        running.result()


def test_two_callers_that_fail_at_the_same_time_warn_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    switch = GraphSwitch(is_on=True)

    with caplog.at_level(logging.WARNING):
        switch.turn_off(EngineError("one"))
        switch.turn_off(EngineError("the other"))

    assert not switch.is_on
    assert [record.message.split(": ")[1] for record in caplog.records] == ["one"]
