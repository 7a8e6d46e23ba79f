"""The page of every architecture, made of the table by which they are tested."""

from collections.abc import Iterator

from tests.builder.architectures import ARCHITECTURES, Architecture

_HEADS = {
    "Model": "embeddings",
    "ForSequenceClassification": "classes, reranking",
    "ForTokenClassification": "entities",
    "ForMaskedLM": "sparse",
}
# Checkpoints with trained weights in the tests, and what they show of an architecture.
_REAL_WEIGHTS = {
    "Bert": "MiniLM, e5-small, SPLADE, a tagger of 35 labels, a classifier and a reranker",
    "Roberta": "MiniLM and SPLADE under its names, which must give the same numbers",
    "XLMRoberta": "e5-small and the tagger under its names, which must give the same numbers",
    "Llama": "SmolLM2, read at its last token",
    "Mistral": "SmolLM2 under its names, which must give the same vectors",
    "Qwen2": "SmolLM2 under its names, which must give the same vectors",
}
_INTRODUCTION = """\
# Models

What is compiled, from safetensors with a `tokenizer.json`. Every mark below is a test: a model of
that class with random weights is exported and compiled for the CPU in f32, and its numbers are
compared with those of transformers, which computes each text alone, without padding, and with
another implementation of attention. They agree within 0.0001 for one token, for the whole window,
and for lengths mixed in one batch.

An architecture that is not listed may well build: every build ends by comparing the engine with the
float32 original, and one that disagrees is not written. Code of a checkpoint never runs: where
`config.json` is written for such code, as in the first versions of GTE's, Nomic's and Jina's
models, take the copy or the revision that transformers reads by itself.

Embeddings take any pooling of sentence-transformers: `cls`, `max`, `mean`, `mean_sqrt_len_tokens`,
`weightedmean`, `lasttoken`, or several side by side; then any Dense modules. `bidirectional` stands
for decoders whose `config.json` says `is_causal: false` or `use_bidirectional_attention: true`.

Tokens are those that transformers makes of the checkpoint. A build stops where `tokenizer.json`, by
which an engine serves, says something else. The first Qwen2 embedding models, such as
gte-Qwen2-1.5B-instruct, have code that appends `<|endoftext|>` to every text; the engine's
`tokenizer.json` is given the same. `add_eos_token: true` in `tokenizer_config.json` is warned of
where `tokenizer.json` does not add the token: transformers 5 leaves it out, but models such as
e5-mistral-7b-instruct were trained with it by transformers 4. Have transformers write it into the
file, then build from the folder: `AutoTokenizer.from_pretrained(folder, add_bos_token=True,
add_eos_token=True).save_pretrained(folder)`.

Engines are OpenVINO's. What loads but does not export, such as a mixture of experts, is built with
[`--backend torch`](../how-to/choose-a-backend.md)."""
_CLOSING = """\
## Adding one

An architecture of transformers that exports needs one line in `tests/builder/architectures.py`; the
tests and this page follow. If its model type needs a rule of its own:

- attention that does not export with a changing batch: `_EAGER_MODEL_TYPES` of
  `modeling/loading.py`
- positions that are counted from the padding id: `_OFFSET_MODEL_TYPES` in `model/inspect.py`
- code that comes out differently in a graph: a module in `builder/`, as `deberta.py`, and a line in
  `builder/graph.py`"""


def render_models() -> str:
    """Return the text of the page."""
    return "\n\n".join([_INTRODUCTION, "\n".join(_rows()), _CLOSING])


def _rows() -> Iterator[str]:
    yield f"| architecture | {' | '.join(_HEADS.values())} | trained weights in the tests |"
    yield f"|---|{'---|' * (len(_HEADS) + 1)}"
    for architecture in ARCHITECTURES:
        yield _row(architecture)


def _row(architecture: Architecture) -> str:
    prefix, _, note = str(architecture).partition("-")
    cells = [f"`{prefix}…`{f' {note}' if note else ''}"]
    cells += ["yes" if head in architecture.heads else "" for head in _HEADS]
    cells.append(_REAL_WEIGHTS.get(str(architecture), ""))
    return f"| {' | '.join(cells)} |"
