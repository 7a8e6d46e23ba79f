"""What `bei validate`, `bei inspect` and `bei diff` say, and how they end."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from inline_snapshot import snapshot
from tests.artifact.engines import build
from tests.builder.builds import run_build, write_config
from tests.server.fakes import live_server
from tests.validation.endpoint.proxy import Exchange, proxy

from beicli.cli.app import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bei", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        texts = (text.replace(str(tmp_path), "[DIRECTORY]") for text in captured)
        return (ending.value.code, *texts)  # type: ignore[return-value]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    return run


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    run_build(write_config(folder, tiny_checkpoint), folder / "engine")
    return folder / "engine"


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    write_config(tmp_path, tiny_checkpoint)
    return tmp_path / "config.yaml"


def test_a_wrong_configuration_is_told_worst_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "resources: {accelerator: A10G}\n"
        "trt_llm:\n"
        "  build:\n"
        "    base_model: encoder\n"
        "    quantization_type: fp8\n"
        "    max_num_token: 512\n"
        "    checkpoint_repository: {source: HF, repo: org/model}\n"
    )

    code, out, err = run("validate", "--offline", "config.yaml")

    assert code == 1
    assert err == snapshot("failed: 1 target\n")
    assert out == snapshot("""\
config.yaml (config): failed, 1 error, 3 warnings, 2 info, 33 checks
level     where                                         finding                                     \n\
────────────────────────────────────────────────────────────────────────────────────────────────────
error     trt_llm.build.quantization_type (line 5)      FP8 quantization is only supported on L4,   \n\
                                                        H100, H200, B200 accelerators or newer      \n\
                                                        (CUDA_COMPUTE>=89)                          \n\
                                                        why: older GPUs have no FP8 arithmetic      \n\
                                                        [fp8-needs-ada]                             \n\
                                                        fix: write `quantization_type: no_quant`, or
                                                        name a newer GPU                            \n\
warning   trt_llm.build.num_builder_gpus (line 3)       Warning: build specifies FP8 quantization   \n\
                                                        but does not explicitly specify number of   \n\
                                                        build GPUs. GPU memory required at build    \n\
                                                        time may be significantly more than that    \n\
                                                        required at inference time due to FP8       \n\
                                                        quantization, which can result in OOM       \n\
                                                        failures during the engine build            \n\
                                                        phase.'num_builder_gpus' can be used to     \n\
                                                        specify the number of GPUs to use at build  \n\
                                                        time.                                       \n\
                                                        why: quantising holds the model in 16 bit,  \n\
                                                        twice the memory that serving needs         \n\
                                                        [fp8-builder-gpus]                          \n\
                                                        fix: write `num_builder_gpus: 1`, or more   \n\
                                                        for models of 30 billion parameters and up  \n\
warning   trt_llm.build.max_num_token (line 6)          unknown key                                 \n\
                                                        why: nothing reads it, so whatever it was   \n\
                                                        meant to change stays as it is              \n\
                                                        [unknown-key]                               \n\
                                                        fix: did you mean `max_num_tokens`?         \n\
warning   trt_llm.build.checkpoint_repository.revisio   no revision is named                        \n\
          n (line 7)                                    why: a branch moves, so the same file builds
                                                        another engine tomorrow                     \n\
                                                        [revision-not-pinned]                       \n\
                                                        fix: write the commit's 40 hexadecimal      \n\
                                                        digits; the hub shows them under `Files`    \n\
info      resources.accelerator (line 1)                `A10G` is named, which is sm86              \n\
                                                        why: what is built serves on such a GPU, and
                                                        not on a CPU  [built-for-gpu]               \n\
                                                        fix: build for this CPU instead with        \n\
                                                        `--backend openvino`                        \n\
info      trt_llm.build.checkpoint_repository (line     `org/model@main` is not in the local cache, \n\
          7)                                            and `--offline` forbids fetching it         \n\
                                                        why: whether it fits the configuration is   \n\
                                                        known only when it is built                 \n\
                                                        [checkpoint-not-seen]                       \n\
                                                        fix: run once without `--offline`, or point \n\
                                                        HF_HOME at a cache that has it              \n\

