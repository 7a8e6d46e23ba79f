"""Every example validates, and what its README asks is answered."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tests.server.fakes import FakeEngine, ask

from beicli.config.load import load_config
from beicli.config.schema import CheckpointSource
from beicli.model.spec import Task

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/config.yaml"))
TASKS = {
    "/v1/embeddings": Task.EMBEDDING,
    "/rerank": Task.RERANKING,
    "/predict": Task.CLASSIFICATION,
    "/predict_tokens": Task.TOKEN_CLASSIFICATION,
    "/embed_sparse": Task.SPARSE_EMBEDDING,
}


def shell_lines(name: str) -> list[list[str]]:
    """Split the commands of an example's README as a shell does."""
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def test_there_is_an_example_of_every_workflow() -> None:
    asked = {
        part.removeprefix("http://127.0.0.1:7997")
        for name in NAMES
        for line in shell_lines(name)
        for part in line
        if part.startswith("http")
    }

    assert asked == set(TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_readme_asks_is_answered(name: str) -> None:
    (curl,) = [line for line in shell_lines(name) if line[0] == "curl"]
    url = next(part for part in curl if part.startswith("http"))
    body = json.loads(curl[curl.index("-d") + 1])
    route = url.removeprefix("http://127.0.0.1:7997")

    answer = ask("POST", route, json=body, engine=FakeEngine(task=TASKS[route]))

    assert answer.status_code == 200, answer.text
    configured = load_config(EXAMPLES / name).config.trt_llm.runtime.webserver_default_route
    assert configured in {None, route}


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_builds_its_own_example(name: str) -> None:
    commands = shell_lines(name)
    config = load_config(EXAMPLES / name).config

    assert [line[1:3] for line in commands if line[0] == "bei"] == [
        ["validate", f"examples/{name}"],
        ["build", f"examples/{name}"],
        ["serve", f"engines/{name}"],
    ]
    build = next(line for line in commands if line[:2] == ["bei", "build"])
    assert build[build.index("--output") + 1] == f"engines/{name}"
    assert ("openvino" in build) == (config.resources.accelerator is not None)
    is_local = config.trt_llm.build.checkpoint_repository.source is CheckpointSource.LOCAL
    assert (["make", "models"] in commands) == is_local


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_request_of_the_configuration_is_answered(name: str) -> None:
    config = load_config(EXAMPLES / name).config
    body = config.model_metadata.get("example_model_input")
    if body is None:
        assert name.startswith("all-minilm-l6-v2"), "the smallest examples have the least keys"
        return
    route = config.trt_llm.runtime.webserver_default_route or "/embed_sparse"

    answer = ask("POST", route, json=body, engine=FakeEngine(task=TASKS[route]))

    assert answer.status_code == 200, answer.text
