import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.tensorrt.fake_device import FakeDevice
from tests.engine.tensorrt.fake_tensorrt import Behaviour
from tests.engine.tensorrt.toys import (
    MANIFEST_OF_TOY,
    PROFILES,
    TOLERANCE,
    Toy,
    expected_pooled,
    expected_tokens,
    make_sequences,
    make_toy,
)

from beicli.artifact.manifest import Manifest, TensorInfo
from beicli.engine.batch import Batch
from beicli.engine.tensorrt.device import DeviceOutOfMemoryError
from beicli.errors import EngineError, PlanError

# The longest that a thread of a test waits for another.
TIMEOUT_S = 20.0


@pytest.fixture
def toy() -> Iterator[Toy]:
    made = make_toy()
    yield made
    made.engine.close()
    made.device.assert_nothing_left()


def test_every_sequence_gets_the_row_it_gets_without_padding(toy: Toy) -> None:
    toy.answer(3, 17, 1, 9)
    toy.answer(60, 2, 31, has_types=True)


def test_rows_of_tokens_come_end_to_end_without_padding(toy: Toy) -> None:
    sequences = make_sequences(np.random.default_rng(0), 5, 1, 30, 12)

    output = toy.engine.forward(Batch.from_sequences(sequences, needs_tokens=True))

    assert output.tokens is not None
    assert output.pooled is not None
    assert output.tokens.dtype == output.pooled.dtype == np.float32
    np.testing.assert_allclose(output.tokens, expected_tokens(sequences), atol=TOLERANCE)
    np.testing.assert_allclose(output.pooled, expected_pooled(sequences), atol=TOLERANCE)


def test_rows_of_tokens_are_copied_only_for_who_wants_them(toy: Toy) -> None:
    sequences = make_sequences(np.random.default_rng(0), 5, 9)

    output = toy.engine.forward(Batch.from_sequences(sequences))

    assert output.tokens is None
    assert [name for name, _ in toy.device.log].count("copy_to_host") == 1


def test_a_network_may_have_no_rows_of_sequences() -> None:
    toy = make_toy(manifest=replace(MANIFEST_OF_TOY, outputs=MANIFEST_OF_TOY.outputs[1:]))
    sequences = make_sequences(np.random.default_rng(0), 5, 9)

    output = toy.engine.forward(Batch.from_sequences(sequences, needs_tokens=True))

    assert output.pooled is None
    assert output.tokens is not None
    np.testing.assert_allclose(output.tokens, expected_tokens(sequences), atol=TOLERANCE)


def test_an_output_in_16_bit_is_returned_in_32() -> None:
    half = replace(MANIFEST_OF_TOY.outputs[0], dtype="float16")
    toy = make_toy(manifest=replace(MANIFEST_OF_TOY, outputs=(half, MANIFEST_OF_TOY.outputs[1])))
    sequences = make_sequences(np.random.default_rng(0), 5, 9)

    pooled = toy.engine.forward(Batch.from_sequences(sequences)).pooled

    assert pooled is not None
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected_pooled(sequences), atol=1e-2)


def test_a_result_is_not_overwritten_by_the_next_call(toy: Toy) -> None:
    first, second = (make_sequences(np.random.default_rng(seed), 5, 9) for seed in (1, 2))
    batches = [Batch.from_sequences(each, needs_tokens=True) for each in (first, second)]

    output, *_ = [toy.engine.forward(batches[number]) for number in (0, 1, 1, 1)]

    assert output.pooled is not None
    assert output.tokens is not None
    np.testing.assert_allclose(output.pooled, expected_pooled(first), atol=TOLERANCE)
    np.testing.assert_allclose(output.tokens, expected_tokens(first), atol=TOLERANCE)
    # The scheduler seals what it is given.
    output.pooled.flags.writeable = False


