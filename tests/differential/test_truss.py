"""Our verdict on a configuration is that of Truss's own parser.

Truss pins older libraries, so it answers from an environment of its own: `make truss` makes it.
What differs on purpose is listed below, and for users in docs/reference/validation.md.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.differential.strategies import ARCHITECTURES, configurations

from beicli.config.architecture_rules import architecture_problems
from beicli.config.load import check_config
from beicli.config.problems import ConfigProblem
from beicli.config.truss_rules import LEGACY_QUANTIZATION, TEXT_GENERATION
from beicli.findings import Level

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("BEI_TRUSS_PYTHON", ROOT / ".venv-truss/bin/python"))
NUM_CONFIGURATIONS = 3000
# Truss says these of text generation, of its own habits, or twice of one thing.
UNSAID = (
    "Setting default route to ",
    "TRT-LLM models should have model_metadata",
    "We recommend speculative decoding for lower load",
    "Lookahead decoding mode generates up to",
)
# The shorter of Truss's two texts for a causal model on an encoder.
UNSAID_END = "Consider setting `trt_llm.build.base_model` to `decoder`"
# Keys that only the platform reads; here they may hold anything.
UNCHECKED = (
    "Invalid cpu specification",
    "Invalid memory specification",
    "Invalid memory unit",
)
# Truss says these of several keys even where one of them is wrong by itself; here the wrong key
# is reported first. The later ones are of text generation, which is refused as a whole.
SAID_LATER = (
    "Using paged context fmha requires",
    "KV cache block reuse must be enabled",
    "TRT-LLM is not supported on CUDA_COMPUTE_75",
    "FP8 quantization is only supported on",
    "FP4 quantization is only supported on",
    "Lookahead decoding mode requires",
    "Speculative decoding requires exactly one of",
    "Input should be 'DRAFT_TOKENS_EXTERNAL' or",
    "If trt_llm.runtime.enable_chunked_context is True",
    "Tensor parallelism and GPU count must be the same",
)
# Where a value is of another kind altogether, Truss fails in one of these ways.
WRONG_KIND = (
    "AttributeError: ",
    "KeyError: ",
    "TypeError: ",
    "ValueError: ",
    "Input should be a valid dictionary",
    "Input should be <InferenceStack",
    "bei_version must start with a number",
)
# An engine has to be described; for Truss it is one kind of deployment among others.
NO_ENGINE = "the section that describes the engine is"
# Truss makes text of any environment variable, null and lists too, and overwrites `use_gpu` where
# an accelerator is named. It also reads an accelerator as the mapping that its server sends back,
# and a repository without a name anywhere but on the hub.
STRICTER = (
    "`environment_variables.",
    "`resources.use_gpu`",
    "`resources.accelerator`: Input should be a valid string",
    "`trt_llm.build.checkpoint_repository.repo`: a checkpoint repository cannot be empty",
)


class Truss:
    """Truss's parser in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, text: str, architecture: str | None) -> dict[str, list[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"text": text, "architecture": architecture}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, list[str]] = json.loads(self._process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def truss() -> Iterator[Truss]:
    if not PYTHON.exists():
        message = "truss is not installed beside this environment; `make truss` does it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    oracle = Path(__file__).with_name("oracle.py")
    process = subprocess.Popen(
        [PYTHON, "-W", "ignore", oracle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield Truss(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "config.yaml"


@settings(
    max_examples=NUM_CONFIGURATIONS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
@given(tree=configurations(), architecture=st.sampled_from(ARCHITECTURES))
def test_the_verdict_is_that_of_truss(
    truss: Truss, path: Path, tree: dict[str, Any], architecture: str | None
) -> None:
    text = yaml.safe_dump(tree, sort_keys=False)
    path.write_text(text, encoding="utf-8")

    theirs = truss.ask(text, architecture)
    checked = check_config(path)
    problems = list(checked.problems)
    if checked.config is not None and checked.source is not None and architecture:
        problems += architecture_problems(checked.source, checked.config, architecture)

    _compare(theirs["errors"], theirs["logged"], problems)


def _compare(errors: list[str], logged: list[str], problems: list[ConfigProblem]) -> None:
    """See that both say the same, the documented differences aside."""
    said_here = {_normal(problem.message) for problem in problems}
    refusals = [problem for problem in problems if problem.rule.level is Level.ERROR]
    checked = [_normal(message) for message in errors if not message.startswith(UNCHECKED)]
    if checked:
        assert refusals, errors
        # A message that has no counterpart stands for a kind: any refusal will do.
        kinds = (*SAID_LATER, *WRONG_KIND)
        assert said_here & {*checked} or any(text.startswith(kinds) for text in checked), (
            errors,
            said_here,
        )
    elif not errors:
        only_here = {TEXT_GENERATION.name, LEGACY_QUANTIZATION.name}
        unexpected = [problem for problem in refusals if problem.rule.name not in only_here]
        assert all(
            NO_ENGINE in problem.message or str(replace(problem, line=None)).startswith(STRICTER)
            for problem in unexpected
        ), unexpected
        if not refusals:
            said_there = {_normal(text) for text in logged if not text.startswith(UNSAID)}
            missing = {text for text in said_there - said_here if UNSAID_END not in text}
            assert not missing, (missing, said_here)


def _normal(message: str) -> str:
    return " ".join(message.split())
