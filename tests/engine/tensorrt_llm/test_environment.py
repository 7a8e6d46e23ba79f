"""How the environment of TensorRT-LLM is found, and what is said if it is not."""

import sys
from pathlib import Path

import pytest
from tests.engine.tensorrt_llm.fakes import fake_python

from beicli.engine.tensorrt_llm.environment import PYTHON_VARIABLE, find_environment
from beicli.errors import ToolMissingError


def test_its_version_is_told(tmp_path: Path) -> None:
    python = fake_python(tmp_path)

    found = find_environment({PYTHON_VARIABLE: str(python)})

    assert (found.python, found.version) == (python, "1.3.0")


def failing(tmp_path: Path) -> Path:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", f"{PYTHON_VARIABLE} is not set"),
        ("/nowhere/python", "`/nowhere/python`, which is no program"),
        (sys.executable, "has no TensorRT-LLM: "),
    ],
)
def test_an_environment_without_it_is_told(value: str, words: str) -> None:
    with pytest.raises(ToolMissingError) as missing:
        find_environment({PYTHON_VARIABLE: value})

    assert words in missing.value.message
    assert missing.value.hint is not None
    assert PYTHON_VARIABLE in missing.value.hint


def test_a_program_that_fails_without_a_word_is_told(tmp_path: Path) -> None:
    with pytest.raises(ToolMissingError, match="it gives no reason"):
        find_environment({PYTHON_VARIABLE: str(failing(tmp_path))})
