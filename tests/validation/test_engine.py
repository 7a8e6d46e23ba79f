import importlib.metadata
import json
import random
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builder.builds import run_build, write_config
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.artifact.directory import read_manifest, seal_artifact
from beicli.artifact.gpu import PLANS_DIRECTORY, Dimensions, GpuTarget, Profile
from beicli.artifact.manifest import Backend, Manifest
from beicli.errors import EngineError, PlanError
from beicli.validation import engine as engine_validation
from beicli.validation.engine import RULES, validate_engine
from beicli.validation.findings import TargetReport, Verdict


@pytest.fixture(scope="module")
def sound_engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    run_build(write_config(folder, tiny_checkpoint), folder / "engine")
    return folder / "engine"


@pytest.fixture
def engine(sound_engine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound_engine, tmp_path / "engine"))


def unchanged(manifest: Manifest) -> Manifest:
    return manifest


def reseal(engine: Path, change: Callable[[Manifest], Manifest] = unchanged) -> None:
    """Make the manifest agree with what was changed, as whoever tampers would."""
    manifest = read_manifest(engine)
    (engine / "manifest.json").unlink()
    seal_artifact(engine, change(manifest))


def rules_of(report: TargetReport) -> set[str]:
    return {finding.rule for finding in report.findings}


def test_a_sound_engine_is_clean(sound_engine: Path) -> None:
    report = validate_engine(sound_engine)

    assert report.verdict is Verdict.CLEAN, report.findings
    assert report.facts["task"] == "embedding"
    assert report.facts["num_golden_inputs"] > 0
    assert report.facts["accuracy"].startswith("cosine")
    assert report.num_checks > len(read_manifest(sound_engine).files)
    json.dumps(report.facts)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_bit_flipped_anywhere_is_found(
    sound_engine: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    engine = tmp_path_factory.mktemp("flipped") / "engine"
    shutil.copytree(sound_engine, engine)
    chance = random.Random(seed)
    files = sorted(path for path in engine.rglob("*") if path.is_file() and path.stat().st_size)
    file = chance.choice(files)
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)

    report = validate_engine(engine)

    assert report.verdict is Verdict.FAILED
    assert file.relative_to(engine).as_posix() in {finding.place for finding in report.findings}
    shutil.rmtree(engine)


def test_every_bit_of_the_manifest_counts(engine: Path) -> None:
    manifest = engine / "manifest.json"
    sound = manifest.read_bytes()
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        manifest.write_bytes(damaged)
        report = validate_engine(engine)
        assert rules_of(report) == {"engine-manifest"}, (place, chr(sound[place]))


def test_every_file_that_is_wrong_is_named(engine: Path) -> None:
    (engine / "golden.npz").write_bytes(b"")
    (engine / "config.yaml").unlink()
    (engine / "tokenizer" / "notes.txt").write_text("who put this here")

    report = validate_engine(engine)

    found = {(finding.rule, finding.place) for finding in report.findings}
    assert found == {
        ("engine-file", "golden.npz"),
        ("engine-file", "config.yaml"),
        ("engine-foreign-file", "tokenizer/notes.txt"),
    }
    assert all(finding.fix for finding in report.findings)


def test_a_foreign_file_alone_is_a_warning(engine: Path) -> None:
    (engine / "README.md").write_text("mine")

    assert validate_engine(engine).verdict is Verdict.WARNINGS


def test_many_foreign_files_are_counted_not_listed(engine: Path) -> None:
    for number in range(300):
        (engine / f"stray-{number}").touch()

    findings = validate_engine(engine).findings

    assert len(findings) < 30
    assert "280 more" in findings[-1].what


def test_a_linked_folder_is_foreign(engine: Path, tmp_path: Path) -> None:
    (engine / "elsewhere").symlink_to(tmp_path)

    assert [finding.place for finding in validate_engine(engine).findings] == ["elsewhere"]


def test_weights_of_another_model_do_not_pass_for_these(engine: Path, tmp_path: Path) -> None:
    model = tiny_bert()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    other = save_checkpoint(tmp_path / "other", model)
    run_build(write_config(tmp_path, other), tmp_path / "other-engine")
    for name in ("model.xml", "model.bin"):
        shutil.copyfile(tmp_path / "other-engine/openvino" / name, engine / "openvino" / name)
    reseal(engine)

    report = validate_engine(engine)

    assert rules_of(report) == {"engine-accuracy"}
    assert "cosine" in report.findings[0].what