""")


@pytest.mark.usefixtures("config")
def test_a_clean_configuration_ends_with_0(run: Run) -> None:
    code, out, err = run("validate", ".")

    assert (code, err) == (0, "clean: 1 target\n")
    assert out.startswith(". (config): clean, 1 info, ")
    assert "task: embedding" in out
    assert "estimates" in out


def test_machines_read_json_of_a_stable_form(run: Run, config: Path) -> None:
    config.write_text(config.read_text() + "max_nut: 5\n")
    code, out, _ = run("validate", "--json", "config.yaml")

    answer = json.loads(out)
    (target,) = answer["targets"]
    assert code == 0
    assert set(answer) == {"schema_version", "verdict", "targets"}
    assert (answer["schema_version"], answer["verdict"]) == (1, "warnings")
    assert set(target) == {"target", "kind", "verdict", "num_checks", "findings", "facts"}
    assert set(target["findings"][0]) == {
        "rule",
        "level",
        "place",
        "line",
        "is_override",
        "what",
        "why",
        "fix",
        "reproduce",
    }
    assert [finding["level"] for finding in target["findings"]] == ["warning", "info"]


@pytest.mark.usefixtures("config")
def test_strict_fails_on_warnings(run: Run) -> None:
    arguments = ("validate", "config.yaml", "--set", "trt_llm.build.tensor_parallel_count=2")

    assert run(*arguments)[0] == 0
    assert run(*arguments, "--strict")[0] == 1


def test_what_is_no_target_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    assert run("validate", "missing.yaml", "localhost:7997", "folder") == snapshot(
        (
            2,
            """\
missing.yaml (unknown): failed, 1 error, 1 check
level   where   finding                                                                          \n\
─────────────────────────────────────────────────────────────────────────────────────────────────
error   -       `missing.yaml` does not exist                                                    \n\
                why: there is nothing to check  [no-target]                                      \n\
                fix: name a config.yaml, a Truss directory, an engine directory or a server's URL

localhost:7997 (unknown): failed, 1 error, 1 check
level   where   finding                                        \n\
───────────────────────────────────────────────────────────────
error   -       `localhost:7997` does not exist                \n\
                why: there is nothing to check  [no-target]    \n\
                fix: for a server write `http://localhost:7997`

folder (unknown): failed, 1 error, 1 check
level   where   finding                                                                             \n\
────────────────────────────────────────────────────────────────────────────────────────────────────
error   -       `folder` is neither an engine directory nor a Truss directory: it has neither       \n\
                `manifest.json` nor `config.yaml`                                                   \n\
                why: there is nothing to check  [no-target]                                         \n\
                fix: name the file, or the directory that `bei build` made                          \n\

