"""JinaBert against a plain implementation of its formulas, from original checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.builder.tiny_models import vocab_size
from tests.modeling.original_checkpoints import (
    HIDDEN_SIZE,
    WINDOW,
    Array,
    Tensors,
    assert_computes,
    gelu,
    layer_norm,
    linear,
    linear_shapes,
    norm_shapes,
    random_tensors,
    save_original,
    softmax,
)

from beicli.model.spec import Pooling
from beicli.modeling.jina_bert import alibi_slopes

# Two of them are beyond the power of two below.
HEADS = 6
INNER = 20
LAYERS = 2
EPSILON = 1e-12
# Of the 6 heads: the 4 of a power of two, then the first and third of 8.
SLOPES = (2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3)
LAYOUTS = ("jina-bert-implementation", "jina-bert-v2-qk-post-norm")


def config(layout: str, feed_forward_type: str, architecture: str, **more: Any) -> dict[str, Any]:
    """Return `config.json` as published, in other sizes."""
    code = f"jinaai/{layout}"
    return {
        "_name_or_path": code,
        "model_max_length": WINDOW,
        "architectures": [architecture],
        "attention_probs_dropout_prob": 0.0,
        "attn_implementation": "torch",
        "auto_map": {
            "AutoConfig": f"{code}--configuration_bert.JinaBertConfig",
            "AutoModel": f"{code}--modeling_bert.JinaBertModel",
        },
        "classifier_dropout": None,
        "emb_pooler": "mean",
        "feed_forward_type": feed_forward_type,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN_SIZE,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "layer_norm_eps": EPSILON,
        "max_position_embeddings": WINDOW,
        "model_type": "bert",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "position_embedding_type": "alibi",
        "torch_dtype": "float32",
        "transformers_version": "4.30.2",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": vocab_size(),
    } | more


def shapes(layout: str, feed_forward_type: str, prefix: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the published tensors."""
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocab_size(), HIDDEN_SIZE),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN_SIZE),
        **norm_shapes("embeddings.LayerNorm"),
    }
    is_code = layout == LAYOUTS[1]
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            found |= linear_shapes(f"{layer}.attention.{name}", HIDDEN_SIZE, HIDDEN_SIZE)
        found |= norm_shapes(f"{layer}.attention.output.LayerNorm")
        if is_code:
            found |= _code_shapes(layer, feed_forward_type)
        elif feed_forward_type == "original":
            found |= linear_shapes(f"{layer}.intermediate.dense", INNER, HIDDEN_SIZE)
            found |= linear_shapes(f"{layer}.output.dense", HIDDEN_SIZE, INNER)
            found |= norm_shapes(f"{layer}.output.LayerNorm")
        else:
            found[f"{layer}.mlp.gated_layers.weight"] = (2 * INNER, HIDDEN_SIZE)
            found |= linear_shapes(f"{layer}.mlp.wo", HIDDEN_SIZE, INNER)
            found |= norm_shapes(f"{layer}.mlp.layernorm")
    return {prefix + name: shape for name, shape in found.items()}


def _code_shapes(layer: str, feed_forward_type: str) -> dict[str, tuple[int, ...]]:
    found = linear_shapes(f"{layer}.mlp.down_layer", HIDDEN_SIZE, INNER)
    for name in ("attention.self.layer_norm_q", "attention.self.layer_norm_k"):
        found |= norm_shapes(f"{layer}.{name}")
    for name in ("layer_norm_1", "layer_norm_2"):
        found |= norm_shapes(f"{layer}.{name}")
    if feed_forward_type == "original":
        return found | {f"{layer}.mlp.up_layer.weight": (INNER, HIDDEN_SIZE)}
    return found | {f"{layer}.mlp.up_gated_layer.weight": (2 * INNER, HIDDEN_SIZE)}


