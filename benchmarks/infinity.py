"""Infinity as a server to compare with: starts it from an environment of its own.

The checkpoint must be a local folder; nothing is fetched and nothing is reported to its makers.
Versions that work with a current torch have no BetterTransformer, so its settings are dtype, size
of a batch, and the engine: torch, or `optimum` for an ONNX graph.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
SERVED_NAME = "all-minilm-l6-v2"
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


class MissingPeerError(Exception):
    """A contender cannot be measured here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class InfinitySettings:
    """What its throughput depends on.

    model: the checkpoint's folder; for `optimum` a folder with `model.onnx` at its top. batch_size:
    most texts in a forward pass. dtype: of the weights in torch, `float32` or `bfloat16`.
    """

    model: Path
    batch_size: int
    engine: str = "torch"
    dtype: str = "float32"

    def words(self) -> tuple[str, ...]:
        """Return the command's options."""
        common = ("--engine", self.engine, "--batch-size", str(self.batch_size))
        if self.engine == "torch":
            return (*common, "--model-id", str(self.model.absolute()), "--dtype", self.dtype)
        # A graph is looked for only below the folder that the server was started in, and a graph
        # says nothing of pooling. Optimizing writes a second graph, which it then takes for one.
        onnx = ("--pooling-method", "mean", "--onnx-disable-optimize")
        return (*common, "--model-id", ".", *onnx)


@contextmanager
def infinity(environment: Path, settings: InfinitySettings, log: Path) -> Iterator[str]:
    """Serve on a free port and give the server's root.

    environment: a virtual environment made from `infinity.txt`. log: where its output goes; its
    cache lies beside. Raises MissingPeerError with the log's end if it does not get ready.
    """
    port = free_port()
    options = {
        "--served-model-name": SERVED_NAME,
        "--device": "cpu",
        "--host": "127.0.0.1",
        "--port": port,
        # Its routes stand at the root unless told; `bei bench` asks for OpenAI's paths.
        "--url-prefix": "/v1",
        # One line a request otherwise, which costs it time.
        "--log-level": "warning",
    }
    words = [str(word) for option in options.items() for word in option]
    program = str(environment.absolute() / "bin" / "infinity_emb")
    # A cache of texts and vectors on disk would not be measuring; others go where the log is.
    command = [program, "v2", *words, "--no-vector-disk-cache", *settings.words()]
    variables = os.environ | OFFLINE | {"INFINITY_HOME": str(log.with_suffix(".cache").absolute())}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=settings.model,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        try:
            if not answers(f"http://127.0.0.1:{port}/v1/models", server):
                raise MissingPeerError(f"Infinity did not start: {last_line(log)}")
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(server)


def answers(url: str, server: "subprocess.Popen[bytes]") -> bool:
    """Wait until `url` answers; False if the server ends before, or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(URLError, OSError), urlopen(url, timeout=5):  # noqa: S310 - our own
            return True
        time.sleep(0.25)
    return False


def stop(server: "subprocess.Popen[bytes]") -> None:
    """Ask the server to end, and end it if it does not."""
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()


def last_line(log: Path) -> str:
    """Return the last error that a log names, or its last line that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if "Error: " in line]
    return [*said, *errors][-1] if said else "it said nothing"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
