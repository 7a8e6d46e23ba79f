"""Read and write the files of a Hugging Face style checkpoint folder, without torch."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

Float32 = npt.NDArray[np.float32]
Weights = Mapping[str, Float32]

CONFIG_FILE_NAME = "config.json"
WEIGHTS_FILE_NAME = "model.safetensors"

_TOKENIZER_FILE_NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SENTENCE_TRANSFORMERS_MODULES = ("Transformer", "Pooling", "Normalize")


def read_weights(folder: Path) -> dict[str, Float32]:
    weights: dict[str, Float32] = load_file(folder / WEIGHTS_FILE_NAME)
    return weights


def write_weights(folder: Path, weights: Weights) -> None:
    """Save as float32; loaders insist on the `format` entry."""
    contiguous = {name: np.ascontiguousarray(w, np.float32) for name, w in weights.items()}
    save_file(contiguous, folder / WEIGHTS_FILE_NAME, metadata={"format": "pt"})


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    file.write_text(f"{text}\n", encoding="utf-8")


def copy_companions(source: Path, output: Path) -> None:
    """Copy everything but the weights and the record of where they came from."""
    own = shutil.ignore_patterns(WEIGHTS_FILE_NAME, "source.json")
    shutil.copytree(source, output, dirs_exist_ok=True, ignore=own)


def copy_tokenizer(source: Path, output: Path) -> None:
    for name in _TOKENIZER_FILE_NAMES:
        if (source / name).exists():
            shutil.copyfile(source / name, output / name)


def write_pooling(
    folder: Path, *, mode: Literal["mean_tokens", "lasttoken"], hidden_size: int, max_length: int
) -> None:
    """The sentence-transformers files that say: pool the tokens this way, then normalise."""
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(_SENTENCE_TRANSFORMERS_MODULES)
    ]
    write_json(folder / "modules.json", modules)
    # Both flags: a reader that misses one takes the mean for granted.
    modes = {f"pooling_mode_{name}": name == mode for name in ("mean_tokens", "lasttoken")}
    pooling = {"word_embedding_dimension": hidden_size, **modes}
    write_json(folder / "1_Pooling" / CONFIG_FILE_NAME, pooling)
    length = {"max_seq_length": max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", length)
