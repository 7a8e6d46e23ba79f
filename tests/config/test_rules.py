from dataclasses import dataclass

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st
from tests.config.loading import Load, Problems

from beicli.config.rules import RuleError, check_repo
from beicli.config.schema import CheckpointSource

ACCELERATORS = (
    "B10, T4, L4, A10G, V100, A100, A100_40GB, H100, H200, H100_40GB, B200, L40S,"
    " RTX_PRO_6000, B300, GB300"
)
MODEL_CONFIG = """\
resources: {{accelerator: {accelerator}}}
trt_llm:
  inference_stack: {inference_stack}
  build:
    base_model: {base_model}
    checkpoint_repository:
      source: {source}
      repo: {repo}
    {build}
  runtime: {runtime}
  version_overrides: {version_overrides}
"""
DEFAULTS = {
    "accelerator": "null",
    "inference_stack": "v1",
    "base_model": "encoder_bert",
    "source": "HF",
    "repo": "org/model",
    "build": "",
    "runtime": "{}",
    "version_overrides": "{}",
}
LEGACY = (
    " has been renamed to `decoder` in trt_llm.build.base_model.  The decoder base_model now"
    " automatically detects the model architecture (e.g. Qwen, Llama, Mistral, etc.) from the"
    " checkpoint repository.  The functionality remains the same, only the name has changed to"
    " better reflect the usage of the base_model field."
)
BUILD = "trt_llm.build"


def _config(**values: str) -> str:
    return MODEL_CONFIG.format(**{**DEFAULTS, **values})


RULES: list[tuple[dict[str, str], str, str]] = [
    (
        {"base_model": "bert"},
        f"{BUILD}.base_model",
        (
            "Input should be 'encoder', 'encoder_bert', 'decoder', 'palmyra', 'qwen',"
            " 'llama', 'mistral', 'deepseek' or 'whisper'"
        ),
    ),
    *[
        (
            {"base_model": name},
            f"{BUILD}.base_model",
            f"TrussTRTLLMModel.{name.upper()}{LEGACY}",
        )
        for name in ("palmyra", "qwen", "llama", "mistral", "deepseek")
    ],
    (
        {"base_model": "whisper"},
        f"{BUILD}.base_model",
        (
            "Whisper models has been refactored to a Chain's version.  Please send us a message"
            " on Slack or Support if you want to deploy a Whisper model with truss."
        ),
    ),
    (
        {"source": "hub"},
        f"{BUILD}.checkpoint_repository.source",
        ("Input should be 'HF', 'GCS', 'S3', 'AZURE', 'LOCAL', 'REMOTE_URL' or 'BASETEN_TRAINING'"),
    ),
    (
        {"repo": "a/b/c"},
        f"{BUILD}.checkpoint_repository.repo",
        (
            "HuggingFace repository validation failed: Repo id must be in the form 'repo_name'"
            " or 'namespace/repo_name': 'a/b/c'. Use `repo_type` argument if needed."
        ),
    ),
    (
        {"repo": "-model"},
        f"{BUILD}.checkpoint_repository.repo",
        (
            "HuggingFace repository validation failed: Repo id must use alphanumeric chars,"
            " '-', '_' or '.'. The name cannot start or end with '-' or '.' and the maximum"
            " length is 96: '-model'."
        ),
    ),
    (
        {"repo": "org/a--b"},
        f"{BUILD}.checkpoint_repository.repo",
        ("HuggingFace repository validation failed: Cannot have -- or .. in repo_id: 'org/a--b'."),
    ),
    (
        {"source": "S3", "repo": "''"},
        f"{BUILD}.checkpoint_repository.repo",
        "a checkpoint repository cannot be empty",
    ),
    (
        {"build": "max_num_tokens: 64"},
        f"{BUILD}.max_num_tokens",
        "Input should be greater than 64",
    ),
    (
        {"build": "max_num_tokens: 1048577"},
        f"{BUILD}.max_num_tokens",
        "Input should be less than or equal to 1048576",
    ),
    (
        {"build": "max_num_tokens: '8192'"},
        f"{BUILD}.max_num_tokens",
        "Input should be a valid integer",
    ),
    (
        {"build": "max_seq_len: 0"},
        f"{BUILD}.max_seq_len",
        "Input should be greater than or equal to 1",
    ),
    (
        {"build": "max_batch_size: 2049"},
        f"{BUILD}.max_batch_size",
        "Input should be less than or equal to 2048",
    ),
    (
        {"build": "max_beam_width: 2"},
        f"{BUILD}.max_beam_width",
        "Input should be less than or equal to 1",
    ),
    (
        {"build": "num_builder_gpus: 0"},
        f"{BUILD}.num_builder_gpus",
        "Input should be greater than or equal to 1",
    ),
    (
        {"build": "quantization_config: {calib_size: 32}"},
        f"{BUILD}.quantization_config.calib_size",
        "calib_size must be between 64 and 16384, but got 32",
    ),
    (
        {"build": "quantization_config: {calib_size: 100}"},
        f"{BUILD}.quantization_config.calib_size",
        "calib_size must be a multiple of 64, but got 100",
    ),
    (
        {"build": "quantization_config: {calib_max_seq_length: 16448}"},
        f"{BUILD}.quantization_config.calib_max_seq_length",
        "calib_max_seq_length must be between 64 and 16384, but got 16448",
    ),
    (
        {"build": "lora_cache_max_adapter_size: 8"},
        f"{BUILD}.lora_cache_max_adapter_size",
        ("lora_cache_max_adapter_size must be configured under trt_llm.runtime, not trt_llm.build"),
    ),
    (
        {"build": "lora_adapters: {'a b': {source: HF, repo: org/model}}"},
        f"{BUILD}.lora_adapters.a b",
        r"String should match pattern '^[a-zA-Z0-9_\-\.:]+$'",
    ),
    (
        {"runtime": "{webserver_default_route: /classify}"},
        "trt_llm.runtime.webserver_default_route",
        (
            "Input should be '/v1/embeddings', '/v1/systemone', '/rerank', '/predict' or"
            " '/predict_tokens'"
        ),
    ),
    (
        {"runtime": "{lora_cache_max_adapter_size: 8, lora_cache_optimal_adapter_size: 16}"},
        "trt_llm.runtime.lora_cache_optimal_adapter_size",
        ("lora_cache_optimal_adapter_size cannot be greater than lora_cache_max_adapter_size"),
    ),
    (
        {"runtime": "{lora_cache_gpu_memory_fraction: 1.1}"},
        "trt_llm.runtime.lora_cache_gpu_memory_fraction",
        "Input should be less than or equal to 1",
    ),
    (
        {"inference_stack": "v3"},
        "trt_llm.inference_stack",
        "'v3' is not a valid InferenceStack",
    ),
    (
        {"version_overrides": "{bei_version: v1.2}"},
        "trt_llm.version_overrides.bei_version",
        "bei_version must start with a number",
    ),
    (
        {"accelerator": "X1"},
        "resources.accelerator",
        f"Unsupported accelerator type: `X1`. Available types: {ACCELERATORS}.",
    ),
    ({"accelerator": "''"}, "resources.accelerator", "Accelerator type cannot be empty."),
    (
        {"accelerator": "'H100:0'"},
        "resources.accelerator",
        "Invalid count: '0'. Must be positive integer.",
    ),
    ({"accelerator": "4"}, "resources.accelerator", "Input should be a valid string"),
]


