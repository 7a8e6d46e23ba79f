"""Looks at a checkpoint's files and says what it is, or why it cannot be served.

Nothing is loaded and no code of the checkpoint runs: these are JSON files and a directory listing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.adapters import choose_adapter
from beicli.model.classifier import (
    classifier_task,
    read_activation,
    read_labels,
    takes_token_type_ids,
)
from beicli.model.files import CheckpointFile
from beicli.model.modelopt import read_modelopt_config
from beicli.model.recipe import Recipe, read_recipe
from beicli.model.remote_code import native_config
from beicli.model.remote_code.bidirectional import CLASSIFIER_POOLING
from beicli.model.rerank_templates import RerankRequest, choose_reranking
from beicli.model.spec import ModelSpec, Pooling, ScoreActivation, Task
from beicli.model.weights import check_tokenizer, check_weights, list_files

# These count positions from the padding id + 1, so the first rows of the table are never used.
_OFFSET_MODEL_TYPES = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "data2vec-text",
        "mpnet",
        "longformer",
        "roberta-prelayernorm",
        "xmod",
        "ibert",
        "luke",
    }
)
# Sentence Transformers has named this file after the model more than once; the order is TEI's.
_SENTENCE_CONFIG_NAMES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_CLASSIFIER_POOLINGS = {
    "avg": Pooling.MEAN,
    "cls": Pooling.CLS,
    "last": Pooling.LAST_TOKEN,
}
# transformers writes 10**30 for "no limit".
_NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskFacts:
    """What follows from the task; the rest of a ModelSpec is the same for every task."""

    task: Task
    recipe: Recipe | None = None
    pooling: tuple[Pooling, ...] = ()
    labels: tuple[str, ...] = ()
    score_activation: ScoreActivation | None = None


def inspect_checkpoint(
    directory: Path,
    *,
    pooling: Pooling | None = None,
    rerank: RerankRequest = RerankRequest(),  # noqa: B008 - frozen
    adapter: str | None = None,
) -> ModelSpec:
    """Read what the checkpoint in `directory` is.

    pooling: overrides the checkpoint's own, and stands in for missing pooling files; classifiers
    have none. rerank: what the user says of reranking. adapter: the one to merge, of a checkpoint
    that has some.
    Raises CheckpointError when a file is missing or wrong, UnsupportedModelError when the model
    is of a kind that cannot be served; both name the file.
    """
    names = list_files(directory)
    # A folder without this one is no checkpoint at all, whatever else it lacks.
    CheckpointFile.read(directory, "config.json")
    check_weights(directory, names)
    check_tokenizer(directory, names)
    return read_spec(directory, pooling=pooling, rerank=rerank, adapter=adapter)


def read_spec(
    directory: Path,
    *,
    pooling: Pooling | None = None,
    rerank: RerankRequest = RerankRequest(),  # noqa: B008 - frozen
    adapter: str | None = None,
) -> ModelSpec:
    """Read what the JSON files alone say; `inspect_checkpoint` sees to the other files too."""
    config = read_config(directory)
    model_type = config.get("model_type", str, "")
    if not model_type:
        raise CheckpointError("`config.json` has no `model_type`")
    _refuse_quantized(directory, config)
    architecture = _architecture(config)
    facts = _task_facts(directory, config, architecture, pooling)
    recipe = facts.recipe or Recipe((), (), normalize=False)
    hidden_size = config.require_count(_first_key(config, "hidden_size", "dim", "d_model"))
    _check_dimensions(recipe, hidden_size)
    vocab_size = config.require_count("vocab_size")
    has_offset = model_type in _OFFSET_MODEL_TYPES
    pad_token_id = _pad_token_id(config, vocab_size, default=1 if has_offset else 0)
    offset = pad_token_id + 1 if has_offset else 0
    positions = config.require_count(
        _first_key(config, "max_position_embeddings", "max_trained_positions", "n_positions")
    )
    sentence_config = _sentence_config(directory)
    tokenizer_config = CheckpointFile.read_optional(directory, "tokenizer_config.json")
    merged = choose_adapter(config, adapter)
    prompts, default_prompt_name = _read_prompts(directory, merged) if facts.recipe else ({}, None)
    reranking = choose_reranking(
        rerank, task=facts.task, model_type=model_type, labels=facts.labels
    )
    return ModelSpec(
        architecture=architecture,
        model_type=model_type,
        task=facts.task,
        pooling=recipe.pooling or facts.pooling,
        hidden_size=hidden_size,
        embedding_dimension=_embedding_dimension(recipe, hidden_size, vocab_size),
        num_hidden_layers=config.require_count(
            _first_key(config, "num_hidden_layers", "n_layers", "num_layers")
        ),
        vocab_size=vocab_size,
        max_position_embeddings=positions,
        position_offset=offset,
        max_input_length=_max_input_length(sentence_config, tokenizer_config, positions - offset),
        pad_token_id=pad_token_id,
        normalize=recipe.normalize,
        do_lower_case=sentence_config.get("do_lower_case", bool, False),
        dense_modules=recipe.dense,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        dtype=_dtype(config),
        labels=facts.labels,
        score_activation=facts.score_activation,
        relevance_label=reranking.label,
        rerank_template=reranking.template,
        takes_token_type_ids=takes_token_type_ids(config, tokenizer_config, facts.task),
        adapter=merged,
    )


def read_config(directory: Path) -> CheckpointFile:
    """Read `config.json`, in the keys of the class that loads it."""
    config = CheckpointFile.read(directory, "config.json")
    return CheckpointFile(config.name, native_config(config.values))


def _architecture(config: CheckpointFile) -> str:
    names = config.values.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError("`config.json` has no `architectures`, so its task is unknown")
    name: str = names[0]
    if config.values.get("is_encoder_decoder") is True:
        raise UnsupportedModelError(
            f"`config.json`: `{name}` is an encoder-decoder model",
            hint="choose an encoder or a decoder-only model",
        )
    return name


def _task_facts(
    directory: Path, config: CheckpointFile, architecture: str, pooling: Pooling | None
) -> _TaskFacts:
    """Decide the task, in the order of text-embeddings-inference."""
    is_masked_lm = architecture.endswith("ForMaskedLM")
    if architecture.endswith("Classification"):
        labels = read_labels(config, architecture)
        task = classifier_task(architecture, labels)
        return _TaskFacts(
            task=task,
            labels=labels,
            score_activation=read_activation(directory, config, task),
            pooling=_classifier_pooling(config),
        )
    has_recipe = (directory / "modules.json").is_file()
    # Embedding models are often saved with their language-modelling head; the recipe decides.
    is_encoder = architecture.endswith("Model") or has_recipe
    if not is_encoder and pooling is not Pooling.SPLADE:
        raise UnsupportedModelError(
            f"`config.json`: `{architecture}` is not an embedding model, and there is no "
            "`modules.json` that makes it one",
            hint="build it with `--pooling splade` if it gives sparse embeddings, else save it "
            "with sentence-transformers, which writes `modules.json`"
            if is_masked_lm
            else "save it with sentence-transformers, which writes `modules.json`",
        )
    recipe = read_recipe(directory, pooling=pooling)
    if Pooling.SPLADE not in recipe.pooling:
        return _TaskFacts(task=Task.EMBEDDING, recipe=recipe)
    if not is_masked_lm:
        raise UnsupportedModelError(
            "Splade pooling is not supported: model is not a ForMaskedLM model",
            hint=f"`config.json` names `{architecture}`; SPLADE needs the language-modelling head "
            "of a `...ForMaskedLM` checkpoint",
        )
    return _TaskFacts(task=Task.SPARSE_EMBEDDING, recipe=recipe)


def _classifier_pooling(config: CheckpointFile) -> tuple[Pooling, ...]:
    """Return what a decoder's score is read from, where its last token is not it."""
    name = config.get(CLASSIFIER_POOLING, str, "")
    if not name:
        return ()
    if name not in _CLASSIFIER_POOLINGS:
        raise UnsupportedModelError(
            f"`config.json` has `pooling: {name}`; known are {', '.join(_CLASSIFIER_POOLINGS)}"
        )
    return (_CLASSIFIER_POOLINGS[name],)


