"""The prompts causal rerankers are asked with, and how a checkpoint is known to be one.

A causal model cannot be given a pair: it reads one prompt that holds query and document, and
answers at its last token. The prompt is part of what the model was trained on, but no file of the
checkpoint states it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from beicli.errors import ConfigError
from beicli.model.spec import Task

# Source: the model cards of Qwen/Qwen3-Reranker-*, with their default instruction.
QWEN3_RERANKER = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {{ query }}\n"
    "<Document>: {{ document }}<|im_end|>\n"
    "<|im_start|>assistant\n"
    "<think>\n\n</think>\n\n"
)
# Source: the model cards of mixedbread-ai/mxbai-rerank-*-v2.
MXBAI_RERANK_V2 = (
    "<|endoftext|><|im_start|>system\n"
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n"
    "<|im_end|>\n"
    "<|im_start|>user\n"
    "query: {{ query }} \n"
    "document: {{ document }} \n"
    "You are a search relevance expert who evaluates how well documents match search queries. For "
    "each query-document pair, carefully analyze the semantic relationship between them, then "
    "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\n"
    "Relevance:<|im_end|>\n"
    "<|im_start|>assistant\n"
)
# Source: the model cards of nvidia/llama-nemotron-rerank-1b-v2 and llama-3.2-nv-rerankqa-1b-v2.
LLAMA_NEMOTRON_RERANK = "<|begin_of_text|>question:{{ query }} \n \n passage:{{ document }}"
_NAMES = {
    QWEN3_RERANKER: "Qwen3-Reranker",
    MXBAI_RERANK_V2: "mxbai-rerank-v2",
    LLAMA_NEMOTRON_RERANK: "llama-nemotron-rerank",
}

# Model types that read from left to right and whose classifiers answer at the last token.
CAUSAL_MODEL_TYPES = frozenset(
    {
        "bloom",
        "deepseek_v2",
        "deepseek_v3",
        "exaone4",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_neox",
        "gpt_oss",
        "llama",
        "ministral",
        "mistral",
        "mixtral",
        "nemotron",
        "olmo2",
        "olmo3",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)
# Pairs of answers whose second means "relevant", in lower case.
_YES_NO_PAIRS = (("no", "yes"), ("0", "1"))
_TEMPLATE_KEY = "model_metadata.rerank_template"
_LABEL_KEY = "model_metadata.rerank_label"
_VARIABLES = ("query", "document")
_HINT = (
    "a template is Jinja text that uses `{{ query }}` and `{{ document }}`, such as "
    "`query: {{ query }} document: {{ document }} relevant:`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """What the user says of reranking; a checkpoint's files do not say it.

    template: Jinja text of `query` and `document`; None takes the one known for the model.
    label: the label that means "relevant"; None takes what its name suggests.
    repository: the checkpoint's name or folder, such as `tomaarsen/Qwen3-Reranker-0.6B-seq-cls`.
    """

    template: str | None = None
    label: str | None = None
    repository: str = ""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], *, repository: str) -> "RerankRequest":
        """Read the keys `rerank_template` and `rerank_label` of `model_metadata`."""
        template, label = metadata.get("rerank_template"), metadata.get("rerank_label")
        if template is not None and not isinstance(template, str):
            raise ConfigError(
                f"`{_TEMPLATE_KEY}` is of type {type(template).__name__}, wanted a text",
                hint=_HINT,
            )
        # YAML reads an unquoted `1` as a number and an unquoted `yes` as a truth value.
        if label is not None and not isinstance(label, str):
            raise ConfigError(
                f"`{_LABEL_KEY}` is {label!r}, wanted the name of a label",
                hint=f"put it in quotes: `rerank_label: '{_as_label(label)}'`",
            )
        if template is not None:
            check_template(template)
        return cls(template=template, label=label, repository=repository)


@dataclass(frozen=True, slots=True)
class Reranking:
    """Which label means "relevant", None if none does; and the prompt, None to give pairs."""

    label: int | None = None
    template: str | None = None


def choose_reranking(
    request: RerankRequest, *, task: Task, model_type: str, labels: tuple[str, ...]
) -> Reranking:
    """Decide how a classifier of texts reranks.

    Raises ConfigError when what the user says does not fit the model.
    """
    if task not in {Task.CLASSIFICATION, Task.RERANKING}:
        _refuse_request(request, task)
        return Reranking()
    label = _relevance_label(request, labels)
    if request.template is not None and label is None:
        raise ConfigError(
            f"`{_TEMPLATE_KEY}` is set, but none of the labels {', '.join(labels)} is known to "
            "mean relevant",
            hint=f"name it in `{_LABEL_KEY}`",
        )
    template = request.template
    if template is None and label is not None:
        template = _known_template(request.repository, model_type, labels)
    # Labels called yes and no do not make a reranker: a prompt does, or the user's word.
    if task is Task.CLASSIFICATION and template is None and request.label is None:
        return Reranking()
    return Reranking(label, template)


def missing_template_warning(
    *, model_type: str, labels: tuple[str, ...], template: str | None
) -> str | None:
    """Return what to tell of a causal reranker whose prompt is not known; None if all is well."""
    if model_type not in CAUSAL_MODEL_TYPES or template is not None:
        return None
    if len(labels) == 1:
        return (
            "no prompt is known for this causal reranker: `/rerank` joins query and text the way "
            f"the tokenizer joins pairs; if the model wants a prompt, set `{_TEMPLATE_KEY}`"
        )
    if _yes_label(labels) is None:
        return None
    return (
        "no prompt is known for this causal yes/no classifier: `/rerank` refuses with 424, and "
        f"`/predict` takes texts that hold the prompt already; to rerank, set `{_TEMPLATE_KEY}`"
    )


def template_name(template: str) -> str:
    """Return the name of a known template; any other is the configuration's own."""
    return _NAMES.get(template, "configured")


