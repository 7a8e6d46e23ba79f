import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from beicli.errors import CheckpointError
from beicli.model.weights import (
    check_tokenizer,
    check_weights,
    count_parameters,
    list_files,
    onnx_files,
)


def test_parameters_are_counted_without_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(
        {"a": np.zeros((3, 4), np.float16), "b": np.zeros(5), "c": np.zeros((), np.float32)},
        path,
        metadata={"format": "pt"},
    )

    size_bytes = path.stat().st_size

    assert count_parameters(path, size_bytes=size_bytes) == 3 * 4 + 5 + 1
    # Only the header is needed.
    path.write_bytes(path.read_bytes()[:-40])
    assert count_parameters(path, size_bytes=size_bytes) == 18


def test_a_file_that_is_cut_off_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((3, 4))}, path)

    with pytest.raises(CheckpointError, match="is not whole"):
        count_parameters(path, size_bytes=path.stat().st_size - 1)


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def tensor(shape: str) -> str:
    return f'{{"a": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, 0]}}}}'


@pytest.mark.parametrize("text", ["{}", '{"__metadata__": {"format": "pt"}}', tensor("[0, 4]")])
def test_a_file_without_numbers_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header(text))

    with pytest.raises(CheckpointError, match="holds no numbers"):
        count_parameters(path, size_bytes=path.stat().st_size)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 10**12) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": 12}',
        struct.pack("<Q", 8) + b"\xff" * 8,
        header("[" * 100_000),
        header('{"a": {"shape": [1], "data_offsets": []}}'),
        *(
            header(tensor(shape))
            for shape in ("[-1]", "[1.5]", "[true]", "[NaN]", "3", f"[1{'0' * 400}]")
        ),
    ],
)
def test_what_is_no_safetensors_file_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="is no safetensors file"):
        count_parameters(path, size_bytes=len(content))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"model": 1}'])
def test_a_tokenizer_file_that_holds_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        check_tokenizer(tmp_path, {"tokenizer.json"})


def test_shards_are_named_once_each_and_looked_for_in_the_listing(tmp_path: Path) -> None:
    shards = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    names = {"model.safetensors.index.json", *shards}

    # The shards themselves need not be on this disk.
    assert check_weights(tmp_path, names) == tuple(shards)
    with pytest.raises(
        CheckpointError, match=r"names `model-2-of-2.safetensors`, which is missing"
    ):
        check_weights(tmp_path, names - {shards[1]})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("onnx/model.onnx",), ("onnx/model.onnx",)),
        (("model.onnx", "onnx/model_int8.onnx"), ("model.onnx",)),
        (("model.onnx", "onnx/model.onnx"), ("onnx/model.onnx",)),
        (
            ("onnx/model.onnx_data_1", "onnx/model.onnx_data", "onnx/model.onnx"),
            ("onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"),
        ),
        (
            ("model.onnx", "model.onnx.data", "model.onnx.json", "model.onnx_data_x"),
            ("model.onnx", "model.onnx.data"),
        ),
        (("model.safetensors", "onnx/model.onnx"), ("model.safetensors",)),
    ],
)
def test_an_onnx_model_stands_in_for_missing_safetensors(
    tmp_path: Path, names: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert check_weights(tmp_path, names) == expected
    assert onnx_files(names) == (() if "model.safetensors" in names else expected)


def test_a_variant_of_an_onnx_model_is_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        check_weights(tmp_path, {"config.json", "onnx/model_quantized.onnx"})

    assert raised.value.message.endswith(
        "and no `onnx/model.onnx`; found `onnx/model_quantized.onnx`, and nothing but `model.onnx` "
        "is taken for float32"
    )
    assert "`onnx/model.onnx`" in str(raised.value.hint)


def test_files_are_listed_with_their_folders(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    for name in ("config.json", "1_Pooling/config.json"):
        (tmp_path / name).touch()

    assert list_files(tmp_path) == {"config.json", "1_Pooling/config.json"}
