"""A task module over tokens that lie end to end, and are padded inside attention only.

Embeddings, norms and products with weights see [1, num_tokens], without any padding. Attention and
what makes one vector of a sequence's see [batch, length]. The module stays transformers' own: its
attention goes through one of ours, which pads, calls that of transformers, and takes the padding
out again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from beicli.artifact.manifest import TOKEN_OUTPUTS, TensorInfo
from beicli.errors import BuildError
from beicli.model.spec import ModelSpec
from beicli.modeling.onnx_network import onnx_network
from beicli.modeling.tasks import (
    CausalClassificationModule,
    ClassificationModule,
    EmbeddingModule,
    SparseEmbeddingModule,
    TaskModule,
    TokenClassificationModule,
)

HYBRID_HINT = "build it with `--layout padded`"

_NAME = "bei_hybrid"


def hybrid_inputs(spec: ModelSpec) -> tuple[TensorInfo, ...]:
    """Return what the graph of such a model takes in the hybrid layout.

    pad_index: for every place of the padded batch its token, 0 for padding; unpad_index: for every
    token its place. position_ids: of a token in its sequence, from 0. lengths: of the sequences.
    """
    shapes: dict[str, tuple[int | str, ...]] = {
        "input_ids": (1, "tokens"),
        "position_ids": (1, "tokens"),
        "pad_index": ("batch", "length"),
        "unpad_index": ("tokens",),
        "lengths": ("batch",),
    }
    if spec.takes_token_type_ids:
        shapes["token_type_ids"] = (1, "tokens")
    return tuple(TensorInfo(name=name, dtype="int32", shape=shapes[name]) for name in shapes)


@dataclass(slots=True, eq=False)
class _Places:
    """Where tokens lie in the padded batch that is computed; and how often attention has asked."""

    pad_index: torch.Tensor
    unpad_index: torch.Tensor
    num_layers: int = 0

    def pad(self, tokens: torch.Tensor) -> torch.Tensor:
        """Lay [num_tokens, ...] out as [batch, length, ...]; padding repeats the first token."""
        padded = tokens.index_select(0, self.pad_index.flatten())
        return padded.unflatten(0, self.pad_index.shape)

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        return padded.flatten(0, 1).index_select(0, self.unpad_index)


_places: ContextVar[_Places] = ContextVar("places")


class HybridModule(torch.nn.Module):
    """Computes what a task module does; outputs of tokens are [num_tokens, dimension].

    Raises BuildError from `forward` if its attention does not go through transformers' interface.
    """

    def __init__(self, module: TaskModule, spec: ModelSpec) -> None:
        """Raises BuildError of a network that cannot be computed so."""
        super().__init__()
        if onnx_network(module) is not None:
            raise BuildError(
                "the checkpoint is an ONNX graph, which is padded throughout", hint=HYBRID_HINT
            )
        network, _ = _network(module)
        if not network._supports_attention_backend:  # noqa: SLF001 - what transformers asks too
            raise _not_apart(spec)
        self.module = module
        self.output_names = module.output_names
        self._spec = spec

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Take what `hybrid_inputs` says, by name."""
        pad_index = inputs["pad_index"]
        places = _Places(pad_index, inputs["unpad_index"])
        columns = torch.arange(pad_index.shape[1])
        mask = (columns < inputs["lengths"].unsqueeze(1)).to(torch.int32)
        types = [inputs["token_type_ids"]] if "token_type_ids" in inputs else []
        token = _places.set(places)
        try:
            with _packed(self.module, inputs["position_ids"], places):
                outputs = self.module(inputs["input_ids"], mask, *types)
        finally:
            _places.reset(token)
        if places.num_layers == 0:
            raise _not_apart(self._spec)
        return tuple(
            self._packed_output(name, output, places)
            for name, output in zip(self.output_names, outputs, strict=True)
        )

    def _packed_output(self, name: str, output: torch.Tensor, places: _Places) -> torch.Tensor:
        if name not in TOKEN_OUTPUTS:
            return output
        # Those of a head that has seen the tokens end to end have no padding.
        is_packed = isinstance(self.module, TokenClassificationModule)
        return output.squeeze(0) if is_packed else places.unpad(output)


