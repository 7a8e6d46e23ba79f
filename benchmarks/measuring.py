"""What the benchmarks share: texts, a server of our own, its client, and the clock."""

import http.client
import json
import platform
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beicli.artifact.directory import EngineArtifact
from beicli.engine.base import Engine
from beicli.engine.batch import Batch, TokenSequence
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions
from beicli.pipeline.loaded_engine import open_tokenizer

BEI = Path(sys.executable).parent / "bei"
CONFIG = Path(__file__).parent.parent / "examples" / "all-minilm-l6-v2"
NUM_TEXTS = 600


class BenchFailedError(Exception):
    """`bei bench` could not measure; the message is its own."""


def make_texts(corpus: Path, *, max_num_words: int = 190) -> list[str]:
    """Cut the Lee news corpus into 600 pieces of 6 words or more, most of them short."""
    words = (corpus / "lee_background.cor").read_text(encoding="utf-8").split()
    source = random.Random(0)  # noqa: S311 - a fixed sequence is the point
    texts = []
    for _ in range(NUM_TEXTS):
        length = round(6 * (max_num_words / 6) ** source.random())
        start = source.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


def time_texts(texts: Sequence[str], run: Callable[[], object]) -> float:
    """Texts per second of the faster of two runs: the first may still be warming up."""
    durations = []
    for _ in range(2):
        started_at = time.perf_counter()
        run()
        durations.append(time.perf_counter() - started_at)
    return len(texts) / min(durations)


def cut(sequences: Sequence[TokenSequence], engine: Engine) -> Iterator[Batch]:
    """Cut sorted sequences into batches of the engine's preferred padded size.

    A batch that is half full also ends where the next sequence is padded further.
    """
    batch: list[TokenSequence] = []
    length = 0
    for sequence in sequences:
        longer = engine.padded_length(len(sequence))
        is_full = longer * (len(batch) + 1) > engine.preferred_num_tokens
        is_half_full = longer != length and 2 * length * len(batch) > engine.preferred_num_tokens
        if batch and (is_full or is_half_full):
            yield Batch.from_sequences(batch)
            batch = []
        batch.append(sequence)
        length = longer
    yield Batch.from_sequences(batch)


def connect(url: str) -> http.client.HTTPConnection:
    """Open a connection that sends at once: http.client writes headers and body separately."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def median_ms(call: Callable[[], object]) -> float:
    """Median duration of 200 calls, a millisecond apart."""
    durations = []
    for _ in range(200):
        time.sleep(0.001)
        started_at = time.perf_counter()
        call()
        durations.append((time.perf_counter() - started_at) * 1e3)
    return statistics.median(durations)


def bench(url: str, dataset: Path, **options: object) -> Mapping[str, Any]:
    """Run `bei bench` in a process of its own and return the one point of its report.

    options: those of the command, `batch_size=32` for `--batch-size 32`. Raises BenchFailedError.
    """
    given = {"url": url, "dataset": dataset, **options}
    words = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [str(BEI), "bench", "--json", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchFailedError(done.stderr.strip())
    report: dict[str, Any] = json.loads(done.stdout)
    (point,) = report["points"]
    return dict(point)


def write_dataset(texts: Sequence[str], path: Path) -> Path:
    """Write texts as `bei bench --dataset` reads them."""
    path.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    return path


def build(checkpoint: Path, engine: Path, *options: str) -> None:
    """Compile the checkpoint into an engine directory."""
    override = f"trt_llm.build.checkpoint_repository.repo={checkpoint.absolute()}"
    command = [BEI, "build", CONFIG, "--output", engine, "--set", override, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure_raw(artifact: EngineArtifact, texts: Sequence[str]) -> float:
    """Texts per second of the engine in process, sorted by length, one thread a slot."""
    engine = load_engine(artifact, EngineOptions())
    tokenizer = open_tokenizer(artifact.path, artifact.manifest)

    def run() -> None:
        sequences = sorted((e.sequence for e in tokenizer.encode(texts)), key=len)
        with ThreadPoolExecutor(engine.num_slots) as slots:
            list(slots.map(engine.forward, cut(sequences, engine)))

    run()
    # As long as the HTTP runs would be unfair to nobody, but a few passes do for a ceiling.
    num_passes = 5
    started_at = time.perf_counter()
    for _ in range(num_passes):
        run()
    rate = num_passes * len(texts) / (time.perf_counter() - started_at)
    engine.close()
    return rate


@contextmanager
def serving(engine: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Serve on a free port; give the URL and the process id."""
    command = [str(BEI), "serve", str(engine), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            found = re.search(r"http://\S+", server.stderr.readline())
            if found is None:
                sys.exit(server.stderr.read())
            yield found.group(), server.pid
        finally:
            server.terminate()


def cpu_name() -> str:
    """What the processor calls itself."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found.group(1) if found else platform.processor()
