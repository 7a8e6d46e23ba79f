"""A whole manifest, and engine directories that are sound but compute nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from beicli.artifact.directory import seal_artifact, stage_artifact
from beicli.artifact.manifest import (
    FORMAT_VERSION,
    FileEntry,
    Limits,
    Manifest,
    Source,
    TensorInfo,
)
from beicli.model.spec import Activation, DenseModule, ModelSpec, Pooling, Task

MODEL = ModelSpec(
    architecture="BertModel",
    model_type="bert",
    task=Task.EMBEDDING,
    pooling=(Pooling.MEAN,),
    hidden_size=32,
    embedding_dimension=8,
    num_hidden_layers=2,
    vocab_size=100,
    max_position_embeddings=64,
    position_offset=0,
    max_input_length=64,
    pad_token_id=0,
    normalize=True,
    do_lower_case=False,
    dense_modules=(
        DenseModule(
            path="2_Dense", in_features=32, out_features=8, bias=True, activation=Activation.TANH
        ),
    ),
    prompts={"query": "query: "},
    default_prompt_name="query",
    dtype="float32",
)
MANIFEST = Manifest(
    format_version=FORMAT_VERSION,
    bei_version="0.0.0",
    created_at="2026-01-02T03:04:05+00:00",
    name="tiny",
    source=Source(kind="HF", repo="someone/tiny", revision="main", resolved_revision="5" * 40),
    model=MODEL,
    build={"base_model": "encoder_bert", "max_num_tokens": 8192, "speculator": None},
    backend="openvino",
    precision="f32",
    cpu_features=(),
    inputs=(TensorInfo(name="input_ids", dtype="int32", shape=("batch", "length")),),
    outputs=(TensorInfo(name="embeddings", dtype="float32", shape=("batch", 8)),),
    limits=Limits(max_num_tokens=8192, max_batch_size=256, max_input_length=64),
    toolchain={"python": "3.11.0"},
    files={"openvino/model.xml": FileEntry(sha256="0" * 64, size_bytes=3)},
    default_route=None,
    quantization=None,
    tuning=None,
    gpu=None,
)

CONTENT = b"weights of some model"
MODEL_FILE = "openvino/model.bin"


def fill(staging: Path, *, name: str = "tiny") -> None:
    """Do what a build does: write files, then seal."""
    (staging / MODEL_FILE).parent.mkdir()
    (staging / MODEL_FILE).write_bytes(CONTENT)
    (staging / "config.yaml").write_text("model_name: tiny\n")
    seal_artifact(staging, replace(MANIFEST, name=name))


def build(
    output: Path,
    *,
    name: str = "tiny",
    force: bool = False,
    before_the_end: Callable[[], None] = lambda: None,
) -> None:
    """Make an engine directory; `before_the_end` runs when it is whole but not yet in place."""
    with stage_artifact(output, force=force) as staging:
        fill(staging, name=name)
        before_the_end()