def _not_apart(spec: ModelSpec) -> BuildError:
    return BuildError(
        f"the attention of `{spec.model_type}` cannot be padded by itself", hint=HYBRID_HINT
    )


@contextmanager
def _packed(module: TaskModule, position_ids: torch.Tensor, places: _Places) -> Iterator[None]:
    """Let the network of a task take tokens end to end, and what follows it see them padded."""
    network, padded = _network(module)
    pooler = _inner_pooler(module)
    position_ids = position_ids + _first_position(network)

    def add_positions(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"position_ids": position_ids}

    def pad_output(_module: Any, _args: Any, output: Any) -> Any:
        name = "logits" if "logits" in output else "last_hidden_state"
        # Assigned as an item, so that it is found by its number as well.
        output[name] = places.pad(output[name].squeeze(0))
        return output

    def pad_input(_module: Any, args: tuple[torch.Tensor]) -> torch.Tensor:
        return places.pad(args[0].squeeze(0))

    hooks = [network.register_forward_pre_hook(add_positions, with_kwargs=True)]
    if pooler is not None:
        hooks.append(pooler.register_forward_pre_hook(pad_input))
    elif padded is not None:
        hooks.append(padded.register_forward_hook(pad_output))
    # Every layer looks there when it runs.
    implementation = network.config._attn_implementation  # noqa: SLF001 - no other way to know it
    network.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        network.set_attn_implementation(implementation)
        for hook in hooks:
            hook.remove()


def _network(module: TaskModule) -> tuple[Any, Any]:
    """Return the network of a task, and whose output is padded for what follows."""
    match module:
        case EmbeddingModule():
            return module.encoder, module.encoder
        case SparseEmbeddingModule():
            return module.language_model, module.language_model
        case CausalClassificationModule():
            return module.decoder, module.decoder
        case TokenClassificationModule():
            return module.classifier, None
        case ClassificationModule():
            base: Any = module.classifier.base_model
            # Some pool within, behind what they call their encoder.
            return module.classifier, getattr(base, "encoder", base)
        case _:
            raise AssertionError(f"{type(module).__name__} is a task")


def _inner_pooler(module: TaskModule) -> Any:
    """Return the module that pools within a classifier without an encoder of its own; or None."""
    if not isinstance(module, ClassificationModule):
        return None
    base: Any = module.classifier.base_model
    return None if hasattr(base, "encoder") else getattr(base, "pooler", None)


def _first_position(network: Any) -> int:
    """Return where positions begin: behind the padding id in all that come from RoBERTa."""
    for part in network.modules():
        if hasattr(part, "create_position_ids_from_input_ids"):
            return int(part.padding_idx) + 1
    return 0


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it.

    query, key, value: [1, num_heads, num_tokens, head_dim]; attention_mask: [batch, 1, length,
    length], of the padded batch. Returns [1, num_tokens, num_heads, head_dim].
    """
    if attention_mask is None:
        # Without one it would see padding.
        raise BuildError("attention without a mask cannot be padded by itself", hint=HYBRID_HINT)
    places = _places.get()
    places.num_layers += 1
    if options.get("softcap") is not None:
        raise BuildError("attention whose scores are capped has no kernel", hint=HYBRID_HINT)
    # Heads go along as one row of each token, which a GPU gathers faster than many.
    padded = [
        places.pad(each.squeeze(0).transpose(0, 1).flatten(1))
        .unflatten(-1, (each.shape[1], each.shape[3]))
        .transpose(1, 2)
        for each in (query, key, value)
    ]
    output, _ = sdpa_attention_forward(
        module, padded[0], padded[1], padded[2], attention_mask, **options
    )
    num_heads, head_dim = output.shape[2:]
    tokens = places.unpad(output.flatten(2)).unflatten(-1, (num_heads, head_dim))
    return tokens.unsqueeze(0), None


def _mask(*, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor | None:
    """Make a network's mask for the padded batch: which keys a query sees, as its layer says."""
    batch_size, length = attention_mask.shape
    own = {
        "batch_size": batch_size,
        "q_length": length,
        "kv_length": length,
        "allow_is_causal_skip": False,
        "allow_is_bidirectional_skip": False,
    }
    mask: torch.Tensor | None = sdpa_mask(attention_mask=attention_mask, **options | own)
    return mask


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
