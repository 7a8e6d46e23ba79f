"""How fast texts become vectors here, beside what one would use instead, in one run.

Every contender embeds the same 600 texts with all-MiniLM-L6-v2, round after round, because the
speed of a shared machine drifts; ratios are medians over rounds of ratios within a round.

  st f32, st bf16          sentence-transformers in process, torch, batches of 32
  onnxruntime              ONNX Runtime f32 in process, batches of 256, as FastEmbed does it
  gemm f32, gemm bf16      the best of some matrix products in torch, GFLOP/s: the machine's ceiling
  infinity f32, bf16       Infinity over HTTP, in an environment of its own (--peers-env)
  NAME raw                 an engine of ours in process: all texts sorted, no server
  NAME http                the engine behind `bei serve`

HTTP is measured with 8 clients that send 32 texts, and 64 that send one short text. The client is
`bei bench` in a process of its own, on the same cores, and part of what HTTP costs here.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import onnxruntime
import torch
from measuring import (
    bench,
    build,
    cpu_name,
    make_texts,
    measure_raw,
    serving,
    time_texts,
    write_dataset,
)
from sentence_transformers import SentenceTransformer

from beicli.artifact.directory import EngineArtifact
from beicli.builder.graph import export_onnx
from beicli.machine import available_cpus
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec
from beicli.modeling.loading import load_module
from beicli.pipeline.loaded_engine import open_tokenizer

# What `bei build` is asked for, by the name of the engine.
ENGINES: Mapping[str, tuple[str, ...]] = {
    "f32": ("--precision", "f32"),
    "bf16": ("--precision", "bf16"),
    "smooth_quant": ("--set", "trt_llm.build.quantization_type=smooth_quant"),
    "weights_int8": ("--set", "trt_llm.build.quantization_type=weights_int8"),
}
INFINITY_DTYPES = {"f32": "float32", "bf16": "bfloat16"}
INFINITY_BATCH_SIZE = 32
FASTEMBED_BATCH_SIZE = 256
START_TIMEOUT_S = 90.0
# Rows, in and out features of the products whose best is the machine's ceiling.
GEMMS = ((1024, 384, 1536), (2048, 1536, 384), (2048, 2048, 2048), (4096, 1024, 1024))
GEMM_S = 0.1
NUM_SHORT_WORDS = 8

Measure = Callable[[], float]
Rates = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Goal:
    """A ratio that is aimed at: over / under, each the best of its contenders."""

    label: str
    over: str
    under: tuple[str, ...]
    wanted: float


GOALS = (
    Goal("bf16 over HTTP / sentence-transformers f32", "bf16 http 8x32", ("st f32",), 6.5),
    Goal("bf16 over HTTP / sentence-transformers bf16", "bf16 http 8x32", ("st bf16",), 2.3),
    Goal("8 bit over HTTP / sentence-transformers f32", "smooth_quant http 8x32", ("st f32",), 9.0),
    Goal(
        "8 bit over HTTP / sentence-transformers bf16", "smooth_quant http 8x32", ("st bf16",), 3.2
    ),
    Goal(
        "bf16 over HTTP / Infinity's best",
        "bf16 http 8x32",
        ("infinity f32 http 8x32", "infinity bf16 http 8x32"),
        3.0,
    ),
    Goal(
        "8 bit, 64 x 1 short text / Infinity's best",
        "smooth_quant http 64x1",
        ("infinity f32 http 64x1", "infinity bf16 http 64x1"),
        5.0,
    ),
    Goal("bf16 over HTTP / the engine alone", "bf16 http 8x32", ("bf16 raw",), 0.95),
    Goal(
        "8 bit over HTTP / the engine alone", "smooth_quant http 8x32", ("smooth_quant raw",), 0.95
    ),
    Goal("bf16 GFLOP/s over HTTP / best bf16 product", "bf16 GFLOP/s", ("gemm bf16",), 0.75),
    Goal(
        "bf16 GFLOP/s of the engine / best bf16 product", "bf16 raw GFLOP/s", ("gemm bf16",), 0.75
    ),
)


def main() -> None:
    """Measure every contender in rounds and print ratios and one JSON line."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="bei-peers-") as directory:
        run = Run(arguments, Path(directory))
        rates: dict[str, list[float]] = {}
        for number in range(arguments.rounds):
            for name, rate in run.round():
                rates.setdefault(name, []).append(rate)
                print(f"round {number + 1}  {name:<28} {rate:9.1f}", file=sys.stderr)
    found = ratios(rates)
    for label, (ratio, wanted) in found.items():
        print(f"{label:<50} {ratio:6.2f}   wanted {wanted:g}", file=sys.stderr)
    if arguments.markdown:
        print_markdown(found)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_name(),
        "num_cpus": available_cpus(),
        "versions": versions(arguments.peers_env),
        "medians": {name: round(statistics.median(each), 1) for name, each in rates.items()},
        "ratios": {label: round(ratio, 3) for label, (ratio, _) in found.items()},
    }
    print(json.dumps(result))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--peers-env", type=Path, help="environment of benchmarks/peers.txt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=10, help="seconds of each HTTP run")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--markdown", action="store_true", help="print the table of ratios as well")
    return parser.parse_args()


