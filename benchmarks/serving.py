"""How much of the engine's speed arrives over HTTP, and how far ahead of sentence-transformers.

Measures, in rounds within one run and on the same texts:
  reference   sentence-transformers in process, torch float32, both cores
  raw         the engine in process, all texts sorted by length, no server: the ceiling
  http 8x32   `bei serve`, 8 clients that send 32 texts a request
  http 64x1   `bei serve`, 64 clients that send one text a request
then a lone short text on an idle server, the time to readiness and the memory.

Rounds alternate because a shared machine's speed drifts: read the ratios, not the figures. The
client runs on the same cores as the server and is part of what HTTP costs here.
"""

import argparse
import http.client
import json
import platform
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import torch
from sentence_transformers import SentenceTransformer

from beicli.artifact.directory import EngineArtifact
from beicli.engine.base import Engine
from beicli.engine.batch import Batch, TokenSequence
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions
from beicli.machine import available_cpus
from beicli.pipeline.loaded_engine import open_tokenizer

BEI = Path(sys.executable).parent / "bei"
CONFIG = Path(__file__).parent.parent / "examples" / "all-minilm-l6-v2"
NUM_TEXTS = 600
SHORT_TEXT = "How do I reset my password?"
NUM_STARTS = 5


def main() -> None:
    """Measure everything and print the table and one JSON line."""
    arguments = parse_arguments()
    texts = make_texts(arguments.models / "lee50")
    with tempfile.TemporaryDirectory(prefix="bei-bench-") as directory:
        work = Path(directory)
        engine_path = work / "engine"
        build(arguments.models / "all-minilm-l6-v2", engine_path)
        dataset = work / "texts.jsonl"
        dataset.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        artifact = EngineArtifact.open(engine_path)
        rates = measure_rates(arguments, artifact, texts, dataset)
        idle = measure_idle(artifact)
        starts = [measure_start(engine_path) for _ in range(NUM_STARTS)]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_name(),
        "num_cpus": available_cpus(),
        "precision": artifact.manifest.precision,
        "texts_per_second": {name: round(statistics.median(r)) for name, r in rates.items()},
        "ratios": ratios(rates),
        "idle": idle,
        "ready_s": round(statistics.median(ready for ready, _ in starts), 2),
        "resident_mb": round(max(resident for _, resident in starts)),
    }
    print_table(result)
    print(json.dumps(result))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=15, help="seconds of each HTTP run")
    return parser.parse_args()


def make_texts(corpus: Path) -> list[str]:
    """Cut the Lee news corpus into 600 pieces of 6 to 190 words, most of them short."""
    words = (corpus / "lee_background.cor").read_text(encoding="utf-8").split()
    source = random.Random(0)  # noqa: S311 - a fixed sequence is the point
    texts = []
    for _ in range(NUM_TEXTS):
        length = round(6 * (190 / 6) ** source.random())
        start = source.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


