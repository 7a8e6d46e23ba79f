"""Measures the memory of a build, beside the size of its checkpoint.

Writes a random Qwen3 of 1.5 GB, in three shards, builds it in a process of its own, and prints the
most memory that process held: `anonymous` is what the machine must have free, `resident` counts
pages of mapped files too, which the kernel drops when it needs room. `steps` has the former for
each step of the build.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3Model

# What a build may take: see `docs/explanation/architecture.md`.
MAX_RATIO = 2.2
_NUM_SHARDS = 3
_NUM_LAYERS = {"bfloat16": 38, "float32": 14}
_SAMPLE_PERIOD_S = 0.02
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def main() -> None:
    """Measure, print one JSON line, and fail if the build took too much."""
    options = _parse()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        checkpoint_bytes = write_checkpoint(
            directory / "checkpoint",
            options.models / "all-minilm-l6-v2",
            num_layers=options.layers or _NUM_LAYERS[options.dtype],
            dtype=options.dtype,
        )
        config = directory / "config.yaml"
        config.write_text(
            "trt_llm:\n  build:\n    base_model: encoder\n    checkpoint_repository:\n"
            "      source: LOCAL\n      repo: checkpoint\n",
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "beicli", "build", config, "-o", directory / "engine"]
        started_at = time.monotonic()
        process = subprocess.Popen([*command, *options.arguments], stderr=subprocess.PIPE)
        peaks = watch(process)
        anonymous, resident = (max(peak[i] for peak in peaks.values()) for i in (0, 1))
        result = {
            "checkpoint_bytes": checkpoint_bytes,
            "anonymous_bytes": anonymous,
            "resident_bytes": resident,
            "ratio": round(anonymous / checkpoint_bytes, 2),
            "resident_ratio": round(resident / checkpoint_bytes, 2),
            "steps": {step: round(peak[0] / checkpoint_bytes, 2) for step, peak in peaks.items()},
            "duration_s": round(time.monotonic() - started_at, 1),
        }
    print(json.dumps(result))
    if process.returncode or result["ratio"] > MAX_RATIO:
        sys.exit(f"the build failed, or took more than {MAX_RATIO} times its checkpoint")


def write_checkpoint(directory: Path, tokenizer: Path, *, num_layers: int, dtype: str) -> int:
    """Write a random Qwen3 with its shards' index and a recipe; return the bytes of its weights."""
    directory.mkdir()
    config = Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=2048,
        pad_token_id=0,
        dtype=dtype,
        architectures=["Qwen3Model"],
    )
    config.save_pretrained(directory)
    for file in _TOKENIZER_FILES:
        (directory / file).write_bytes((tokenizer / file).read_bytes())
    modules = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    _write_json(
        directory / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
    )
    (directory / "1_Pooling").mkdir()
    _write_json(directory / "1_Pooling" / "config.json", {"pooling_mode": "lasttoken"})
    return _write_shards(directory, config)


def _write_shards(directory: Path, config: Qwen3Config) -> int:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Qwen3Model(config).state_dict().items()}
    names = sorted(shapes)
    generator = torch.Generator().manual_seed(1)
    weight_map = {}
    total = 0
    for index in range(_NUM_SHARDS):
        file = f"model-{index + 1:05}-of-{_NUM_SHARDS:05}.safetensors"
        tensors = {
            name: _random(shapes[name], generator, config.dtype)
            for name in names[index::_NUM_SHARDS]
        }
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    _write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )
    return total


def _random(shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    return (0.02 * torch.randn(shape, generator=generator)).to(dtype)


def watch(process: subprocess.Popen[bytes]) -> dict[str, tuple[int, int]]:
    """Return the most anonymous and the most resident memory in each step, in bytes."""
    peaks = {}
    peak = (0, 0)
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    while process.poll() is None:
        sizes = dict(_memory(process.pid))
        now = (sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0), sizes.get("VmRSS", 0))
        peak = (max(peak[0], now[0]), max(peak[1], now[1]))
        # A step has its line when it is done.
        for line in process.stderr:
            sys.stderr.buffer.write(line)
            peaks[line.decode().split()[0]] = peak
            peak = (0, 0)
        time.sleep(_SAMPLE_PERIOD_S)
    return peaks


def _memory(pid: int) -> Iterator[tuple[str, int]]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield name, int(value.split()[0]) * 1024


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(".models"))
    parser.add_argument("--layers", type=int, default=None, help="by default 1.5 GB of them")
    parser.add_argument("--dtype", choices=tuple(_NUM_LAYERS), default="bfloat16")
    parser.add_argument("--directory", type=Path, default=None, help="where 8 GB are free")
    parser.add_argument("arguments", nargs="*", help="of `bei build`, after `--`")
    return parser.parse_args()


if __name__ == "__main__":
    main()
