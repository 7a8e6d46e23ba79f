from dataclasses import dataclass

import numpy as np
import pytest
from tests.server.fakes import DIMENSION, make_spec

from beicli.engine.batch import Batch, EngineOutput, Float32, TokenSequence
from beicli.engine.checked import CheckedEngine
from beicli.errors import EngineError
from beicli.model.spec import Task

BATCH = [TokenSequence(np.arange(length, dtype=np.int32)) for length in (2, 3)]


@dataclass
class Gives:
    """An engine with two slots that gives `output` for everything."""

    output: EngineOutput
    num_slots: int = 2
    preferred_num_tokens: int = 64
    is_closed: bool = False

    def padded_length(self, num_tokens: int) -> int:
        return num_tokens + 1

    def forward(self, batch: Batch) -> EngineOutput:
        return self.output

    def close(self) -> None:
        self.is_closed = True


def forward(output: EngineOutput, task: Task, *, needs_tokens: bool = False) -> EngineOutput:
    batch = Batch.from_sequences(BATCH, needs_tokens=needs_tokens)
    return CheckedEngine(Gives(output), make_spec(task)).forward(batch)


def rows(*shape: int) -> Float32:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("output", "task", "needs_tokens"),
    [
        (EngineOutput(rows(2, DIMENSION)), Task.EMBEDDING, False),
        (EngineOutput(rows(2, DIMENSION), rows(5, 99)), Task.EMBEDDING, True),
        (EngineOutput(rows(2, 3)), Task.CLASSIFICATION, False),
        (EngineOutput(None, rows(5, 5)), Task.TOKEN_CLASSIFICATION, True),
    ],
    ids=["vectors", "vectors and hidden states", "logits", "logits of tokens"],
)
def test_an_output_of_the_shape_asked_for_is_passed_on(
    output: EngineOutput,
    task: Task,
    needs_tokens: bool,  # noqa: FBT001 - pytest's way
) -> None:
    assert forward(output, task, needs_tokens=needs_tokens) is output


@pytest.mark.parametrize(
    ("output", "task", "message"),
    [
        (
            EngineOutput(rows(1, DIMENSION)),
            Task.EMBEDDING,
            r"an array of shape \[1, 8\] where 2 rows of 8 numbers were wanted",
        ),
        (EngineOutput(rows(2, 7)), Task.EMBEDDING, r"shape \[2, 7\]"),
        (EngineOutput(rows(2, DIMENSION), rows(4, 99)), Task.EMBEDDING, "5 rows were wanted"),
        (EngineOutput(rows(2, DIMENSION)), Task.EMBEDDING, "gave nothing where 5 rows"),
        (EngineOutput(None, rows(5, 4)), Task.TOKEN_CLASSIFICATION, "5 rows of 5 numbers"),
    ],
    ids=["rows", "width", "rows of tokens", "no tokens", "width of tokens"],
)
def test_an_output_of_another_shape_is_an_error_that_says_which(
    output: EngineOutput, task: Task, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        forward(output, task, needs_tokens=True)


def test_everything_else_is_the_engines_own() -> None:
    engine = Gives(EngineOutput(None))
    checked = CheckedEngine(engine, make_spec())

    checked.close()

    assert (checked.num_slots, checked.preferred_num_tokens, checked.padded_length(3)) == (2, 64, 4)
    assert engine.is_closed