""",
            "failed: 3 targets\n",
        )
    )
    assert run("validate")[0] == 2


def test_what_is_no_target_hides_no_other_verdict(run: Run, config: Path) -> None:
    code, out, err = run("validate", "missing.yaml", "config.yaml", "--json")

    assert (code, err) == (2, "")
    assert [target["verdict"] for target in json.loads(out)["targets"]] == ["failed", "clean"]


def test_a_folder_with_somebody_elses_manifest_is_a_truss_directory(run: Run, config: Path) -> None:
    (config.parent / "manifest.json").write_text('{"name": "a web application"}')
    (config.parent / "report.json").write_text("{}")

    assert run("validate", ".")[1].startswith(". (config): clean")


@pytest.mark.parametrize("override", ["a", "trt_llm.build.max_num_tokens=[1"])
def test_an_override_that_cannot_be_read_is_a_usage_error(
    run: Run, config: Path, override: str
) -> None:
    code, out, err = run("validate", "config.yaml", "--set", override)

    assert (code, out) == (2, "")
    assert err.startswith(f"error: `--set {override}`")


def test_an_override_where_no_target_is_a_configuration_is_a_usage_error(
    run: Run, engine: Path
) -> None:
    assert run("validate", str(engine), "--set", "model_name=a")[:2] == (2, "")


def test_what_a_terminal_would_obey_is_spelled_out(run: Run, config: Path) -> None:
    text = config.read_text()
    config.write_text(text + '"key": 1\nresources: {accelerator: "\\e[31m\\a"}\n')

    code, out, _ = run("validate", "config.yaml")

    assert code == 1
    assert "\\x1b[31m" in out
    assert "\x1b" not in out
    assert json.loads(run("validate", "--json", "config.yaml")[1])["verdict"] == "failed"


def test_all_kinds_of_targets_at_once(run: Run, config: Path, engine: Path) -> None:
    with live_server() as server:
        code, out, err = run("validate", "config.yaml", str(engine), server.url)

    assert (code, err) == (0, "clean: 3 targets\n")
    assert [
        line.rsplit(" (", 1)[1].split(")")[0] for line in out.splitlines() if "): clean" in line
    ] == [
        "config",
        "engine",
        "server",
    ]
    assert "OpenAI embeddings" in out


def test_a_key_is_read_from_a_file(run: Run, tmp_path: Path) -> None:
    with live_server() as server:
        assert run("validate", server.url, "--api-key-file", "missing")[0] == 2
        (tmp_path / "keys").write_text("schlüssel\n", encoding="utf-8")
        assert run("validate", server.url, "--api-key-file", "keys")[0] == 2
        (tmp_path / "keys").write_text("\n")
        assert run("validate", server.url, "--api-key-file", "keys")[0] == 2
        (tmp_path / "keys").write_text("one\n")
        assert run("validate", server.url, "--api-key-file", "keys")[0] == 0


def test_inspect_prints_what_is_inside(run: Run, engine: Path) -> None:
    code, out, err = run("inspect", str(engine))

    assert (code, err) == (0, "")
    for line in ("task: embedding", "pooling: mean", "precision: f32", "accuracy: cosine"):
        assert line in out
    assert "golden.npz" in out
    values = json.loads(run("inspect", "--json", str(engine))[1])
    assert values["embedding_dimension"] == 32
    assert {entry["file"] for entry in values["files"]} >= {"config.yaml", "golden.npz"}


def test_inspect_of_something_else_is_an_error(run: Run, tmp_path: Path) -> None:
    assert run("inspect", str(tmp_path))[0] == 1


def test_diff_of_an_engine_with_itself_is_nothing(run: Run, engine: Path, tmp_path: Path) -> None:
    shutil.copytree(engine, tmp_path / "copy")

    assert run("diff", str(engine), "copy") == (0, "", "0 differences\n")
    assert run("diff", "--json", str(engine), "copy")[:2] == (0, "[]\n")


def test_diff_with_something_else_is_a_usage_error(run: Run, engine: Path, tmp_path: Path) -> None:
    assert run("diff", str(engine), str(tmp_path))[:2] == (2, "")


def test_diff_names_what_changed(run: Run, tmp_path: Path) -> None:
    build(tmp_path / "one", name="tiny")
    build(tmp_path / "two", name="tinier")

    assert run("diff", "one", "two") == (1, "name\n  - tiny\n  + tinier\n", "1 difference\n")
    assert json.loads(run("diff", "--json", "one", "two")[1]) == [
        {"place": "name", "left": "tiny", "right": "tinier"}
    ]


def test_only_what_is_wrong_with_a_server_comes_with_commands_to_copy(run: Run) -> None:
    def without_usage(exchange: Exchange) -> None:
        if exchange.path == "/v1/embeddings" and isinstance(exchange.value, dict):
            exchange.value.pop("usage", None)

    with live_server() as server, proxy(server.url, without_usage) as url:
        code, out, _ = run("validate", url)

    assert code == 1
    lines = out.splitlines()
    commands = [line for line in lines if line.startswith("curl ")]
    assert any(f"{url}/v1/embeddings" in command for command in commands)
    # Refusals of routes that are not for this model are no more than a note.
    assert not any("/rerank" in command for command in commands)
    # On one line each, however narrow the terminal.
    assert all(command.endswith("'") for command in commands)
