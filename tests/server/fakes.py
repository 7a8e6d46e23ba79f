"""A server without a model: every text has a vector of its own, computed from its token ids."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import numpy as np
import tokenizers
from numpy.typing import NDArray

from beicli.artifact.manifest import FORMAT_VERSION, Limits, Manifest, Source, TensorInfo
from beicli.engine.batch import Batch, EngineOutput, Float32
from beicli.model.spec import ModelSpec, Pooling, ScoreActivation, Task
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.pipeline.pipeline import InferencePipeline
from beicli.pipeline.tokenizer import Tokenizer
from beicli.server.admin import Reload
from beicli.server.app import create_app
from beicli.server.exchange import Admission
from beicli.server.front import Front
from beicli.server.inference import ServerState
from beicli.server.lifecycle import Lifecycle
from beicli.server.loading import warm_up
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.run import bind_socket, serve_front
from beicli.server.watchers import Watchers

DIMENSION = 8
MAX_INPUT_LENGTH = 16
NUM_WORDS = 3000
LABELS = {
    Task.CLASSIFICATION: ("joy", "anger", "fear"),
    Task.RERANKING: ("relevance",),
    Task.TOKEN_CLASSIFICATION: ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
}
# Ids of the vocabulary: 0 padding, 1 unknown, 2 and 3 around every text, then w0, w1, …
FIRST_WORD_ID = 4
TIMEOUT_S = 20.0


def word_ids(*numbers: int) -> list[int]:
    """Token ids of the text `w1 w2` for numbers 1, 2, special tokens included."""
    return [2, *(FIRST_WORD_ID + number for number in numbers), 3]


def vector(ids: list[int]) -> Float32:
    """What the server must answer for a sequence of token ids; [DIMENSION], unit length."""
    raw = _raw_vector(np.array(ids, dtype=np.int32))
    return raw / np.linalg.norm(raw)


def logits(ids: list[int], task: Task = Task.CLASSIFICATION) -> Float32:
    """What the fake engine gives for a sequence, before any softmax; [num_labels]."""
    return _raw_vector(np.array(ids, dtype=np.int32), len(LABELS[task]))


def token_rows(ids: list[int], task: Task = Task.EMBEDDING) -> Float32:
    """What the fake engine gives for each token, whatever stands around it."""
    width = len(LABELS.get(task, range(DIMENSION)))
    return np.stack([_raw_vector(np.array([i], dtype=np.int32), width) for i in ids])


def weights(ids: list[int]) -> Float32:
    """What the fake engine gives for a sparse vector: how often each word occurs."""
    counts = np.bincount(ids, minlength=FIRST_WORD_ID + NUM_WORDS).astype(np.float32)
    counts[:FIRST_WORD_ID] = 0
    return counts


def _raw_vector(ids: NDArray[np.int32], width: int = DIMENSION) -> Float32:
    return np.random.default_rng(ids).standard_normal(width).astype(np.float32)


@dataclass
class FakeEngine:
    """Computes at once unless `gate` is closed; a sequence that holds `poison_id` fails.

    task: what it computes, and what the manifest of a server made for it says.
    prompts: what that manifest has; none of them is the default.
    labels: of a classifier, if others than LABELS; relevance_label: which of them ranks texts.
    """

    task: Task = Task.EMBEDDING
    num_slots: int = 1
    preferred_num_tokens: int = 256
    poison_id: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    relevance_label: int | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    num_sequences: int = 0
    is_closed: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def padded_length(self, num_tokens: int) -> int:
        return num_tokens

    def forward(self, batch: Batch) -> EngineOutput:
        self.gate.wait(TIMEOUT_S)
        self.num_sequences += batch.num_sequences
        sequences = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        if self.poison_id is not None and any(self.poison_id in ids for ids in sequences):
            raise RuntimeError("the engine's own words: /secret/path")
        tokens = token_rows(batch.input_ids.tolist(), self.task) if batch.needs_tokens else None
        return EngineOutput(self._pooled([ids.tolist() for ids in sequences]), tokens)

    def _pooled(self, sequences: list[list[int]]) -> Float32 | None:
        match self.task:
            case Task.TOKEN_CLASSIFICATION:
                return None
            case Task.SPARSE_EMBEDDING:
                return np.stack([weights(ids) for ids in sequences])
            case Task.EMBEDDING:
                return np.stack([_raw_vector(np.array(ids, np.int32)) for ids in sequences])
            case _:
                width = len(self.model.labels)
                return np.stack([_raw_vector(np.array(ids, np.int32), width) for ids in sequences])

    @property
    def model(self) -> ModelSpec:
        """What the manifest of a server made for this engine says of the model."""
        spec = replace(make_spec(self.task), prompts=self.prompts)
        if self.labels is not None:
            spec = replace(spec, labels=self.labels, relevance_label=self.relevance_label)
        return spec

    def close(self) -> None:
        self.is_closed = True


def make_tokenizer() -> Tokenizer:
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    words |= {f"w{number}": FIRST_WORD_ID + number for number in range(NUM_WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return Tokenizer(tokenizer, max_input_length=MAX_INPUT_LENGTH)


def make_spec(task: Task = Task.EMBEDDING) -> ModelSpec:
    spec = ModelSpec(
        architecture="BertModel",
        model_type="bert",
        task=Task.EMBEDDING,
        pooling=(Pooling.MEAN,),
        hidden_size=DIMENSION,
        embedding_dimension=DIMENSION,
        num_hidden_layers=1,
        vocab_size=FIRST_WORD_ID + NUM_WORDS,
        max_position_embeddings=MAX_INPUT_LENGTH,
        position_offset=0,
        max_input_length=MAX_INPUT_LENGTH,
        pad_token_id=0,
        normalize=True,
        do_lower_case=False,
        dense_modules=(),
        prompts={},
        default_prompt_name=None,
        dtype="float32",
    )
    if task is Task.EMBEDDING:
        return spec
    if task is Task.SPARSE_EMBEDDING:
        return replace(
            spec, task=task, pooling=(Pooling.SPLADE,), embedding_dimension=spec.vocab_size
        )
    is_reranker = task is Task.RERANKING
    return replace(
        spec,
        task=task,
        pooling=(),
        embedding_dimension=0,
        labels=LABELS[task],
        score_activation=ScoreActivation.SIGMOID if is_reranker else ScoreActivation.SOFTMAX,
        relevance_label=0 if is_reranker else None,
    )


_OUTPUTS = {
    Task.EMBEDDING: ("embeddings", "token_embeddings"),
    Task.SPARSE_EMBEDDING: ("sparse_embeddings",),
    Task.CLASSIFICATION: ("logits",),
    Task.RERANKING: ("logits",),
    Task.TOKEN_CLASSIFICATION: ("token_logits",),
}


def make_manifest(task: Task = Task.EMBEDDING, *, has_tokens: bool = True) -> Manifest:
    """has_tokens: whether an embedding engine has the output that `/embed_all` needs."""
    spec = make_spec(task)
    outputs = _OUTPUTS[task] if has_tokens else _OUTPUTS[task][:1]
    return Manifest(
        format_version=FORMAT_VERSION,
        bei_version="0.0.0",
        created_at="2026-01-02T03:04:05+00:00",
        name="tiny",
        source=Source(kind="HF", repo="example/tiny", revision="main", resolved_revision="c0ffee"),
        model=spec,
        build={},
        backend="openvino",
        precision="f32",
        cpu_features=(),
        inputs=(),
        outputs=tuple(
            TensorInfo(
                name=name,
                dtype="float32",
                shape=("batch", spec.embedding_dimension or len(spec.labels)),
            )
            for name in outputs
        ),
        limits=Limits(max_num_tokens=512, max_batch_size=64, max_input_length=MAX_INPUT_LENGTH),
        toolchain={},
        files={},
        default_route=None,
        quantization=None,
        tuning=None,
        gpu=None,
    )


def make_pipeline(
    engine: FakeEngine,
    *,
    metrics: ServerMetrics | None = None,
    limits: PipelineLimits = PipelineLimits(),  # noqa: B008 - frozen
) -> InferencePipeline:
    """Make a pipeline; call it where an event loop runs."""
    on_batch = None if metrics is None else metrics.observe_batch
    manifest = replace(make_manifest(engine.task), model=engine.model)
    return InferencePipeline(
        manifest,
        make_tokenizer(),
        engine,
        on_batch=on_batch,
        limits=limits,
    )


def make_state(options: ServerOptions | None = None) -> ServerState:
    """Make what handlers parse with; its pipeline is closed and answers nothing."""

    async def run() -> ServerState:
        with make_pipeline(FakeEngine()) as pipeline:
            return ServerState(pipeline, options or ServerOptions(), ServerMetrics(), Admission(1))

    return asyncio.run(run())


def ask(
    method: str,
    path: str,
    *,
    engine: FakeEngine | None = None,
    options: ServerOptions | None = None,
    admission: Admission | None = None,
    **request: object,
) -> httpx2.Response:
    """Send one request to a new application, without a network."""
    return ask_all([(method, path, request)], engine=engine, options=options, admission=admission)[
        0
    ]


def ask_all(
    requests: list[tuple[str, str, dict[str, object]]],
    *,
    engine: FakeEngine | None = None,
    options: ServerOptions | None = None,
    admission: Admission | None = None,
) -> list[httpx2.Response]:
    """Send requests one after the other to one application."""

    async def run() -> list[httpx2.Response]:
        metrics, given = ServerMetrics(), options or ServerOptions()
        with make_pipeline(
            engine or FakeEngine(), metrics=metrics, limits=given.pipeline
        ) as pipeline:
            watchers = Watchers(reload=same(pipeline))
            app = create_app(
                pipeline, given, metrics=metrics, admission=admission, watchers=watchers
            )
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return [
                    await client.request(method, path, **request)
                    for method, path, request in requests
                ]

    return asyncio.run(run())


def same(pipeline: InferencePipeline) -> Reload:
    """A reload that finds the same engine again."""

    async def reload() -> list[Manifest]:
        return [pipeline.manifest]

    return reload


async def serve_pipeline(
    pipeline: InferencePipeline,
    options: ServerOptions,
    lifecycle: Lifecycle,
    *,
    listener: socket.socket,
    metrics: ServerMetrics | None = None,
) -> None:
    """Serve a pipeline on a bound socket; the caller closes it.

    metrics: those that hear of the pipeline's batches.
    """

    async def load() -> list[InferencePipeline]:
        await warm_up(pipeline)
        return [pipeline]

    front = Front(options, metrics or ServerMetrics())
    front.reload = same(pipeline)
    try:
        await serve_front(front, load, lifecycle, listener=listener)
    finally:
        await front.unwatch()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


class LiveServer:
    """A real server on a free loopback port, in a thread; directory: of the engine's files."""

    def __init__(
        self, engine: FakeEngine, options: ServerOptions, directory: Path | None = None
    ) -> None:
        self.engine = engine
        self._directory = directory
        self._options = options
        self._ready: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self.url = self._ready.result(TIMEOUT_S)
        self.port = int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        """Ask the server to stop, as a signal would; nothing happens if it has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lifecycle.stop)

    def join(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Wait for the server to end; whether it did."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def num_tasks(self) -> int:
        """Tasks on the server's event loop."""
        counted: Future[int] = Future()
        self._loop.call_soon_threadsafe(
            lambda: counted.set_result(len(asyncio.all_tasks(self._loop)))
        )
        return counted.result(TIMEOUT_S)

    async def _serve(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
            self._lifecycle = Lifecycle(on_ready=self._ready.set_result)
            self.metrics = ServerMetrics()
            with (
                closing(bind_socket(self._options.host, self._options.port)) as listener,
                make_pipeline(
                    self.engine, metrics=self.metrics, limits=self._options.pipeline
                ) as self.pipeline,
            ):
                self.pipeline.directory = self._directory
                await serve_pipeline(
                    self.pipeline,
                    self._options,
                    self._lifecycle,
                    listener=listener,
                    metrics=self.metrics,
                )
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)


@contextmanager
def live_server(
    engine: FakeEngine | None = None,
    options: ServerOptions | None = None,
    *,
    directory: Path | None = None,
) -> Iterator[LiveServer]:
    """Serve during the block; afterwards the server must end by itself.

    directory: of the engine's files, if it has any.
    """
    server = LiveServer(engine or FakeEngine(), options or ServerOptions(port=0), directory)
    try:
        yield server
    finally:
        server.engine.gate.set()
        server.stop()
        ended = server.join()
    assert ended, "the server did not stop"
    assert server.engine.is_closed
