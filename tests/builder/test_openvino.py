from pathlib import Path

import pytest
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.artifact.manifest import OPENVINO_MODEL, Precision
from beicli.builder import openvino
from beicli.builder.graph import export_onnx
from beicli.builder.openvino import choose_precision, cpu_features
from beicli.errors import UsageError
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module


@pytest.mark.parametrize(
    ("asked", "has_bf16", "chosen"),
    [
        (None, True, "bf16"),
        (None, False, "f32"),
        ("f32", True, "f32"),
        ("f32", False, "f32"),
        ("bf16", True, "bf16"),
    ],
)
def test_precision_is_what_was_asked_else_what_the_cpu_computes(
    monkeypatch: pytest.MonkeyPatch, asked: Precision | None, chosen: Precision, *, has_bf16: bool
) -> None:
    monkeypatch.setattr(openvino, "supports_bf16", lambda: has_bf16)

    assert choose_precision(asked) == chosen


def test_bf16_is_refused_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "supports_bf16", lambda: False)

    with pytest.raises(UsageError, match="this CPU does not compute bf16") as raised:
        choose_precision("bf16")

    assert "--precision f32" in str(raised.value.hint)


def test_only_a_bf16_engine_needs_something_of_the_cpu() -> None:
    assert cpu_features("f32") == ()
    assert cpu_features("bf16") == ("bf16",)


def test_a_guard_against_rows_without_a_token_is_taken_out_where_there_are_none(
    tmp_path: Path,
) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_bert())
    spec = inspect_checkpoint(checkpoint)
    export_onnx(load_module(checkpoint, spec), spec, tmp_path / "model.onnx")

    graphs = {}
    for is_guarded in (True, False):
        directory = tmp_path / str(is_guarded)
        directory.mkdir()
        openvino.convert(tmp_path / "model.onnx", directory, is_guarded=is_guarded)
        graphs[is_guarded] = (directory / OPENVINO_MODEL).read_text()

    assert graphs[True].count('type="IsNaN"') == spec.num_hidden_layers
    assert 'type="IsNaN"' not in graphs[False]
    # A decoder or a window hides more than padding.
    assert openvino.MASKED_BY_PADDING_ALONE.isdisjoint({"llama", "modernbert", "mistral"})