def _embedding_dimension(recipe: Recipe, hidden_size: int, vocab_size: int) -> int:
    if Pooling.SPLADE in recipe.pooling:
        return vocab_size
    pooled_size = hidden_size * len(recipe.pooling)
    return recipe.dense[-1].out_features if recipe.dense else pooled_size


def _refuse_quantized(directory: Path, config: CheckpointFile) -> None:
    """Refuse weights that are quantised in a way that is not read."""
    if read_modelopt_config(directory) is not None:
        return
    for key in ("quantization_config", "quant_config"):
        if config.values.get(key):
            raise UnsupportedModelError(
                f"`config.json` has `{key}`: the weights are quantised already",
                hint="build from the 16 or 32 bit checkpoint it was made from",
            )


def _pad_token_id(config: CheckpointFile, vocab_size: int, *, default: int) -> int:
    """Return the padding id; default: what the model's class takes when the file does not say."""
    pad_token_id = config.get("pad_token_id", int, default)
    if not 0 <= pad_token_id < vocab_size:
        raise CheckpointError(
            f"`pad_token_id` in `config.json` is {pad_token_id}, outside the vocabulary of "
            f"{vocab_size} tokens"
        )
    return pad_token_id


def _check_dimensions(recipe: Recipe, hidden_size: int) -> None:
    size = hidden_size * len(recipe.pooling)
    for module in recipe.dense:
        if module.in_features != size:
            raise CheckpointError(
                f"`{module.path}/config.json` takes {module.in_features} features, but what comes "
                f"before it gives {size}"
            )
        size = module.out_features


