import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.artifact.engines import MANIFEST

from beicli.artifact.gpu import Dimensions, GpuTarget, Profile
from beicli.artifact.manifest import (
    FORMAT_VERSION,
    FileEntry,
    Limits,
    Manifest,
    Precision,
    Quantization,
    Source,
    TensorInfo,
    Tuning,
    dump_manifest,
    parse_manifest,
)
from beicli.errors import ArtifactError
from beicli.model.spec import (
    Activation,
    DenseModule,
    ModelSpec,
    Pooling,
    ScoreActivation,
    Task,
)

# Lone surrogates are no text that a file could hold.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_COUNT = st.integers(0, 2**40)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_TENSORS = st.lists(
    st.builds(
        TensorInfo,
        name=_TEXT,
        dtype=_TEXT,
        shape=st.lists(_COUNT | _TEXT, max_size=3).map(tuple),
    ),
    max_size=2,
).map(tuple)
_DENSE = st.builds(
    DenseModule,
    path=_TEXT,
    in_features=_COUNT,
    out_features=_COUNT,
    bias=st.booleans(),
    activation=st.sampled_from(Activation),
)
_ANSWERS = {
    Task.EMBEDDING: "embeddings",
    Task.SPARSE_EMBEDDING: "sparse_embeddings",
    Task.CLASSIFICATION: "logits",
    Task.RERANKING: "logits",
    Task.TOKEN_CLASSIFICATION: "token_logits",
}
_MODELS = st.builds(
    ModelSpec,
    architecture=_TEXT,
    model_type=_TEXT,
    task=st.sampled_from(Task),
    pooling=st.lists(st.sampled_from(Pooling), min_size=1, max_size=2).map(tuple),
    labels=st.lists(_TEXT, max_size=3).map(tuple),
    score_activation=st.sampled_from(ScoreActivation),
    hidden_size=_COUNT,
    embedding_dimension=_COUNT,
    num_hidden_layers=_COUNT,
    vocab_size=_COUNT,
    max_position_embeddings=_COUNT,
    position_offset=_COUNT,
    max_input_length=_COUNT,
    pad_token_id=_COUNT,
    normalize=st.booleans(),
    do_lower_case=st.booleans(),
    dense_modules=st.lists(_DENSE, max_size=2).map(tuple),
    prompts=st.dictionaries(_TEXT, _TEXT, max_size=3),
    default_prompt_name=st.none() | _TEXT,
    dtype=_TEXT,
)
_MANIFESTS = st.builds(
    Manifest,
    format_version=st.just(FORMAT_VERSION),
    bei_version=_TEXT,
    created_at=st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    name=_TEXT,
    source=st.builds(
        Source,
        kind=_TEXT,
        repo=_TEXT,
        revision=st.none() | _TEXT,
        resolved_revision=st.none() | _TEXT,
    ),
    model=_MODELS,
    build=st.dictionaries(_TEXT, _JSON, max_size=3),
    backend=st.just("openvino"),
    precision=st.sampled_from(["f32", "bf16"]),
    quantization=st.none(),
    gpu=st.none(),
    tuning=st.none() | st.builds(Tuning, tokens_per_second=st.floats(min_value=0, max_value=1e9)),
    cpu_features=st.lists(_TEXT, max_size=2).map(tuple),
    inputs=_TENSORS,
    outputs=_TENSORS,
    limits=st.builds(Limits, max_num_tokens=_COUNT, max_batch_size=_COUNT, max_input_length=_COUNT),
    toolchain=st.dictionaries(_TEXT, _TEXT, max_size=2),
    files=st.dictionaries(_TEXT, st.builds(FileEntry, sha256=_TEXT, size_bytes=_COUNT), max_size=2),
)


def answering(manifest: Manifest, width: int) -> Manifest:
    """Let the engine answer with rows of that width."""
    name = _ANSWERS[manifest.model.task]
    others = [output for output in manifest.outputs if output.name != name]
    answer = TensorInfo(name=name, dtype="float32", shape=("batch", width))
    return replace(manifest, outputs=(answer, *others))


def width_of(model: ModelSpec) -> int:
    has_vectors = model.task in {Task.EMBEDDING, Task.SPARSE_EMBEDDING}
    return model.embedding_dimension if has_vectors else len(model.labels)


@given(_MANIFESTS)
def test_a_manifest_reads_back_as_it_was_written(manifest: Manifest) -> None:
    manifest = answering(manifest, width_of(manifest.model))

    assert parse_manifest(dump_manifest(manifest)) == manifest


@given(_MANIFESTS)
def test_an_answer_of_another_width_than_the_model_has_is_refused(manifest: Manifest) -> None:
    manifest = answering(manifest, width_of(manifest.model) + 1)

    with pytest.raises(ArtifactError, match="contradicts itself"):
        parse_manifest(dump_manifest(manifest))


@pytest.mark.parametrize(
    "model",
    [
        replace(MANIFEST.model, pooling=()),
        replace(MANIFEST.model, task=Task.CLASSIFICATION, labels=("A", "B")),
    ],
)
def test_a_model_that_lacks_what_its_task_needs_is_refused(model: ModelSpec) -> None:
    manifest = answering(replace(MANIFEST, model=model), width_of(model))

    with pytest.raises(ArtifactError, match="contradicts itself"):
        parse_manifest(dump_manifest(manifest))


def test_a_manifest_is_written_for_people_to_read() -> None:
    text = dump_manifest(MANIFEST)

    assert list(json.loads(text)) == [*(field.name for field in fields(Manifest)), "digest"]
    assert text.startswith('{\n  "format_version": 5,\n  "bei_version"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("text", ["", "{", "hello", "\x00", "{} {}", "[" * 100_000, "9" * 5000])
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"`manifest\.json` is not JSON") as raised:
        parse_manifest(text)

    assert raised.value.hint


