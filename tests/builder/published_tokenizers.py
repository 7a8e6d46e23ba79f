"""Tokenizers with the pipelines of published checkpoints, and vocabularies of a few letters.

transformers 5 rebuilds each of them otherwise than its `tokenizer.json` says.
"""

import struct
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

_LETTERS = "abcdefghijklmnopqrstuvwxyzHT."
# As SentencePiece's nmt_nfkc has them, among thousands.
_CHARACTERS = {"ﬁ": "fi", "ｆ": "f", "\n": " ", "\t": " ", "\u3000": " "}


@dataclass(frozen=True, slots=True)
class Published:
    """A tokenizer, the model type and the class that its checkpoint names, and a text to tell by.

    text: of which transformers 5 makes other tokens than `tokens`, without special ones.
    """

    tokenizer: Tokenizer
    kind: str
    tokenizer_config: dict[str, Any]
    text: str
    tokens: list[str]


def bge_m3() -> Published:
    """`Metaspace` alone, so that whitespace at the end is a token; as in bge-reranker-v2-m3."""
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = _unigram(specials, unk_id=3)
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([_precompiled(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = dict(zip(("bos", "pad", "eos", "unk", "mask"), specials, strict=True))
    config = _config("XLMRobertaTokenizer", names | {"cls": "<s>", "sep": "</s>"})
    return Published(tokenizer, "xlm-roberta", config, "a ﬁt\n", ["▁a", "▁", "f", "i", "t", "▁"])


def deberta_v2() -> Published:
    """As `DebertaV2Converter` of transformers 4 writes it."""
    specials = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    tokenizer = _unigram(specials, unk_id=3)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), _precompiled(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = dict(zip(("pad", "cls", "sep", "unk", "mask"), specials, strict=True))
    config = _config("DebertaV2Tokenizer", names | {"bos": "[CLS]", "eos": "[SEP]"})
    config |= {"do_lower_case": False, "vocab_type": "spm"}
    return Published(tokenizer, "deberta-v2", config, "a ﬁt", ["▁a", "▁", "f", "i", "t"])


def llama_2() -> Published:
    """`Prepend` and `Replace`: a space in front of every text, whatever it begins with."""
    specials = ("<unk>", "<s>", "</s>")
    symbols = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *_LETTERS, "▁a"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={symbol: index for index, symbol in enumerate(symbols)},
            merges=[("▁", "a")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    names = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}
    config = _config("LlamaTokenizer", names) | {"add_bos_token": True, "legacy": False}
    return Published(tokenizer, "llama", config, " a", ["▁", "▁a"])


def _config(tokenizer_class: str, names: dict[str, str]) -> dict[str, Any]:
    return {"tokenizer_class": tokenizer_class} | {f"{key}_token": names[key] for key in names}


def _unigram(specials: tuple[str, ...], *, unk_id: int) -> Tokenizer:
    vocabulary = [(name, 0.0) for name in specials]
    vocabulary += [(symbol, -4.0) for symbol in ("▁", *_LETTERS, "▁a")]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unk_id, byte_fallback=False))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    return tokenizer


def _precompiled() -> normalizers.Normalizer:
    """Pack `_CHARACTERS` as SentencePiece does: a double array of bytes, then the replacements."""
    root: dict[int, Any] = {}
    replacements = b""
    for character, replacement in _CHARACTERS.items():
        node = root
        for byte in character.encode():
            node = node.setdefault(byte, {})
        node[0] = len(replacements)
        replacements += replacement.encode() + b"\0"
    blocks = _double_array(root)
    units = [unit for block in blocks for unit in block]
    array = struct.pack(f"<{len(units)}I", *units)
    return normalizers.Precompiled(struct.pack("<I", len(array)) + array + replacements)


def _double_array(root: dict[int, Any]) -> list[list[int]]:
    """Lay a trie out in blocks of 256 units, one for the children of each node.

    A unit has its byte in bits 0 to 7, in bit 8 whether a key ends there, and from bit 10 on how
    far its children are, by exclusive or; unit 0 of a block holds the value of the key that ends.
    """
    # The root is a unit of its own.
    blocks = [[1 << 18] + [0] * 255]
    nodes = [root]
    blocks.append([0] * 256)
    for number, node in enumerate(nodes, start=1):
        for byte, child in node.items():
            if byte == 0:
                blocks[number][0] = child
                continue
            nodes.append(child)
            blocks.append([0] * 256)
            children = (number << 8 | byte) ^ (len(nodes) << 8)
            blocks[number][byte] = byte | (0 in child) << 8 | children << 10
    return blocks
