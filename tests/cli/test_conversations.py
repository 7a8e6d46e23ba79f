"""What a user reads, word for word: exit code, stdout and stderr of whole commands."""

import errno
import json
import re
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from inline_snapshot import snapshot
from tests.artifact.engines import MANIFEST
from tests.builder.tiny_models import save_checkpoint, tiny_qwen3_moe

from beicli.artifact.directory import seal_artifact, stage_artifact
from beicli.cli.app import main

Converse = Callable[..., str]

CONFIG = """\
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository:
      source: LOCAL
      repo: checkpoint
"""


@pytest.fixture
def converse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Converse:
    """Run `bei` in an empty directory; return exit code and output, its path filtered."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bei", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        text = f"exit code {ending.value.code}\n"
        for name, content in (("stdout", captured.out), ("stderr", captured.err)):
            if content:
                text += f"--- {name}\n{content}"
        return text.replace(str(tmp_path), "[DIRECTORY]")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_bei_alone_shows_its_commands(converse: Converse) -> None:
    assert converse() == snapshot("""\
exit code 2
--- stderr
Usage: bei [OPTIONS] COMMAND [ARGS]...

  Compile embedding models into versioned engines and serve them.

Options:
  --version             Print the version.
  --install-completion  Install completion for the current shell.
  --show-completion     Show completion for the current shell, to copy it or
                        customize the installation.
  -h, --help            Show this message and exit.

Commands:
  build     Build an engine, checked against its float32 reference.
  serve     Serve engine directories over HTTP until SIGTERM.
  bench     Measure a server: texts per second, latency, errors.
  validate  Check a configuration, an engine directory or a running server.
  inspect   Print what an engine directory holds.
  diff      Print in what two engine directories differ.
  doctor    Say what each backend can do on this machine, and what it lacks.
""")


def test_an_unknown_command_is_a_usage_error(converse: Converse) -> None:
    assert converse("biuld") == snapshot("""\
exit code 2
--- stderr
Usage: bei [OPTIONS] COMMAND [ARGS]...
Try 'bei -h' for help.

Error: No such command 'biuld'. Did you mean 'build'?
""")


def test_every_problem_of_a_config_is_said_at_once(converse: Converse, config: Path) -> None:
    config.write_text(
        CONFIG + "    max_num_tokens: 64\n    max_batch_size: '8'\n    quantisation_type: fp8\n",
        encoding="utf-8",
    )

    assert converse("build", "config.yaml") == snapshot("""\
exit code 2
--- stderr
error: 3 problems in `config.yaml`
  `trt_llm.build.max_num_tokens` (line 7): Input should be greater than 64
  `trt_llm.build.max_batch_size` (line 8): Input should be a valid integer; write the number without quotes
  unknown key `trt_llm.build.quantisation_type` (line 9); did you mean `quantization_type`?
""")


def test_a_config_that_is_not_yaml_is_named_with_its_line(converse: Converse, config: Path) -> None:
    config.write_text("trt_llm:\n  build: {base_model: encoder\n", encoding="utf-8")

    assert converse("build", "config.yaml") == snapshot("""\
exit code 2
--- stderr
error: `config.yaml` is not valid YAML: while parsing a flow mapping, expected ',' or '}', but got '<stream end>' (line 3)
""")


def test_a_missing_checkpoint_folder_is_named(converse: Converse, config: Path) -> None:
    assert converse("build", "config.yaml") == snapshot("""\
exit code 1
--- stderr
error: the checkpoint folder `[DIRECTORY]/checkpoint` does not exist

hint: `repo` of a LOCAL checkpoint is a path, relative to the configuration file
""")


def test_a_pickle_is_not_loaded_and_the_hint_says_how_to_convert(
    converse: Converse, config: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    settings = {"model_type": "bert", "architectures": ["BertModel"]}
    (checkpoint / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x02.")

    said = converse("build", "config.yaml")

    # The steps before carry a duration.
    assert said[said.index("error:") :] == snapshot("""\