@pytest.mark.parametrize("place", ["build", "surprise"])
def test_values_in_values_without_end_are_refused_at_every_depth(place: str) -> None:
    # Each reader and writer on the way gives up at a depth of its own.
    for depth in (*range(100, 1100, 3), 100_000):
        with pytest.raises(ArtifactError):
            parse_manifest(
                f'{{"format_version": {FORMAT_VERSION}, "{place}": {"[" * depth}{"]" * depth}}}'
            )


@pytest.mark.parametrize("text", ["[]", "null", "3", '"manifest"', "{}"])
def test_json_without_a_format_version_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="format version None"):
        parse_manifest(text)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "1", True, None, [1]])
def test_another_format_version_is_refused_before_anything_else_is_looked_at(version: Any) -> None:
    with pytest.raises(
        ArtifactError, match=f"this version of bei reads {FORMAT_VERSION}"
    ) as raised:
        parse_manifest(json.dumps({"format_version": version, "a key of tomorrow": 1}))

    assert repr(version) in raised.value.message
    assert "the bei version that made it" in str(raised.value.hint)


@pytest.mark.parametrize("field", [field.name for field in fields(Manifest)][1:])
def test_a_missing_field_is_named(field: str) -> None:
    data = json.loads(dump_manifest(MANIFEST))
    del data[field]

    with pytest.raises(ArtifactError, match=f"`{field}`: Field required"):
        parse_manifest(json.dumps(data))


@pytest.mark.parametrize(
    "place",
    [
        "",
        "model",
        "source",
        "limits",
        "outputs.0",
        "model.dense_modules.0",
        "files.openvino/model.xml",
    ],
)
def test_an_unknown_key_is_named_wherever_it_stands(place: str) -> None:
    data, parent = _descend(place)
    parent["surprise"] = 1

    with pytest.raises(ArtifactError) as raised:
        parse_manifest(json.dumps(data))

    assert f"{place}.surprise`".lstrip(".") in raised.value.message


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("", "format_version", 5.0),
        ("", "name", 7),
        ("", "backend", "abacus"),
        ("", "precision", "f8"),
        ("", "files", ["model.xml"]),
        ("", "cpu_features", "bf16"),
        ("source", "repo", None),
        ("model", "task", "sorcery"),
        ("model", "pooling", ["MEAN"]),
        ("model", "pooling", "mean"),
        ("model", "hidden_size", "32"),
        ("model", "hidden_size", 32.0),
        ("model", "hidden_size", True),
        ("model", "normalize", 1),
        ("model", "prompts", {"query": None}),
        ("limits", "max_num_tokens", None),
        ("outputs.0", "shape", ["batch", 8.5]),
        ("files.openvino/model.xml", "size_bytes", "3"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(place: str, key: str, value: Any) -> None:
    data, parent = _descend(place)
    parent[key] = value

    with pytest.raises(ArtifactError) as raised:
        parse_manifest(json.dumps(data))

    assert f"`{place}.{key}".replace("`.", "`") in raised.value.message


def _descend(place: str) -> tuple[Any, Any]:
    """Return the whole manifest as plain values, and the part of it at `place`."""
    data = json.loads(dump_manifest(MANIFEST))
    parent: Any = data
    # The one key with dots in it stands last.
    head, _, file_name = place.partition("files.")
    for part in [*filter(None, head.split(".")), *(["files", file_name] if file_name else [])]:
        parent = parent[int(part) if part.isdigit() else part]
    return data, parent


def test_a_date_that_is_none_is_refused() -> None:
    text = dump_manifest(MANIFEST).replace(MANIFEST.created_at, "last Tuesday")

    with pytest.raises(ArtifactError, match=r"`created_at`: .*last Tuesday"):
        parse_manifest(text)


_QUANTIZATION = Quantization(
    method="smooth_quant",
    residual_precision="bf16",
    static=("a",),
    dynamic=("b",),
    kept=(),
    quantized_fraction=1.0,
    dynamic_group_size=128,
    calibration="225 samples of bundled texts",
)


def test_an_engine_in_8_bit_says_how_and_what_the_rest_is_in() -> None:
    manifest = replace(MANIFEST, precision="int8", quantization=_QUANTIZATION)

    read = parse_manifest(dump_manifest(manifest))

    assert read == manifest
    assert read.residual_precision == "bf16"
    assert MANIFEST.residual_precision == MANIFEST.precision


_ONE = Dimensions(num_sequences=1, length=1)
_GPU = GpuTarget(
    sm=90,
    layout="padded",
    hardware_compatibility="none",
    profiles=(Profile(minimum=_ONE, optimum=_ONE, maximum=_ONE),),
)


@pytest.mark.parametrize("precision", ["f16", "fp8"])
def test_an_engine_for_a_gpu_says_for_which_and_how(precision: Precision) -> None:
    quantization = replace(_QUANTIZATION, method="fp8") if precision == "fp8" else None
    manifest = replace(
        MANIFEST, backend="tensorrt", precision=precision, quantization=quantization, gpu=_GPU
    )

    assert parse_manifest(dump_manifest(manifest)) == manifest


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        (replace(MANIFEST, precision="int8"), "no `quantization`"),
        (replace(MANIFEST, quantization=_QUANTIZATION), "a `quantization`"),
        (replace(MANIFEST, backend="tensorrt"), "no `gpu`"),
        (replace(MANIFEST, gpu=_GPU), "a `gpu`"),
    ],
)
def test_what_belongs_together_is_there_together(changed: Manifest, part: str) -> None:
    with pytest.raises(ArtifactError, match=f"contradicts itself: backend .*{part}"):
        parse_manifest(dump_manifest(changed))
