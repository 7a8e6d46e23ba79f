"""Configurations as `bei validate` sees them: every rule, with Truss's text where it has one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import save_file
from tests.differential.strategies import configurations
from tests.model.checkpoint_folder import change_json, write_checkpoint
from tests.sources.fake_hub import COMMIT, FakeHub

from beicli.validation import checkpoint as checkpoint_rules
from beicli.validation.config_target import CONFIG_RULES, validate_config_target
from beicli.validation.findings import Finding, TargetReport, Verdict

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/config.yaml"))

BASE = {"base_model": "encoder_bert", "quantization_type": "no_quant"}
BERT = {"architectures": ["BertModel"]}
FP8_TEXT = (
    "Warning: build specifies FP8 quantization but does not explicitly specify number of"
    " build GPUs. GPU memory required at build time may be significantly more than that"
    " required at inference time due to FP8 quantization, which can result in OOM failures"
    " during the engine build phase.'num_builder_gpus' can be used to specify the number of"
    " GPUs to use at build time."
)
T4_TEXT = (
    "TRT-LLM is not supported on CUDA_COMPUTE_75 (T4) and CUDA_COMPUTE_70 (V100) GPUs."
    " \nthe lowest supported CUDA compute capability is CUDA_COMPUTE_80 (A100) or A10G"
    " (CUDA_COMPUTE_86)"
)
FP8_NEEDS = (
    "FP8 quantization is only supported on L4, H100, H200, B200 accelerators or newer"
    " (CUDA_COMPUTE>=89)"
)
FP4_NEEDS = (
    "FP4 quantization is only supported on B200 / Blackwell accelerators or newer"
    " (CUDA_COMPUTE>=100)"
)
LOOKAHEAD = (
    "trt_llm.build.speculator={speculative_decoding_mode: LOOKAHEAD_DECODING,"
    " lookahead_windows_size: 2, lookahead_ngram_size: 2,"
    " lookahead_verification_set_size: 2}"
)
# rule, what is set, where it is said, what is said (None: any text)
CASES: list[tuple[str, list[str], str, str | None]] = [
    (
        "text-generation",
        ["trt_llm.build.base_model=decoder"],
        "trt_llm.build.base_model",
        "`decoder` generates text",
    ),
    (
        "paged-attention",
        [
            (
                "trt_llm.build.plugin_configuration="
                "{paged_kv_cache: false, use_paged_context_fmha: true}"
            )
        ],
        "trt_llm.build.plugin_configuration",
        "Using paged context fmha requires requires paged kv cache",
    ),
    (
        "speculator-on-encoder",
        ["trt_llm.build.base_model=encoder", LOOKAHEAD],
        "trt_llm.build.speculator",
        "KV cache block reuse must be enabled for speculative decoding target model.",
    ),
    (
        "gpu-too-old",
        ["trt_llm.build.base_model=encoder", "resources.accelerator=T4"],
        "resources.accelerator",
        T4_TEXT,
    ),
    (
        "fp8-needs-ada",
        ["trt_llm.build.quantization_type=fp8", "resources.accelerator=A10G"],
        "trt_llm.build.quantization_type",
        FP8_NEEDS,
    ),
    (
        "fp4-needs-blackwell",
        ["trt_llm.build.quantization_type=fp4", "resources.accelerator=H100"],
        "trt_llm.build.quantization_type",
        FP4_NEEDS,
    ),
    (
        "legacy-quantization",
        ["trt_llm.build.quantization_type=weights_int4"],
        "trt_llm.build.quantization_type",
        "`weights_int4` is of a generation of engines that is gone",
    ),
    (
        "legacy-quantization",
        ["trt_llm.build.quantization_type=smooth_quant", "resources.accelerator=L4"],
        "trt_llm.build.quantization_type",
        "`smooth_quant` is of a generation of engines that is gone",
    ),
    (
        "kv-cache-type-on-encoder",
        ["trt_llm.build.base_model=encoder", "trt_llm.build.quantization_type=fp8_kv"],
        "trt_llm.build.quantization_type",
        (
            "Compling `encoder` with a kv-cache dtype is a alpha feature. This may fail. You"
            " selected build.quantization_type TrussTRTLLMQuantizationType.FP8_KV"
        ),
    ),
    (
        "max-seq-len-on-encoder",
        ["trt_llm.build.base_model=encoder", "trt_llm.build.max_seq_len=512"],
        "trt_llm.build.max_seq_len",
        (
            "Your setting of `build.max_seq_len=512` is not used for embedding models, and only"
            " respected for SequenceClassification models. Automatically inferred from the model"
            " repo config.json -> `max_position_embeddings`"
        ),
    ),
    (
        "parallel-encoder",
        ["trt_llm.build.tensor_parallel_count=2"],
        "trt_llm.build.tensor_parallel_count",
        "Encoder builds require tensor_parallel_count=1; overriding 2",
    ),
    (
        "int8-on-a100",
        ["trt_llm.build.quantization_type=weights_int8", "resources.accelerator=A100"],
        "trt_llm.build.quantization_type",
        "Weight only int8 quantization on A100 accelerators is not recommended.",
    ),
    (
        "no-platform-image",
        ["resources.accelerator=B10"],
        "resources.accelerator",
        "unsupported B10 please upgrade truss",
    ),
    (
        "no-platform-image-for-cpu",
        [],
        "resources.accelerator",
        "without a GPU, Truss says `unsupported none please upgrade truss`",
    ),
    (
        "fp8-builder-gpus",
        ["trt_llm.build.quantization_type=fp8", "resources.accelerator=L4"],
        "trt_llm.build.num_builder_gpus",
        FP8_TEXT,
    ),
    (
        "unusual-world-size",
        ["trt_llm.build.base_model=decoder", "trt_llm.build.tensor_parallel_count=3"],
        "trt_llm.build.tensor_parallel_count",
        (
            "TRT-LLM world size 3 is unusual. Typical world sizes are powers of two, often 1 or"
            " [2,4,8]."
        ),
    ),
    (
        "bert-on-encoder",
        ["trt_llm.build.base_model=encoder"],
        "trt_llm.build.base_model",
        (
            "Your model architecture BertModel indicates a BERT-like based model. Consider"
            " setting `trt_llm.build.base_model` to `encoder_bert` for better performance and"
            " compatibility."
        ),
    ),
    (
        "bert-on-decoder",
        ["trt_llm.build.base_model=decoder"],
        "trt_llm.build.base_model",
        (
            "Your model architecture BertModel indicates a BERT-like based model. but you set"
            " `trt_llm.build.base_model` to `decoder`. Please set it to `encoder_bert`."
        ),
    ),
    (
        "fp4-builder-gpus",
        ["trt_llm.build.quantization_type=fp4", "resources.accelerator=B200"],
        "trt_llm.build.num_builder_gpus",
        "`quantization_type` is `fp4`, and `num_builder_gpus` is not set",
    ),
    (
        "quantization-needs-gpu",
        ["trt_llm.build.quantization_type=fp8"],
        "trt_llm.build.quantization_type",
        "`fp8` is asked for, and no `resources.accelerator` is named",
    ),
    (
        "calibration-unused",
        ["trt_llm.build.quantization_config={calib_size: 512}"],
        "trt_llm.build.quantization_config",
        "`quantization_type` is `no_quant`",
    ),
    (
        "built-for-gpu",
        ["resources.accelerator=L4"],
        "resources.accelerator",
        "`L4` is named, which is sm89",
    ),
    (
        "gpu-not-built-for",
        ["resources.accelerator=V100"],
        "resources.accelerator",
        "`V100` is named",
    ),
    (
        "secret-in-file",
        ["secrets.hf_access_token=hf_verysecret"],
        "secrets.hf_access_token",
        "the secret `hf_access_token` has a value",
    ),
    (
        "secret-not-declared",
        ["trt_llm.build.checkpoint_repository={source: HF, repo: a/b, runtime_secret_name: mine}"],
        "trt_llm.build.checkpoint_repository.runtime_secret_name",
        "`secrets` does not hold `mine`",
    ),
    (
        "content-not-pinned",
        ["trt_llm.build.checkpoint_repository={source: S3, repo: 's3://bucket/path'}"],
        "trt_llm.build.checkpoint_repository.revision",
        "no revision is named",
    ),
    ("override", ["trt_llm.build.max_num_token=64"], "trt_llm.build.max_num_token", "unknown key"),
    ("weights-unused", ["weights=[{source: 'hf://a/b', mount_location: /m}]"], "weights", None),
    ("config-schema", ["trt_llm.build.max_num_tokens=64"], "trt_llm.build.max_num_tokens", None),
    (
        "checkpoint-not-there",
        ["trt_llm.build.checkpoint_repository.repo=missing"],
        "trt_llm.build.checkpoint_repository",
        None,
    ),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of a sound local BERT."""
    directory = write_checkpoint(tmp_path / "checkpoint")
    save_file({"a": np.zeros((100, 32), np.float32)}, directory / "model.safetensors")
    repository = {"source": "LOCAL", "repo": "checkpoint"}
    build = BASE | {"checkpoint_repository": repository}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model_name": "tiny", "trt_llm": {"build": build}}))
    return path


