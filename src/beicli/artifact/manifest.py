"""`manifest.json`: what an engine directory holds, where it came from and what it needs.

An engine directory may come from a stranger, so reading is strict: every field typed, none
unknown, and the first thing looked at is the format version.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import pydantic

from beicli.artifact.gpu import GpuTarget
from beicli.artifact.names import MANIFEST_NAME
from beicli.errors import ArtifactError
from beicli.machine import Machine
from beicli.model.spec import ModelSpec, Task

FORMAT_VERSION = 5
# Where the OpenVINO backend keeps its graph; the weights lie beside it.
OPENVINO_MODEL = "openvino/model.xml"
# Where the torch backend keeps the files of the checkpoint that it loads.
TORCH_CHECKPOINT = "torch"
# Outputs with a row for every token; any other has one for each sequence.
TOKEN_OUTPUTS = frozenset({"token_embeddings", "token_logits"})
# What an engine of each task answers with; its last dimension is that of the answer.
_ANSWERS = {
    Task.EMBEDDING: "embeddings",
    Task.SPARSE_EMBEDDING: "sparse_embeddings",
    Task.CLASSIFICATION: "logits",
    Task.RERANKING: "logits",
    Task.TOKEN_CLASSIFICATION: "token_logits",
}


def _check_iso_date(text: str) -> str:
    datetime.fromisoformat(text)
    return text


IsoDate = Annotated[str, pydantic.AfterValidator(_check_iso_date)]
Backend = Literal["openvino", "torch", "tensorrt", "tensorrt-rtx", "tensorrt-llm"]
# Those whose graph TensorRT compiles.
GPU_BACKENDS: frozenset[Backend] = frozenset({"tensorrt", "tensorrt-rtx"})
ResidualPrecision = Literal["f32", "bf16", "f16"]
# `int8`, `fp8`, `fp4`: the products in 8 or 4 bit, what lies between them as
# `Quantization.residual_precision` says.
Precision = Literal["f32", "bf16", "f16", "int8", "fp8", "fp4"]
QUANTIZED_PRECISIONS: frozenset[Precision] = frozenset({"int8", "fp8", "fp4"})
QuantizationMethod = Literal[
    "weights_int8", "smooth_quant", "fp8", "fp8_mlp_only", "fp4", "fp4_mlp_only", "modelopt"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the directory."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the checkpoint came from.

    kind: `HF` or `LOCAL`; repo: as the configuration names it.
    revision: as asked for; resolved_revision: the commit it stood for, None for a local folder.
    """

    kind: str
    repo: str
    revision: str | None
    resolved_revision: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or output of the compiled graph; a dimension that varies is named, not numbered."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the engine accepts.

    max_num_tokens: padded tokens in one forward pass. max_batch_size: sequences in one.
    max_input_length: tokens of one input, the smaller of the model's window and max_num_tokens.
    """

    max_num_tokens: int
    max_batch_size: int
    max_input_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How an engine in 8 or 4 bit computes the products of activations and weights.

    method: as the configuration asks; `modelopt` if the checkpoint itself was quantised.
    residual_precision: what everything else is computed in.
    static: products whose activations have one scale, found by calibration; dynamic: products
        whose activations are scaled when they come, each token or block by itself; kept: products
        left in the residual precision, since the accuracy needs it. Names of operators in the
        graph.
    quantized_fraction: share of the multiplications that are in 8 or 4 bit.
    dynamic_group_size: numbers of a token that share a scale, where there are dynamic products.
    calibration: where the texts of the calibration came from, and how many they were.
    """

    method: QuantizationMethod
    residual_precision: ResidualPrecision
    static: tuple[str, ...]
    dynamic: tuple[str, ...]
    kept: tuple[str, ...]
    quantized_fraction: float
    dynamic_group_size: int
    calibration: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What `bei build --tune` found fastest, and the machine it was found on.

    num_slots: forward passes at the same time; num_threads: over all slots.
    preferred_num_tokens: padded tokens where a batch is cut.
    tokens_per_second: what it reached, on texts of mixed lengths.
    """

    machine: Machine
    num_slots: int
    num_threads: int
    preferred_num_tokens: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of `manifest.json`.

    created_at: UTC, ISO 8601. build: the resolved `trt_llm.build` section, as plain values.
    precision: what the engine computes in. cpu_features: what it needs of the CPU.
    toolchain: versions of what built it. files: every file but the manifest, by relative path.
    default_route: where a Truss platform's bare predict path leads, if the configuration says.
    quantization: of an engine in 8 or 4 bit, else None. tuning: None if the engine was not tuned.
    gpu: of an engine of TensorRT, else None.
    """

    format_version: int
    bei_version: str
    created_at: IsoDate
    name: str
    source: Source
    model: ModelSpec
    build: Mapping[str, Any]
    backend: Backend
    precision: Precision
    cpu_features: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    limits: Limits
    toolchain: Mapping[str, str]
    files: Mapping[str, FileEntry]
    default_route: str | None
    quantization: Quantization | None
    tuning: Tuning | None
    gpu: GpuTarget | None

    @property
    def residual_precision(self) -> ResidualPrecision:
        """What is computed in where nothing is quantised."""
        if self.quantization is not None:
            return self.quantization.residual_precision
        match self.precision:
            case "f32" | "bf16" | "f16":
                return self.precision
            case quantized:
                raise AssertionError(f"an engine in {quantized} says how")


