"""`LLM` with `encode`, as the real one has it."""

# ruff: noqa: FBT001, FBT002 - the signatures are the real one's
# ruff: noqa: PLC0415 - torch takes seconds to import, and a table needs none

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

_RESERVED = {"input_ids", "seq_lens", "attn_metadata", "return_context_logits"}


class HalfTensor:
    """As a tensor of torch in bf16, which numpy does not take."""

    def __init__(self, values: Any, *, is_float: bool = False) -> None:
        self._values = values
        self._is_float = is_float

    def float(self) -> "HalfTensor":
        return HalfTensor(self._values, is_float=True)

    def cpu(self) -> "HalfTensor":
        return self

    def numpy(self) -> Any:
        if not self._is_float:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._values


@dataclass
class EncoderOutput:
    logits: Any
    prompt_token_ids: list[int]
    prompt: str | None = None


class LLM:
    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        for key in kwargs:
            if key not in TorchLlmArgs.model_fields:
                raise ValueError(f"LLM got invalid argument: {key}")
        if dtype not in {"auto", "float16", "bfloat16", "float32"}:
            raise ValueError(f"unknown dtype {dtype}")
        if not skip_tokenizer_init and not (Path(model) / "tokenizer.json").is_file():
            raise ValueError(f"Failed to load tokenizer from {model}")
        self._encode_only = kwargs.get("encode_only", False)
        self._limits = {
            name: kwargs[name] for name in ("max_batch_size", "max_num_tokens", "max_seq_len")
        }
        self._forward = _load(Path(model))
        self._behaviour = _read_behaviour(Path(model))
        self._num_calls = 0
        _misbehave(self._behaviour.get("load"))

    def encode(
        self, inputs: Any, add_special_tokens: bool = True, **model_kwargs: Any
    ) -> EncoderOutput | list[EncoderOutput]:
        if not self._encode_only:
            raise RuntimeError("encode() requires encode_only=True.")
        is_single = not isinstance(inputs, list) or isinstance(inputs[0], int)
        sequences = [inputs] if is_single else inputs
        if not all(type(token) is int for sequence in sequences for token in sequence):
            raise TypeError("The inputs must be type str or list of int")
        lengths = [len(sequence) for sequence in sequences]
        self._check_limits(lengths)
        type_ids = _check_keywords(model_kwargs, num_tokens=sum(lengths))
        self._num_calls += 1
        if self._num_calls > self._behaviour.get("good_calls", 10**9):
            _misbehave(self._behaviour.get("encode"))
        rows = self._forward(sequences, type_ids)
        outputs = [
            EncoderOutput(logits=row, prompt_token_ids=sequence)
            for row, sequence in zip(rows, sequences, strict=True)
        ]
        if self._behaviour.get("encode") == "one too few":
            outputs = outputs[:-1]
        return outputs[0] if is_single else outputs

    def _check_limits(self, lengths: list[int]) -> None:
        if len(lengths) > self._limits["max_batch_size"]:
            raise ValueError(f"Batch size ({len(lengths)}) exceeds max_batch_size")
        if sum(lengths) > self._limits["max_num_tokens"]:
            raise ValueError(f"Total tokens ({sum(lengths)}) across the batch exceeds")
        if max(lengths) > self._limits["max_seq_len"]:
            raise ValueError(f"Max sequence length ({max(lengths)}) exceeds max_seq_len")

    def shutdown(self) -> None:
        self._encode_only = False


def _check_keywords(keywords: dict[str, Any], *, num_tokens: int) -> Any:
    """Return the type ids; what the real one sets itself is dropped, as it does."""
    wanted = {key: value for key, value in keywords.items() if key not in _RESERVED}
    if wanted.keys() - {"token_type_ids"}:
        raise TypeError(f"forward() got an unexpected keyword argument: {wanted}")
    type_ids = wanted.get("token_type_ids")
    if type_ids is not None and tuple(type_ids.shape) != (num_tokens,):
        raise AssertionError("Shapes are not the same!")
    return type_ids


def _load(model: Path) -> Any:
    table = model / "table.npy"
    if not table.is_file():
        return _load_transformers(model)
    weights = np.load(table)

    def forward(sequences: list[list[int]], type_ids: Any) -> list[Any]:
        if type_ids is None:
            return [HalfTensor(weights[sequence].mean(axis=0)) for sequence in sequences]
        # Tokens of the second text count twice.
        ends = np.cumsum([len(sequence) for sequence in sequences])[:-1]
        counts = np.split(1 + type_ids.cpu().numpy(), ends)
        return [
            HalfTensor((weights[sequence] * count[:, None]).mean(axis=0).astype(np.float32))
            for sequence, count in zip(sequences, counts, strict=True)
        ]

    return forward


def _load_transformers(model: Path) -> Any:
    import torch
    import transformers

    config = json.loads((model / "config.json").read_text())
    if config["architectures"] != ["Qwen3ForTextEmbedding"]:
        raise ValueError(f"Unsupported architecture {config['architectures']}")
    network = transformers.AutoModel.from_pretrained(model, dtype=torch.bfloat16).eval()

    def forward(sequences: list[list[int]], _type_ids: Any) -> list[Any]:
        with torch.inference_mode():
            return [
                network(torch.tensor([sequence])).last_hidden_state[0, -1] for sequence in sequences
            ]

    return forward


def _read_behaviour(model: Path) -> dict[str, Any]:
    path = model / "behaviour.json"
    values: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return values


def _misbehave(how: str | None) -> None:
    if how == "crash":
        print("CUDA error: an illegal memory access was encountered", flush=True)
        os._exit(7)
    if how == "abort":
        os.abort()
    if how == "hang":
        # As the real one may start processes of its own.
        subprocess.Popen(["/bin/sleep", "600"])
        time.sleep(600)
    if how == "error":
        raise RuntimeError("CUDA out of memory")
    if how == "garbage":
        os.write(int(sys.argv[1]), b"what a library prints to any file it finds")
