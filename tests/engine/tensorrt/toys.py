"""An engine over a network small enough to be a few lines of numpy, and what it should answer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.artifact.engines import MANIFEST, MODEL
from tests.engine.tensorrt.fake_device import FakeDevice
from tests.engine.tensorrt.fake_tensorrt import Behaviour, FakeCudaEngine, Network

from beicli.artifact.gpu import Dimensions, Flavor, GpuTarget, Profile
from beicli.artifact.manifest import Limits, Manifest, TensorInfo
from beicli.engine.batch import Batch, Float32, TokenSequence
from beicli.engine.tensorrt.engine import RuntimeOptions, TensorRtEngine

DIMENSION = 5
VOCAB_SIZE = MODEL.vocab_size
PAD_TOKEN_ID = 3
TABLE = np.random.default_rng(1).normal(size=(VOCAB_SIZE, DIMENSION))
TOLERANCE = 1e-5


def profile(num_sequences: int, length: int) -> Profile:
    """Return a profile from one token to that size."""
    one = Dimensions(num_sequences=1, length=1)
    most = Dimensions(num_sequences=num_sequences, length=length)
    return Profile(minimum=one, optimum=most, maximum=most)


PROFILES = (profile(4, 32), profile(12, 64), profile(3, 200))
MANIFEST_OF_TOY = replace(
    MANIFEST,
    model=replace(MODEL, pad_token_id=PAD_TOKEN_ID, takes_token_type_ids=True),
    backend="tensorrt",
    precision="f16",
    inputs=tuple(
        TensorInfo(name=name, dtype="int32", shape=("batch", "length"))
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ),
    outputs=(
        TensorInfo(name="embeddings", dtype="float32", shape=("batch", DIMENSION)),
        TensorInfo(name="token_embeddings", dtype="float32", shape=("batch", "length", DIMENSION)),
    ),
    limits=Limits(max_num_tokens=600, max_batch_size=64, max_input_length=200),
    gpu=GpuTarget(sm=90, layout="padded", hardware_compatibility="none", profiles=PROFILES),
)


def toy_network(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Give each token a vector of its id, type and place, and each sequence their mean."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert set(np.unique(ids)) <= set(range(VOCAB_SIZE)), "ids that nobody sent"
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.sum(axis=1).min() > 0, "attention over nothing"
    tokens = _token_vectors(ids, inputs["token_type_ids"])
    pooled = (tokens * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return {"embeddings": pooled, "token_embeddings": tokens}


def expected_pooled(sequences: list[TokenSequence]) -> Float32:
    """Return what the toy gives for each sequence, without any padding."""
    rows = [_token_vectors(*_ids_and_types(each)).mean(axis=0) for each in sequences]
    return np.array(rows, dtype=np.float32)


def expected_tokens(sequences: list[TokenSequence]) -> Float32:
    """Return what the toy gives for each token, end to end."""
    rows = [_token_vectors(*_ids_and_types(each)) for each in sequences]
    return np.concatenate(rows).astype(np.float32)


def make_sequences(
    rng: np.random.Generator, *lengths: int, has_types: bool = False
) -> list[TokenSequence]:
    """Return sequences of random tokens."""
    return [
        TokenSequence(
            rng.integers(0, VOCAB_SIZE, length, dtype=np.int32),
            rng.integers(0, 2, length, dtype=np.int32) if has_types else None,
        )
        for length in lengths
    ]


@dataclass(frozen=True, slots=True)
class Toy:
    """An engine, and the fakes below it."""

    engine: TensorRtEngine
    device: FakeDevice
    behaviour: Behaviour
    cuda_engine: FakeCudaEngine

    def answer(self, *lengths: int, seed: int = 0, has_types: bool = False) -> None:
        """Run a batch of random sequences, and see that each row is right."""
        sequences = make_sequences(np.random.default_rng(seed), *lengths, has_types=has_types)
        output = self.engine.forward(Batch.from_sequences(sequences))
        assert output.pooled is not None
        np.testing.assert_allclose(output.pooled, expected_pooled(sequences), atol=TOLERANCE)


def make_toy(
    *,
    device: FakeDevice | None = None,
    flavor: Flavor = "tensorrt",
    num_slots: int = 2,
    max_cuda_graphs: int = 0,
    manifest: Manifest = MANIFEST_OF_TOY,
    behaviour: Behaviour | None = None,
    network: Network | None = None,
) -> Toy:
    """Return an engine of the toy network, or another one."""
    device = device or FakeDevice()
    behaviour = behaviour or Behaviour(scratch_bytes=(1000, 3000, 2000))
    cuda_engine = FakeCudaEngine(flavor, device, manifest, network or toy_network, behaviour)
    engine = TensorRtEngine(
        cuda_engine.as_plan(),
        device,
        manifest,
        RuntimeOptions(
            num_slots=num_slots, preferred_num_tokens=256, max_cuda_graphs=max_cuda_graphs
        ),
    )
    return Toy(engine, device, behaviour, cuda_engine)


def _ids_and_types(sequence: TokenSequence) -> tuple[NDArray[Any], NDArray[Any]]:
    types = sequence.token_type_ids
    types = np.zeros_like(sequence.input_ids) if types is None else types
    return sequence.input_ids, types


def _token_vectors(ids: NDArray[Any], types: NDArray[Any]) -> NDArray[np.float64]:
    places = 1 + np.arange(ids.shape[-1]) / 7
    vectors: NDArray[np.float64] = (TABLE[ids] + types[..., None]) * places[:, None]
    return vectors
