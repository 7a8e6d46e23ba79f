"""What `config.json` says of a classifier: its labels, how they score, what the model is told."""

from pathlib import Path

from beicli.errors import CheckpointError
from beicli.model.files import CheckpointFile
from beicli.model.spec import ScoreActivation, Task

_LABELS_HINT = (
    'give every output of the last layer a name, such as `"id2label": {"0": "NEGATIVE", '
    '"1": "POSITIVE"}`'
)
_KNOWN_ACTIVATIONS = {"Sigmoid": ScoreActivation.SIGMOID, "Softmax": ScoreActivation.SOFTMAX}
# Rows of the token type table when `config.json` does not state `type_vocab_size`: the defaults of
# transformers. A model type that is not here is told nothing of token types.
DEFAULT_TYPE_VOCAB_SIZES = {
    "albert": 2,
    "bert": 2,
    "big_bird": 2,
    "camembert": 2,
    "convbert": 2,
    "data2vec-text": 2,
    "deberta": 0,
    "deberta-v2": 0,
    "electra": 2,
    "ernie": 2,
    "gte": 1,
    "ibert": 2,
    "jina_embeddings_v3": 1,
    "longformer": 2,
    "megatron-bert": 2,
    "mobilebert": 2,
    "nomic_bert": 2,
    "nystromformer": 2,
    "rembert": 2,
    "roberta": 2,
    "roberta-prelayernorm": 2,
    "roc_bert": 2,
    "roformer": 2,
    "squeezebert": 2,
    "xlm-roberta": 2,
    "xlm-roberta-xl": 1,
    "xmod": 2,
}


def read_labels(config: CheckpointFile, architecture: str) -> tuple[str, ...]:
    """Return the names of a classifier's outputs, in their order."""
    stated = config.values.get("id2label")
    if stated is None:
        raise CheckpointError(
            f"`{config.name}` does not contain `id2label`, required for `{architecture}`",
            hint=_LABELS_HINT,
        )
    is_map = isinstance(stated, dict) and all(isinstance(name, str) for name in stated.values())
    if not is_map or not stated:
        raise CheckpointError(
            f"`id2label` in `{config.name}` is not a map from ids to names", hint=_LABELS_HINT
        )
    by_id = {int(key): name for key, name in stated.items() if key.isdecimal()}
    if sorted(by_id) != list(range(len(stated))):
        raise CheckpointError(
            f"`id2label` in `{config.name}` has the ids {', '.join(stated)}; wanted are "
            f"0 to {len(stated) - 1}, each once",
            hint=_LABELS_HINT,
        )
    num_labels = config.get("num_labels", int, len(by_id))
    if num_labels != len(by_id):
        raise CheckpointError(
            f"`id2label` in `{config.name}` names {len(by_id)} labels, but `num_labels` is "
            f"{num_labels}",
            hint=_LABELS_HINT,
        )
    return tuple(by_id[index] for index in range(len(by_id)))


def classifier_task(architecture: str, labels: tuple[str, ...]) -> Task:
    """Tell classifiers of tokens, classifiers of texts and, by their one label, rerankers apart."""
    if architecture.endswith("ForTokenClassification"):
        return Task.TOKEN_CLASSIFICATION
    return Task.RERANKING if len(labels) == 1 else Task.CLASSIFICATION


def read_activation(directory: Path, config: CheckpointFile, task: Task) -> ScoreActivation:
    """Return how logits become scores: each for itself where labels do not exclude each other.

    The routes answer probabilities, as those of BEI and text-embeddings-inference do: the sigmoid
    of a single label whatever the checkpoint says. Of several labels the function decides that a
    CrossEncoder of sentence-transformers would apply, if it is Sigmoid or Softmax; else
    `problem_type` does. Identity, the commonest, says that the model's own numbers are logits:
    `raw_scores: true` gives them. Any other function is not applied, of which `activation_warning`
    tells: it leaves the logits as they are, so that clients can apply it themselves, and refusing
    the model would take more from them than it gives.
    """
    if task is Task.RERANKING:
        return ScoreActivation.SIGMOID
    if task is not Task.CLASSIFICATION:
        return ScoreActivation.SOFTMAX
    stated = _KNOWN_ACTIVATIONS.get(_stated_activation(directory, config))
    if stated is not None:
        return stated
    # Several regression outputs are several quantities: softmax would mix them.
    is_independent = config.get("problem_type", str, "") in {
        "multi_label_classification",
        "regression",
    }
    return ScoreActivation.SIGMOID if is_independent else ScoreActivation.SOFTMAX


def activation_warning(directory: Path, task: Task) -> str | None:
    """Say so if the checkpoint states a function over its logits that `read_activation` drops."""
    if task not in {Task.CLASSIFICATION, Task.RERANKING}:
        return None
    config = CheckpointFile.read(directory, "config.json")
    name = _stated_activation(directory, config)
    used = read_activation(directory, config, task)
    if name in {"", "Identity"} or _KNOWN_ACTIVATIONS.get(name) is used:
        return None
    return (
        f"the checkpoint's `activation_fn` is `{name}`, which is not applied: scores are the "
        f"{used} of the logits. For the scores of sentence-transformers, ask with "
        "`raw_scores: true` and apply it to the logits"
    )


def _stated_activation(directory: Path, config: CheckpointFile) -> str:
    """Return the function that a CrossEncoder applies to its logits; empty if none is stated.

    By its name if it is of torch, such as `Sigmoid`, else by its whole path.
    Source: sentence-transformers, `CrossEncoder`; the last place is that of versions before 4.
    """
    saved = CheckpointFile.read_optional(directory, "config_sentence_transformers.json").values
    section = config.values.get("sentence_transformers")
    in_section = section.get("activation_fn") if isinstance(section, dict) else None
    path = (
        saved.get("activation_fn")
        or in_section
        or config.values.get("sbert_ce_default_activation_function")
    )
    if not isinstance(path, str):
        return ""
    return path.rsplit(".", 1)[-1] if path.startswith("torch.nn.") else path


def takes_token_type_ids(
    config: CheckpointFile, tokenizer_config: CheckpointFile, task: Task
) -> bool:
    """Whether the model was trained to tell the tokens of the second text of a pair."""
    if task not in {Task.CLASSIFICATION, Task.RERANKING}:
        return False
    default = DEFAULT_TYPE_VOCAB_SIZES.get(config.get("model_type", str, ""))
    if default is None or config.get("type_vocab_size", int, default) < 2:  # noqa: PLR2004 - a pair
        return False
    # A tokenizer that leaves them out is a model trained without.
    given = tokenizer_config.values.get("model_input_names")
    return not isinstance(given, list) or "token_type_ids" in given
