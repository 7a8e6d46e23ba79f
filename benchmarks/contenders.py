"""Who `peers.py` compares: each is made ready once, then measured in every round.

A contender's figures are texts/s by the load they were measured under: `in process`, or over HTTP
8 clients that send 32 texts (`8x32`) and 64 that send one short text (`64x1`).
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ceiling import measure_ceiling
from infinity import InfinitySettings, MissingPeerError, infinity
from libraries import Libraries
from measuring import bench, build, measure_raw, serving, time_texts
from sentence_transformers import SentenceTransformer

from beicli.artifact.directory import EngineArtifact
from beicli.machine import available_cpus, this_machine
from beicli.modeling.quiet import quiet

REFERENCE_BATCH_SIZE = 32
INFINITY_ONNX_BATCH_SIZE = 32
IN_PROCESS, BATCHES, SINGLES = "in process", "8x32", "64x1"
# What `bei build` is asked for, and what it computes in, by the name of the engine.
ENGINES: Mapping[str, tuple["Precision", tuple[str, ...]]] = {
    "f32": ("f32", ("--precision", "f32")),
    "bf16": ("bf16", ("--precision", "bf16")),
    "smooth_quant": ("int8", ("--set", "trt_llm.build.quantization_type=smooth_quant")),
    "weights_int8": ("int8", ("--set", "trt_llm.build.quantization_type=weights_int8")),
}

Precision = Literal["f32", "bf16", "int8"]
Figures = Mapping[str, float]
Measure = Callable[[], Figures]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all contenders share.

    dataset: `texts` as a file; short_dataset: what clients with single texts send. infinity_env: a
    virtual environment made from `infinity.txt`, or None. work: a folder for engines and logs.
    """

    checkpoint: Path
    texts: Sequence[str]
    dataset: Path
    short_dataset: Path
    duration_s: float
    infinity_env: Path | None
    libraries: Libraries
    work: Path


@dataclass(frozen=True)
class Contender:
    """Somebody to measure.

    precision: what it computes in, None for the ceilings themselves. prepare: makes it ready, with
    what has to be ended after the last round on the stack; raises MissingPeerError.
    """

    name: str
    precision: Precision | None
    prepare: Callable[[Setting, ExitStack], Measure]


def all_contenders(*, num_replicas: int) -> list[Contender]:
    """Return everybody there is; servers of several replicas only if more than one is asked for."""
    engines = [
        contender
        for name, (precision, options) in ENGINES.items()
        for contender in our_contenders(name, precision, options, num_replicas)
    ]
    peers = [
        Contender("st-f32", "f32", reference(torch.float32)),
        Contender("st-bf16", "bf16", reference(torch.bfloat16)),
        *(Contender(name, each, library(name)) for name, each in library_precisions().items()),
    ]
    sizes = (32, 64)
    servers = [
        *(Contender(f"infinity-f32-{n}", "f32", infinity_torch("float32", n)) for n in sizes),
        *(Contender(f"infinity-bf16-{n}", "bf16", infinity_torch("bfloat16", n)) for n in sizes),
        Contender("infinity-onnx-f32", "f32", infinity_onnx("f32", INFINITY_ONNX_BATCH_SIZE)),
        Contender("infinity-onnx-int8", "int8", infinity_onnx("int8", INFINITY_ONNX_BATCH_SIZE)),
    ]
    return [Contender("gemm", None, ceilings), *peers, *servers, *engines]


def library_precisions() -> Mapping[str, Precision]:
    """Return what the contenders of `peers_worker.py` compute in.

    OpenVINO left to itself takes bf16 where the CPU has it.
    """
    has_bf16 = not {"avx512_bf16", "amx_bf16"}.isdisjoint(this_machine().cpu_features)
    return {
        "st-onnx": "f32",
        "st-onnx-int8": "int8",
        "st-openvino": "bf16" if has_bf16 else "f32",
        "onnxruntime-f32": "f32",
        "onnxruntime-int8": "int8",
        "fastembed": "f32",
    }


def ceilings(_setting: Setting, _stack: ExitStack) -> Measure:
    """The best matrix products, in GFLOP/s."""
    return measure_ceiling


