import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from tests.artifact.engines import MANIFEST
from tests.tensorrt.onnx_graphs import write_perceptron

from beicli.artifact.directory import EngineArtifact, foreign_files, seal_artifact
from beicli.artifact.gpu import TENSORRT_GRAPH, Dimensions, GpuTarget, Profile
from beicli.artifact.manifest import TensorInfo
from beicli.errors import PlanError
from beicli.tensorrt.api import load_trt
from beicli.tensorrt.engine_plan import EnginePlan

ONE = Dimensions(num_sequences=1, length=1)
TARGET = GpuTarget(
    sm=89,
    layout="padded",
    hardware_compatibility="none",
    profiles=(
        Profile(minimum=ONE, optimum=ONE, maximum=Dimensions(num_sequences=4, length=32)),
        Profile(minimum=ONE, optimum=ONE, maximum=Dimensions(num_sequences=8, length=64)),
    ),
)


@pytest.fixture(scope="module")
def trt() -> ModuleType:
    return load_trt("tensorrt-rtx")


@pytest.fixture
def artifact(tmp_path: Path) -> EngineArtifact:
    path = tmp_path / "engine"
    (path / TENSORRT_GRAPH).parent.mkdir(parents=True)
    write_perceptron(path / TENSORRT_GRAPH)
    manifest = replace(
        MANIFEST,
        backend="tensorrt-rtx",
        precision="f16",
        gpu=TARGET,
        inputs=(TensorInfo(name="x", dtype="float16", shape=("batch", "length", 64)),),
    )
    return EngineArtifact(path, seal_artifact(path, manifest))


def plan_of(
    trt: ModuleType, artifact: EngineArtifact, plan_cache: Path | None = None
) -> EnginePlan:
    return EnginePlan.of(trt, artifact, sm=89, gpu_name="NVIDIA L4", plan_cache=plan_cache)


def test_a_plan_is_compiled_into_the_engine_and_is_no_part_of_its_manifest(
    trt: ModuleType, artifact: EngineArtifact
) -> None:
    plan = plan_of(trt, artifact).get()

    again = EngineArtifact.open(artifact.path)
    assert foreign_files(again.path, again.manifest) == []
    assert seal_artifact(again.path, again.manifest) == again.manifest
    (path,) = (artifact.path / "tensorrt" / "plans").glob("*.plan")
    assert path.read_bytes() == plan
    assert path.name.startswith(f"tensorrt-rtx-{trt.__version__}-sm89-")


def test_a_copy_of_the_engine_brings_its_plans(
    trt: ModuleType, artifact: EngineArtifact, tmp_path: Path
) -> None:
    plan = plan_of(trt, artifact).get()
    copy = EngineArtifact(shutil.copytree(artifact.path, tmp_path / "copy"), artifact.manifest)

    assert plan_of(trt, copy).get(may_compile=False) == plan


def test_another_graph_has_another_plan(trt: ModuleType, artifact: EngineArtifact) -> None:
    plan_of(trt, artifact).get()
    write_perceptron(artifact.path / TENSORRT_GRAPH)
    changed = EngineArtifact(artifact.path, seal_artifact(artifact.path, artifact.manifest))

    assert changed.manifest != artifact.manifest
    with pytest.raises(PlanError, match="there is no plan for sm89 with tensorrt-rtx"):
        plan_of(trt, changed).get(may_compile=False)


def test_a_plan_that_the_gpu_refuses_is_compiled_anew(
    trt: ModuleType, artifact: EngineArtifact
) -> None:
    plan = plan_of(trt, artifact)
    compiled = plan.get()

    assert plan.recompile(compiled) == compiled
    assert len(list(plan.store.directory.glob("*.bad"))) == 1


def test_an_engine_that_cannot_be_written_keeps_its_plans_in_the_cache(
    trt: ModuleType,
    artifact: EngineArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda _path, _mode: False)

    plan = plan_of(trt, artifact)

    assert plan.store.directory == tmp_path / "cache" / "beicli" / "plans"
    assert plan.get() == plan_of(trt, artifact).get(may_compile=False)
    assert not (artifact.path / "tensorrt" / "plans").exists()


def test_a_named_cache_is_where_plans_are_kept(
    trt: ModuleType, artifact: EngineArtifact, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    plan_of(trt, artifact, cache).get()

    assert len(list(cache.glob("*.plan"))) == 1
    assert not (artifact.path / "tensorrt" / "plans").exists()


def test_only_a_plan_of_tensorrt_itself_is_for_one_model_of_gpu(
    trt: ModuleType, artifact: EngineArtifact
) -> None:
    assert plan_of(trt, artifact).identity.gpu_name is None
    manifest = replace(artifact.manifest, backend="tensorrt")
    own = plan_of(trt, EngineArtifact(artifact.path, manifest))
    assert own.identity.gpu_name == "NVIDIA L4"
    compatible = replace(
        manifest, gpu=replace(TARGET, hardware_compatibility="same_compute_capability")
    )
    shared = plan_of(trt, EngineArtifact(artifact.path, compatible))
    assert shared.identity.gpu_name is None
