"""What an engine of TensorRT-LLM has in its directory: a checkpoint, and a probe of its numbers.

No machine without a GPU can say what TensorRT-LLM makes of a checkpoint. So the build computes a
few sequences in float32, and the engine compares its own numbers with those whenever it is loaded.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beicli.errors import ArtifactError

# The checkpoint as TensorRT-LLM takes it.
LLM_CHECKPOINT = "tensorrt_llm/checkpoint"
LLM_PROBE = "tensorrt_llm/probe.npz"

_NAMES = ("input_ids", "token_type_ids", "cu_seqlens", "outputs")
_HINT = "copy the whole directory again, or rebuild it with `bei build`"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A few sequences end to end, and what the checkpoint makes of them in float32.

    input_ids, token_type_ids: [num_tokens], int32. cu_seqlens: [num_sequences + 1], int32.
    outputs: [num_sequences, dimension], as the network gives them.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32]
    cu_seqlens: NDArray[np.int32]
    outputs: NDArray[np.float32]

    def error(self, outputs: NDArray[np.float32]) -> float:
        """Return how far other outputs are from these, relative to their size."""
        if outputs.shape != self.outputs.shape:
            return float("inf")
        difference = float(np.linalg.norm(outputs - self.outputs))
        return difference / max(float(np.linalg.norm(self.outputs)), 1e-12)


def write_probe(directory: Path, probe: Probe) -> None:
    """Write it into an engine directory."""
    path = directory / LLM_PROBE
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: getattr(probe, name) for name in _NAMES})


def read_probe(directory: Path) -> Probe:
    """Read that of an engine directory; raises ArtifactError if it cannot be read."""
    path = directory / LLM_PROBE
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Probe(**{name: stored[name] for name in _NAMES})
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ArtifactError(f"`{path}` cannot be read: {error}", hint=_HINT) from error
