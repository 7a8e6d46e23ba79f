"""Builds for NVIDIA GPUs that are not here: real graphs, real plans of tensorrt-rtx."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto
from tests.builder.builds import Recorder, run_build, with_accelerator, with_build, write_config
from tests.builder.tiny_models import save_checkpoint, vocab_size

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.gpu import PLANS_DIRECTORY, TENSORRT_GRAPH
from beicli.artifact.report import COMPUTED_BY_EMULATION
from beicli.builder.build import BuildResult
from beicli.config.load import LoadedConfig, load_config
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions
from beicli.errors import (
    AccuracyError,
    GpuUnavailableError,
    PlanError,
    ToolMissingError,
    UsageError,
)
from beicli.tensorrt.api import load_trt
from beicli.tensorrt.driver import CudaDevice, Driver

EXAMPLES = Path(__file__).parents[2] / "examples"
# TensorRT has fused attention from 16 numbers a head.
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def _bert() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.BertConfig(**_SIZES, vocab_size=vocab_size())
    return transformers.BertModel(config).eval()


def _qwen3() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        **_SIZES, num_key_value_heads=1, head_dim=16, pad_token_id=0, vocab_size=vocab_size()
    )
    return transformers.Qwen3Model(config).eval()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("bert"), _bert())


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal checkpoint stored in bf16."""
    directory = tmp_path_factory.mktemp("qwen3")
    return save_checkpoint(directory, _qwen3().to(torch.bfloat16), pooling="lasttoken")


@pytest.fixture
def loaded(bert: Path, tmp_path: Path) -> LoadedConfig:
    return write_config(tmp_path, bert)


def build(
    loaded: LoadedConfig, tmp_path: Path, progress: Recorder | None = None, **options: Any
) -> BuildResult:
    options = {"precision": None} | options
    return run_build(loaded, tmp_path / "engine", progress=progress, **options)


def plans(result: BuildResult) -> list[Path]:
    return sorted((result.artifact.path / PLANS_DIRECTORY).glob("*.plan"))