error: the checkpoint has no `model.safetensors` (expected at `[DIRECTORY]/checkpoint/model.safetensors`) and no `onnx/model.onnx`; found `pytorch_model.bin`, which is never loaded: it can run code

hint: convert it once, where you trust it: `AutoModel.from_pretrained(PATH).save_pretrained(PATH)`
""")
    assert [path.name for path in tmp_path.iterdir() if "engine" in path.name] == []


def test_a_gpu_that_nothing_compiles_for_needs_a_word_from_the_user(
    converse: Converse, config: Path
) -> None:
    config.write_text("resources: {accelerator: B10}\n" + CONFIG, encoding="utf-8")

    assert converse("build", "config.yaml") == snapshot("""\
exit code 2
--- stderr
warning: `resources.accelerator` (line 1): unsupported B10 please upgrade truss
hint: name an L4, or another GPU that the platform has an image for
error: `resources.accelerator` is `B10`: its compute capability is not known here

hint: name the GPU's compute capability with `--target`, or build for this CPU with `--backend openvino`
""")


def test_a_folder_of_something_else_is_never_replaced(
    converse: Converse, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "thesis.txt").touch()

    assert converse("build", "config.yaml", "--force") == snapshot("""\
exit code 2
--- stderr
error: `[DIRECTORY]/engine` exists and is not an engine directory, so it is never replaced

hint: choose another `--output`
""")
    assert (tmp_path / "engine" / "thesis.txt").exists()


def test_an_unknown_precision_lists_the_known_ones(converse: Converse, config: Path) -> None:
    assert converse("build", "config.yaml", "--precision", "fp8") == snapshot("""\
exit code 2
--- stderr
Usage: bei build [OPTIONS] {config}
Try 'bei build -h' for help.

Error: Invalid value for '--precision' (env var: 'BEI_PRECISION'): Value error, 'fp8' is not one of 'auto', 'f32', 'bf16', 'f16'.
""")


@pytest.mark.parametrize("wrong", ["two", "0", "-1", "1.5", ""])
def test_a_number_of_replicas_that_is_none_is_refused_before_the_engine_is_read(
    converse: Converse, wrong: str
) -> None:
    said = converse("serve", "missing", f"--replicas={wrong}")

    assert said.replace(f"--replicas {wrong}`", "--replicas WRONG`") == snapshot("""\
exit code 2
--- stderr
error: `--replicas WRONG` is neither a number of processes nor `auto`

hint: a number is 1 or more; `auto` takes what suits the CPUs
""")


def test_more_replicas_than_cpus_are_warned_of(
    converse: Converse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beicli.machine.available_cpus", lambda: 2)
    monkeypatch.setenv("BEI_REPLICAS", "3")

    assert converse("serve", "missing") == snapshot("""\
exit code 1
--- stderr
warning: 3 replicas share 2 CPUs, and slow each other down
hint: `--replicas auto` takes what suits the CPUs
error: `missing` does not exist; an engine directory is wanted

hint: make one with `bei build config.yaml --output ./engine`
""")


def test_serving_nothing_says_how_to_make_an_engine(converse: Converse) -> None:
    assert converse("serve", "engine") == snapshot("""\
exit code 1
--- stderr
error: `engine` does not exist; an engine directory is wanted

hint: make one with `bei build config.yaml --output ./engine`
""")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["--name", "a"], "1 name for 2 engines"),
        (["--served-model-name", "a"], "1 name for 2 engines"),
        (["--name=a", "--name=b", "--name=c"], "3 names for 2 engines"),
        (["--name=a", "--served-model-name=b"], "`--name` and `--served-model-name` say the same"),
    ],
)
def test_names_that_do_not_fit_the_engines_are_refused_before_these_are_read(
    converse: Converse, names: list[str], said: str
) -> None:
    answer = converse("serve", "missing", "missing", *names)

    assert answer.startswith(f"exit code 2\n--- stderr\nerror: {said}\n")


def test_serving_another_format_version_says_which_is_read(
    converse: Converse, tmp_path: Path
) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "manifest.json").write_text('{"format_version": 7}', encoding="utf-8")

    assert converse("serve", "engine") == snapshot("""\