class Run:
    """What every round measures, made ready once."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self._checkpoint = arguments.models / "all-minilm-l6-v2"
        self._duration_s = arguments.duration
        self._peers_env = arguments.peers_env
        texts = make_texts(arguments.models / "lee50")
        self._texts = texts
        self._dataset = write_dataset(texts, work / "texts.jsonl")
        # Different beginnings of the same texts: none comes twice.
        short = dict.fromkeys(" ".join(text.split()[:NUM_SHORT_WORDS]) for text in texts)
        self._short_dataset = write_dataset(list(short), work / "short.jsonl")
        self._artifacts = {}
        for name in arguments.engines:
            build(self._checkpoint, work / name, *ENGINES[name])
            self._artifacts[name] = EngineArtifact.open(work / name)
        self._in_process = self._contenders(work)
        first = next(iter(self._artifacts.values()))
        tokenizer = open_tokenizer(first.path, first.manifest)
        lengths = [len(encoding.sequence) for encoding in tokenizer.encode(texts)]
        self._flop_per_text = flop(first.manifest.model, lengths) / len(texts)

    def round(self) -> Iterator[tuple[str, float]]:
        """Measure everything once; texts/s, or GFLOP/s where the name says so."""
        for name, measure in self._in_process.items():
            yield name, measure()
        for name, artifact in self._artifacts.items():
            yield from self._engine(name, artifact)
        for name, dtype in INFINITY_DTYPES.items() if self._peers_env is not None else ():
            with infinity(self._peers_env, self._checkpoint, dtype) as url:
                for load, rate in self._over_http(url):
                    yield f"infinity {name} http {load}", rate

    def _engine(self, name: str, artifact: EngineArtifact) -> Iterator[tuple[str, float]]:
        raw = measure_raw(artifact, self._texts)
        yield f"{name} raw", raw
        yield f"{name} raw GFLOP/s", raw * self._flop_per_text / 1e9
        with serving(artifact.path) as (url, _):
            for load, rate in self._over_http(url):
                yield f"{name} http {load}", rate
                if load == "8x32":
                    yield f"{name} GFLOP/s", rate * self._flop_per_text / 1e9

    def _over_http(self, url: str) -> Iterator[tuple[str, float]]:
        for load, dataset, concurrency, batch_size in (
            ("8x32", self._dataset, 8, 32),
            ("64x1", self._short_dataset, 64, 1),
        ):
            point = bench(
                url,
                dataset,
                duration=self._duration_s,
                concurrency=concurrency,
                batch_size=batch_size,
            )
            yield load, float(point["texts_per_second"])

    def _contenders(self, work: Path) -> dict[str, Measure]:
        torch.set_num_threads(available_cpus())
        texts = self._texts

        def reference(**options: Any) -> Measure:
            model = SentenceTransformer(
                str(self._checkpoint), device="cpu", local_files_only=True, **options
            )
            return lambda: time_texts(texts, lambda: model.encode(texts, batch_size=32))

        return {
            "st f32": reference(),
            "st bf16": reference(model_kwargs={"torch_dtype": torch.bfloat16}),
            "onnxruntime": onnx_runtime(self._checkpoint, work, texts),
            "gemm f32": lambda: gemm(torch.float32),
            "gemm bf16": lambda: gemm(torch.bfloat16),
        }


def onnx_runtime(checkpoint: Path, work: Path, texts: Sequence[str]) -> Measure:
    """ONNX Runtime as FastEmbed uses it: texts in their order, 256 a batch, padded alike."""
    spec = inspect_checkpoint(checkpoint, pooling=None)
    export_onnx(load_module(checkpoint, spec), spec, work / "model.onnx")
    session = onnxruntime.InferenceSession(work / "model.onnx", providers=["CPUExecutionProvider"])
    import tokenizers  # noqa: PLC0415 - FastEmbed's own

    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_truncation(spec.max_input_length)
    tokenizer.enable_padding(pad_id=spec.pad_token_id)

    def run() -> None:
        for start in range(0, len(texts), FASTEMBED_BATCH_SIZE):
            encoded = tokenizer.encode_batch(list(texts[start : start + FASTEMBED_BATCH_SIZE]))
            inputs = {
                "input_ids": np.array([each.ids for each in encoded], np.int32),
                "attention_mask": np.array([each.attention_mask for each in encoded], np.int32),
            }
            session.run(None, inputs)

    return lambda: time_texts(texts, run)


def gemm(dtype: torch.dtype) -> float:
    """Return the most GFLOP/s of any of the products, with all threads."""
    best = 0.0
    for rows, in_features, out_features in GEMMS:
        inputs = torch.randn(rows, in_features).to(dtype)
        weight = torch.randn(out_features, in_features).to(dtype)
        torch.nn.functional.linear(inputs, weight)
        for _ in range(5):
            num_runs = 0
            started_at = time.perf_counter()
            while time.perf_counter() - started_at < GEMM_S:
                torch.nn.functional.linear(inputs, weight)
                num_runs += 1
            seconds = time.perf_counter() - started_at
            best = max(best, 2 * rows * in_features * out_features * num_runs / seconds)
    return best / 1e9


def flop(model: ModelSpec, lengths: Sequence[int]) -> float:
    """Return the operations of the model's matrix products for texts of these lengths.

    A layer has four products of hidden by hidden, two of hidden by four times hidden, as wide as
    this model is in between, and two of every pair of tokens.
    """
    hidden = model.hidden_size
    per_token = 2 * (4 * hidden**2 + 2 * hidden * 4 * hidden)
    return float(
        sum(
            model.num_hidden_layers * (per_token + 4 * length * hidden) * length
            for length in lengths
        )
    )


@contextmanager
def infinity(environment: Path, checkpoint: Path, dtype: str) -> Iterator[str]:
    """Serve the checkpoint with Infinity on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [environment / "bin" / "infinity_emb", "v2", "--model-id", checkpoint.absolute()]
    options = {
        "--engine": "torch",
        "--device": "cpu",
        "--dtype": dtype,
        "--batch-size": INFINITY_BATCH_SIZE,
        "--host": "127.0.0.1",
        "--port": port,
        "--url-prefix": "/v1",
        "--served-model-name": "all-minilm-l6-v2",
    }
    words = [str(word) for option in options.items() for word in option]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with subprocess.Popen([*map(str, command), *words], env=offline, **quiet) as server:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/v1/models", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def wait_until_ready(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Return when `url` answers; raises RuntimeError if the server ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(URLError, ConnectionError), urlopen(url, timeout=5):  # noqa: S310
            return
        time.sleep(0.5)
    raise RuntimeError(f"no answer from {url}; exit code {server.poll()}")


