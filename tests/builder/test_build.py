import hashlib
import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import transformers
from tests.builder.builds import (
    STEPS,
    Finished,
    Recorder,
    run_build,
    with_accelerator,
    with_build,
    write_config,
)
from tests.sources.archives import pack
from tests.sources.fake_hub import COMMIT, REPO, FakeHub
from tests.sources.file_server import FileServer

from beicli import __version__
from beicli.artifact.directory import EngineArtifact, read_manifest
from beicli.artifact.golden import read_golden
from beicli.artifact.manifest import Limits, Source
from beicli.builder import openvino
from beicli.builder.texts import GOLDEN_TEXTS, REFERENCE_TEXTS
from beicli.config.load import LoadedConfig, load_config, to_dict
from beicli.model.inspect import inspect_checkpoint
from beicli.pipeline.pipeline import compute_outputs


def test_the_directory_holds_what_serving_needs_and_nothing_else(finished: Finished) -> None:
    files = {
        path.relative_to(finished.path).as_posix()
        for path in finished.path.rglob("*")
        if path.is_file()
    }

    assert files == {
        "manifest.json",
        "config.yaml",
        "report.json",
        "golden.npz",
        "openvino/model.xml",
        "openvino/model.bin",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }
    assert sorted(path.name for path in finished.path.parent.iterdir()) == [
        "config.yaml",
        "engine",
    ]


def test_the_directory_opens_and_is_what_the_build_returned(finished: Finished) -> None:
    assert EngineArtifact.open(finished.path) == finished.result.artifact


def test_the_manifest_says_where_everything_comes_from(
    finished: Finished, tiny_checkpoint: Path
) -> None:
    manifest = finished.result.artifact.manifest

    assert manifest.bei_version == __version__
    assert manifest.name == "tiny-bert"
    assert manifest.source == Source(
        kind="LOCAL", repo=str(tiny_checkpoint), revision=None, resolved_revision=None
    )
    assert manifest.model == inspect_checkpoint(tiny_checkpoint)
    assert (manifest.backend, manifest.precision, manifest.cpu_features) == ("openvino", "f32", ())
    assert manifest.limits == Limits(max_num_tokens=8192, max_batch_size=16, max_input_length=64)
    assert [tensor.name for tensor in manifest.inputs] == ["input_ids", "attention_mask"]
    assert [tensor.shape for tensor in manifest.outputs] == [("batch", 32), ("batch", "length", 32)]
    assert manifest.toolchain["transformers"] == transformers.__version__
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.created_at)
    assert timedelta(seconds=-1) < age < timedelta(hours=1)


def test_the_configuration_inside_builds_the_same_engine_again(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").symlink_to(tiny_checkpoint)
    run_build(write_config(tmp_path, "checkpoint"), tmp_path / "engine")

    run_build(load_config(tmp_path / "engine" / "config.yaml"), tmp_path / "again")

    first, second = (read_manifest(tmp_path / name) for name in ("engine", "again"))
    assert first.build == second.build
    assert first.files["openvino/model.bin"] == second.files["openvino/model.bin"]


def test_the_manifest_and_config_yaml_hold_the_resolved_configuration(finished: Finished) -> None:
    copied = load_config(finished.path / "config.yaml")

    assert copied.config == finished.loaded.config
    expected = to_dict(finished.loaded.config)["trt_llm"]["build"]
    assert finished.result.artifact.manifest.build == expected
    assert expected["max_num_tokens"] == 8192


def test_the_report_is_kept(finished: Finished) -> None:
    report = finished.result.report

    assert json.loads((finished.path / "report.json").read_text()) == json.loads(
        json.dumps(asdict(report))
    )
    assert report.num_samples == len(REFERENCE_TEXTS)
    assert report.cosine_min > 0.99999
    assert report.neighbour_overlap > 0.9


def test_golden_embeddings_are_kept_and_the_engine_still_gives_them(
    finished: Finished, tmp_path: Path
) -> None:
    # Elsewhere, so nothing outside the directory can be of help.
    moved = shutil.copytree(finished.path, tmp_path / "moved")
    golden = read_golden(moved / "golden.npz")
    texts = [sample for sample, _ in golden]
    embeddings = np.concatenate([outputs for _, outputs in golden])

    given = np.stack(compute_outputs(EngineArtifact.open(moved), texts))

    assert tuple(texts) == GOLDEN_TEXTS
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(given, embeddings, rtol=0, atol=1e-4)


def test_each_step_is_told_in_order_with_what_came_of_it(
    finished: Finished, tiny_checkpoint: Path
) -> None:
    progress = finished.progress
    size_bytes = (tiny_checkpoint / "model.safetensors").stat().st_size

    assert progress.started_steps == progress.finished_steps == STEPS
    assert progress.warnings == []
    assert all(duration_s >= 0 for duration_s in progress.durations_s)
    assert progress.details["Fetched"] == f"{tiny_checkpoint}, {size_bytes / 1e6:.1f} MB"
    assert progress.details["Inspected"] == (
        "BertModel, pooling mean, 32 dimensions, inputs up to 64 tokens"
    )
    assert progress.details["Compiled"] == "OpenVINO, f32 as asked"
    assert f"over {len(REFERENCE_TEXTS)} texts" in progress.details["Checked"]


@pytest.mark.usefixtures("quick_export")
def test_a_checkpoint_from_the_hub_is_built_at_the_commit_it_was_fetched_at(
    hub: FakeHub, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    hub.commits[COMMIT] = {
        path.relative_to(tiny_checkpoint).as_posix(): path.read_bytes()
        for path in tiny_checkpoint.rglob("*")
        if path.is_file()
    }
    progress = Recorder()

    result = run_build(
        write_config(tmp_path, REPO, source="HF"), tmp_path / "engine", progress=progress
    )

    manifest = result.artifact.manifest
    assert manifest.name == "tiny-model"
    assert manifest.source == Source(kind="HF", repo=REPO, revision=None, resolved_revision=COMMIT)
    assert progress.details["Fetched"].startswith(f"{REPO}@{COMMIT[:7]}, ")
    assert not any(path.is_symlink() for path in result.artifact.path.rglob("*"))


@pytest.mark.usefixtures("quick_export")
def test_a_default_prompt_and_lower_case_are_part_of_the_check(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "prompted")
    (checkpoint / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "Find: "}, "default_prompt_name": "query"}'
    )
    (checkpoint / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 20, "do_lower_case": true}'
    )

    result = run_build(write_config(tmp_path, checkpoint), tmp_path / "engine")

    assert result.artifact.manifest.limits.max_input_length == 20
    assert result.report.cosine_min > 0.99999


