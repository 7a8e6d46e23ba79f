"""An engine directory that OpenVINO computes, made in a moment: the sum of its words' vectors."""

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from tests.server.fakes import (
    DIMENSION,
    FIRST_WORD_ID,
    NUM_WORDS,
    make_manifest,
    make_tokenizer,
    word_ids,
)

from beicli.artifact.directory import EngineArtifact, seal_artifact
from beicli.engine.batch import Float32


def word_vectors(seed: int = 1) -> Float32:
    """[vocabulary, DIMENSION]."""
    table = np.random.default_rng(seed).standard_normal((FIRST_WORD_ID + NUM_WORDS, DIMENSION))
    return table.astype(np.float32)


def sum_vector(*numbers: int) -> Float32:
    """What the engine must answer for the text `w1 w2`, numbers 1 and 2; of unit length."""
    total: Float32 = word_vectors()[word_ids(*numbers)].sum(axis=0)
    return total / np.linalg.norm(total)


def make_artifact(directory: Path, *, seed: int = 1) -> EngineArtifact:
    """A tiny compiled model that sums word vectors, as an engine directory; seed: of these."""
    table = word_vectors(seed)
    ids = ops.parameter([-1, -1], np.int32, name="input_ids")
    mask = ops.parameter([-1, -1], np.int32, name="attention_mask")
    for node, name in ((ids, "input_ids"), (mask, "attention_mask")):
        node.output(0).set_names({name})
    words = ops.gather(ops.constant(table), ids, ops.constant(0))
    weights = ops.unsqueeze(ops.convert(mask, "f32"), ops.constant(-1))
    pooled = ops.reduce_sum(ops.multiply(words, weights), ops.constant(1))
    pooled.output(0).set_names({"embeddings"})
    (directory / "openvino").mkdir(parents=True)
    (directory / "tokenizer").mkdir()
    model = ov.Model([pooled], [ids, mask])
    ov.save_model(model, directory / "openvino" / "model.xml", compress_to_fp16=False)
    make_tokenizer()._tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    seal_artifact(directory, make_manifest(has_tokens=False))
    return EngineArtifact.open(directory)