def test_a_graph_that_does_not_load_is_said(engine: Path) -> None:
    (engine / "openvino/model.xml").write_text("<net/>")
    reseal(engine)

    assert rules_of(validate_engine(engine)) == {"engine-runs"}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_golden_inputs_that_cannot_be_read_are_said(engine: Path, content: bytes) -> None:
    (engine / "golden.npz").write_bytes(content)
    reseal(engine)

    assert rules_of(validate_engine(engine)) == {"engine-golden-inputs"}


def damaged_deflate(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)


def encrypted(path: Path) -> None:
    content = path.read_bytes()
    # General purpose bit flag 0, of the first local header and of its entry in the directory.
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.index(signature) + place
        content = content[:start] + b"\x01" + content[start + 1 :]
    path.write_bytes(content)


def too_large(path: Path) -> None:
    change_golden(path, outputs=np.zeros((2**20, 80), dtype=np.float32))


def huge_header(path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 2), }\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("outputs.npy", data)


def change_golden(path: Path, **changes: Any) -> None:
    with np.load(path) as file:
        values = dict(file)
    np.savez_compressed(path, **(values | changes))


@pytest.mark.parametrize("damage", [damaged_deflate, encrypted, too_large, huge_header])
def test_a_strange_archive_of_golden_inputs_is_said(
    engine: Path, damage: Callable[[Path], None]
) -> None:
    damage(engine / "golden.npz")
    reseal(engine)

    assert rules_of(validate_engine(engine)) == {"engine-golden-inputs"}


@pytest.mark.parametrize(
    "changes",
    [
        {"is_pair": np.array([True])},
        {"outputs": np.float32(1)},
        {"outputs": np.zeros((2, 3), dtype=complex)},
        {"cu_rows": np.array(["0", "1"])},
        {"cu_rows": np.array([0, -1])},
        {"cu_rows": np.array(3)},
        {"cu_rows": np.array([], dtype=np.int64)},
        {"texts": np.array([1, 2])},
    ],
)
def test_golden_arrays_of_another_kind_are_said(engine: Path, changes: dict[str, Any]) -> None:
    change_golden(engine / "golden.npz", **changes)
    reseal(engine)

    assert rules_of(validate_engine(engine)) == {"engine-golden-inputs"}


def test_golden_inputs_of_another_shape_are_said(engine: Path) -> None:
    path = engine / "golden.npz"
    with np.load(path) as file:
        outputs = file["outputs"][:, :5]
    change_golden(path, outputs=outputs)
    reseal(engine)

    assert rules_of(validate_engine(engine)) == {"engine-accuracy"}


def test_a_config_that_was_not_built_is_said(engine: Path) -> None:
    text = (engine / "config.yaml").read_text()
    (engine / "config.yaml").write_text(text.replace("max_batch_size: 256", "max_batch_size: 8"))
    reseal(engine)

    report = validate_engine(engine)

    assert [finding.what for finding in report.findings] == [
        "`config.yaml` and `manifest.json` differ in `trt_llm.build.max_batch_size`"
    ]


def test_a_default_route_that_was_not_built_is_said(engine: Path) -> None:
    reseal(engine, lambda manifest: replace(manifest, default_route="/embed_all"))

    (finding,) = validate_engine(engine).findings

    assert finding.rule == "engine-config"
    assert "`/embed_all`" in finding.what


@pytest.mark.parametrize("text", ["", "trt_llm: [", "a: b"])
def test_a_config_that_is_no_config_is_said(engine: Path, text: str) -> None:
    (engine / "config.yaml").write_text(text)
    reseal(engine)

    assert rules_of(validate_engine(engine)) == {"engine-config"}


@pytest.mark.parametrize("text", ["", "{}", '{"measure": "cosine"}'])
def test_a_report_that_is_no_report_is_said(engine: Path, text: str) -> None:
    (engine / "report.json").write_text(text)
    reseal(engine)

    assert rules_of(validate_engine(engine)) == {"engine-report"}


def test_a_report_that_failed_without_a_sample_is_no_report(engine: Path) -> None:
    report = json.loads((engine / "report.json").read_text())
    report |= {"cosine_min": 0.1, "worst_samples": []}
    (engine / "report.json").write_text(json.dumps(report))
    reseal(engine)

    assert rules_of(validate_engine(engine)) == {"engine-report"}


def test_another_library_version_is_a_warning(engine: Path) -> None:
    reseal(engine, lambda manifest: replace(manifest, toolchain={"openvino": "2020.1"}))

    report = validate_engine(engine)

    assert report.verdict is Verdict.WARNINGS
    assert {finding.place for finding in report.findings} == {
        "toolchain.openvino",
        "toolchain.tokenizers",
        "toolchain.numpy",
    }