@pytest.mark.parametrize(
    ("lengths", "profile", "shape"),
    [([5, 9], 0, (2, 16)), ([33], 1, (1, 40)), ([5] * 12, 1, (12, 8)), ([199, 3], 2, (2, 200))],
)
def test_a_batch_runs_in_the_smallest_profile_at_its_own_size(
    toy: Toy, lengths: list[int], profile: int, shape: tuple[int, int]
) -> None:
    toy.answer(*lengths)

    assert toy.behaviour.profiles == [profile]
    assert toy.behaviour.shapes == [shape]


def test_a_batch_that_no_profile_admits_runs_in_several_passes(toy: Toy) -> None:
    toy.answer(150, *[40] * 7, *[2] * 20)

    assert toy.behaviour.num_runs > 2


def test_scratch_memory_is_one_block_for_each_slot_of_the_largest_profile() -> None:
    def used_bytes(num_slots: int, scratch_bytes: tuple[int, ...]) -> int:
        toy = make_toy(num_slots=num_slots, behaviour=Behaviour(scratch_bytes))
        return toy.device.used_bytes

    small, large = (1000, 3000, 2000), (1000, 1_003_000, 2000)
    # Two callers share a slot.
    for num_slots, num_blocks in ((1, 1), (2, 1), (3, 2), (4, 2)):
        more = used_bytes(num_slots, large) - used_bytes(num_slots, small)
        assert more == num_blocks * 1_000_000


def test_a_plan_without_scratch_memory_runs() -> None:
    toy = make_toy(behaviour=Behaviour(scratch_bytes=(0, 0, 0)))

    toy.answer(5, 9)


def test_one_batch_is_copied_in_while_another_computes() -> None:
    toy = make_toy(num_slots=2)
    # Each waits for its results only when both have put all their work in the streams.
    meeting = threading.Barrier(2, timeout=TIMEOUT_S)
    toy.device.before_waiting = meeting.wait

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: toy.answer(5, 9, seed=seed), range(2)))

    streams = {name: {s for n, s in toy.device.log if n == name} for name, _ in toy.device.log}
    # One computes for both; copies go by streams of their own, so they need not wait for it.
    assert len(streams["kernel"]) == 1
    assert len(streams["copy_to_device"]) == 2
    assert streams["copy_to_device"].isdisjoint(streams["kernel"])
    assert streams["copy_to_host"] == streams["copy_to_device"]


def test_each_pair_of_callers_has_a_stream() -> None:
    toy = make_toy(num_slots=4)
    meeting = threading.Barrier(4, timeout=TIMEOUT_S)
    toy.device.before_waiting = meeting.wait

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: toy.answer(5, 9, seed=seed), range(4)))

    kernels = [stream for name, stream in toy.device.log if name == "kernel"]
    assert sorted(kernels.count(stream) for stream in set(kernels)) == [2, 2]


def test_two_callers_come_to_different_streams_where_there_are_several() -> None:
    toy = make_toy(num_slots=4)
    meeting = threading.Barrier(2, timeout=TIMEOUT_S)
    toy.device.before_waiting = meeting.wait

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: toy.answer(5, 9, seed=seed), range(2)))

    assert len({stream for name, stream in toy.device.log if name == "kernel"}) == 2


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_slots=st.integers(1, 4),
    max_cuda_graphs=st.sampled_from([0, 1, 3]),
)
def test_no_result_reaches_the_wrong_caller_whatever_the_order(
    seed: int, num_slots: int, max_cuda_graphs: int
) -> None:
    device = FakeDevice(rng=random.Random(seed))
    toy = make_toy(device=device, num_slots=num_slots, max_cuda_graphs=max_cuda_graphs)
    rng = np.random.default_rng(seed)
    # Mostly small, so that sizes come again and are recorded.
    sizes = [
        rng.integers(1, rng.choice([17, 17, 60, 200]), rng.integers(1, 6)).tolist()
        for _ in range(24)
    ]

    # More callers than slots, as no promise is asked of who calls.
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda item: toy.answer(*item[1], seed=item[0]), enumerate(sizes)))

    toy.engine.close()
    toy.device.assert_nothing_left()


