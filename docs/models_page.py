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
float32 original, and one that disagrees is not written. Code of a checkpoint never runs; the
families whose `config.json` is written for such code are [below](#written-for-code-of-their-own).

Embeddings take any pooling of sentence-transformers: `cls`, `max`, `mean`, `mean_sqrt_len_tokens`,
`weightedmean`, `lasttoken`, or several side by side; then any Dense modules. `bidirectional` stands
for decoders whose `config.json` says `is_causal: false` or `use_bidirectional_attention: true`.

A checkpoint without safetensors is built from its `onnx/model.onnx`, or `model.onnx` at its root,
and the build says so. That is a model as exporters write it, in float32 and of opset 11 or later:
batch and length dynamic, `input_ids` and `attention_mask` as inputs, `token_type_ids` and
`position_ids` if it takes them, `last_hidden_state`, `token_embeddings` or `logits` as an output.
Pooling and Dense modules are added by the build, and ONNX Runtime computes the float32 numbers to
compare with. Quantised and 16 bit models are refused.

Tokens are those of `tokenizer.json`, as it is: so transformers 4 and text-embeddings-inference read
it. transformers 5 rebuilds some tokenizers by rules of their class, such as those of XLM-RoBERTa,
DeBERTa v2 and Llama; where it makes other tokens of a reference text, the build warns. It stops
where transformers 4, too, goes by `tokenizer_config.json`: a BERT's `do_lower_case` or a RoBERTa's
`add_prefix_space` that contradicts `tokenizer.json`, or a special token that this file lacks and a
reference text has. The first Qwen2 embedding models, such as gte-Qwen2-1.5B-instruct, have code
that appends `<|endoftext|>` to every text; the engine's `tokenizer.json` is given the same.
`add_eos_token: true` in `tokenizer_config.json` is warned of where `tokenizer.json` does not add
the token: transformers 5 leaves it out, but models such as e5-mistral-7b-instruct were trained with
it by transformers 4. Have it written into the file, then build from the folder:
`PreTrainedTokenizerFast.from_pretrained(folder, add_bos_token=True,
add_eos_token=True).save_pretrained(folder)`.

Engines are OpenVINO's. What loads but does not export, such as most mixtures of experts, is built
with [`--backend torch`](../how-to/choose-a-backend.md), which every architecture below can be."""
_WRITTEN_FOR_CODE = """\
## Written for code of their own

`config.json` of these names code of the checkpoint in its `auto_map`. It does not run: its keys are
said in those of the class beside it, and what that class does not compute is refused by name."""
_ADAPTERS = """\
Jina v3 has an adapter for each task. An engine has one of them merged into its weights, named in
the configuration: `model_metadata: {adapter: retrieval.query}`, or `none`. Its prompt becomes the
default one. Two engines, one for queries and one for documents, search as the model was trained to.

Nomic v1 was trained for 2,048 tokens and scales its positions beyond them by the length of a text;
an engine takes 2,048, and where the configuration asks for no scaling, `n_positions`."""
_FAMILIES = (
    (
        "GTE v1.5 and multilingual, Arctic Embed 2",
        "`model_type: new`",
        "`Gte…` of transformers",
        "random, in their keys and names",
    ),
    (
        "Nomic v1, v1.5",
        "`nomic_bert` with `n_embd`",
        "`NomicBert…` of transformers",
        "random, in their keys and names",
    ),
    (
        "Nomic v2, a mixture of experts",
        "`nomic_bert` with `num_experts`",
        "`modeling/nomic_moe.py`",
        "random, against loops over tokens and experts",
    ),
    (
        "Jina v2, with code and rerankers v1",
        "`bert` with ALiBi",
        "`modeling/jina_bert.py`",
        "random, against loops over tokens and heads",
    ),
    (
        "Jina v3",
        "`xlm-roberta` with `XLMRobertaFlashConfig`",
        "`JinaEmbeddingsV3…` of transformers",
        "random, each adapter",
    ),
    (
        "Jina reranker v2",
        "the same, `position_embedding_type: absolute`",
        "`XLMRoberta…` of transformers",
        "random, in their names",
    ),
    (
        "Llama Nemotron, embedding and reranking",
        "`llama_bidirec`",
        "`Llama…`, looking both ways",
        "random, in their keys",
    ),
    (
        "Perplexity's Qwen3",
        "`bidirectional_pplx_qwen3`",
        "`Qwen3…`, looking both ways",
        "random, in their keys",
    ),
    (
        "any decoder",
        "`use_bidirectional_attention: true`",
        "its class, looking both ways",
        "random",
    ),
)
_CLOSING = """\
## Adding one

An architecture of transformers that exports needs one line in `tests/builder/architectures.py`; the
tests and this page follow. If its model type needs a rule of its own:

- attention that does not export with a changing batch: `_EAGER_MODEL_TYPES` of
  `modeling/loading.py`
- positions that are counted from the padding id: `_OFFSET_MODEL_TYPES` in `model/inspect.py`
- code that comes out differently in a graph: a module in `builder/`, as `deberta.py`, and a line in
  `builder/graph.py`
- a configuration for code of its own: a module in `model/remote_code/` that translates it, with a
  line in its `__init__.py`
- a network that transformers lacks: a module in `modeling/`, as `jina_bert.py`, and a line in
  `_OWN_MODULES` of `modeling/loading.py`"""


def render_models() -> str:
    """Return the text of the page."""
    return "\n\n".join(
        [
            _INTRODUCTION,
            "\n".join(_rows()),
            _WRITTEN_FOR_CODE,
            "\n".join(_family_rows()),
            _ADAPTERS,
            _CLOSING,
        ]
    )


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


def _family_rows() -> Iterator[str]:
    yield "| checkpoints | as they are published | computed by | in the tests |"
    yield "|---|---|---|---|"
    for cells in _FAMILIES:
        yield f"| {' | '.join(cells)} |"
