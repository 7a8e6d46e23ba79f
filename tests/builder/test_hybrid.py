"""Networks over tokens that lie end to end compute what each sequence gets alone."""

from pathlib import Path

import numpy as np
import pytest
from tests.builder.architectures import WINDOW
from tests.builder.hybrids import make_hybrid, without_filler
from tests.builder.onnx_models import export_checkpoint
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.builder.hybrid import export_hybrid_onnx
from beicli.errors import BuildError
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling import hybrid
from beicli.modeling.loading import load_module
from beicli.openvino_api import ov

TOLERANCE = 1e-5


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("Bert", "Model"),
        # Pools within, from its encoder's output; and within, without an encoder of its own.
        ("Bert", "ForSequenceClassification"),
        ("NomicBert", "ForSequenceClassification"),
        # Positions are counted from the padding id.
        ("XLMRoberta", "ForTokenClassification"),
        ("ModernBert", "ForMaskedLM"),
        ("Qwen3", "Model"),
        ("Mistral", "ForSequenceClassification"),
    ],
)
def test_every_sequence_gets_what_it_gets_alone(name: str, head: str, tmp_path: Path) -> None:
    made = make_hybrid(name, head, tmp_path)
    compiled = ov.Core().compile_model(made.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    # Longer than any window of attention; one token, which is no special case; and filler.
    for lengths, num_filled in ([WINDOW, 17, 1, 30], 0), ([1], 0), ([9, 5], 2):
        given = made.given(lengths, num_filled=num_filled)
        outputs = compiled(given)
        found = {port.get_any_name(): outputs[port] for port in compiled.outputs}
        wanted = made.alone(given)
        found = without_filler(found, given)
        assert found.keys() == wanted.keys()
        for output, values in wanted.items():
            np.testing.assert_allclose(found[output], values, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MPNet", "attention of `mpnet` cannot be padded by itself"),
        ("DebertaV2", "attention of `deberta-v2` cannot be padded by itself"),
        ("Gemma2", "scores are capped"),
    ],
)
def test_attention_that_is_not_to_be_had_apart_is_refused(
    name: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=words) as caught:
        make_hybrid(name, "Model", tmp_path)

    assert caught.value.hint == "build it with `--layout padded`"


def test_a_network_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "_first_position", lambda _: 0)

    with pytest.raises(BuildError, match="does not compute the same `embeddings`"):
        make_hybrid("XLMRoberta", "Model", tmp_path)


def test_a_graph_of_onnx_is_refused(tmp_path: Path) -> None:
    model = tiny_bert()
    original = save_checkpoint(tmp_path / "original", model)
    checkpoint = export_checkpoint(original, tmp_path / "checkpoint", model)
    spec = inspect_checkpoint(checkpoint)
    module = load_module(checkpoint, spec)

    with pytest.raises(BuildError, match="is an ONNX graph"):
        export_hybrid_onnx(module, spec, tmp_path / "model.onnx")