exit code 1
--- stderr
error: `manifest.json` has format version 7; this version of bei reads 5

hint: rebuild the engine with `bei build`, or use the bei version that made it
""")


def without_durations(said: str) -> str:
    return re.sub(r" {3}\d+\.\d s$", "   [DURATION]", said, flags=re.MULTILINE)


def test_a_build_for_torch_says_what_it_does(
    converse: Converse, config: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")

    said = converse("build", "config.yaml", "--backend", "torch")

    assert without_durations(said) == snapshot("""\
exit code 0
--- stdout
engine
--- stderr
Fetched     checkpoint, 0.2 MB   [DURATION]
Inspected   BertModel, pooling mean, 32 dimensions, inputs up to 64 tokens   [DURATION]
Loaded      0.0 M parameters   [DURATION]
Copied      torch, f32: the precision of the reference   [DURATION]
Checked     cosine min 1.000000, mean 1.000000, over 80 texts   [DURATION]
""")


def test_a_model_that_cannot_be_exported_is_offered_torch(
    converse: Converse, config: Path, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "checkpoint", tiny_qwen3_moe(), pooling="lasttoken")

    said = converse("build", "config.yaml", "--precision", "f32")

    # Why, the exporter says at length and in words of its own.
    assert "error: the model cannot be exported: " in said
    assert said[said.index("hint:") :] == snapshot(
        "hint: build it with `--backend torch`, which gives the same numbers more slowly, and report it with the name of the checkpoint\n"
    )
    assert not (tmp_path / "engine").exists()


def test_serving_a_torch_engine_without_torch_says_how_to_install_it(
    converse: Converse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage_artifact(tmp_path / "engine") as staging:
        seal_artifact(staging, replace(MANIFEST, backend="torch"))
    monkeypatch.delitem(sys.modules, "beicli.engine.torch", raising=False)
    # Python then raises what it does for a package that is not there.
    monkeypatch.setitem(sys.modules, "torch", None)

    assert converse("serve", "engine") == snapshot("""\
exit code 1
--- stderr
error: this engine computes with torch, and the package `torch` is not installed

hint: install it with `pip install 'beicli[build]'`, or build the engine with `--backend openvino` where the model can be exported
""")


def test_bench_without_a_server_ends_at_once(converse: Converse) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        said = converse("bench", "--url", f"http://127.0.0.1:{port}", "--duration", "60")

    assert said.replace(port, "[PORT]") == snapshot("""\
exit code 1
--- stderr
error: the first request to `http://127.0.0.1:[PORT]/v1/embeddings` failed: connection_refused: nothing listens at 127.0.0.1:[PORT]

hint: is the server running? try `bei serve`, or name another with `--url`
""")


def test_the_environment_sets_options(
    converse: Converse, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_SET", "trt_llm.build.max_num_tokens=1")

    assert "Input should be greater than 64" in converse("build", "config.yaml")


@pytest.mark.parametrize(
    ("file", "place"), [("engine/model.bin", " `engine/model.bin`"), (None, "")]
)
def test_a_full_disk_is_said_in_one_sentence(
    converse: Converse,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str | None,
    place: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", file)

    monkeypatch.setattr("beicli.config.load.load_config", fail)

    said = converse("build", "config.yaml")

    assert said == (
        f"exit code 1\n--- stderr\nerror: cannot write{place}: No space left on device\n"
    )


def test_a_strict_build_refuses_a_key_that_nothing_reads(converse: Converse, config: Path) -> None:
    config.write_text(CONFIG + "    quantisation_type: fp8\n", encoding="utf-8")

    assert converse("build", "config.yaml", "--strict") == snapshot("""\
exit code 2
--- stderr
error: unknown key `trt_llm.build.quantisation_type` (line 7)

hint: did you mean `quantization_type`?
""")