def rules_of(report: TargetReport) -> set[str]:
    return {finding.rule for finding in report.findings}


def found(report: TargetReport, rule: str) -> Finding:
    findings = [finding for finding in report.findings if finding.rule == rule]
    assert findings, f"{rule} is not among {rules_of(report)}"
    return findings[0]


def test_a_sound_configuration_is_clean_and_described(config: Path) -> None:
    report = validate_config_target(config)

    assert report.verdict is Verdict.CLEAN, report.findings
    assert report.facts["task"] == "embedding"
    assert report.facts["estimates"]
    json.dumps(report.facts)


@pytest.mark.parametrize(
    ("rule", "overrides", "place", "text"), CASES, ids=[case[0] for case in CASES]
)
def test_each_rule_says_what_where_and_why(
    config: Path, rule: str, overrides: list[str], place: str, text: str | None
) -> None:
    report = validate_config_target(config, overrides=overrides, offline=True)

    finding = found(report, rule)
    assert finding.place == place
    # The place itself, or a section above it, was written by `--set`.
    assert finding.is_override == any(place.startswith(o.partition("=")[0]) for o in overrides)
    assert text in {None, finding.what}
    assert finding.why
    assert "hf_verysecret" not in repr(finding)


def test_every_rule_of_a_configuration_is_exercised() -> None:
    elsewhere = {rule.name for rule in checkpoint_rules.RULES}  # test_checkpoint.py
    here = {case[0] for case in CASES} | {
        "config-file",
        "duplicate-key",
        "unusable-value",
        "unknown-key",
        "revision-not-pinned",
        "checkpoint-not-seen",
        "causal-lm-on-encoder",
        "classifier-on-decoder",
    }

    assert {rule.name for rule in CONFIG_RULES} == here | elsewhere


