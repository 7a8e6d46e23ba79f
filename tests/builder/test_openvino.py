import pytest

from beicli.artifact.manifest import Precision
from beicli.builder import openvino
from beicli.builder.openvino import choose_precision, cpu_features
from beicli.errors import UsageError


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
