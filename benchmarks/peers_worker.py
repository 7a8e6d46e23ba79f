"""Libraries to compare with, timed in an environment whose packages are not ours.

Started by `libraries.py`, not by hand: `peers_worker.py CHECKPOINT TEXTS WORK`, TEXTS with a text a
line as JSON. Reads a request a line, `{"do": "open", "name": "st-onnx"}`, and answers each with a
line of JSON: `open` makes a contender ready, `measure` embeds all texts twice and says the texts/s
of the faster time, `export` names the folder of an ONNX graph, `model.onnx` at its top. What fails
is answered as `{"error": ...}`. It imports nothing of this project: its environment lacks it.

Of what a library offers it is the fastest way its documentation names for CPUs, its defaults else.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
# The configuration that sentence-transformers' guide to speed names for CPUs with VNNI.
INT8 = "avx512_vnni"
INT8_FILE = "onnx/model_qint8_avx512_vnni.onnx"
F32_FILE = "onnx/model.onnx"
EXPORTS = {"f32": F32_FILE, "int8": INT8_FILE}

Embed = Callable[[Sequence[str]], object]


class Worker:
    """The contenders, opened when they are asked for, and what they share: exports and texts."""

    def __init__(self, checkpoint: Path, texts: Sequence[str], work: Path) -> None:
        self._checkpoint = checkpoint
        self._texts = texts
        self._work = work
        self._opened: dict[str, Embed] = {}
        self.commands: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
            "open": self._open,
            "measure": self._measure,
            "export": lambda precision: {"folder": str(self._exported(precision))},
        }

    def _open(self, name: str) -> Mapping[str, Any]:
        openers: Mapping[str, Callable[[], Embed]] = {
            "st-onnx": lambda: self._sentence_transformers("onnx", file_name=F32_FILE),
            "st-onnx-int8": lambda: self._sentence_transformers("onnx", file_name=INT8_FILE),
            "st-openvino": lambda: self._sentence_transformers("openvino"),
            "onnxruntime-f32": lambda: onnx_runtime(self._exported("f32"), self._max_length()),
            "onnxruntime-int8": lambda: onnx_runtime(self._exported("int8"), self._max_length()),
            "fastembed": lambda: fast_embed(self._exported("f32")),
        }
        self._opened[name] = openers[name]()
        return {}

    def _measure(self, name: str) -> Mapping[str, Any]:
        durations = []
        for _ in range(2):
            started_at = time.perf_counter()
            self._opened[name](self._texts)
            durations.append(time.perf_counter() - started_at)
        return {"texts_per_second": len(self._texts) / min(durations)}

    def _sentence_transformers(self, backend: str, **options: str) -> Embed:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        folder = self._onnx_folder() if backend == "onnx" else self._checkpoint
        model = SentenceTransformer(
            str(folder), backend=backend, device="cpu", local_files_only=True, model_kwargs=options
        )
        return lambda texts: model.encode(
            list(texts), batch_size=BATCH_SIZE, show_progress_bar=False
        )

    @cache  # noqa: B019 - there is one worker, and it lives as long as the process
    def _onnx_folder(self) -> Path:
        """Return a copy of the checkpoint with its ONNX graphs, as sentence-transformers writes."""
        from sentence_transformers import (  # noqa: PLC0415
            SentenceTransformer,
            export_dynamic_quantized_onnx_model,
        )

        folder = self._work / "exported"
        model = SentenceTransformer(
            str(self._checkpoint), backend="onnx", device="cpu", local_files_only=True
        )
        model.save_pretrained(str(folder))
        export_dynamic_quantized_onnx_model(model, INT8, str(folder))
        return folder

    @cache  # noqa: B019 - as above
    def _exported(self, precision: str) -> Path:
        """Return a folder with a graph at its top, and nothing else that could be taken for one."""
        source = self._onnx_folder()
        folder = self._work / f"onnx-{precision}"
        folder.mkdir()
        for name in ("config.json", "special_tokens_map.json", "tokenizer.json"):
            shutil.copy(source / name, folder)
        # FastEmbed reads here where to cut; the recipe of the checkpoint says less than that.
        settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings |= {"max_length": self._max_length(), "model_max_length": self._max_length()}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        shutil.copy(source / EXPORTS[precision], folder / "model.onnx")
        return folder

    def _max_length(self) -> int:
        recipe = self._checkpoint / "sentence_bert_config.json"
        return int(json.loads(recipe.read_text(encoding="utf-8"))["max_seq_length"])


def onnx_runtime(folder: Path, max_length: int) -> Embed:
    """ONNX Runtime by hand: sorted by length, mean pooling, unit length, all CPUs."""
    import numpy as np  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415
    import tokenizers  # noqa: PLC0415

    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding()

    def embed_batch(texts: Sequence[str]) -> Any:
        encoded = tokenizer.encode_batch(list(texts))
        inputs = {
            "input_ids": np.array([each.ids for each in encoded]),
            "attention_mask": np.array([each.attention_mask for each in encoded]),
            "token_type_ids": np.array([each.type_ids for each in encoded]),
        }
        hidden = session.run(None, {name: inputs[name] for name in names})[0]
        mask = inputs["attention_mask"][:, :, None].astype(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def embed(texts: Sequence[str]) -> object:
        in_order = sorted(texts, key=len)
        return [
            embed_batch(in_order[start : start + BATCH_SIZE])
            for start in range(0, len(in_order), BATCH_SIZE)
        ]

    return embed


def fast_embed(folder: Path) -> Embed:
    """FastEmbed with its defaults: batches of 256 in the order of the texts."""
    from fastembed import TextEmbedding  # noqa: PLC0415

    name = "sentence-transformers/all-MiniLM-L6-v2"
    model = TextEmbedding(name, specific_model_path=str(folder))
    return lambda texts: list(model.embed(texts))


def main() -> None:
    """Answer until the input ends."""
    checkpoint, texts_path, work = (Path(word) for word in sys.argv[1:])
    # Some of the libraries print; what they print is not an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lines = texts_path.read_text(encoding="utf-8").splitlines()
    worker = Worker(checkpoint, [json.loads(line) for line in lines], work)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = worker.commands[request["do"]](request["name"])
        except Exception as error:  # noqa: BLE001 - the other contenders can still be measured
            first = (str(error).strip().splitlines() or [""])[0]
            answer = {"error": f"{type(error).__name__}: {first}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
