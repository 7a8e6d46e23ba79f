"""An engine whose outputs are looked at before anybody gets them: so many rows, of such a width.

A row too few or too many means that rows and inputs no longer belong together, and then no answer
of the batch can be trusted.
"""

from beicli.engine.base import Engine
from beicli.engine.batch import Batch, EngineOutput, Float32
from beicli.errors import EngineError
from beicli.model.spec import ModelSpec, Task


class CheckedEngine:
    """Computes with `engine`, and raises EngineError for outputs of another shape than asked for.

    model: says how wide an answer is.
    """

    def __init__(self, engine: Engine, model: ModelSpec) -> None:
        self._engine = engine
        has_vectors = model.task in {Task.EMBEDDING, Task.SPARSE_EMBEDDING}
        width = model.embedding_dimension if has_vectors else len(model.labels)
        self._answers_tokens = model.task is Task.TOKEN_CLASSIFICATION
        self._pooled_width = None if self._answers_tokens else width
        # Of an embedding model they are hidden states, before pooling and Dense modules.
        self._token_width = width if self._answers_tokens else None

    @property
    def num_slots(self) -> int:
        return self._engine.num_slots

    @property
    def preferred_num_tokens(self) -> int:
        return self._engine.preferred_num_tokens

    def padded_length(self, num_tokens: int) -> int:
        return self._engine.padded_length(num_tokens)

    def forward(self, batch: Batch) -> EngineOutput:
        """Run one batch, and see that every input has its row."""
        output = self._engine.forward(batch)
        if not self._answers_tokens:
            _check(output.pooled, batch.num_sequences, self._pooled_width)
        if batch.needs_tokens:
            _check(output.tokens, batch.num_tokens, self._token_width)
        return output

    def close(self) -> None:
        self._engine.close()


def _check(rows: Float32 | None, num_rows: int, width: int | None) -> None:
    """Raise EngineError unless there are so many rows; width: None for any."""
    shape = None if rows is None else rows.shape
    if shape is None or len(shape) != 2 or shape[0] != num_rows or width not in {None, shape[1]}:  # noqa: PLR2004 - rows and columns
        wanted = f"{num_rows} rows" if width is None else f"{num_rows} rows of {width} numbers"
        found = "nothing" if shape is None else f"an array of shape {list(shape)}"
        raise EngineError(f"the engine gave {found} where {wanted} were wanted")