def encode(tensors: Tensors, ids: list[int], feed_forward_type: str, prefix: str = "") -> Array:
    """Compute the hidden states of one text, [length, hidden_size]."""
    words = tensors[f"{prefix}embeddings.word_embeddings.weight"]
    types = tensors[f"{prefix}embeddings.token_type_embeddings.weight"]
    hidden = np.stack([words[token] + types[0] for token in ids])
    hidden = layer_norm(hidden, tensors, f"{prefix}embeddings.LayerNorm", EPSILON)
    for index in range(LAYERS):
        layer = f"{prefix}encoder.layer.{index}"
        attended = linear(
            attend(tensors, hidden, layer), tensors, f"{layer}.attention.output.dense"
        )
        after = f"{layer}.attention.output.LayerNorm"
        attended = layer_norm(attended + hidden, tensors, after, EPSILON)
        is_code = f"{layer}.layer_norm_1.weight" in tensors
        step = code_layer if is_code else common_layer
        hidden = step(tensors, layer, hidden, attended, feed_forward_type)
    return hidden


def attend(tensors: Tensors, hidden: Array, layer: str) -> Array:
    """Attend head by head and token by token."""
    name = f"{layer}.attention.self"
    query, key, value = (
        linear(hidden, tensors, f"{name}.{part}") for part in ("query", "key", "value")
    )
    if f"{name}.layer_norm_q.weight" in tensors:
        query = layer_norm(query, tensors, f"{name}.layer_norm_q", EPSILON)
        key = layer_norm(key, tensors, f"{name}.layer_norm_k", EPSILON)
    size = HIDDEN_SIZE // HEADS
    found = np.zeros_like(hidden)
    for head, slope in enumerate(SLOPES):
        part = slice(head * size, (head + 1) * size)
        for here in range(len(hidden)):
            scores = np.array(
                [
                    query[here, part] @ key[there, part] / np.sqrt(size) - slope * abs(here - there)
                    for there in range(len(hidden))
                ]
            )
            found[here, part] = softmax(scores) @ value[:, part]
    return found


def common_layer(
    tensors: Tensors, layer: str, _before: Array, hidden: Array, feed_forward_type: str
) -> Array:
    if feed_forward_type == "original":
        inner = gelu(linear(hidden, tensors, f"{layer}.intermediate.dense"))
        outer = linear(inner, tensors, f"{layer}.output.dense")
        return layer_norm(outer + hidden, tensors, f"{layer}.output.LayerNorm", EPSILON)
    both = hidden @ tensors[f"{layer}.mlp.gated_layers.weight"].T
    inner = gate(both[:, :INNER], feed_forward_type) * both[:, INNER:]
    outer = linear(inner, tensors, f"{layer}.mlp.wo")
    return layer_norm(outer + hidden, tensors, f"{layer}.mlp.layernorm", EPSILON)


def code_layer(
    tensors: Tensors, layer: str, before: Array, attended: Array, feed_forward_type: str
) -> Array:
    hidden = layer_norm(before + attended, tensors, f"{layer}.layer_norm_1", EPSILON)
    if feed_forward_type == "original":
        inner = gelu(hidden @ tensors[f"{layer}.mlp.up_layer.weight"].T)
    else:
        both = hidden @ tensors[f"{layer}.mlp.up_gated_layer.weight"].T
        inner = both[:, :INNER] * gate(both[:, INNER:], feed_forward_type)
    outer = linear(inner, tensors, f"{layer}.mlp.down_layer")
    return layer_norm(hidden + outer, tensors, f"{layer}.layer_norm_2", EPSILON)