def ratios(rates: Rates) -> dict[str, tuple[float, float]]:
    """Return of each goal whose contenders were measured the ratio, and what is wanted."""
    found = {}
    for goal in GOALS:
        under = [rates[name] for name in goal.under if name in rates]
        if goal.over in rates and under:
            rounds = zip(rates[goal.over], *under, strict=True)
            found[goal.label] = (
                statistics.median(over / max(others) for over, *others in rounds),
                goal.wanted,
            )
    return found


def print_markdown(found: Mapping[str, tuple[float, float]]) -> None:
    """Print the ratios beside the goals, as a table."""
    print("| ratio | measured | wanted |\n|---|---:|---:|")
    for label, (ratio, wanted) in found.items():
        print(f"| {label} | {ratio:.2f} | {wanted:g} |")


def versions(peers_env: Path | None) -> dict[str, str]:
    """Return the versions of everything that was compared."""
    ours = ("beicli", "openvino", "torch", "sentence-transformers", "transformers", "onnxruntime")
    found = {name: importlib.metadata.version(name) for name in ours}
    if peers_env is not None:
        words = [str(peers_env / "bin" / "pip"), "list", "--format", "json"]
        listed = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        for package in listed:
            if package["name"].replace("_", "-") in {"infinity-emb", "torch", "transformers"}:
                found[f"peers: {package['name']}"] = package["version"]
    return found


if __name__ == "__main__":
    main()
