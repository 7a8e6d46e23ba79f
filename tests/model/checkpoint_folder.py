"""Writes checkpoint folders that hold everything `inspect_checkpoint` looks at, and no weights."""

import json
from pathlib import Path
from typing import Any

BERT_CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
ROBERTA_CONFIG: dict[str, Any] = BERT_CONFIG | {
    "architectures": ["RobertaModel"],
    "model_type": "roberta",
    "max_position_embeddings": 514,
    "pad_token_id": 1,
}


def write_checkpoint(directory: Path) -> Path:
    """Write a sound BERT embedding checkpoint: mean pooling, then unit length."""
    directory.mkdir(parents=True)
    write_json(directory / "config.json", BERT_CONFIG)
    write_json(directory / "tokenizer.json", {"version": "1.0", "model": {"vocab": {}}})
    (directory / "model.safetensors").touch()
    write_modules(directory, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Norm"))
    write_json(directory / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    return directory


def write_modules(directory: Path, *modules: tuple[str, str]) -> None:
    """Write `modules.json`; a name without a dot is one of sentence-transformers' own classes."""
    entries = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": kind if "." in kind else f"sentence_transformers.models.{kind}",
        }
        for index, (kind, path) in enumerate(modules)
    ]
    write_json(directory / "modules.json", entries)


def write_dense(directory: Path, folder: str, **values: Any) -> None:
    """Write a Dense module's folder; `values` go over a layer from 32 to 32 features with tanh."""
    config = {
        "in_features": 32,
        "out_features": 32,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    write_json(directory / folder / "config.json", config | values)
    (directory / folder / "model.safetensors").touch()


def change_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file, making the file if need be; None removes a key."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    merged = content | values
    write_json(path, {key: value for key, value in merged.items() if value is not None})


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
