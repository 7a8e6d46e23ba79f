"""Builds MiniLM, serves it, asks for three sentences through the OpenAI client, and stops.

Run it with `make demo`. Everything happens on this machine: the checkpoint is a local folder, the
server listens on a free port of the loopback address.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from openai import OpenAI

BEI = Path(sys.executable).parent / "bei"
CONFIG = Path(__file__).parent / "all-minilm-l6-v2"
SENTENCES = (
    "A cat sleeps on the warm windowsill.",
    "The kitten is napping in the sun.",
    "The central bank raised interest rates.",
)


def main() -> None:
    """Build, serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="where the checkpoints are")
    checkpoint = parser.parse_args().models.absolute() / "all-minilm-l6-v2"
    with tempfile.TemporaryDirectory(prefix="bei-demo-") as directory:
        engine = Path(directory) / "engine"
        build(checkpoint, engine)
        with serving(engine) as url:
            vectors = embed(url)
    similarities = vectors @ vectors.T
    print("\nCosine similarity:")
    for i, j in ((0, 1), (0, 2), (1, 2)):
        print(f"  {similarities[i, j]:+.3f}  {SENTENCES[i]}  <->  {SENTENCES[j]}")


def build(checkpoint: Path, engine: Path) -> None:
    """Compile the checkpoint into an engine directory."""
    override = f"trt_llm.build.checkpoint_repository.repo={checkpoint}"
    command = [BEI, "build", CONFIG, "--output", engine, "--set", override]
    subprocess.run(command, check=True)  # noqa: S603 - our own command


@contextmanager
def serving(engine: Path) -> Iterator[str]:
    """Serve the engine on a free port, give its URL, and stop the server afterwards."""
    command = [BEI, "serve", engine, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603
        assert server.stderr is not None
        try:
            # The server says where it listens once it is ready.
            for line in server.stderr:
                print(line, end="", file=sys.stderr)
                if found := re.search(r"http://\S+", line):
                    yield found.group()
                    return
            sys.exit("the server did not start")
        finally:
            server.terminate()


def embed(url: str) -> np.ndarray:
    """Ask for the sentences' vectors as any user of the OpenAI client would."""
    client = OpenAI(base_url=f"{url}/v1", api_key="not-needed")
    response = client.embeddings.create(model="all-minilm-l6-v2", input=list(SENTENCES))
    return np.array([item.embedding for item in response.data])


if __name__ == "__main__":
    main()