@pytest.mark.parametrize(
    ("values", "key_path", "text"),
    RULES,
    ids=[f"{key_path}-{next(iter(values.values()))}" for values, key_path, _ in RULES],
)
def test_rule_has_the_text_of_truss(
    problems: Problems, values: dict[str, str], key_path: str, text: str
) -> None:
    (problem,) = problems(_config(**values))

    assert problem.key_path == key_path
    assert problem.message == text


@pytest.mark.parametrize("version", ["'1.2'", "null"])
def test_version_that_begins_with_a_digit_or_is_unset_passes(load: Load, version: str) -> None:
    loaded = load(_config(version_overrides=f"{{bei_version: {version}, v2_llm_version: dev}}"))

    assert loaded.config.trt_llm.version_overrides.v2_llm_version == "dev"


@pytest.mark.parametrize("written", ["", "    checkpoint_repository: null\n"])
def test_checkpoint_is_required(problems: Problems, written: str) -> None:
    (problem,) = problems(f"trt_llm:\n  build:\n    base_model: encoder\n{written}")

    assert problem.key_path == "trt_llm.build.checkpoint_repository"
    assert problem.message == (
        "trt_llm.build.checkpoint_repository is required for v1 inference stack."
    )


def test_source_is_required_and_the_hint_says_which(problems: Problems) -> None:
    (problem,) = problems("trt_llm: {build: {checkpoint_repository: {repo: org/model}}}\n")

    assert problem.key_path == "trt_llm.build.checkpoint_repository.source"
    assert problem.message == "Field required"
    assert problem.hint == "add `source: HF`, or `source: LOCAL` for a directory"