def check_template(text: str) -> None:
    """Raise ConfigError unless `text` is Jinja text of `query` and `document`, and nothing else."""
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        used = meta.find_undeclared_variables(environment.parse(text)) - {*environment.globals}
    except jinja2.TemplateError as error:
        raise ConfigError(f"`{_TEMPLATE_KEY}` is no Jinja text: {error}", hint=_HINT) from error
    unused = [name for name in _VARIABLES if name not in used]
    if unused:
        raise ConfigError(f"`{_TEMPLATE_KEY}` does not use {_listed(unused)}", hint=_HINT)
    unknown = sorted(used - {*_VARIABLES})
    if unknown:
        raise ConfigError(
            f"`{_TEMPLATE_KEY}` uses {_listed(unknown)}; it is given `query` and `document` only",
            hint=f"write the text itself in place of {_listed(unknown)}, or `{{% set %}}` it",
        )
    try:
        environment.from_string(text).render(query="a query", document="a document")
    except Exception as error:
        # A template may divide by zero or call what is not callable: anything can come out.
        raise ConfigError(f"`{_TEMPLATE_KEY}` cannot be rendered: {error}", hint=_HINT) from error


def _known_template(repository: str, model_type: str, labels: tuple[str, ...]) -> str | None:
    names = tuple(sorted(label.lower() for label in labels))
    name = repository.rstrip("/").rsplit("/", 1)[-1].lower()
    if model_type == "qwen3" and (names == ("no", "yes") or "qwen3-reranker" in name):
        return QWEN3_RERANKER
    if model_type == "llama" and ("nemotron-rerank" in name or "nv-rerankqa" in name):
        return LLAMA_NEMOTRON_RERANK
    if model_type == "qwen2" and names == ("0", "1"):
        return MXBAI_RERANK_V2
    return None


def _relevance_label(request: RerankRequest, labels: tuple[str, ...]) -> int | None:
    if request.label is None:
        return 0 if len(labels) == 1 else _yes_label(labels)
    if request.label not in labels:
        raise ConfigError(
            f"`{_LABEL_KEY}` is `{request.label}`, which is none of the labels: {', '.join(labels)}"
        )
    return labels.index(request.label)


def _yes_label(labels: tuple[str, ...]) -> int | None:
    names = [label.lower() for label in labels]
    yes = next((pair[1] for pair in _YES_NO_PAIRS if sorted(names) == list(pair)), None)
    return None if yes is None else names.index(yes)


def _refuse_request(request: RerankRequest, task: Task) -> None:
    if request.template is None and request.label is None:
        return
    key = _LABEL_KEY if request.template is None else _TEMPLATE_KEY
    raise ConfigError(
        f"`{key}` is set, but the checkpoint is no classifier of texts: its task is {task}",
        hint="leave it out, or name a reranker's checkpoint",
    )


def _as_label(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)