@pytest.mark.parametrize(
    ("architecture", "overrides", "rule"),
    [
        ("LlamaForCausalLM", ["trt_llm.build.base_model=encoder"], "causal-lm-on-encoder"),
        (
            "LlamaForSequenceClassification",
            ["trt_llm.build.base_model=decoder"],
            "classifier-on-decoder",
        ),
    ],
)
def test_the_architecture_is_held_against_the_base_model(
    config: Path, architecture: str, overrides: list[str], rule: str
) -> None:
    change_json(config.parent / "checkpoint" / "config.json", architectures=[architecture])

    finding = found(validate_config_target(config, overrides=overrides), rule)

    assert finding.what.startswith(f"Your model architecture {architecture} indicates a ")


# Spec of the platform: which precision a GPU computes, for `encoder`. `A` means every encoder.
_NEVER = ["T4", "V100"]
_16_BIT = ["A10G", "A100", "A100_40GB"]
_FP8 = ["L4", "L40S", "H100", "H100_40GB", "H200"]
_FP4 = ["B200", "RTX_PRO_6000", "B300", "GB300"]
_8_BIT = ["fp8", "fp8_kv"]
_4_BIT = ["fp4", "fp4_kv", "fp4_mlp_only"]


@pytest.mark.parametrize("accelerator", [*_NEVER, *_16_BIT, *_FP8, *_FP4])
@pytest.mark.parametrize("base_model", ["encoder", "encoder_bert"])
@pytest.mark.parametrize("quantization", ["no_quant", *_8_BIT, *_4_BIT])
def test_the_matrix_of_gpus_and_precisions_is_that_of_truss(
    config: Path, accelerator: str, base_model: str, quantization: str
) -> None:
    overrides = [
        f"resources.accelerator={accelerator}",
        f"trt_llm.build.base_model={base_model}",
        f"trt_llm.build.quantization_type={quantization}",
    ]
    wanted = set()
    if accelerator in _NEVER:
        wanted = {"gpu-too-old"} if base_model == "encoder" else set()
    elif accelerator in _16_BIT and quantization != "no_quant":
        wanted = {"fp8-needs-ada"}
    elif accelerator in _FP8 and quantization in _4_BIT:
        wanted = {"fp4-needs-blackwell"}

    report = validate_config_target(config, overrides=overrides)

    assert {finding.rule for finding in report.findings if finding.level == "error"} == wanted


# -- the file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "\x00", "a: 1\na: 2\n"])
def test_what_is_no_configuration_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)

    report = validate_config_target(tmp_path)

    assert report.verdict is Verdict.FAILED
    assert rules_of(report) <= {"config-file", "config-schema", "duplicate-key", "unknown-key"}


@pytest.mark.parametrize("value", [".nan", "2_000_000_000_000_000_000_000", "!!set {a}", "!here b"])
def test_what_no_json_can_carry_has_a_rule_of_its_own(config: Path, value: str) -> None:
    config.write_text(config.read_text() + f"model_metadata:\n  a: {value}\n")

    finding = found(validate_config_target(config), "unusable-value")

    assert finding.place == "model_metadata.a"


def test_a_secret_of_the_default_name_need_not_be_declared(config: Path) -> None:
    name = "trt_llm.build.checkpoint_repository.runtime_secret_name=hf_access_token"

    assert validate_config_target(config, overrides=[name]).verdict is Verdict.CLEAN


