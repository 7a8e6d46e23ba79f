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

from beicli.artifact.names import MANIFEST_NAME
from beicli.errors import ArtifactError
from beicli.machine import Machine
from beicli.model.spec import ModelSpec, Task

FORMAT_VERSION = 4
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
Backend = Literal["openvino", "torch"]
# `int8`: the products in 8 bit, what lies between them as `Quantization.residual_precision` says.
Precision = Literal["f32", "bf16", "int8"]


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
    """How an engine in `int8` computes the products of activations and weights.

    method: `weights_int8` or `smooth_quant`, as the configuration asks.
    residual_precision: what everything else is computed in.
    static: products whose activations have one scale, found by calibration; dynamic: products
        whose activations are scaled when they come, each token by itself; kept: products left in
        the residual precision, since the accuracy needs it. Names of operators in the graph.
    quantized_fraction: share of the multiplications that are in 8 bit.
    dynamic_group_size: numbers of a token that share a scale, where there are dynamic products.
    calibration: where the texts of the calibration came from, and how many they were.
    """

    method: Literal["weights_int8", "smooth_quant"]
    residual_precision: Literal["f32", "bf16"]
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
    quantization: of an engine in `int8`, else None. tuning: None if the engine was not tuned.
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

    @property
    def residual_precision(self) -> Literal["f32", "bf16"]:
        """What is computed in where nothing is quantised."""
        if self.quantization is not None:
            return self.quantization.residual_precision
        assert self.precision != "int8", "an engine in int8 says how"
        return self.precision


_ADAPTER = pydantic.TypeAdapter(Manifest)
_DIGEST = "digest"


def dump_manifest(manifest: Manifest) -> str:
    """Return the JSON text of `manifest`, indented, keys in field order, a digest of it last."""
    values = asdict(manifest)
    digest = hashlib.sha256(_dump(values).encode()).hexdigest()
    return _dump(values | {_DIGEST: digest})


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
    if (manifest.precision == "int8") != (manifest.quantization is not None):
        raise ArtifactError(
            f"`{MANIFEST_NAME}` contradicts itself: precision {manifest.precision}, and "
            f"{'no' if manifest.quantization is None else 'a'} quantization",
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