def test_closing_frees_everything_and_may_be_done_twice() -> None:
    toy = make_toy(num_slots=3, max_cuda_graphs=2)
    for seed in range(8):
        toy.answer(5, 9, seed=seed)
        toy.answer(20, seed=seed)

    toy.engine.close()
    toy.engine.close()

    toy.device.assert_nothing_left()


@pytest.mark.parametrize("memory_bytes", [100, 5_000, 30_000, 50_000, 52_600])
def test_an_engine_without_room_leaves_nothing_behind(memory_bytes: int) -> None:
    device = FakeDevice(memory_bytes=memory_bytes)

    with pytest.raises(DeviceOutOfMemoryError):
        make_toy(device=device)

    device.assert_nothing_left()


def test_a_plan_that_gives_no_context_is_an_error_with_what_tensorrt_says() -> None:
    device = FakeDevice()

    with pytest.raises(EngineError, match="execution context: no context for you"):
        make_toy(device=device, behaviour=Behaviour((1, 1, 1), makes_contexts=False))

    device.assert_nothing_left()


def test_a_run_that_is_refused_is_an_error_with_what_tensorrt_says(toy: Toy) -> None:
    toy.behaviour.refuses = "the tactic   is\nnot available"

    with pytest.raises(EngineError, match="TensorRT does not take a batch: the tactic is not"):
        toy.answer(5)

    toy.behaviour.refuses = None
    toy.answer(5, 9)


def test_a_refused_run_leaves_no_copy_behind_that_the_next_one_meets() -> None:
    toy = make_toy(num_slots=1)
    toy.behaviour.refuses = "no"
    with pytest.raises(EngineError):
        toy.answer(5, seed=1)
    num_copies = len([1 for name, _ in toy.device.log if name == "copy_to_device"])
    toy.behaviour.refuses = None

    toy.engine.close()

    # Closing fails if work is left in a stream.
    assert num_copies == 3
    toy.device.assert_nothing_left()


def test_what_the_engine_says_of_itself(toy: Toy) -> None:
    assert toy.engine.num_slots == 2
    assert toy.engine.preferred_num_tokens == 256
    assert [toy.engine.padded_length(number) for number in (1, 9, 199)] == [8, 16, 200]


def renamed(manifest: Manifest) -> Manifest:
    name = replace(manifest.outputs[0], name="logits")
    return replace(manifest, outputs=(name, manifest.outputs[1]))


def retyped(manifest: Manifest) -> Manifest:
    output = replace(manifest.outputs[0], dtype="float16")
    return replace(manifest, outputs=(output, manifest.outputs[1]))


def turned_round(manifest: Manifest) -> Manifest:
    mask, types = manifest.inputs[1:]
    given = TensorInfo(name="token_type_ids", dtype="int32", shape=types.shape)
    return replace(manifest, inputs=(manifest.inputs[0], mask), outputs=(*manifest.outputs, given))


def with_fewer_profiles(manifest: Manifest) -> Manifest:
    assert manifest.gpu is not None
    return replace(manifest, gpu=replace(manifest.gpu, profiles=PROFILES[:2]))


def with_another_profile(manifest: Manifest) -> Manifest:
    assert manifest.gpu is not None
    profiles = (PROFILES[0], PROFILES[0], PROFILES[2])
    return replace(manifest, gpu=replace(manifest.gpu, profiles=profiles))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renamed, "it has the tensors attention_mask, embeddings"),
        (retyped, "`embeddings` is FLOAT, not HALF"),
        (turned_round, "`token_type_ids` is no output"),
        (with_fewer_profiles, "it has 3 profiles, not 2"),
        (with_another_profile, r"`input_ids` goes from \(1, 1\) to \(12, 64\) in profile 1"),
    ],
)
def test_a_plan_of_another_engine_is_refused(change: object, words: str) -> None:
    assert callable(change)
    toy = make_toy()
    plan = toy.cuda_engine.as_plan()

    with pytest.raises(PlanError, match=words):
        type(toy.engine)(plan, toy.device, change(MANIFEST_OF_TOY), toy.engine._options)

    toy.engine.close()
    toy.device.assert_nothing_left()