def test_a_finding_names_the_line_of_its_key(config: Path) -> None:
    lines = config.read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if "base_model" in line)
    config.write_text("\n".join(lines).replace("encoder_bert", "encoder"))

    assert found(validate_config_target(config), "bert-on-encoder").line == number


def test_an_unknown_key_fails_only_under_strict(config: Path) -> None:
    config.write_text(config.read_text() + "max_num_token: 5\n")

    report = validate_config_target(config)
    assert report.verdict is Verdict.WARNINGS
    assert found(report, "unknown-key").place == "max_num_token"
    assert validate_config_target(config, strict=True).verdict is Verdict.FAILED


# -- the checkpoint -----------------------------------------------------------------------------


@pytest.fixture
def hub_config(config: Path) -> Path:
    values = yaml.safe_load(config.read_text())
    repository = {"source": "HF", "repo": "someone/tiny-model"}
    values["trt_llm"]["build"]["checkpoint_repository"] = repository
    config.write_text(yaml.safe_dump(values))
    return config


def test_a_checkpoint_on_the_hub_is_inspected_without_its_weights(
    hub_config: Path, hub: FakeHub
) -> None:
    folder = hub_config.parent / "checkpoint"
    hub.commits[COMMIT] = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

    report = validate_config_target(hub_config)

    assert rules_of(report) == {"revision-not-pinned", "no-platform-image-for-cpu"}
    assert report.facts["revision"] == COMMIT
    assert report.facts["architecture"] == "BertModel"
    assert not hub.asked_for("model.safetensors")
    pinned = [f"trt_llm.build.checkpoint_repository.revision='{COMMIT}'"]
    assert validate_config_target(hub_config, overrides=pinned).verdict is Verdict.CLEAN


def test_a_checkpoint_that_cannot_be_seen_is_no_failure(hub_config: Path, hub: FakeHub) -> None:
    report = validate_config_target(hub_config, offline=True)

    assert found(report, "checkpoint-not-seen").level == "info"
    assert report.facts == {}


def test_a_checkpoint_that_is_not_on_the_hub_is_a_failure(hub_config: Path, hub: FakeHub) -> None:
    overrides = ["trt_llm.build.checkpoint_repository.repo=someone/missing"]

    report = validate_config_target(hub_config, overrides=overrides)

    assert found(report, "checkpoint-not-there").level == "error"


def test_secrets_that_cannot_be_read_are_no_failure_of_the_configuration(
    hub_config: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_SECRETS_FILE", str(hub_config.parent / "missing.yaml"))

    assert "missing.yaml" in found(validate_config_target(hub_config), "checkpoint-not-seen").what


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=configurations())
def test_no_configuration_ends_in_a_traceback(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))

    report = validate_config_target(path, offline=True)

    assert report.num_checks
    json.dumps(report.facts)


# -- the examples -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_every_example_validates_and_says_how_to_call_it(path: Path) -> None:
    report = validate_config_target(path, strict=True, offline=True)
    errors = {finding.rule for finding in report.findings if finding.level == "error"}

    # A LOCAL example's checkpoint comes from `make models`.
    assert errors <= {"checkpoint-not-there"}
    assert "curl" in (path.parent / "README.md").read_text(encoding="utf-8")


# -- speed --------------------------------------------------------------------------------------


def cache_of_the_hub(checkpoint: Path, cache: Path) -> None:
    """Lay a checkpoint out as the hub's client keeps it."""
    folder = cache / "models--someone--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots").mkdir()
    checkpoint.rename(folder / "snapshots" / COMMIT)


@pytest.mark.parametrize("source", ["LOCAL", "HF"])
def test_validating_a_configuration_loads_nothing_heavy(config: Path, source: str) -> None:
    cache = config.parent / "hub"
    if source == "HF":
        cache_of_the_hub(config.parent / "checkpoint", cache)
        repository = f"{{source: HF, repo: someone/tiny, revision: '{COMMIT}'}}"
        text = yaml.safe_load(config.read_text())
        text["trt_llm"]["build"]["checkpoint_repository"] = yaml.safe_load(repository)
        config.write_text(yaml.safe_dump(text))
    program = (
        "import sys\n"
        "from beicli.validation.target import ValidationOptions, validate_targets\n"
        f"(report,) = validate_targets([{str(config)!r}], ValidationOptions(offline=True))\n"
        "assert report.verdict == 'clean', report\n"
        "assert report.facts['task'] == 'embedding', report\n"
        "heavy = {'torch', 'transformers', 'openvino', 'onnx', 'httpx2', 's3fs', 'aiohttp'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    started_at = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_CACHE": str(cache)},
    )

    assert done.stdout == "[]\n"
    # A process of its own takes 0.3 s; a heavy import alone would take seconds.
    assert time.monotonic() - started_at < 5
