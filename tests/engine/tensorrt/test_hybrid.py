"""The engine over a network whose tokens lie end to end."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.tensorrt.toys import (
    DIMENSION,
    MANIFEST_OF_TOY,
    TABLE,
    TOLERANCE,
    Toy,
    expected_pooled,
    expected_tokens,
    make_sequences,
    make_toy,
)

from beicli.artifact.gpu import GpuTarget
from beicli.artifact.manifest import Manifest, TensorInfo
from beicli.engine.batch import Batch
from beicli.errors import PlanError
from beicli.modeling.hybrid import hybrid_inputs


def hybrid_manifest() -> Manifest:
    target = MANIFEST_OF_TOY.gpu
    assert isinstance(target, GpuTarget)
    tokens = TensorInfo(name="token_embeddings", dtype="float32", shape=("tokens", DIMENSION))
    return replace(
        MANIFEST_OF_TOY,
        inputs=hybrid_inputs(MANIFEST_OF_TOY.model),
        outputs=(MANIFEST_OF_TOY.outputs[0], tokens),
        gpu=replace(target, layout="hybrid"),
    )


def hybrid_network(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Do what the toy does, token by token; the mean, and a way there and back, are padded."""
    places = 1 + inputs["position_ids"][0] / 7
    ids, types = inputs["input_ids"][0], inputs["token_type_ids"][0]
    tokens = (TABLE[ids] + types[:, None]) * places[:, None]
    padded = tokens[inputs["pad_index"]]
    lengths = inputs["lengths"]
    assert lengths.min() > 0, "attention over nothing"
    mask = np.arange(padded.shape[1]) < lengths[:, None]
    pooled = (padded * mask[:, :, None]).sum(axis=1) / lengths[:, None]
    back = padded.reshape(-1, DIMENSION)[inputs["unpad_index"]]
    return {"embeddings": pooled, "token_embeddings": back}


def make(**options: Any) -> Toy:
    return make_toy(manifest=hybrid_manifest(), network=hybrid_network, **options)


@pytest.fixture
def toy() -> Iterator[Toy]:
    made = make()
    yield made
    made.engine.close()
    made.device.assert_nothing_left()


def test_every_sequence_and_token_gets_its_own_row(toy: Toy) -> None:
    for lengths in ([3, 17, 1, 9], [60, 2, 31], [1], [200, 199]):
        sequences = make_sequences(np.random.default_rng(1), *lengths, has_types=True)

        output = toy.engine.forward(Batch.from_sequences(sequences, needs_tokens=True))

        assert output.pooled is not None
        assert output.tokens is not None
        np.testing.assert_allclose(output.pooled, expected_pooled(sequences), atol=TOLERANCE)
        np.testing.assert_allclose(output.tokens, expected_tokens(sequences), atol=TOLERANCE)


def test_rows_of_tokens_outlive_the_next_batch(toy: Toy) -> None:
    first, second = (make_sequences(np.random.default_rng(seed), 30, 12) for seed in (0, 1))
    output = toy.engine.forward(Batch.from_sequences(first, needs_tokens=True))

    # On both lanes.
    for _ in range(2):
        toy.engine.forward(Batch.from_sequences(second, needs_tokens=True))

    assert output.tokens is not None
    np.testing.assert_allclose(output.tokens, expected_tokens(first), atol=TOLERANCE)


def test_tokens_are_filled_up_to_a_multiple_of_8_and_not_to_the_longest(toy: Toy) -> None:
    toy.answer(60, 2, 31)

    assert toy.behaviour.shapes == [(1, 96)]


def test_tokens_never_exceed_the_padded_batch() -> None:
    manifest = hybrid_manifest()
    limits = replace(manifest.limits, max_input_length=197)
    toy = make_toy(manifest=replace(manifest, limits=limits), network=hybrid_network)

    toy.answer(197)

    # The longest input is not padded, nor are its tokens.
    assert toy.behaviour.shapes == [(1, 197)]


def test_a_batch_that_no_profile_admits_is_run_in_several_passes(toy: Toy) -> None:
    toy.answer(*[50] * 20)

    assert toy.behaviour.shapes == [(1, 600), (1, 400)]


def test_small_batches_are_recorded_in_one_size_of_tokens() -> None:
    toy = make(num_slots=1, max_cuda_graphs=4)

    for seed, lengths in enumerate([(5, 9), (3, 16), (11, 2), (16, 9), (9, 1)]):
        toy.answer(*lengths, seed=seed)

    assert set(toy.behaviour.shapes) == {(1, 32)}
    assert [name for name, _ in toy.device.log].count("launch_graph") == 2


def test_a_recording_is_not_launched_for_fewer_tokens_once_recording_is_off() -> None:
    toy = make(num_slots=1, max_cuda_graphs=4)
    for seed in range(4):
        toy.answer(5, 9, seed=seed)
    toy.behaviour.refuses_capture = "captures are not allowed"
    for seed in range(3):
        toy.answer(20, seed=seed)

    toy.answer(9, 9)

    # Tokens are filled up to a multiple of 8 then, while the recording takes 32.
    assert toy.device.num_graphs == 1
    assert toy.behaviour.shapes[-1] == (1, 24)


def test_a_plan_of_the_padded_layout_is_refused() -> None:
    padded = make_toy()

    with pytest.raises(PlanError, match="it has the tensors attention_mask"):
        type(padded.engine)(
            padded.cuda_engine.as_plan(), padded.device, hybrid_manifest(), padded.engine._options
        )

    padded.engine.close()
    padded.device.assert_nothing_left()
