"""Whole builds of tiny models of every task: spec, graph, gate and golden outputs fit together."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.builder.builds import Recorder, run_build, write_config
from tests.builder.tiny_models import (
    save_model,
    save_splade,
    tiny_classifier,
    tiny_masked_lm,
    tiny_qwen3_reranker,
    tiny_token_classifier,
)

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.golden import Float32, Sample, read_golden
from beicli.artifact.report import ScoreReport, VectorReport
from beicli.builder import build, memory, openvino
from beicli.builder.build import BuildResult
from beicli.builder.gate import Compute
from beicli.builder.samples import golden_samples, reference_samples
from beicli.config.load import LoadedConfig
from beicli.errors import BuildError, CheckpointError, ConfigError, UnsupportedModelError
from beicli.model.rerank_templates import QWEN3_RERANKER
from beicli.model.spec import ModelSpec, Pooling
from beicli.pipeline.pipeline import compute_outputs

OWN_TEMPLATE = "[CLS] {{ query }} [SEP] {{ document | upper }} [SEP]"


@dataclass(frozen=True, slots=True)
class TaskBuild:
    """A build of one task and what was said of it."""

    result: BuildResult
    progress: Recorder

    @property
    def spec(self) -> ModelSpec:
        return self.result.artifact.manifest.model


SAVERS: dict[str, Callable[[Path], Path]] = {
    "splade": save_splade,
    "classifier": lambda path: save_model(path, tiny_classifier("A", "B", "C")),
    "reranker": lambda path: save_model(path, tiny_classifier("LABEL_0", initializer_range=0.3)),
    "ner": lambda path: save_model(path, tiny_token_classifier("O", "B-PER", "I-PER")),
    "qwen3": lambda path: save_model(path, tiny_qwen3_reranker("no", "yes")),
}
INSPECTED = {
    "splade": "BertForMaskedLM, pooling splade, {vocab_size} dimensions, inputs up to 64 tokens",
    "classifier": "BertForSequenceClassification, classification, 3 labels, softmax, inputs up to "
    "64 tokens",
    "reranker": "BertForSequenceClassification, reranking, 1 label, sigmoid, inputs up to "
    "64 tokens",
    "ner": "BertForTokenClassification, token classification, 3 labels, inputs up to 64 tokens",
    "qwen3": "Qwen3ForSequenceClassification, classification, 2 labels, softmax, `yes` is relevant,"
    " Qwen3-Reranker template, inputs up to 1,024 tokens",
}


@pytest.fixture(scope="module", params=SAVERS)
def task_build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp(request.param)
    checkpoint = SAVERS[request.param](directory / "checkpoint")
    progress = Recorder()
    result = run_build(write_config(directory, checkpoint), directory / "engine", progress=progress)
    return request.param, TaskBuild(result, progress)


def test_every_task_is_built_and_agrees_with_transformers(
    task_build: tuple[str, TaskBuild],
) -> None:
    _, built = task_build
    report = built.result.report

    assert report.passed
    assert report.num_samples == len(reference_samples(built.spec))
    if isinstance(report, VectorReport):
        assert report.cosine_min > 0.99999
        assert report.index_overlap is not None
        assert report.index_overlap > 0.999
    else:
        assert report.max_difference < 1e-5
        # Random heads, but not ones that say the same of everything.
        assert report.num_decisions > report.num_samples / 2
        assert report.agreement == 1
    written = json.loads((built.result.artifact.path / "report.json").read_text())
    assert written["measure"] == ("cosine" if isinstance(report, VectorReport) else "scores")


def test_the_steps_say_what_fits_the_task(task_build: tuple[str, TaskBuild]) -> None:
    name, built = task_build

    expected = INSPECTED[name].format(vocab_size=f"{built.spec.vocab_size:,}")
    assert built.progress.details["Inspected"] == expected
    assert built.progress.details["Checked"] == built.result.report.summary
    assert built.progress.warnings == []


def test_golden_outputs_are_those_of_the_engine(task_build: tuple[str, TaskBuild]) -> None:
    _, built = task_build
    artifact = built.result.artifact
    golden = read_golden(artifact.path / "golden.npz")
    samples = tuple(sample for sample, _ in golden)

    outputs = compute_outputs(EngineArtifact.open(artifact.path), samples)

    assert samples == golden_samples(built.spec)
    assert len(samples) == 8
    for (_, wanted), found in zip(golden, outputs, strict=True):
        np.testing.assert_allclose(np.atleast_2d(found), wanted, rtol=0, atol=1e-4)
    assert (artifact.path / "golden.npz").stat().st_size < 50_000


def test_the_manifest_names_inputs_and_outputs_of_the_task(
    task_build: tuple[str, TaskBuild],
) -> None:
    name, built = task_build
    manifest = built.result.artifact.manifest

    outputs = {"splade": "sparse_embeddings", "ner": "token_logits"}
    assert [tensor.name for tensor in manifest.outputs] == [outputs.get(name, "logits")]
    with_types = name in {"classifier", "reranker"}
    names = ["input_ids", "attention_mask", "token_type_ids"][: 3 if with_types else 2]
    assert [tensor.name for tensor in manifest.inputs] == names


def test_a_yes_no_reranker_is_checked_on_pairs_in_its_prompt(
    task_build: tuple[str, TaskBuild],
) -> None:
    name, built = task_build
    if name != "qwen3":
        assert built.spec.rerank_template is None
        return

    assert (built.spec.rerank_template, built.spec.relevance_label) == (QWEN3_RERANKER, 1)
    assert all(isinstance(sample, tuple) for sample in reference_samples(built.spec))


def compute_imprecisely(by: float) -> Compute:
    """What serves, on any CPU, with the logits of the first label off by `by` in bf16."""

    def compute(artifact: EngineArtifact, samples: Sequence[Sample]) -> list[Float32]:
        precision = artifact.manifest.precision
        shown = replace(artifact.manifest, precision="f32", cpu_features=())
        outputs = compute_outputs(EngineArtifact(artifact.path, shown), samples)
        if precision == "bf16":
            for output in outputs:
                output[0] += by
        return outputs

    return compute


@pytest.mark.parametrize(
    ("asked", "off_by", "precision", "warning"),
    [
        (None, 0.004, "bf16", None),
        (None, 0.04, "f32", "bf16 would move a score by 0.0"),
        (None, 1.0, "f32", "bf16 is not precise enough, so this is in f32: a score is 0."),
        ("bf16", 0.04, "bf16", None),
        ("f32", 0.04, "f32", None),
    ],
)
def test_a_precision_that_moves_scores_has_to_be_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | None,
    off_by: float,
    precision: str,
    warning: str | None,
) -> None:
    monkeypatch.setattr(openvino, "supports_bf16", lambda: True)
    checkpoint = SAVERS["classifier"](tmp_path / "checkpoint")
    loaded = write_config(tmp_path, checkpoint)
    progress = Recorder()

    result = run_build(
        loaded,
        tmp_path / "engine",
        compute=compute_imprecisely(off_by),
        progress=progress,
        precision=asked,
    )

    manifest = EngineArtifact.open(tmp_path / "engine").manifest
    assert manifest == result.artifact.manifest
    assert (manifest.precision, result.report.precision) == (precision, precision)
    assert manifest.cpu_features == (("bf16",) if precision == "bf16" else ())
    assert len(progress.warnings) == (warning is not None)
    assert progress.warnings == [] or (warning or "") in progress.warnings[0]
    assert json.loads((tmp_path / "engine" / "report.json").read_text())["precision"] == precision


def test_a_precision_that_does_not_fit_into_memory_is_not_fallen_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "supports_bf16", lambda: True)
    monkeypatch.setitem(memory._BYTES_PER_WEIGHT, ("openvino", "f32"), 1e9)
    loaded = write_config(tmp_path, SAVERS["classifier"](tmp_path / "checkpoint"))
    progress = Recorder()

    with pytest.raises(BuildError, match=r"takes about [\d,.]+ GB of memory, and"):
        run_build(
            loaded,
            tmp_path / "engine",
            compute=compute_imprecisely(0.04),
            progress=progress,
            precision=None,
        )

    assert "bf16 would move a score" in progress.warnings[0]
    assert not (tmp_path / "engine").exists()


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a build where the long steps begin."""

    def stop(directory: Path, spec: ModelSpec) -> None:
        raise BuildError("stopped before the export")

    monkeypatch.setattr(build, "load_module", stop)