@pytest.mark.parametrize(
    ("source", "repo"),
    [
        ("LOCAL", "../models/a--b/c"),
        ("GCS", "gs://bucket/path"),
        ("S3", "s3://bucket/path"),
        ("AZURE", "az://container/path"),
        ("REMOTE_URL", "https://example.com/model.tar.gz?signature=a"),
        ("BASETEN_TRAINING", "project"),
    ],
)
def test_repo_of_other_sources_is_free_text(load: Load, source: str, repo: str) -> None:
    checkpoint = load(_config(source=source, repo=repo)).config.trt_llm.build.checkpoint_repository

    assert checkpoint.source is CheckpointSource(source)
    assert checkpoint.repo == repo


def test_repo_of_an_adapter_is_checked_too(problems: Problems) -> None:
    (problem,) = problems(_config(build="lora_adapters: {a: {source: HF, repo: a/b/c}}"))

    assert problem.key_path == "trt_llm.build.lora_adapters.a.repo"


def test_directory_given_as_hub_repository_is_told_about_local(problems: Problems) -> None:
    (problem,) = problems(_config(repo="./models/minilm"))

    assert problem.hint == "for a directory on this machine write `source: LOCAL`"


def test_cpu_as_accelerator_is_told_to_leave_the_key_out(problems: Problems) -> None:
    (problem,) = problems(_config(accelerator="cpu"))

    assert problem.hint == "leave `accelerator` out to run on the CPU"


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        ("max_batch_size: '8'", "write the number without quotes"),
        ("quantization_config: {calib_dataset: 7}", "put the value in quotes"),
        ("quantization_type: FP-8", "did you mean `fp8`?"),
        ("quantization_type: 8", None),
        ("quantization_type: something_else_entirely", None),
    ],
)
def test_wrong_value_comes_with_a_hint_where_one_helps(
    problems: Problems, build: str, hint: str | None
) -> None:
    (problem,) = problems(_config(build=build))

    assert problem.hint == hint


def test_value_in_place_of_a_section_says_what_was_found(problems: Problems) -> None:
    (problem,) = problems(_config(build="quantization_config: fp8"))

    assert problem.message == "Input should be a mapping of keys, found text"


def test_text_in_place_of_a_list_is_refused(problems: Problems) -> None:
    (problem,) = problems(_config(build="lora_configuration: {lora_target_modules: q_proj}"))

    assert problem.message == "Input should be a valid list"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("max_num_tokens: 4096", "max_num_tokens"),
        ("plugin_configuration: {paged_kv_cache: false}", "plugin_configuration"),
    ],
)
def test_v2_stack_refuses_build_keys_with_the_text_of_truss(
    problems: Problems, line: str, name: str
) -> None:
    (problem,) = problems(_config(inference_stack="v2", base_model="decoder", build=line))

    assert problem.key_path == f"trt_llm.build.{name}"
    assert problem.message == (
        f"Field trt_llm.build.{name} is not allowed to be set when using v2 inference stack. "
    )


@pytest.mark.parametrize(
    "build", ["", "num_builder_gpus: 2", "plugin_configuration: {paged_kv_cache: true}"]
)
def test_v2_stack_is_refused_even_when_truss_would_take_it(problems: Problems, build: str) -> None:
    (problem,) = problems(_config(inference_stack="v2", base_model="decoder", build=build))

    assert problem.key_path == "trt_llm.inference_stack"
    assert "embedding engines are `v1`" in problem.hint


def test_v2_stack_without_a_checkpoint_is_refused_with_the_text_of_truss(
    problems: Problems,
) -> None:
    text = "trt_llm: {inference_stack: v2, build: {base_model: decoder}, runtime: {}}\n"

    (problem,) = problems(text)

    assert problem.key_path == "trt_llm.build.checkpoint_repository"
    assert problem.message == (
        "trt_llm.build.checkpoint_repository is required when"
        " trt_llm.build.skip_build_result is not set for v2 inference stack."
    )


def test_v2_stack_with_nothing_else_is_refused(problems: Problems) -> None:
    (problem,) = problems("trt_llm: {inference_stack: v2}\n")

    assert problem.key_path == "trt_llm.inference_stack"


@dataclass
class _FieldsBefore:
    """What a rule sees of the fields before its own."""

    data: dict[str, object]


@given(repo=st.text(alphabet="aZ9_-./é\n", max_size=12) | st.text(max_size=6))
@example(repo="a" * 96)
@example(repo="a" * 97)
@example(repo="org/model.git")
def test_hub_repository_rule_equals_that_of_huggingface_hub(repo: str) -> None:
    try:
        validate_repo_id(repo)
        expected = None
    except HFValidationError as error:
        expected = f"HuggingFace repository validation failed: {error}"

    try:
        check_repo(repo, _FieldsBefore({"source": CheckpointSource.HF}))
        found = None
    except RuleError as error:
        found = str(error)

    assert found == expected
