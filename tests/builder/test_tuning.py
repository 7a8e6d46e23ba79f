"""`bei build --tune`, with a real engine that is very small."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.builder.builds import STEPS, Recorder, run_build

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Precision, Tuning
from beicli.builder.openvino import supports_bf16
from beicli.config.load import LoadedConfig
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions
from beicli.machine import this_machine
from beicli.pipeline import tuning
from beicli.pipeline.tuning import tune

pytestmark = pytest.mark.usefixtures("quick_export")


@pytest.fixture(autouse=True)
def one_short_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_NUM_ROUNDS", 1)
    monkeypatch.setattr(tuning, "_PASS_S", 0.01)


def test_a_build_records_how_the_engine_is_fastest_here(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    progress = Recorder()

    run_build(loaded, tmp_path / "engine", progress=progress, tune=tune)

    artifact = EngineArtifact.open(tmp_path / "engine")
    found = artifact.manifest.tuning
    assert found is not None
    assert found.machine == this_machine()
    assert found.num_threads == this_machine().num_cpus
    assert found.tokens_per_second > 0
    assert progress.finished_steps == [*STEPS, "Tuned"]
    assert f"batches of {found.preferred_num_tokens:,} tokens" in progress.details["Tuned"]
    engine = load_engine(artifact, EngineOptions())
    assert engine.num_slots == found.num_slots
    assert engine.preferred_num_tokens == found.preferred_num_tokens
    engine.close()


@pytest.mark.skipif(not supports_bf16(), reason="this CPU has no bf16, so there is no choice")
def test_an_engine_that_is_no_slower_in_float32_is_judged_in_float32(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    asked: list[Sequence[Precision]] = []
    made = Tuning(
        machine=this_machine(),
        num_slots=1,
        num_threads=1,
        preferred_num_tokens=512,
        tokens_per_second=1.0,
    )

    def prefer_f32(
        artifact: EngineArtifact, precisions: Sequence[Precision]
    ) -> tuple[Precision, Tuning]:
        asked.append(precisions)
        return precisions[0], made

    result = run_build(loaded, tmp_path / "engine", precision=None, tune=prefer_f32)

    assert asked == [("f32", "bf16")]
    manifest = EngineArtifact.open(tmp_path / "engine").manifest
    assert manifest.precision == result.report.precision == "f32"
    assert manifest.cpu_features == ()
    assert asdict(manifest)["tuning"] == asdict(made)
