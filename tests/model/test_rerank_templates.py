"""Which classifiers rerank, by which label and with which prompt."""

from typing import Any

import pytest
import transformers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import AutoModelForSequenceClassification
from transformers.modeling_layers import GenericForSequenceClassification

from beicli.errors import ConfigError
from beicli.model.rerank_templates import (
    CAUSAL_MODEL_TYPES,
    MXBAI_RERANK_V2,
    QWEN3_RERANKER,
    Reranking,
    RerankRequest,
    check_template,
    choose_reranking,
    missing_template_warning,
    template_name,
)
from beicli.model.spec import Task

OWN = "{{ query }} ? {{ document }}"


def choose(model_type: str, *labels: str, task: Task | None = None, **request: Any) -> Reranking:
    if task is None:
        task = Task.RERANKING if len(labels) == 1 else Task.CLASSIFICATION
    return choose_reranking(
        RerankRequest(**request), task=task, model_type=model_type, labels=labels
    )


def render(template: str) -> str:
    environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True)
    return environment.from_string(template).render(query="Q?", document="D.")


def test_the_prompt_of_qwen3_reranker_is_that_of_its_model_card() -> None:
    assert render(QWEN3_RERANKER) == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
        "answer the query\n<Query>: Q?\n<Document>: D.<|im_end|>\n<|im_start|>assistant\n<think>\n"
        "\n</think>\n\n"
    )


def test_the_prompt_of_mxbai_rerank_is_that_of_its_model_card() -> None:
    assert render(MXBAI_RERANK_V2) == (
        "<|endoftext|><|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a "
        "helpful assistant.\n<|im_end|>\n<|im_start|>user\nquery: Q? \ndocument: D. \nYou are a "
        "search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then "
        "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\n"
        "Relevance:<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", [QWEN3_RERANKER, MXBAI_RERANK_V2, OWN])
def test_known_templates_are_valid_ones(template: str) -> None:
    check_template(template)


def test_templates_have_names() -> None:
    assert template_name(QWEN3_RERANKER) == "Qwen3-Reranker"
    assert template_name(MXBAI_RERANK_V2) == "mxbai-rerank-v2"
    assert template_name(OWN) == "configured"


@pytest.mark.parametrize(
    ("model_type", "labels", "expected"),
    [
        ("qwen3", ("no", "yes"), Reranking(1, QWEN3_RERANKER)),
        ("qwen3", ("Yes", "No"), Reranking(0, QWEN3_RERANKER)),
        ("qwen2", ("0", "1"), Reranking(1, MXBAI_RERANK_V2)),
        ("qwen2", ("1", "0"), Reranking(0, MXBAI_RERANK_V2)),
        # Without a prompt, labels alone make no reranker.
        ("qwen2", ("no", "yes"), Reranking()),
        ("qwen3", ("0", "1"), Reranking()),
        ("llama", ("no", "yes"), Reranking()),
        ("bert", ("no", "yes"), Reranking()),
        ("qwen3", ("LABEL_0", "LABEL_1"), Reranking()),
        ("qwen3", ("no", "maybe", "yes"), Reranking()),
        # One label is relevance, whatever it is called.
        ("bert", ("LABEL_0",), Reranking(0)),
        ("qwen3", ("LABEL_0",), Reranking(0)),
        ("llama", ("yes",), Reranking(0)),
    ],
)
def test_yes_no_answers_of_known_models_rerank_with_their_prompt(
    model_type: str, labels: tuple[str, ...], expected: Reranking
) -> None:
    assert choose(model_type, *labels) == expected


@pytest.mark.parametrize(
    ("repository", "template"),
    [
        ("tomaarsen/Qwen3-Reranker-0.6B-seq-cls", QWEN3_RERANKER),
        ("./models/qwen3-reranker-mine/", QWEN3_RERANKER),
        ("/srv/qwen3-reranker/judge", None),
        ("zeroentropy/zerank-2-reranker", None),
    ],
)
def test_one_label_takes_the_prompt_its_name_stands_for(
    repository: str, template: str | None
) -> None:
    assert choose("qwen3", "LABEL_0", repository=repository) == Reranking(0, template)


def test_the_name_does_not_make_a_prompt_fit_another_architecture() -> None:
    assert choose("llama", "LABEL_0", repository="a/Qwen3-Reranker-like") == Reranking(0)


def test_a_configured_template_wins_over_a_known_one() -> None:
    assert choose("qwen3", "no", "yes", template=OWN) == Reranking(1, OWN)
    assert choose("llama", "LABEL_0", template=OWN) == Reranking(0, OWN)
    assert choose("llama", "no", "yes", template=OWN) == Reranking(1, OWN)