def measure_rates(
    arguments: argparse.Namespace, artifact: EngineArtifact, texts: list[str], dataset: Path
) -> dict[str, list[float]]:
    """Texts per second of each contender, one value a round."""
    reference = SentenceTransformer(
        str(arguments.models / "all-minilm-l6-v2"), device="cpu", local_files_only=True
    )
    torch.set_num_threads(available_cpus())
    contenders: dict[str, Callable[[], float]] = {
        "reference": lambda: time_texts(texts, lambda: reference.encode(texts, batch_size=32)),
        "raw": lambda: measure_raw(artifact, texts),
        "http 8x32": lambda: measure_http(artifact, dataset, arguments.duration, 8, 32),
        "http 64x1": lambda: measure_http(artifact, dataset, arguments.duration, 64, 1),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(arguments.rounds):
        for name, measure in contenders.items():
            rates[name].append(measure())
            print(f"round {number + 1}  {name:<10} {rates[name][-1]:8.1f} texts/s", file=sys.stderr)
    return rates


def time_texts(texts: Sequence[str], run: Callable[[], object]) -> float:
    """Texts per second of the faster of two runs: the first may still be warming up."""
    durations = []
    for _ in range(2):
        started_at = time.perf_counter()
        run()
        durations.append(time.perf_counter() - started_at)
    return len(texts) / min(durations)


def measure_raw(artifact: EngineArtifact, texts: list[str]) -> float:
    """The engine's ceiling: sorted by length, cut at the preferred size, one thread a slot."""
    engine = load_engine(artifact, EngineOptions())
    tokenizer = open_tokenizer(artifact.path, artifact.manifest)

    def run() -> None:
        sequences = sorted((e.sequence for e in tokenizer.encode(texts)), key=len)
        with ThreadPoolExecutor(engine.num_slots) as slots:
            list(slots.map(engine.forward, cut(sequences, engine)))

    run()
    # As long as the HTTP runs would be unfair to nobody, but a few passes do for a ceiling.
    started_at = time.perf_counter()
    num_passes = 5
    for _ in range(num_passes):
        run()
    rate = num_passes * len(texts) / (time.perf_counter() - started_at)
    engine.close()
    return rate


def cut(sequences: Sequence[TokenSequence], engine: Engine) -> Iterator[Batch]:
    """Cut sorted sequences into batches of the engine's preferred padded size."""
    batch: list[TokenSequence] = []
    for sequence in sequences:
        if batch and len(sequence) * (len(batch) + 1) > engine.preferred_num_tokens:
            yield Batch.from_sequences(batch)
            batch = []
        batch.append(sequence)
    yield Batch.from_sequences(batch)


def measure_http(
    artifact: EngineArtifact, dataset: Path, duration_s: float, concurrency: int, batch_size: int
) -> float:
    """Texts per second over HTTP, by `bei bench` against a fresh server."""
    with serving(artifact.path) as (url, _):
        report = bench(
            url, dataset, duration_s=duration_s, concurrency=concurrency, batch_size=batch_size
        )
    return float(report["texts_per_second"])


def measure_idle(artifact: EngineArtifact) -> dict[str, float]:
    """Median times of one short text, in milliseconds: forward pass, and HTTP with an idle server.

    Blocks of both alternate, so that a change of the machine's speed meets both. The client is
    `http.client`, the lightest there is here; a pause before each call lets caches and cores go to
    rest alike for both, as they do between requests.
    """
    engine = load_engine(artifact, EngineOptions())
    tokenizer = open_tokenizer(artifact.path, artifact.manifest)
    batch = Batch.from_sequences([tokenizer.encode([SHORT_TEXT])[0].sequence])
    body = json.dumps({"input": SHORT_TEXT, "encoding_format": "base64"})
    forwards: list[float] = []
    https: list[float] = []
    with serving(artifact.path) as (url, _), closing(connect(url)) as connection:

        def ask() -> None:
            connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            connection.getresponse().read()

        for _ in range(9):
            forwards.append(median_ms(lambda: engine.forward(batch)))
            https.append(median_ms(ask))
    engine.close()
    return {
        "forward_p50_ms": round(statistics.median(forwards), 2),
        "http_p50_ms": round(statistics.median(https), 2),
        "overhead_p50_ms": round(
            statistics.median(h - f for h, f in zip(https, forwards, strict=True)), 2
        ),
    }


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


def measure_start(engine_path: Path) -> tuple[float, float]:
    """Seconds from starting `bei serve` to its first 200 on /ready, and resident megabytes."""
    started_at = time.perf_counter()
    with serving(engine_path) as (url, pid):
        with urlopen(f"{url}/ready") as response:  # noqa: S310 - our own server
            response.read()
        ready_s = time.perf_counter() - started_at
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    resident = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert resident is not None
    return ready_s, int(resident.group(1)) / 1024


def bench(
    url: str, dataset: Path, *, duration_s: float, concurrency: int, batch_size: int
) -> dict[str, object]:
    """Run `bei bench` in a process of its own and return its report."""
    options = {
        "--url": url,
        "--dataset": dataset,
        "--duration": duration_s,
        "--concurrency": concurrency,
        "--batch-size": batch_size,
    }
    command = [
        str(BEI),
        "bench",
        "--json",
        *[str(part) for item in options.items() for part in item],
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report: dict[str, object] = json.loads(done.stdout)
    return report


def build(checkpoint: Path, engine: Path) -> None:
    """Compile the checkpoint into an engine directory."""
    override = f"trt_llm.build.checkpoint_repository.repo={checkpoint.absolute()}"
    command = [BEI, "build", CONFIG, "--output", engine, "--set", override]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def serving(engine: Path) -> Iterator[tuple[str, int]]:
    """Serve on a free port; give the URL and the process id."""
    command = [BEI, "serve", engine, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            found = re.search(r"http://\S+", server.stderr.readline())
            if found is None:
                sys.exit(server.stderr.read())
            yield found.group(), server.pid
        finally:
            server.terminate()


def ratios(rates: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds of ratios within a round."""
    pairs = {
        "http 8x32 / raw": ("http 8x32", "raw"),
        "http 64x1 / raw": ("http 64x1", "raw"),
        "http 8x32 / reference": ("http 8x32", "reference"),
        "http 64x1 / reference": ("http 64x1", "reference"),
        "raw / reference": ("raw", "reference"),
    }
    return {
        label: round(
            statistics.median(a / b for a, b in zip(rates[over], rates[under], strict=True)), 3
        )
        for label, (over, under) in pairs.items()
    }


def cpu_name() -> str:
    """What the processor calls itself."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found.group(1) if found else platform.processor()


def print_table(result: dict[str, object]) -> None:
    """Print the figures for people, on stderr: stdout has the JSON line."""
    for key, value in result.items():
        if isinstance(value, dict):
            print(key, file=sys.stderr)
            for name, figure in value.items():
                print(f"  {name:<24} {figure}", file=sys.stderr)
        else:
            print(f"{key:<26} {value}", file=sys.stderr)


if __name__ == "__main__":
    main()
