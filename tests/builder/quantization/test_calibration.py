from dataclasses import replace
from pathlib import Path

import pytest
from tests.artifact.engines import MODEL
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.builder.quantization.calibration import choose_calibration, encode_samples
from beicli.builder.quantization.texts import CALIBRATION_PAIRS, CALIBRATION_TEXTS
from beicli.builder.texts import OVERLONG_PAIRS, REFERENCE_TEXTS, SHORT_PAIRS
from beicli.config.schema import QuantizationConfig
from beicli.errors import UsageError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import Task

RERANKER = replace(MODEL, task=Task.RERANKING)


def test_no_text_of_the_gate_is_calibrated_on(tmp_path: Path) -> None:
    chosen = choose_calibration(QuantizationConfig(), MODEL, config_directory=tmp_path)

    assert not {*chosen.samples} & {*REFERENCE_TEXTS}
    assert not {*CALIBRATION_PAIRS} & {*SHORT_PAIRS, *OVERLONG_PAIRS}
    assert len(chosen.samples) > 200
    assert chosen.note is None


def test_there_is_a_text_of_every_kind_once() -> None:
    assert len({*CALIBRATION_TEXTS}) == len(CALIBRATION_TEXTS)
    assert "" in CALIBRATION_TEXTS


def test_no_more_texts_are_taken_than_were_asked_for(tmp_path: Path) -> None:
    config = QuantizationConfig(calib_size=64)

    assert len(choose_calibration(config, MODEL, config_directory=tmp_path).samples) == 64


def test_a_file_beside_the_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(
        '{"text": "one"}\n'
        '{"messages": [{"role": "user", "content": "two"}, {"content": "three"}]}\n'
    )
    config = QuantizationConfig(calib_dataset="mine.jsonl")

    chosen = choose_calibration(config, MODEL, config_directory=tmp_path)

    assert chosen.samples == ("one", "two\nthree")
    assert chosen.name == "mine.jsonl"


def test_rerankers_are_calibrated_on_pairs(tmp_path: Path) -> None:
    chosen = choose_calibration(QuantizationConfig(), RERANKER, config_directory=tmp_path)
    assert all(isinstance(sample, tuple) for sample in chosen.samples)

    (tmp_path / "mine.txt").write_text("one\ntwo\nthree\nfour\n")
    config = QuantizationConfig(calib_dataset="mine.txt")
    assert choose_calibration(config, RERANKER, config_directory=tmp_path).samples == (
        ("one", "two"),
        ("three", "four"),
    )


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    config = QuantizationConfig(calib_dataset="none.txt")

    with pytest.raises(UsageError, match=r"none\.txt"):
        choose_calibration(config, MODEL, config_directory=tmp_path)


def test_a_dataset_of_the_hub_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    config = QuantizationConfig(calib_dataset="someone/texts")

    chosen = choose_calibration(config, MODEL, config_directory=tmp_path)

    assert chosen.name == "bundled texts"
    assert "`calib_dataset: someone/texts` is not downloaded" in str(chosen.note)


def test_samples_are_cut_where_the_configuration_says(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_bert())
    spec = inspect_checkpoint(checkpoint)
    (tmp_path / "mine.txt").write_text("the cat " * 200)
    config = QuantizationConfig(calib_dataset="mine.txt", calib_max_seq_length=64)
    calibration = choose_calibration(config, spec, config_directory=tmp_path)

    for limit, expected in ((1000, 64), (20, 20)):
        (encoded,) = encode_samples(calibration, checkpoint, spec, max_input_length=limit)
        assert encoded["input_ids"].shape == (1, expected)