def _max_input_length(
    sentence_config: CheckpointFile, tokenizer_config: CheckpointFile, positions: int
) -> int:
    """Tokens an input may have: the recipe's limit, else the tokenizer's, within the positions."""
    if positions < 1:
        raise CheckpointError("`config.json`: `max_position_embeddings` leaves no position to use")
    limit = sentence_config.get("max_seq_length", int, 0)
    if limit < 1:
        stated = tokenizer_config.values.get("model_max_length")
        limit = stated if isinstance(stated, int) and 0 < stated < _NO_LIMIT else positions
    return min(limit, positions)


def _sentence_config(directory: Path) -> CheckpointFile:
    for name in _SENTENCE_CONFIG_NAMES:
        if (directory / name).is_file():
            return CheckpointFile.read(directory, name)
    return CheckpointFile(_SENTENCE_CONFIG_NAMES[0], {})


def _read_prompts(directory: Path, adapter: str | None) -> tuple[Mapping[str, str], str | None]:
    """Return the prompts and the one for inputs that name none: an adapter's own, if it has one."""
    file = CheckpointFile.read_optional(directory, "config_sentence_transformers.json")
    prompts: Any = file.values.get("prompts") or {}
    is_map = isinstance(prompts, dict) and all(isinstance(text, str) for text in prompts.values())
    if not is_map:
        raise CheckpointError(f"`prompts` in `{file.name}` is not a map from names to texts")
    default = file.get("default_prompt_name", str, "") or None
    if default is None and adapter is not None and prompts.get(adapter):
        return prompts, adapter
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"`default_prompt_name` in `{file.name}` is `{default}`, which is none of its prompts: "
            f"{', '.join(sorted(prompts)) or 'there are none'}"
        )
    return prompts, default


def _dtype(config: CheckpointFile) -> str:
    # transformers 5 renamed `torch_dtype` to `dtype`; both are about.
    return config.get("dtype", str, "") or config.get("torch_dtype", str, "float32")


def _first_key(config: CheckpointFile, *keys: str) -> str:
    """Return the first key that `config` has, else the usual one for the complaint."""
    return next((key for key in keys if config.values.get(key) is not None), keys[0])