def gate(states: Array, feed_forward_type: str) -> Array:
    return gelu(states) if feed_forward_type == "geglu" else np.maximum(states, 0.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("feed_forward_type", ["geglu", "reglu", "original"])
def test_it_computes_what_the_formulas_say(
    layout: str, feed_forward_type: str, tmp_path: Path
) -> None:
    tensors = random_tensors(shapes(layout, feed_forward_type, ""))
    values = config(layout, feed_forward_type, "JinaBertModel")

    checkpoint = save_original(tmp_path, values, tensors)

    assert_computes(
        checkpoint, tensors, lambda tensors, ids: encode(tensors, ids, feed_forward_type)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_embedding_model_saved_with_its_language_model_loads(
    layout: str, tmp_path: Path
) -> None:
    head = {"cls.predictions.bias": (vocab_size(),)}
    tensors = random_tensors(shapes(layout, "geglu", "bert.") | head)
    values = config(layout, "geglu", "JinaBertForMaskedLM")

    checkpoint = save_original(tmp_path, values, tensors)

    assert_computes(
        checkpoint, tensors, lambda tensors, ids: encode(tensors, ids, "geglu", "bert.")
    )


def test_a_reranker_scores_the_pooled_first_token(tmp_path: Path) -> None:
    head = linear_shapes("bert.pooler.dense", HIDDEN_SIZE, HIDDEN_SIZE) | linear_shapes(
        "classifier", 1, HIDDEN_SIZE
    )
    tensors = random_tensors(shapes(LAYOUTS[0], "geglu", "bert.") | head)
    values = config(LAYOUTS[0], "geglu", "JinaBertForSequenceClassification", num_labels=1)

    def score(tensors: Tensors, ids: list[int]) -> Array:
        first = encode(tensors, ids, "geglu", "bert.")[:1]
        pooled = np.tanh(linear(first, tensors, "bert.pooler.dense"))
        return linear(pooled, tensors, "classifier")[0]

    assert_computes(save_original(tmp_path, values, tensors), tensors, score)


def test_a_token_classifier_scores_every_token(tmp_path: Path) -> None:
    tensors = random_tensors(
        shapes(LAYOUTS[0], "geglu", "bert.") | linear_shapes("classifier", 3, HIDDEN_SIZE)
    )
    labels = {"0": "O", "1": "B-PER", "2": "I-PER"}
    values = config(LAYOUTS[0], "geglu", "JinaBertForTokenClassification", id2label=labels)

    assert_computes(
        save_original(tmp_path, values, tensors),
        tensors,
        lambda tensors, ids: linear(encode(tensors, ids, "geglu", "bert."), tensors, "classifier"),
    )


def test_a_masked_language_model_gives_sparse_embeddings(tmp_path: Path) -> None:
    head = {
        **linear_shapes("cls.predictions.transform.dense", HIDDEN_SIZE, HIDDEN_SIZE),
        **norm_shapes("cls.predictions.transform.LayerNorm"),
        "cls.predictions.bias": (vocab_size(),),
    }
    tensors = random_tensors(shapes(LAYOUTS[0], "geglu", "bert.") | head)
    values = config(LAYOUTS[0], "geglu", "JinaBertForMaskedLM")

    def weigh(tensors: Tensors, ids: list[int]) -> Array:
        inner = linear(
            encode(tensors, ids, "geglu", "bert."), tensors, "cls.predictions.transform.dense"
        )
        inner = layer_norm(gelu(inner), tensors, "cls.predictions.transform.LayerNorm", EPSILON)
        words = tensors["bert.embeddings.word_embeddings.weight"]
        logits = inner @ words.T + tensors["cls.predictions.bias"]
        found: Array = np.log1p(np.maximum(logits, 0.0)).max(axis=0)
        return found

    checkpoint = save_original(tmp_path, values, tensors)
    (checkpoint / "modules.json").unlink()

    assert_computes(checkpoint, tensors, weigh, pooling=Pooling.SPLADE)


@pytest.mark.parametrize(
    ("num_heads", "exponents"),
    [
        (4, (2, 4, 6, 8)),
        (8, (1, 2, 3, 4, 5, 6, 7, 8)),
        (12, (1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5)),
    ],
)
def test_slopes_of_published_head_counts(num_heads: int, exponents: tuple[float, ...]) -> None:
    wanted = [2.0**-exponent for exponent in exponents]

    assert alibi_slopes(num_heads) == pytest.approx(wanted)