@pytest.fixture
def torch_engine(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    run_build(write_config(tmp_path, tiny_checkpoint), tmp_path / "engine", backend="torch")
    return tmp_path / "engine"


def test_a_sound_torch_engine_is_clean(torch_engine: Path) -> None:
    report = validate_engine(torch_engine)

    assert report.verdict is Verdict.CLEAN, report.findings
    assert report.facts["num_golden_inputs"] > 0


def test_a_torch_engine_is_compared_by_what_computes_it(torch_engine: Path) -> None:
    reseal(torch_engine, lambda manifest: replace(manifest, toolchain={"openvino": "2020.1"}))

    report = validate_engine(torch_engine)

    assert {finding.place for finding in report.findings} == {
        "toolchain.torch",
        "toolchain.transformers",
        "toolchain.tokenizers",
        "toolchain.numpy",
    }


def test_a_torch_engine_without_torch_says_how_to_install_it(
    torch_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_version = importlib.metadata.version

    def version(package: str) -> str:
        if package == "torch":
            raise importlib.metadata.PackageNotFoundError(package)
        return find_version(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "beicli.engine.torch", raising=False)

    warning, error = validate_engine(torch_engine).findings

    assert warning.what.endswith("here is none")
    assert error.rule == "engine-runs"
    assert "the package `torch` is not installed" in error.what
    assert "pip install 'beicli[build]'" in str(error.fix)


def test_a_cpu_without_the_feature_is_a_warning(engine: Path) -> None:
    reseal(engine, lambda manifest: replace(manifest, cpu_features=("bf17",)))

    report = validate_engine(engine)

    assert report.verdict is Verdict.WARNINGS
    assert "`bf17`" in report.findings[0].what


def for_a_gpu(manifest: Manifest) -> Manifest:
    one = Dimensions(num_sequences=1, length=1)
    target = GpuTarget(
        sm=90,
        layout="padded",
        hardware_compatibility="none",
        profiles=(Profile(minimum=one, optimum=one, maximum=one),),
    )
    return replace(manifest, backend="tensorrt", precision="f16", gpu=target)


def test_an_engine_for_a_gpu_that_is_not_here_is_not_run_and_says_so(engine: Path) -> None:
    reseal(engine, for_a_gpu)

    report = validate_engine(engine)

    (finding,) = report.findings
    assert report.verdict is Verdict.WARNINGS
    assert finding.rule == "engine-not-run"
    assert "there is no NVIDIA driver" in finding.what


@pytest.mark.parametrize("cause", [EngineError("no", hint="stop the other process"), OSError()])
def test_an_engine_that_fails_says_what_to_do_about_that(
    engine: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    def fail(*_: object) -> None:
        # As the scheduler does.
        raise EngineError("not computed", hint="the server's log has the details") from cause

    monkeypatch.setattr(engine_validation, "compute_outputs", fail)

    (finding,) = validate_engine(engine).findings

    wanted = "stop the other process" if isinstance(cause, EngineError) else "copy the whole"
    assert finding.rule == "engine-runs"
    assert (finding.fix or "").startswith(wanted)


def test_an_engine_without_a_plan_that_may_be_made_says_where_to_make_it(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PlanError("cannot be written", hint="name another directory")

    monkeypatch.setattr(engine_validation, "compute_outputs", refuse)

    assert validate_engine(engine).findings[0].fix == "name another directory"


def test_a_plan_that_is_damaged_is_a_warning(engine: Path) -> None:
    reseal(engine, for_a_gpu)
    (engine / PLANS_DIRECTORY).mkdir(parents=True)
    (engine / PLANS_DIRECTORY / "tensorrt-11.4-sm90-abc.plan").write_bytes(b"half a plan")

    report = validate_engine(engine)

    assert rules_of(report) == {"engine-not-run", "engine-plan"}
    (finding,) = (each for each in report.findings if each.rule == "engine-plan")
    assert "`tensorrt-11.4-sm90-abc.plan` is damaged" in finding.what


def test_a_folder_without_a_manifest_is_no_engine(tmp_path: Path) -> None:
    report = validate_engine(tmp_path)

    assert rules_of(report) == {"engine-manifest"}
    assert report.num_checks == 1


def test_every_rule_is_exercised_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    tested_by_warning = {"engine-library-version", "engine-cpu-feature"}

    missing = {rule.name for rule in RULES if f'"{rule.name}"' not in text}

    assert missing <= tested_by_warning
    assert engine_validation.__doc__


@pytest.mark.parametrize("backend", get_args(Backend))
def test_every_backend_names_the_libraries_whose_version_matters(backend: Backend) -> None:
    assert {"tokenizers", "numpy"} <= {*engine_validation._SERVING_LIBRARIES[backend]}