def test_a_configured_label_is_the_relevant_one() -> None:
    assert choose("llama", "bad", "good", template=OWN, label="good") == Reranking(1, OWN)
    assert choose("bert", "a", "b", "c", label="b") == Reranking(1)


def test_a_template_without_a_label_that_means_relevant_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of the labels bad, good is known") as raised:
        choose("llama", "bad", "good", template=OWN)

    assert "`model_metadata.rerank_label`" in str(raised.value.hint)


def test_a_label_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="is `best`, which is none of the labels: bad, good"):
        choose("llama", "bad", "good", label="best")


@pytest.mark.parametrize("task", [Task.EMBEDDING, Task.SPARSE_EMBEDDING, Task.TOKEN_CLASSIFICATION])
@pytest.mark.parametrize("request_", [{"template": OWN}, {"label": "yes"}])
def test_what_is_no_classifier_of_texts_takes_neither(task: Task, request_: dict[str, str]) -> None:
    assert choose("bert", task=task) == Reranking()

    with pytest.raises(ConfigError, match="no classifier of texts"):
        choose("bert", task=task, **request_)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("", "does not use `query` and `document`"),
        ("a text", "does not use `query` and `document`"),
        ("{{ query }}", "does not use `document`"),
        ("{{ document }} {# query #}", "does not use `query`"),
        ("{{ query }} {{ document", "is no Jinja text"),
        ("{% if query %}{{ document }}", "is no Jinja text"),
        ("{{ query }}{{ document }}{{ instruction }}", "uses `instruction`; it is given"),
        ("{{ query / document }}", "cannot be rendered"),
        ("{{ query() }}{{ document }}", "cannot be rendered"),
        ("{{ query.mro() }}{{ document }}", "cannot be rendered"),
        ("{{ query.__class__.__mro__ }}{{ document }}", "cannot be rendered"),
        ("{{ 1 // 0 }}{{ query }}{{ document }}", "cannot be rendered"),
    ],
)
def test_a_template_that_is_no_prompt_is_refused_with_its_reason(
    template: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=r"`model_metadata\.rerank_template`") as raised:
        RerankRequest.from_metadata({"rerank_template": template}, repository="a/b")

    assert reason in raised.value.message
    assert raised.value.hint


def test_metadata_is_read() -> None:
    metadata = {"rerank_template": OWN, "rerank_label": "1", "example_model_input": {"input": ""}}

    request = RerankRequest.from_metadata(metadata, repository="a/b")

    assert request == RerankRequest(template=OWN, label="1", repository="a/b")
    assert RerankRequest.from_metadata({}, repository="") == RerankRequest()


@pytest.mark.parametrize(
    ("value", "quoted"), [(True, "'yes'"), (False, "'no'"), (1, "'1'"), (0, "'0'")]
)
def test_a_label_that_yaml_took_for_something_else_is_refused_with_the_quotes_it_needs(
    value: object, quoted: str
) -> None:
    with pytest.raises(ConfigError, match="wanted the name of a label") as raised:
        RerankRequest.from_metadata({"rerank_label": value}, repository="a/b")

    assert f"`rerank_label: {quoted}`" in str(raised.value.hint)


def test_a_template_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="is of type list, wanted a text"):
        RerankRequest.from_metadata({"rerank_template": ["{{ query }}"]}, repository="a/b")


@pytest.mark.parametrize(
    ("model_type", "labels", "template", "said"),
    [
        ("llama", ("LABEL_0",), None, "joins query and text the way the tokenizer joins pairs"),
        ("llama", ("no", "yes"), None, "`/rerank` refuses with 424"),
        ("qwen3", ("0", "1"), None, "`/rerank` refuses with 424"),
        ("llama", ("LABEL_0",), OWN, None),
        ("llama", ("spam", "ham"), None, None),
        ("llama", (), None, None),
        ("bert", ("LABEL_0",), None, None),
        ("bert", ("no", "yes"), None, None),
    ],
)
def test_a_causal_reranker_without_a_prompt_is_warned_of(
    model_type: str, labels: tuple[str, ...], template: str | None, said: str | None
) -> None:
    warning = missing_template_warning(model_type=model_type, labels=labels, template=template)

    if said is None:
        assert warning is None
    else:
        assert said in str(warning)


@pytest.mark.parametrize("model_type", sorted(CAUSAL_MODEL_TYPES))
def test_causal_model_types_are_those_whose_classifiers_read_the_last_token(
    model_type: str,
) -> None:
    config = transformers.CONFIG_MAPPING[model_type]
    model = AutoModelForSequenceClassification._model_mapping[config]
    model = model[0] if isinstance(model, tuple) else model

    reads_last_token = issubclass(model, GenericForSequenceClassification) or (
        "score" in model.__init__.__code__.co_names
    )

    assert reads_last_token