def test_a_gpu_that_is_compiled_for_without_it_gets_its_plan_now(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    progress = Recorder()

    result = build(loaded, tmp_path, progress, sm=89)

    assert progress.finished_steps == [
        "Fetched",
        "Inspected",
        "Loaded",
        "Exported",
        "Typed",
        "Checked",
        "Compiled",
    ]
    artifact = EngineArtifact.open(result.artifact.path)
    manifest = artifact.manifest
    assert (manifest.backend, manifest.precision) == ("tensorrt-rtx", "f16")
    assert manifest.gpu is not None
    assert manifest.gpu.sm == 89
    assert [plan.read_bytes()[:4] for plan in plans(result)] == [b"vtrt"]
    assert {path.name for path in artifact.path.iterdir()} == {
        "manifest.json",
        "config.yaml",
        "report.json",
        "golden.npz",
        "tensorrt",
        "tokenizer",
    }
    report = json.loads((artifact.path / "report.json").read_text())
    assert report["computed_by"] == COMPUTED_BY_EMULATION
    assert report["cosine_min"] > 0.9999


def test_another_gpu_gets_its_plan_where_it_is(loaded: LoadedConfig, tmp_path: Path) -> None:
    progress = Recorder()

    result = build(with_accelerator(loaded, "H100"), tmp_path, progress)

    assert result.artifact.manifest.backend == "tensorrt"
    assert progress.details["Compiled"] == (
        "the plan is compiled at first serve on sm90: there is no such GPU here"
    )
    assert plans(result) == []


def test_the_same_graph_is_written_for_every_gpu(loaded: LoadedConfig, tmp_path: Path) -> None:
    graphs = []
    for sm in (89, 90):
        result = build(loaded, tmp_path / str(sm), sm=sm)
        graphs.append((result.artifact.path / TENSORRT_GRAPH).read_bytes())

    assert graphs[0] == graphs[1]


def test_the_graph_takes_whole_numbers_gives_float32_and_is_in_16_bit_between(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    result = build(loaded, tmp_path, sm=90)

    graph = onnx.load(result.artifact.path / TENSORRT_GRAPH).graph
    assert {each.type.tensor_type.elem_type for each in graph.input} == {TensorProto.INT32}
    assert {each.type.tensor_type.elem_type for each in graph.output} == {TensorProto.FLOAT}
    tables = {each.data_type for each in graph.initializer if len(each.dims) == 2}
    assert tables == {TensorProto.FLOAT16, TensorProto.INT64}


def test_a_causal_checkpoint_in_bf16_stays_in_bf16(qwen3: Path, tmp_path: Path) -> None:
    loaded = write_config(tmp_path, qwen3, base_model="encoder")

    result = build(loaded, tmp_path, sm=120)

    assert result.artifact.manifest.precision == "bf16"
    assert len(plans(result)) == 1


def test_what_f16_has_no_room_for_is_in_bf16(tmp_path: Path) -> None:
    model = _qwen3()
    with torch.no_grad():
        # Beyond 65,504 between the layers, and well behind the norm that follows.
        model.embed_tokens.weight *= 3e6  # type: ignore[operator]
    loaded = write_config(
        tmp_path, save_checkpoint(tmp_path / "large", model), base_model="encoder"
    )
    progress = Recorder()

    result = build(loaded, tmp_path, progress, sm=90)

    assert result.artifact.manifest.precision == "bf16"
    (warning,) = progress.warnings
    assert warning.startswith("f16 is not precise enough, so this is in bf16: ")
    with pytest.raises(AccuracyError) as raised:
        build(loaded, tmp_path / "asked", sm=90, precision="f16")
    assert raised.value.hint == "build with `--precision bf16`"


@pytest.mark.parametrize(
    ("quantization", "sm", "precision"),
    [("fp8", 89, "fp8"), ("fp8_mlp_only", 90, "fp8"), ("fp4", 120, "fp4")],
)
def test_products_are_put_into_8_and_4_bit(
    loaded: LoadedConfig, tmp_path: Path, quantization: str, sm: int, precision: str
) -> None:
    loaded = with_build(loaded, quantization_type=quantization)

    result = build(loaded, tmp_path, sm=sm)

    manifest = result.artifact.manifest
    found = manifest.quantization
    assert manifest.precision == precision
    assert found is not None
    assert (found.method, found.residual_precision) == (quantization, "f16")
    quantized = found.static if precision == "fp8" else found.dynamic
    # Two layers of four products of attention and two of the feed-forward block.
    assert len(quantized) + len(found.kept) == 12
    assert len(quantized) <= (4 if quantization.endswith("mlp_only") else 12)
    assert found.quantized_fraction > 0
    stored = TensorProto.FLOAT8E4M3FN if precision == "fp8" else TensorProto.FLOAT4E2M1
    graph = onnx.load(result.artifact.path / TENSORRT_GRAPH).graph
    codes = [each for each in graph.initializer if each.data_type == stored and len(each.dims) == 2]
    assert len(codes) == len(quantized)
    assert len(plans(result)) == (0 if sm == 90 else 1)


def test_the_example_in_fp8_is_built_for_its_h100(qwen3: Path, tmp_path: Path) -> None:
    """The configuration as a platform has it; only the checkpoint is another, and here."""
    loaded = load_config(
        EXAMPLES / "qwen3-embedding-fp8" / "config.yaml",
        overrides=[
            "trt_llm.build.checkpoint_repository.source=LOCAL",
            f"trt_llm.build.checkpoint_repository.repo={qwen3}",
            "trt_llm.build.quantization_config.calib_size=64",
        ],
    )
    progress = Recorder()

    result = build(loaded, tmp_path, progress)

    manifest = result.artifact.manifest
    assert (manifest.backend, manifest.precision) == ("tensorrt", "fp8")
    assert manifest.residual_precision == "bf16"
    assert manifest.gpu is not None
    assert manifest.gpu.sm == 90
    assert progress.details["Compiled"].startswith("the plan is compiled at first serve on sm90")
    assert result.report.passed


def test_the_types_of_caches_that_are_not_there_change_nothing(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    result = build(with_build(loaded, quantization_type="fp8_kv"), tmp_path, sm=90)

    found = result.artifact.manifest.quantization
    assert found is not None
    assert found.method == "fp8"


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"quantization_type": "fp8"}, {"sm": 86}, "sm86 does not multiply in fp8"),
        ({"quantization_type": "fp4"}, {"sm": 89}, "sm89 does not multiply in fp4"),
        ({}, {"sm": 75, "precision": "bf16"}, "sm75 does not multiply in bf16"),
        ({}, {"sm": 90, "backend": "tensorrt-rtx"}, "tensorrt-rtx has no kernels for sm90"),
        (
            {},
            {"sm": 89, "hardware_compatibility": "same_compute_capability"},
            "no meaning for `--backend tensorrt-rtx`",
        ),
        ({}, {"backend": "tensorrt"}, "no GPU is named, and there is none here"),
        ({"quantization_type": "smooth_quant"}, {"sm": 90}, "is not computed by GPUs here"),
        ({}, {"sm": 90, "backend": "openvino"}, "`--target` has no meaning for"),
        ({}, {"hardware_compatibility": "same_compute_capability"}, "`--hw-compat` has no"),
        ({}, {"layout": "hybrid"}, "`--layout` has no meaning"),
        ({}, {"precision": "f16"}, "`--precision f16` is computed by GPUs"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_fetched(
    loaded: LoadedConfig,
    tmp_path: Path,
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    progress = Recorder()

    with pytest.raises(UsageError, match=message) as raised:
        build(with_build(loaded, **changes), tmp_path, progress, **options)

    assert raised.value.hint
    assert progress.started_steps == []


def test_without_the_compiler_the_plan_is_left_to_the_server(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_flavor: str) -> None:
        raise ToolMissingError("the package `tensorrt-rtx` is not installed", hint="install it")

    monkeypatch.setattr("beicli.builder.tensorrt.load_trt", fail)
    progress = Recorder()

    result = build(loaded, tmp_path, progress, sm=89)

    assert plans(result) == []
    assert "compiled at first serve on sm89" in progress.details["Compiled"]
    assert progress.warnings == ["the package `tensorrt-rtx` is not installed: install it"]


def test_with_a_driver_that_is_too_old_the_plan_is_left_to_the_server(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h100 = CudaDevice(0, "NVIDIA H100 80GB HBM3", 90, 85_000_000_000)
    trt = load_trt("tensorrt-rtx")
    monkeypatch.setattr("beicli.builder.tensorrt.read_device", lambda _index: h100)
    monkeypatch.setattr("beicli.builder.tensorrt.load_trt", lambda _flavor: trt)
    monkeypatch.setattr("beicli.tensorrt.api.read_driver", lambda: Driver((12, 8), (h100,)))
    progress = Recorder()

    result = build(loaded, tmp_path, progress, sm=90)

    assert plans(result) == []
    assert "compiled at first serve on sm90" in progress.details["Compiled"]
    assert any("13.0 is wanted: update the NVIDIA driver" in text for text in progress.warnings)


def test_an_engine_for_a_gpu_says_so_where_there_is_none(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    result = build(loaded, tmp_path, sm=89)

    with pytest.raises(GpuUnavailableError, match="there is no NVIDIA driver"):
        load_engine(result.artifact, EngineOptions())


def test_a_build_twice_gives_the_same_graph_and_a_plan_under_the_same_name(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    first, second = (build(loaded, tmp_path / name, sm=89) for name in "ab")

    # Of large graphs the compiler orders some kernels one way or the other, at the same size.
    assert [(path.name, path.stat().st_size) for path in plans(first)] == [
        (path.name, path.stat().st_size) for path in plans(second)
    ]
    graph = first.artifact.manifest.files[TENSORRT_GRAPH]
    assert graph == second.artifact.manifest.files[TENSORRT_GRAPH]


def test_attention_without_a_kernel_of_its_own_is_computed_in_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    sizes = _SIZES | {"num_attention_heads": 4}
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=vocab_size()))
    loaded = write_config(tmp_path, save_checkpoint(tmp_path / "narrow", model))

    result = build(loaded, tmp_path, sm=89)

    assert len(plans(result)) == 1
    assert "attention is several kernels" in caplog.text


def test_the_golden_outputs_are_the_references(loaded: LoadedConfig, tmp_path: Path) -> None:
    gpu = build(loaded, tmp_path / "gpu", sm=90)
    cpu = build(loaded, tmp_path / "cpu", precision="f32")

    with (
        np.load(gpu.artifact.path / "golden.npz") as ours,
        np.load(cpu.artifact.path / "golden.npz") as theirs,
    ):
        assert ours.files == theirs.files
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours.files)


def test_messages_of_the_compiler_reach_the_user(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that cannot be compiled ends the build, with the compiler's own reason."""
    monkeypatch.setattr("beicli.tensorrt.engine_plan.input_shapes", lambda _inputs, _profile: {})

    with pytest.raises(PlanError) as raised:
        build(loaded, tmp_path, sm=89)

    assert "the graph takes" in str(raised.value)
    assert not (tmp_path / "engine").exists()