@pytest.mark.usefixtures("quick_export")
def test_without_a_wish_the_precision_is_what_the_cpu_computes(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "supports_bf16", lambda: False)
    progress = Recorder()

    result = run_build(loaded, tmp_path / "engine", precision=None, progress=progress)

    assert result.artifact.manifest.precision == "f32"
    assert progress.details["Compiled"] == "OpenVINO, f32: this CPU has no bf16"


@pytest.mark.usefixtures("quick_export")
def test_force_replaces_an_engine(loaded: LoadedConfig, tmp_path: Path) -> None:
    run_build(loaded, tmp_path / "engine")
    (tmp_path / "engine" / "left over").touch()

    run_build(loaded, tmp_path / "engine", force=True)

    assert EngineArtifact.open(tmp_path / "engine").manifest.name == "tiny-bert"
    assert not (tmp_path / "engine" / "left over").exists()


@pytest.mark.usefixtures("quick_export")
def test_fp8_is_built_without_and_says_so(loaded: LoadedConfig, tmp_path: Path) -> None:
    progress = Recorder()

    result = run_build(
        with_build(loaded, quantization_type="fp8"), tmp_path / "engine", progress=progress
    )

    assert result.artifact.manifest.precision == "f32"
    (warning,) = progress.warnings
    assert warning == (
        "`quantization_type: fp8` is not computed by CPUs; building at 16 or 32 bit: "
        "`weights_int8` and `smooth_quant` are what CPUs compute in 8 bit"
    )


@pytest.mark.usefixtures("quick_export")
def test_a_named_backend_wins_over_a_configured_accelerator(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    result = run_build(with_accelerator(loaded), tmp_path / "engine", backend="openvino")

    assert result.artifact.manifest.backend == "openvino"


def test_no_credential_of_a_configuration_reaches_the_engine(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    files = {
        path.relative_to(tiny_checkpoint).as_posix(): path.read_bytes()
        for path in tiny_checkpoint.rglob("*")
        if path.is_file()
    }
    server = FileServer(pack(files))
    with server.serving():
        repo = server.endpoint.replace("//", "//user:pass-word@") + "/tiny.tar.gz?sig=signature-1"
        write_config(tmp_path, repo, source="REMOTE_URL")
        path = tmp_path / "config.yaml"
        path.write_text(path.read_text() + "secrets: {hf_access_token: hf_not-for-here}\n")
        recorder = Recorder()
        result = run_build(load_config(path), tmp_path / "engine", progress=recorder)

    manifest = result.artifact.manifest
    assert manifest.name == "tiny"
    assert manifest.source.repo == f"{server.endpoint}/tiny.tar.gz"
    assert manifest.source.resolved_revision == hashlib.sha256(server.content).hexdigest()
    written = [file.read_bytes() for file in result.artifact.path.rglob("*") if file.is_file()]
    said = " ".join([*recorder.details.values(), *recorder.warnings]).encode()
    for credential in (b"pass-word", b"signature-1", b"hf_not-for-here"):
        assert all(credential not in content for content in [*written, said])
