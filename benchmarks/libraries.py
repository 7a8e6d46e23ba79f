"""The other side of `peers_worker.py`: starts it with the Python of its environment and asks."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from infinity import OFFLINE, MissingPeerError, last_line

WORKER = Path(__file__).parent / "peers_worker.py"


class Libraries:
    """The libraries of an environment made from `libraries.txt`, started at the first request.

    environment: None if there is none. dataset: the texts to embed. work: for exports and the log.
    """

    def __init__(
        self, environment: Path | None, checkpoint: Path, dataset: Path, work: Path
    ) -> None:
        self._environment = environment
        self._arguments = (checkpoint.absolute(), dataset, work)
        self._log = work / "libraries.log"
        self._process: subprocess.Popen[str] | None = None
        self._stack = ExitStack()

    def open(self, name: str) -> None:
        """Make a contender ready. Raises MissingPeerError, as all requests do, if that fails."""
        self._ask("open", name)

    def measure(self, name: str) -> float:
        """Return a contender's texts/s."""
        return float(self._ask("measure", name)["texts_per_second"])

    def export(self, precision: str) -> Path:
        """Return a folder with the checkpoint's ONNX graph in `f32` or `int8`, at its top."""
        return Path(self._ask("export", precision)["folder"])

    def close(self) -> None:
        """End the process, if there is one."""
        self._stack.close()

    def _ask(self, command: str, name: str) -> dict[str, Any]:
        if self._process is None:
            self._process = self._stack.enter_context(self._start())
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(json.dumps({"do": command, "name": name}), file=process.stdin, flush=True)
        except BrokenPipeError as error:
            raise MissingPeerError(last_line(self._log)) from error
        line = process.stdout.readline()
        if not line:
            raise MissingPeerError(last_line(self._log))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MissingPeerError(answer["error"])
        return answer

    @contextmanager
    def _start(self) -> Iterator["subprocess.Popen[str]"]:
        if self._environment is None:
            raise MissingPeerError("needs --peers-env, as `make bench-peers` makes it")
        command = [self._environment / "bin" / "python", WORKER, *self._arguments]
        with (
            self._log.open("wb") as log,
            subprocess.Popen(
                [str(word) for word in command],
                env=os.environ | OFFLINE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.terminate()
