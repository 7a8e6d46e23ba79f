import pytest
from tests.config.loading import Load, Problems, Refuse

MINIMAL = """\
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository: {source: HF, repo: org/model}
"""


def test_one_problem_reads_as_a_sentence_with_its_line_and_its_hint_apart(refuse: Refuse) -> None:
    error = refuse(MINIMAL + "    quantisation_type: fp8\n", strict=True)

    assert error.message == "unknown key `trt_llm.build.quantisation_type` (line 5)"
    assert error.hint == "did you mean `quantization_type`?"


def test_all_problems_are_listed_at_once_in_the_order_of_their_lines(refuse: Refuse) -> None:
    error = refuse(
        """\
resources: {accelerator: X1}
trt_llm:
  build:
    base_model: encoderbert
    checkpoint_repository:
      repo: org/model
    quantisation_type: fp8
    max_num_tokens: 3
    quantization_config:
      calib_size: 100
""",
        strict=True,
    )

    lines = error.message.splitlines()
    assert lines[0].startswith("6 problems in `")
    assert [line.split(";")[0] for line in lines[2:]] == [
        (
            "  `trt_llm.build.base_model` (line 4): Input should be 'encoder', 'encoder_bert',"
            " 'decoder', 'palmyra', 'qwen', 'llama', 'mistral', 'deepseek' or 'whisper'"
        ),
        "  `trt_llm.build.checkpoint_repository.source` (line 5): Field required",
        "  unknown key `trt_llm.build.quantisation_type` (line 7)",
        "  `trt_llm.build.max_num_tokens` (line 8): Input should be greater than 64",
        (
            "  `trt_llm.build.quantization_config.calib_size` (line 10): calib_size must be a"
            " multiple of 64, but got 100"
        ),
    ]
    assert lines[2].endswith("; did you mean `encoder_bert`?")
    assert error.hint is None
    assert len(error.problems) == 6


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        ("    quantisation_type: fp8", "quantization_type"),
        ("    max-num-tokens: 512", "max_num_tokens"),
        ("    Max_Batch_Size: 8", "max_batch_size"),
        ("    checkpoint_repo: {}", "checkpoint_repository"),
        ("    webserver_default_route: /rerank", "trt_llm.runtime.webserver_default_route"),
        ("    runtime: {}", "trt_llm.runtime"),
        ("    accelerator: L4", "resources.accelerator"),
        ("  version_override: {}", "version_overrides"),
        ("  max_num_tokens: 512", "trt_llm.build.max_num_tokens"),
        ("  runtime: {served_model_nam: a}", "served_model_name"),
        ("resources: {acelerator: L4}", "accelerator"),
        ("resource: {accelerator: L4}", "resources"),
        ("model_metdata: {}", "model_metadata"),
        ("quantization_type: fp8", "trt_llm.build.quantization_type"),
    ],
)
def test_key_that_looks_like_a_known_one_is_warned_of_with_a_suggestion(
    load: Load, problems: Problems, line: str, suggestion: str
) -> None:
    (warning,) = load(MINIMAL + line + "\n").warnings
    (problem,) = problems(MINIMAL + line + "\n", strict=True)

    assert warning.message == problem.message == "unknown key"
    assert warning.line == problem.line == 5
    assert warning.hint == problem.hint == f"did you mean `{suggestion}`?"


@pytest.mark.parametrize("name", ["trtllm", "trt-llm", "TRT_LLM", "trt_lm"])
def test_misspelt_engine_section_is_the_only_problem(problems: Problems, name: str) -> None:
    (problem,) = problems(MINIMAL.replace("trt_llm", name))

    assert problem.key_path == name
    assert problem.hint == "did you mean `trt_llm`?"


@pytest.mark.parametrize("section", ["", "trt_llm:\n"])
def test_other_keys_are_checked_where_the_engine_section_is_missing(
    problems: Problems, section: str
) -> None:
    found = problems("model_name: true\nresources: {accelerator: X1}\n" + section)

    assert {problem.key_path for problem in found} == {
        "model_name",
        "resources.accelerator",
        "trt_llm",
    }


def test_misspelt_required_key_is_not_reported_missing_as_well(problems: Problems) -> None:
    (problem,) = problems(MINIMAL.replace("source: HF", "sorce: HF"))

    assert problem.key_path == "trt_llm.build.checkpoint_repository.sorce"


def test_key_of_an_adapter_is_checked_too(load: Load) -> None:
    (problem,) = load(
        MINIMAL + "    lora_adapters: {a: {source: HF, repo: org/a, revison: main}}\n"
    ).warnings

    assert problem.key_path == "trt_llm.build.lora_adapters.a.revison"
    assert problem.hint == "did you mean `revision`?"


@pytest.mark.parametrize(
    "line",
    [
        "  version_overrides: {bei_torch_version: '1.0'}",
        "    some_newer_key: 3",
        "  runtime: {enable_prefix_sharing: true}",
    ],
)
def test_key_that_looks_like_no_other_loads_with_a_warning(load: Load, line: str) -> None:
    (warning,) = load(MINIMAL + line + "\n").warnings

    assert str(warning).startswith("unknown key `trt_llm.")
    assert warning.line == 5
    assert warning.hint == "it has no effect here; a newer Truss may know it"


def test_keys_of_free_mappings_are_the_users_own(load: Load) -> None:
    loaded = load(
        MINIMAL + "    speculator: {any: 1}\nmodel_metadata: {trtllm: 1}\nruntime: {buld: 2}\n"
    )

    assert loaded.warnings == ()


def test_engine_section_that_is_no_mapping_says_what_it_is(problems: Problems) -> None:
    (problem,) = problems("trt_llm: [encoder]\n")

    assert str(problem) == ("`trt_llm` (line 1): Input should be a mapping of keys, found a list")


def test_problem_in_a_list_item_names_its_position(problems: Problems) -> None:
    (problem,) = problems(
        MINIMAL + "    lora_configuration:\n      lora_target_modules:\n        - a\n        - 3\n"
    )

    assert problem.key_path == "trt_llm.build.lora_configuration.lora_target_modules[1]"
    assert problem.line == 8