_ADAPTER = pydantic.TypeAdapter(Manifest)
_DIGEST = "digest"


def dump_manifest(manifest: Manifest) -> str:
    """Return the JSON text of `manifest`, indented, keys in field order, a digest of it last."""
    return _dump(asdict(manifest) | {_DIGEST: manifest_digest(manifest)})


def manifest_digest(manifest: Manifest) -> str:
    """Return the hexadecimal sha256 that ends a manifest; engines that differ have others."""
    return hashlib.sha256(_dump(asdict(manifest)).encode()).hexdigest()


def parse_manifest(text: str) -> Manifest:
    """Read the JSON text of a manifest; raises ArtifactError saying what is wrong.

    It must be the very text that `dump_manifest` writes, so that no change of it goes unseen.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Plain ValueError: a number of more digits than Python converts.
        raise ArtifactError(
            f"`{MANIFEST_NAME}` is not JSON: {error}", hint="rebuild the engine with `bei build`"
        ) from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ArtifactError(
            f"`{MANIFEST_NAME}` has format version {version!r}; this version of bei reads "
            f"{FORMAT_VERSION}",
            hint="rebuild the engine with `bei build`, or use the bei version that made it",
        )
    data.pop(_DIGEST, None)
    try:
        manifest = _ADAPTER.validate_json(_dump(data), strict=True, extra="forbid")
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"`{MANIFEST_NAME}`: `{place}`: {first['msg']}",
            hint="the file was edited or written by something else; rebuild with `bei build`",
        ) from error
    if dump_manifest(manifest) != text:
        raise ArtifactError(
            f"`{MANIFEST_NAME}` was changed after the build: its digest does not match",
            hint="copy the whole directory again, or rebuild it with `bei build`",
        )
    _check_consistency(manifest)
    return manifest


def _check_consistency(manifest: Manifest) -> None:
    """See that the engine's answer has a number for each label, or each dimension."""
    parts = (
        ("quantization", manifest.quantization, manifest.precision in QUANTIZED_PRECISIONS),
        ("gpu", manifest.gpu, manifest.backend in GPU_BACKENDS),
    )
    for name, part, is_wanted in parts:
        if (part is not None) != is_wanted:
            raise ArtifactError(
                f"`{MANIFEST_NAME}` contradicts itself: backend {manifest.backend}, precision "
                f"{manifest.precision}, and {'no' if part is None else 'a'} `{name}`",
                hint="the file was edited or written by something else; rebuild with `bei build`",
            )
    model = manifest.model
    has_vectors = model.task in {Task.EMBEDDING, Task.SPARSE_EMBEDDING}
    is_complete = bool(model.pooling) if has_vectors else model.score_activation is not None
    width = model.embedding_dimension if has_vectors else len(model.labels)
    answers = [each for each in manifest.outputs if each.name == _ANSWERS[model.task]]
    if not is_complete or [answer.shape[-1:] for answer in answers] != [(width,)]:
        what = "dimensions" if has_vectors else "labels"
        found = ", ".join(f"{output.name} {list(output.shape)}" for output in manifest.outputs)
        raise ArtifactError(
            f"`{MANIFEST_NAME}` contradicts itself: {model.task} with {width:,} {what}, and "
            f"outputs {found or 'none'}",
            hint="the file was edited or written by something else; rebuild with `bei build`",
        )


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
