"""`python -m tests.gpu.inside WHAT ENGINE OUTPUT`: runs an engine in a process of its own.

What a GPU does to a process that misuses it ends with the process, and the report goes on.
Vectors are written to OUTPUT, and what else was found is printed as JSON.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beicli.artifact.directory import EngineArtifact
from beicli.datasets import bundled_dataset
from beicli.engine.options import EngineOptions, GpuOptions
from beicli.engine.tensorrt import graphs
from beicli.engine.tensorrt.cuda import CudaDevice
from beicli.errors import EngineError
from beicli.pipeline.pipeline import InferencePipeline

Float32 = NDArray[np.float32]
# Left free when memory is taken away: what a launch itself needs.
_LEFT_BYTES = 16 * 2**20
_SMALLEST_BYTES = 2**20
_NUM_ROUNDS = 3
# Two lanes take turns. In each a size runs plainly twice, is recorded the third time, and launched
# from the fourth on.
_NUM_LAUNCHES = 8
_NUM_SHORT_TEXTS = 24


def find_outputs(engine: Path, output: Path) -> Mapping[str, Any]:
    """Write the vectors of the bundled texts, in long batches, several times over."""
    texts = bundled_dataset().texts

    async def run() -> list[Float32]:
        with InferencePipeline.open(EngineArtifact.open(engine)) as pipeline:
            return [np.stack(await pipeline.outputs(texts)) for _ in range(_NUM_ROUNDS)]

    *others, last = asyncio.run(run())
    np.save(output, last)
    largest = max(float(np.abs(each - last).max()) for each in others)
    return {"num_texts": len(last), "max_difference_between_rounds": largest}


def find_graphs(engine: Path, output: Path) -> Mapping[str, Any]:
    """Compare recorded launches with plain ones, text by text: only small batches are recorded."""
    texts = bundled_dataset().texts[:_NUM_SHORT_TEXTS]
    heard = Heard()
    graphs.logger.addHandler(heard)
    recorded, plain = (
        asyncio.run(compute_one_by_one(engine, texts, max_cuda_graphs=number)) for number in (16, 0)
    )
    graphs.logger.removeHandler(heard)
    np.save(output, recorded)
    return {
        "num_texts": len(texts),
        "max_difference": float(np.abs(recorded - plain).max()),
        "warnings": heard.messages,
    }


class Heard(logging.Handler):
    """Keeps what is logged: whoever cannot record says so there alone, and goes on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


async def compute_one_by_one(
    engine: Path, texts: Sequence[str], *, max_cuda_graphs: int
) -> Float32:
    """Return the vectors of texts that are asked for alone, each the last of several times."""
    options = EngineOptions(gpu=GpuOptions(max_cuda_graphs=max_cuda_graphs))
    rows = []
    with InferencePipeline.open(EngineArtifact.open(engine), options=options) as pipeline:
        for text in texts:
            rounds = [await pipeline.outputs([text]) for _ in range(_NUM_LAUNCHES)]
            rows.append(rounds[-1][0])
    return np.stack(rows)


def find_memory(engine: Path, output: Path) -> Mapping[str, Any]:
    """Take away the GPU's memory while an engine is loaded: it splits, or says so, and recovers."""
    texts = bundled_dataset().texts

    async def run() -> Mapping[str, Any]:
        with InferencePipeline.open(EngineArtifact.open(engine)) as pipeline:
            before = np.stack(await pipeline.outputs(texts))
            error = ""
            with occupied() as num_bytes:
                try:
                    during = np.stack(await pipeline.outputs(texts))
                except EngineError as failure:
                    during, error = before, failure.message
            after = np.stack(await pipeline.outputs(texts))
        np.save(output, after)
        return {
            "occupied_bytes": num_bytes,
            "error": error,
            "max_difference_during": float(np.abs(during - before).max()),
            "max_difference_after": float(np.abs(after - before).max()),
        }

    return asyncio.run(run())


@contextmanager
def occupied() -> Iterator[int]:
    """Hold nearly all of the GPU's free memory; yields how many bytes."""
    device = CudaDevice(0)
    held, num_bytes, size_bytes = [], 0, 2**30
    while size_bytes >= _SMALLEST_BYTES:
        free_bytes = device.memory_info().free_bytes
        if free_bytes - size_bytes < _LEFT_BYTES:
            size_bytes //= 2
            continue
        try:
            held.append(device.allocate(size_bytes))
            num_bytes += size_bytes
        except EngineError:
            # What is free need not be in one piece.
            size_bytes //= 2
    try:
        yield num_bytes
    finally:
        for address in held:
            device.free(address)


FINDERS: dict[str, Callable[[Path, Path], Mapping[str, Any]]] = {
    "outputs": find_outputs,
    "graphs": find_graphs,
    "memory": find_memory,
}


if __name__ == "__main__":
    print(json.dumps(FINDERS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
