"""The layers hold, the rules that say so really look, and nothing heavy loads too early."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"


def lint(directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"],
        cwd=directory,
        # The copy must win over the installed package.
        env={"PYTHONPATH": str(directory / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources and their rules, to spoil."""
    shutil.copytree(
        REPOSITORY / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("scheduler/queue.py", "import beicli.pipeline.pipeline", "its own layer BROKEN"),
        ("engine/batch.py", "import beicli.builder.build", "its own layer BROKEN"),
        ("server/app.py", "import beicli.bench.report", "its own layer BROKEN"),
        ("errors.py", "import beicli.model.spec", "its own layer BROKEN"),
        ("engine/openvino.py", "import torch", "torch, transformers and onnx BROKEN"),
        ("engine/load.py", "import torch", "torch, transformers and onnx BROKEN"),
        ("engine/load.py", "import beicli.modeling.tasks", "torch, transformers and onnx BROKEN"),
        ("engine/torch.py", "import transformers", "torch, transformers and onnx BROKEN"),
        ("pipeline/loaded_engine.py", "import torch", "torch, transformers and onnx BROKEN"),
        ("pipeline/pipeline.py", "import starlette", "starlette and hypercorn BROKEN"),
        ("builder/build.py", "import rich", "typer and rich BROKEN"),
        ("engine/openvino.py", "import openvino", "OpenVINO is imported in one place"),
        ("server/traffic.py", "import opentelemetry.trace", "imported in one module"),
    ],
)
def test_a_planted_violation_is_caught(
    copy: Path, module: str, statement: str, contract: str
) -> None:
    path = copy / "src" / "beicli" / module
    path.write_text(f"{statement}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")

    verdict = lint(copy)

    assert verdict.returncode == 1
    assert contract in verdict.stdout


def test_a_package_without_a_layer_is_caught(copy: Path) -> None:
    (copy / "src" / "beicli" / "helpers").mkdir()
    (copy / "src" / "beicli" / "helpers" / "__init__.py").touch()

    verdict = lint(copy)

    assert verdict.returncode == 1
    assert "helpers" in verdict.stdout


def test_the_sources_as_they_are_keep_every_contract(copy: Path) -> None:
    verdict = lint(copy)

    assert verdict.returncode == 0, verdict.stdout


def loaded_modules(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "transformers", "starlette", "hypercorn", "openvino", "numpy", "pydantic"}


@pytest.mark.parametrize(
    "statement",
    [
        "import beicli",
        "import beicli.cli.app",
        (
            "import runpy; sys.argv = ['bei', '--help']\n"
            "try: runpy.run_module('beicli', run_name='__main__')\n"
            "except SystemExit: pass"
        ),
    ],
    ids=["import", "command", "help"],
)
def test_importing_and_help_load_nothing_heavy(statement: str) -> None:
    assert loaded_modules(statement) & HEAVY == set()


def test_serving_imports_neither_torch_nor_anything_of_the_build() -> None:
    loaded = loaded_modules(
        "import beicli.server.run, beicli.engine.load\nbeicli.engine.load._engine_class('openvino')"
    )

    assert "openvino" in loaded
    assert loaded & {"torch", "transformers", "onnx", "onnxscript", "safetensors"} == set()


def test_serving_without_traces_imports_nothing_for_them() -> None:
    loaded = loaded_modules("import beicli.server.run, beicli.server.replicas.supervisor")

    assert loaded & {"opentelemetry", "google", "requests"} == set()
    assert "opentelemetry" in loaded_modules("import beicli.server.tracing")


def test_serving_with_torch_imports_no_other_engine() -> None:
    loaded = loaded_modules(
        "import beicli.server.run, beicli.engine.load\nbeicli.engine.load._engine_class('torch')"
    )

    assert "torch" in loaded
    assert loaded & {"openvino", "onnx", "onnxscript"} == set()


def test_importing_openvino_does_not_import_its_telemetry() -> None:
    code = (
        "import beicli.engine.openvino, sys; print(sys.modules['openvino_telemetry'], "
        "sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["None", "openvino.tools.ovc.telemetry_stub"]
