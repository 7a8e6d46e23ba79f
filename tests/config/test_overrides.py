import pytest
from tests.config.loading import Load, Problems, Refuse

from beicli.config.schema import CheckpointSource
from beicli.errors import UsageError

MINIMAL = """\
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository: {source: HF, repo: org/model}
    max_num_tokens: 4096
"""
BUILD = "trt_llm.build"


def test_override_replaces_a_value_of_the_file(load: Load) -> None:
    config = load(MINIMAL, f"{BUILD}.max_num_tokens=512").config

    assert config.trt_llm.build.max_num_tokens == 512


def test_override_creates_the_sections_it_needs(load: Load) -> None:
    config = load(MINIMAL, "trt_llm.runtime.webserver_default_route=/rerank").config

    assert config.trt_llm.runtime.webserver_default_route == "/rerank"


def test_override_fills_a_section_the_file_leaves_empty(load: Load) -> None:
    config = load(MINIMAL + "resources:\n", "resources.accelerator=L4").config

    assert str(config.resources.accelerator) == "L4"


def test_override_takes_a_flow_mapping(load: Load) -> None:
    config = load(
        MINIMAL, f"{BUILD}.checkpoint_repository={{source: LOCAL, repo: ./checkpoint}}"
    ).config

    assert config.trt_llm.build.checkpoint_repository.source is CheckpointSource.LOCAL


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_override_with_nothing_unsets(load: Load, value: str) -> None:
    text = MINIMAL + "  runtime: {served_model_name: a}\n"

    config = load(text, f"trt_llm.runtime.served_model_name={value}").config

    assert config.trt_llm.runtime.served_model_name is None


def test_override_of_a_users_own_name_is_known(load: Load) -> None:
    loaded = load(
        MINIMAL,
        "environment_variables.LOG_LEVEL=debug",
        "model_metadata.example.deep=1",
        f"{BUILD}.lora_adapters.french={{source: HF, repo: org/lora}}",
        f"{BUILD}.lora_adapters.french.revision=main",
    )

    assert loaded.config.environment_variables == {"LOG_LEVEL": "debug"}
    assert loaded.config.model_metadata == {"example": {"deep": 1}}
    assert loaded.config.trt_llm.build.lora_adapters["french"].revision == "main"


def test_later_override_wins(load: Load) -> None:
    config = load(MINIMAL, f"{BUILD}.max_batch_size=8", f"{BUILD}.max_batch_size=16").config

    assert config.trt_llm.build.max_batch_size == 16


def test_overrides_alone_can_make_a_config(load: Load) -> None:
    config = load(
        "",
        f"{BUILD}.checkpoint_repository={{source: HF, repo: a/b}}",
        f"{BUILD}.base_model=encoder",
    ).config

    assert config.trt_llm.build.max_num_tokens == 16384


def test_value_may_hold_an_equals_sign(load: Load) -> None:
    text = MINIMAL.replace("HF", "REMOTE_URL")
    url = "https://example.com/m.tar.gz?a=b&c=d"

    config = load(text, f"{BUILD}.checkpoint_repository.repo={url}").config

    assert config.trt_llm.build.checkpoint_repository.repo == url


def test_problem_in_an_overridden_value_names_the_option_instead_of_a_line(refuse: Refuse) -> None:
    error = refuse(MINIMAL, f"{BUILD}.max_num_tokens=3")

    assert error.message == (
        "`trt_llm.build.max_num_tokens` (`--set`): Input should be greater than 64"
    )


def test_problem_below_an_overridden_section_names_the_option_too(problems: Problems) -> None:
    (problem,) = problems(
        MINIMAL, f"{BUILD}={{max_num_tokens: 3, checkpoint_repository: {{source: HF, repo: a}}}}"
    )

    assert problem.line is None
    assert problem.is_override


def test_key_missing_beside_an_overridden_one_keeps_the_line_of_its_section(
    problems: Problems,
) -> None:
    text = "trt_llm:\n  build:\n    checkpoint_repository:\n      repo: org/model\n"

    (problem,) = problems(text, f"{BUILD}.checkpoint_repository.repo=org/other")

    assert problem.key_path == "trt_llm.build.checkpoint_repository.source"
    assert problem.line == 3


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("build.max_num_tokens", "did you mean `trt_llm.build.max_num_tokens`?"),
        ("trt_llm.build.max_num_token", "did you mean `max_num_tokens`?"),
        ("trt_llm.max_num_tokens", "did you mean `trt_llm.build.max_num_tokens`?"),
        ("trt_lm.build.max_num_tokens", "did you mean `trt_llm`?"),
        ("trt_llm.build.max_num_tokens.deeper", None),
        ("requirements", None),
    ],
)
def test_override_of_an_unknown_key_is_an_error(
    problems: Problems, path: str, hint: str | None
) -> None:
    (problem,) = problems(MINIMAL, f"{path}=1")

    assert problem.message == "unknown key"
    assert problem.is_override
    assert problem.hint == hint


def test_override_through_a_value_that_is_no_mapping_is_an_error(problems: Problems) -> None:
    found = problems("trt_llm: [1]\n", f"{BUILD}.max_num_tokens=512")

    assert "`--set` needs a mapping here, found a list" in [problem.message for problem in found]


@pytest.mark.parametrize("override", ["trt_llm.build", "=3", "trt_llm..build=3", "", ".=1"])
def test_override_of_another_form_is_shown_the_right_one(load: Load, override: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(MINIMAL, override)

    error = raised.value
    assert error.message == f"`--set {override}` is not of the form `key.path=value`"
    assert error.hint is not None
    assert "trt_llm.build.max_num_tokens=4096" in error.hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1, 2", "is not valid YAML"),
        ("{a: 1, a: 2}", "duplicate key, first on line 1"),
        ("name: with colon", "holds a collection without brackets"),
    ],
)
def test_override_with_a_value_that_cannot_be_read_is_an_error(
    load: Load, value: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load(MINIMAL, f"model_name={value}")
