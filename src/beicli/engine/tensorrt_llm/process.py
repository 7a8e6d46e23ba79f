"""Starts the worker, talks to it, and tells what became of it when it is gone.

One question at a time: the answer to each is read before the next is asked.
"""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beicli.engine.batch import Float32, Int32
from beicli.engine.tensorrt_llm import worker
from beicli.errors import ArtifactError, BeiError, EngineError, ToolMissingError

# Weights are read and kernels are tuned; of large models that takes minutes.
LOAD_TIMEOUT_S = 1800.0
# The longest batch takes seconds. Whoever has not answered by then does not any more.
ENCODE_TIMEOUT_S = 120.0

_END_TIMEOUT_S = 10.0
_MAX_LOG_BYTES = 2000
_OLD_HINT = "install a version with `LLM.encode`, after 1.2, in the environment it has for itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the worker is started with.

    python: of the environment that has TensorRT-LLM. model: folder of the checkpoint.
    dtype: as torch names it. variables: over those of this process.
    """

    python: Path
    model: Path
    dtype: str
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    variables: Mapping[str, str]
    load_timeout_s: float = LOAD_TIMEOUT_S
    encode_timeout_s: float = ENCODE_TIMEOUT_S


class WorkerProcess:
    """A running worker with its model loaded."""

    def __init__(self, options: WorkerOptions) -> None:
        """Start it and wait until it is ready.

        Raises ToolMissingError if its version cannot encode, ArtifactError if it cannot load the
        model, EngineError if it ends or hangs.
        """
        self._options = options
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own Python
                [options.python, worker.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env={"TLLM_LOG_LEVEL": "WARNING", **os.environ, **options.variables},
                # Ctrl-C in a terminal is for the server, which first answers what still runs.
                start_new_session=True,
            )
        try:
            self.version = self._load()
        except BaseException:
            self.kill()
            self._log.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def encode(self, sequences: Sequence[int], ids: Int32, type_ids: Int32 | None) -> Float32:
        """Return the outputs of sequences, [num_sequences, dimension].

        sequences: the length of each. ids, type_ids: [num_tokens], end to end.
        Raises EngineError; the worker goes on if it said itself that it failed, else it is dead.
        """
        header = {
            "kind": "encode",
            "lengths": [int(length) for length in sequences],
            "has_type_ids": type_ids is not None,
        }
        arrays = [ids] if type_ids is None else [ids, type_ids]
        payload = np.concatenate(arrays, dtype=np.int32).tobytes()
        answer, content = self._ask(header, payload, self._options.encode_timeout_s)
        if answer.get("kind") == "error":
            raise EngineError(f"TensorRT-LLM failed: {answer.get('message')}")
        return self._parse_outputs(answer, content, num_sequences=len(sequences))

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Let it end, and see that it does; one that has ended already may be closed too."""
        self._connection.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()

    def kill(self) -> None:
        """End it now, and what it has started, which may hold the GPU."""
        self._connection.close()
        if self.is_alive:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _load(self) -> str:
        options = self._options
        header = {
            "kind": "load",
            "model": str(options.model),
            "dtype": options.dtype,
            "max_batch_size": options.max_batch_size,
            "max_num_tokens": options.max_num_tokens,
            "max_seq_len": options.max_seq_len,
        }
        answer, _ = self._ask(header, b"", options.load_timeout_s)
        if answer.get("kind") == "ready":
            return str(answer.get("version"))
        message = str(answer.get("message"))
        if answer.get("error") == worker.TOO_OLD:
            raise ToolMissingError(f"`{options.python}`: {message}", hint=_OLD_HINT)
        if answer.get("error") == worker.CANNOT_LOAD:
            raise ArtifactError(
                f"TensorRT-LLM cannot load `{options.model}`: {message}",
                hint="serve it with another backend: build it with `--backend tensorrt`",
            )
        raise self._garbage(f"it answers {answer}")

    def _ask(
        self, header: dict[str, Any], payload: bytes, timeout_s: float
    ) -> tuple[dict[str, Any], bytearray]:
        """Return the answer to a message; raises EngineError, and kills whoever gives none."""
        try:
            # Of every part of the message, which is enough: they follow one another at once.
            self._connection.settimeout(timeout_s)
            worker.send(self._connection, header, payload)
            answer = worker.receive(self._connection)
        except TimeoutError:
            self.kill()
            raise EngineError(
                f"TensorRT-LLM's process did not answer for {timeout_s:g} s, and was ended"
            ) from None
        except OSError:
            answer = None
        except worker.ProtocolError as error:
            raise self._garbage(str(error)) from error
        if answer is None:
            raise self._ended()
        return answer

    def _parse_outputs(
        self, answer: dict[str, Any], content: bytearray, *, num_sequences: int
    ) -> Float32:
        shape = answer.get("shape")
        is_matrix = (
            answer.get("kind") == "output"
            and isinstance(shape, list)
            and len(shape) == 2  # noqa: PLR2004 - a matrix
            and shape[0] == num_sequences
            and len(content) == 4 * shape[0] * shape[1]
        )
        if not is_matrix:
            raise self._garbage(f"it answers {answer} with {len(content):,} bytes")
        assert isinstance(shape, list), "it is a matrix"
        return np.frombuffer(content, dtype=np.float32).reshape(shape)

    def _garbage(self, what: str) -> BeiError:
        self.kill()
        return EngineError(f"TensorRT-LLM's process said what was not understood: {what}")

    def _ended(self) -> BeiError:
        self._connection.close()
        try:
            code = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.returncode
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return EngineError(f"TensorRT-LLM's process ended {how}: {self._last_words()}")

    def _last_words(self) -> str:
        size_bytes = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(size_bytes - _MAX_LOG_BYTES, 0))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