def build_until_export(loaded: LoadedConfig, **options: Any) -> Recorder:
    progress = Recorder()
    with pytest.raises(BuildError, match="stopped before the export"):
        run_build(loaded, loaded.path.parent / "engine", progress=progress, **options)
    return progress


def with_metadata(loaded: LoadedConfig, **metadata: Any) -> LoadedConfig:
    return replace(loaded, config=replace(loaded.config, model_metadata=metadata))


def with_environment(loaded: LoadedConfig, **variables: str) -> LoadedConfig:
    return replace(loaded, config=replace(loaded.config, environment_variables=variables))


@pytest.mark.usefixtures("no_export")
def test_splade_may_be_asked_for_in_the_configuration(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "masked-lm", tiny_masked_lm())
    loaded = write_config(tmp_path, checkpoint)

    with pytest.raises(UnsupportedModelError, match="is not an embedding model"):
        run_build(loaded, tmp_path / "engine")
    progress = build_until_export(with_environment(loaded, POOLING="splade"))

    assert "pooling splade" in progress.details["Inspected"]


@pytest.mark.usefixtures("no_export")
def test_the_command_line_wins_over_the_configuration(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    loaded = with_environment(write_config(tmp_path, tiny_checkpoint), POOLING="last-token")

    configured = build_until_export(loaded)
    asked = build_until_export(loaded, pooling=Pooling.CLS)

    assert "pooling last_token" in configured.details["Inspected"]
    assert "pooling cls" in asked.details["Inspected"]


def test_a_pooling_that_does_not_exist_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = with_environment(write_config(tmp_path, tiny_checkpoint), POOLING="attention")

    with pytest.raises(ConfigError, match=r"`attention`; one of cls, max, mean, .* is wanted"):
        run_build(loaded, tmp_path / "engine")


@pytest.mark.usefixtures("no_export")
def test_pooling_asked_of_a_classifier_is_warned_of(tmp_path: Path) -> None:
    checkpoint = SAVERS["classifier"](tmp_path / "checkpoint")

    progress = build_until_export(write_config(tmp_path, checkpoint), pooling=Pooling.CLS)

    assert progress.warnings == [
        "pooling `cls` has no effect: `BertForSequenceClassification` has a head"
    ]


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        (("LABEL_0",), "`/rerank` joins query and text the way the tokenizer joins pairs"),
        (("0", "1"), "`/rerank` refuses with 424"),
    ],
)
def test_a_causal_reranker_whose_prompt_is_not_known_is_warned_of(
    tmp_path: Path, labels: tuple[str, ...], warning: str
) -> None:
    checkpoint = save_model(tmp_path / "causal", tiny_qwen3_reranker(*labels))

    progress = build_until_export(write_config(tmp_path, checkpoint))

    assert len(progress.warnings) == 1
    assert warning in progress.warnings[0]


