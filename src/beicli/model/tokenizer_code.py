"""What the tokenizer code of a checkpoint does that its `tokenizer.json` does not say.

Such code never runs; what the known one does is stated here.
"""

from pathlib import Path

from beicli.model.files import CheckpointFile
from beicli.model.remote_code.bidirectional import is_first_qwen2

_QWEN2_END = "<|endoftext|>"


def appended_token(directory: Path) -> str | None:
    """Return the token that the checkpoint's own code puts after every text; None if it has none.

    Known for the first Qwen2 embedding models, such as Alibaba-NLP/gte-Qwen2-1.5B-instruct, whose
    last-token pooling reads that token. Their code takes the tokenizer's `eos_token`, which is
    `<|endoftext|>`, unless `add_eos_token` is false.
    Source: `tokenization_qwen.py` of that model; text-embeddings-inference.
    """
    if not is_first_qwen2(CheckpointFile.read(directory, "config.json").values):
        return None
    tokenizer_config = CheckpointFile.read_optional(directory, "tokenizer_config.json")
    if not tokenizer_config.get("add_eos_token", bool, True):
        return None
    return stated_token(tokenizer_config, "eos_token") or _QWEN2_END


def stated_token(tokenizer_config: CheckpointFile, key: str) -> str | None:
    """Return a special token by its key, such as `eos_token`; None if there is none."""
    stated = tokenizer_config.values.get(key)
    # Old files describe a token by its content and four flags.
    token = stated.get("content") if isinstance(stated, dict) else stated
    return token if isinstance(token, str) and token else None
