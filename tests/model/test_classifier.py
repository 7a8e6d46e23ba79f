"""What a classifier's `config.json` says, and what is refused in it."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import transformers
from tests.model.checkpoint_folder import change_json, write_json
from transformers import AutoModelForSequenceClassification

from beicli.errors import CheckpointError
from beicli.model.classifier import DEFAULT_TYPE_VOCAB_SIZES, activation_warning
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import Pooling, ScoreActivation, Task

TWO_LABELS = {"0": "NEGATIVE", "1": "POSITIVE"}


@pytest.fixture
def classifier(checkpoint: Path) -> Path:
    """A sound BERT classifier of two labels; it has no pooling files."""
    make_classifier(checkpoint)
    (checkpoint / "modules.json").unlink()
    return checkpoint


def make_classifier(checkpoint: Path, **values: Any) -> None:
    change_json(
        checkpoint / "config.json",
        **{"architectures": ["BertForSequenceClassification"], "id2label": TWO_LABELS} | values,
    )


def test_a_classifier_is_described(classifier: Path) -> None:
    spec = inspect_checkpoint(classifier)

    assert (spec.task, spec.pooling) == (Task.CLASSIFICATION, ())
    assert spec.labels == ("NEGATIVE", "POSITIVE")
    assert spec.score_activation is ScoreActivation.SOFTMAX
    assert (spec.relevance_label, spec.rerank_template) == (None, None)
    assert (spec.embedding_dimension, spec.hidden_size) == (0, 32)
    assert (spec.dense_modules, spec.prompts, spec.normalize) == ((), {}, False)


def test_one_label_makes_a_reranker(classifier: Path) -> None:
    make_classifier(classifier, id2label={"0": "LABEL_0"})

    spec = inspect_checkpoint(classifier)

    assert (spec.task, spec.labels) == (Task.RERANKING, ("LABEL_0",))
    assert spec.score_activation is ScoreActivation.SIGMOID
    assert spec.relevance_label == 0


def test_a_token_classifier_is_one_however_many_labels_it_has(classifier: Path) -> None:
    for labels in ({"0": "O"}, {"0": "O", "1": "B-PER", "2": "I-PER"}):
        make_classifier(classifier, architectures=["BertForTokenClassification"], id2label=labels)

        spec = inspect_checkpoint(classifier)

        assert (spec.task, spec.labels) == (Task.TOKEN_CLASSIFICATION, tuple(labels.values()))
        assert spec.score_activation is ScoreActivation.SOFTMAX
        assert spec.relevance_label is None
        assert not spec.takes_token_type_ids


@pytest.mark.parametrize(
    ("problem_type", "activation"),
    [
        ("single_label_classification", ScoreActivation.SOFTMAX),
        ("multi_label_classification", ScoreActivation.SIGMOID),
        ("regression", ScoreActivation.SIGMOID),
        (None, ScoreActivation.SOFTMAX),
    ],
)
def test_labels_that_do_not_exclude_each_other_score_each_for_itself(
    classifier: Path, problem_type: str | None, activation: ScoreActivation
) -> None:
    make_classifier(classifier, problem_type=problem_type)

    assert inspect_checkpoint(classifier).score_activation is activation


SIGMOID = "torch.nn.modules.activation.Sigmoid"
SOFTMAX = "torch.nn.modules.activation.Softmax"
IDENTITY = "torch.nn.modules.linear.Identity"
TANH = "torch.nn.modules.activation.Tanh"


@pytest.mark.parametrize(
    ("activation_fn", "problem_type", "expected"),
    [
        (SIGMOID, None, ScoreActivation.SIGMOID),
        ("torch.nn.Sigmoid", None, ScoreActivation.SIGMOID),
        (SIGMOID, "single_label_classification", ScoreActivation.SIGMOID),
        (SOFTMAX, None, ScoreActivation.SOFTMAX),
        (SOFTMAX, "multi_label_classification", ScoreActivation.SOFTMAX),
        (IDENTITY, None, ScoreActivation.SOFTMAX),
        (IDENTITY, "multi_label_classification", ScoreActivation.SIGMOID),
        (TANH, None, ScoreActivation.SOFTMAX),
        ("modeling.Sigmoid", None, ScoreActivation.SOFTMAX),
    ],
)
def test_the_function_of_a_cross_encoder_decides_how_several_labels_score(
    classifier: Path, activation_fn: str, problem_type: str | None, expected: ScoreActivation
) -> None:
    places: list[dict[str, Any]] = [
        {"sentence_transformers": {"activation_fn": activation_fn, "version": "4.0.1"}},
        {"sbert_ce_default_activation_function": activation_fn},
    ]
    for place in places:
        make_classifier(classifier, problem_type=problem_type, **place)
        assert inspect_checkpoint(classifier).score_activation is expected

    # Version 6 has it in a file of its own, which comes first.
    make_classifier(classifier, problem_type=problem_type)
    write_json(classifier / "config_sentence_transformers.json", {"activation_fn": activation_fn})
    assert inspect_checkpoint(classifier).score_activation is expected


def test_the_newest_place_of_a_function_wins(classifier: Path) -> None:
    make_classifier(
        classifier,
        sentence_transformers={"activation_fn": SIGMOID},
        sbert_ce_default_activation_function=SOFTMAX,
    )
    assert inspect_checkpoint(classifier).score_activation is ScoreActivation.SIGMOID

    write_json(classifier / "config_sentence_transformers.json", {"activation_fn": SOFTMAX})
    assert inspect_checkpoint(classifier).score_activation is ScoreActivation.SOFTMAX


@pytest.mark.parametrize("activation_fn", [SIGMOID, SOFTMAX, IDENTITY, TANH])
def test_a_single_label_scores_by_its_sigmoid_whatever_is_stated(
    classifier: Path, activation_fn: str
) -> None:
    make_classifier(
        classifier,
        id2label={"0": "LABEL_0"},
        sentence_transformers={"activation_fn": activation_fn},
    )

    assert inspect_checkpoint(classifier).score_activation is ScoreActivation.SIGMOID


def test_a_token_classifier_has_no_function_of_a_cross_encoder(classifier: Path) -> None:
    make_classifier(
        classifier,
        architectures=["BertForTokenClassification"],
        sentence_transformers={"activation_fn": SIGMOID},
    )

    assert inspect_checkpoint(classifier).score_activation is ScoreActivation.SOFTMAX
    assert activation_warning(classifier, Task.TOKEN_CLASSIFICATION) is None


@pytest.mark.parametrize(
    ("labels", "activation_fn", "named"),
    [
        (1, SIGMOID, None),
        (1, IDENTITY, None),
        (1, None, None),
        (1, SOFTMAX, "`Softmax`"),
        (1, TANH, "`Tanh`"),
        (2, SIGMOID, None),
        (2, SOFTMAX, None),
        (2, IDENTITY, None),
        (2, TANH, "`Tanh`"),
        (2, "modeling.Scaled", "`modeling.Scaled`"),
        (2, 7, None),
    ],
)
def test_a_function_that_is_not_applied_is_told_of(
    classifier: Path, labels: int, activation_fn: Any, named: str | None
) -> None:
    make_classifier(
        classifier,
        id2label={str(index): f"name-{index}" for index in range(labels)},
        sentence_transformers={"activation_fn": activation_fn},
    )
    spec = inspect_checkpoint(classifier)

    warning = activation_warning(classifier, spec.task)

    assert (warning is None) == (named is None)
    if warning is not None:
        assert f"`activation_fn` is {named}, which is not applied" in warning
        assert f"scores are the {spec.score_activation} of the logits" in warning
        assert "`raw_scores: true`" in warning


def test_labels_come_in_the_order_of_their_ids(classifier: Path) -> None:
    names = {str(index): f"name-{index}" for index in reversed(range(12))}
    make_classifier(classifier, id2label=names)

    assert inspect_checkpoint(classifier).labels == tuple(f"name-{i}" for i in range(12))


@pytest.mark.parametrize(
    "architecture", ["BertForSequenceClassification", "BertForTokenClassification"]
)
def test_missing_labels_are_refused_naming_file_and_key(
    classifier: Path, architecture: str
) -> None:
    make_classifier(classifier, architectures=[architecture], id2label=None)

    with pytest.raises(CheckpointError) as raised:
        inspect_checkpoint(classifier)

    assert raised.value.message == (
        f"`config.json` does not contain `id2label`, required for `{architecture}`"
    )
    assert '"id2label": {"0"' in str(raised.value.hint)


@pytest.mark.parametrize(
    ("id2label", "reason"),
    [
        ({}, "is not a map from ids to names"),
        (["NEGATIVE", "POSITIVE"], "is not a map from ids to names"),
        ("POSITIVE", "is not a map from ids to names"),
        ({"0": 0, "1": 1}, "is not a map from ids to names"),
        ({"1": "a", "2": "b"}, "has the ids 1, 2; wanted are 0 to 1, each once"),
        ({"0": "a", "2": "b"}, "has the ids 0, 2; wanted are 0 to 1"),
        ({"0": "a", "00": "b"}, "has the ids 0, 00; wanted are 0 to 1"),
        ({"a": "0", "b": "1"}, "has the ids a, b; wanted are 0 to 1"),
        ({"-1": "a", "0": "b"}, "has the ids -1, 0; wanted are 0 to 1"),
    ],
)
def test_labels_that_do_not_count_from_zero_are_refused(
    classifier: Path, id2label: Any, reason: str
) -> None:
    make_classifier(classifier, id2label=id2label)

    with pytest.raises(CheckpointError, match=r"`id2label` in `config\.json`") as raised:
        inspect_checkpoint(classifier)

    assert reason in raised.value.message


def test_another_number_of_labels_than_stated_is_refused(classifier: Path) -> None:
    make_classifier(classifier, num_labels=3)

    with pytest.raises(CheckpointError, match="names 2 labels, but `num_labels` is 3"):
        inspect_checkpoint(classifier)


def test_given_pooling_changes_nothing_of_a_classifier(classifier: Path) -> None:
    for pooling in Pooling:
        assert inspect_checkpoint(classifier, pooling=pooling) == inspect_checkpoint(classifier)


def test_a_classifier_with_a_recipe_beside_it_is_still_a_classifier(checkpoint: Path) -> None:
    make_classifier(checkpoint)

    assert inspect_checkpoint(checkpoint).task is Task.CLASSIFICATION


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"type_vocab_size": 2}, True),
        ({"type_vocab_size": 1}, False),
        ({"type_vocab_size": 0}, False),
        ({}, True),
        ({"model_type": "electra"}, True),
        ({"model_type": "deberta-v2"}, False),
        ({"model_type": "deberta-v2", "type_vocab_size": 2}, True),
        ({"model_type": "distilbert", "type_vocab_size": 2}, False),
        ({"model_type": "modernbert"}, False),
        ({"model_type": "llama"}, False),
    ],
)
def test_token_types_are_given_to_models_that_tell_them_apart(
    classifier: Path, values: dict[str, Any], *, expected: bool
) -> None:
    make_classifier(classifier, **values)

    assert inspect_checkpoint(classifier).takes_token_type_ids is expected


def test_a_model_trained_without_token_types_is_given_none(classifier: Path) -> None:
    write_json(
        classifier / "tokenizer_config.json", {"model_input_names": ["input_ids", "attention_mask"]}
    )
    assert not inspect_checkpoint(classifier).takes_token_type_ids

    change_json(
        classifier / "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids"]
    )
    assert inspect_checkpoint(classifier).takes_token_type_ids


@pytest.mark.parametrize(("model_type", "size"), DEFAULT_TYPE_VOCAB_SIZES.items())
def test_default_token_types_are_those_of_transformers(model_type: str, size: int) -> None:
    config = transformers.CONFIG_MAPPING[model_type]
    model = AutoModelForSequenceClassification._model_mapping[config]

    assert config().type_vocab_size == size
    assert "token_type_ids" in inspect.signature(model.forward).parameters