@pytest.mark.usefixtures("no_export")
def test_the_name_of_the_checkpoint_brings_its_prompt(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "Qwen3-Reranker-tiny", tiny_qwen3_reranker("LABEL_0"))

    progress = build_until_export(write_config(tmp_path, checkpoint))

    assert "1 label, sigmoid, Qwen3-Reranker template" in progress.details["Inspected"]
    assert progress.warnings == []


@pytest.mark.usefixtures("no_export")
def test_a_configured_template_is_taken_and_checked_first(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "causal", tiny_qwen3_reranker("bad", "good"))
    loaded = write_config(tmp_path, checkpoint)

    progress = build_until_export(
        with_metadata(loaded, rerank_template=OWN_TEMPLATE, rerank_label="good")
    )
    broken = Recorder()
    with pytest.raises(ConfigError, match="does not use `document`"):
        run_build(
            with_metadata(loaded, rerank_template="{{ query }}"),
            tmp_path / "engine",
            progress=broken,
        )

    assert "`good` is relevant, configured template" in progress.details["Inspected"]
    assert broken.started_steps == []


def test_a_configured_template_is_part_of_the_engine_and_its_check(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "causal", tiny_qwen3_reranker("bad", "good"))
    loaded = with_metadata(
        write_config(tmp_path, checkpoint), rerank_template=OWN_TEMPLATE, rerank_label="bad"
    )

    result = run_build(loaded, tmp_path / "engine")

    spec = result.artifact.manifest.model
    assert (spec.rerank_template, spec.relevance_label) == (OWN_TEMPLATE, 0)
    assert isinstance(result.report, ScoreReport)
    assert result.report.max_difference < 1e-5


def test_a_prompt_that_does_not_fit_the_engine_is_refused_with_its_length(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "causal", tiny_qwen3_reranker("no", "yes"))
    loaded = write_config(tmp_path, checkpoint, max_num_tokens=128)

    with pytest.raises(
        BuildError, match=r"makes \d{3} tokens of .*; this engine takes 128"
    ) as raised:
        run_build(loaded, tmp_path / "engine")

    assert "max_num_tokens" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("classifier", "tokenizer.json"),
        ("classifier", "model.safetensors"),
        ("classifier", "config.json"),
        ("splade", "1_SpladePooling/config.json"),
    ],
)
def test_a_missing_file_fails_the_build_and_is_named_with_its_path(
    tmp_path: Path, name: str, missing: str
) -> None:
    checkpoint = SAVERS[name](tmp_path / "checkpoint")
    (checkpoint / missing).unlink()

    with pytest.raises(CheckpointError) as raised:
        run_build(write_config(tmp_path, checkpoint), tmp_path / "engine")

    assert f"(expected at `{checkpoint / missing}`)" in raised.value.message
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("missing", ["modules.json", "1_Pooling/config.json"])
def test_a_missing_pooling_file_fails_the_build_and_is_named_with_its_path(
    tiny_checkpoint: Path, tmp_path: Path, missing: str
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    (checkpoint / missing).unlink()

    with pytest.raises(CheckpointError) as raised:
        run_build(write_config(tmp_path, checkpoint), tmp_path / "engine")

    assert f"missing `{missing}` (expected at `{checkpoint / missing}`)" in raised.value.message


@pytest.mark.parametrize("name", ["classifier", "ner"])
def test_missing_labels_fail_the_build(tmp_path: Path, name: str) -> None:
    checkpoint = SAVERS[name](tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    del config["id2label"]
    (checkpoint / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=r"`config\.json` does not contain `id2label`"):
        run_build(write_config(tmp_path, checkpoint), tmp_path / "engine")