def reference(dtype: torch.dtype) -> Callable[[Setting, ExitStack], Measure]:
    """sentence-transformers in this process."""

    def prepare(setting: Setting, _stack: ExitStack) -> Measure:
        torch.set_num_threads(available_cpus())
        with quiet():
            model = SentenceTransformer(
                str(setting.checkpoint),
                device="cpu",
                local_files_only=True,
                model_kwargs={"dtype": dtype},
            )
        texts = list(setting.texts)

        def run() -> object:
            return model.encode(texts, batch_size=REFERENCE_BATCH_SIZE, show_progress_bar=False)

        return lambda: {IN_PROCESS: time_texts(texts, run)}

    return prepare


def library(name: str) -> Callable[[Setting, ExitStack], Measure]:
    """A library of the peers' environment, in the process of `peers_worker.py`."""

    def prepare(setting: Setting, _stack: ExitStack) -> Measure:
        setting.libraries.open(name)
        return lambda: {IN_PROCESS: setting.libraries.measure(name)}

    return prepare


def infinity_torch(dtype: str, batch_size: int) -> Callable[[Setting, ExitStack], Measure]:
    """Infinity over HTTP with its torch engine."""

    def prepare(setting: Setting, _stack: ExitStack) -> Measure:
        model = setting.checkpoint
        return infinity_server(
            setting, InfinitySettings(model=model, batch_size=batch_size, dtype=dtype)
        )

    return prepare


def infinity_onnx(precision: Precision, batch_size: int) -> Callable[[Setting, ExitStack], Measure]:
    """Infinity over HTTP with ONNX Runtime, on the graph that sentence-transformers exported."""

    def prepare(setting: Setting, _stack: ExitStack) -> Measure:
        model = setting.libraries.export(precision)
        return infinity_server(
            setting, InfinitySettings(model=model, batch_size=batch_size, engine="optimum")
        )

    return prepare


def infinity_server(setting: Setting, settings: InfinitySettings) -> Measure:
    """Infinity over HTTP, started anew in each round."""
    environment = setting.infinity_env
    if environment is None:
        raise MissingPeerError("needs --peers-env, as `make bench-peers` makes it")

    def measure() -> Figures:
        with infinity(environment, settings, setting.work / "infinity.log") as url:
            return over_http(url, setting)

    return measure


def our_contenders(
    name: str, precision: Precision, options: tuple[str, ...], num_replicas: int
) -> Iterator[Contender]:
    """One of our engines, in process and over HTTP, and the same engine in several replicas."""

    def open_engine(setting: Setting) -> EngineArtifact:
        path = setting.work / name
        if not path.exists():
            build(setting.checkpoint, path, *options)
        return EngineArtifact.open(path)

    def serve(setting: Setting, *words: str) -> Figures:
        with serving(setting.work / name, *words) as (url, _):
            return over_http(url, setting)

    def prepare(setting: Setting, _stack: ExitStack) -> Measure:
        artifact = open_engine(setting)
        return lambda: {IN_PROCESS: measure_raw(artifact, setting.texts), **serve(setting)}

    def prepare_replicas(setting: Setting, _stack: ExitStack) -> Measure:
        open_engine(setting)
        return lambda: serve(setting, "--replicas", str(num_replicas))

    yield Contender(f"bei-{name}", precision, prepare)
    if num_replicas > 1:
        yield Contender(f"bei-{name}-replicas", precision, prepare_replicas)


def over_http(url: str, setting: Setting) -> Figures:
    """Texts per second under both loads, each after `bei bench`'s own warm-up."""
    loads: Mapping[str, Mapping[str, Any]] = {
        BATCHES: {"dataset": setting.dataset, "concurrency": 8, "batch_size": 32},
        SINGLES: {"dataset": setting.short_dataset, "concurrency": 64, "batch_size": 1},
    }
    figures = {}
    for name, options in loads.items():
        point = bench(url, duration=setting.duration_s, **options)
        if point["num_failed_requests"]:
            raise MissingPeerError(f"{point['num_failed_requests']} requests failed at {name}")
        if point["client_is_limit"]:
            print(f"the client was the limit of {url} at {name}", file=sys.stderr)
        figures[name] = float(point["texts_per_second"])
    return figures
