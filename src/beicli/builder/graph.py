"""The task module: encoder, pooling and Dense layers as one torch module, and its ONNX graph."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from beicli.artifact.manifest import TensorInfo
from beicli.errors import BuildError, UnsupportedModelError
from beicli.model.spec import DenseModule, ModelSpec, Pooling

# Opset 23 has `Attention` as one operator, which OpenVINO runs fused.
ONNX_OPSET = 23
# Their scaled-dot-product attention does not export with a dynamic batch.
_EAGER_MODEL_TYPES = frozenset({"mpnet", "deberta-v2", "gemma2"})
_DAMAGED_HINT = "fetch the checkpoint again, or choose another revision of it"

INPUTS = (
    TensorInfo(name="input_ids", dtype="int32", shape=("batch", "length")),
    TensorInfo(name="attention_mask", dtype="int32", shape=("batch", "length")),
)


class EmbeddingModule(torch.nn.Module):
    """Token ids to pooled float32 vectors.

    forward(input_ids, attention_mask), both [batch, length] int32 padded right, gives
    [batch, embedding_dimension] float32, not normalised.
    """

    def __init__(
        self, encoder: torch.nn.Module, pooling: Pooling, dense: torch.nn.Sequential
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.dense = dense

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        pooled = pool(hidden, attention_mask, self.pooling)
        return self.dense(pooled).to(torch.float32)


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Make one vector of each sequence's token vectors.

    hidden: [batch, length, hidden_size]; attention_mask: [batch, length], padded right.
    Source: sentence-transformers `Pooling`.
    """
    if pooling is Pooling.CLS:
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    if pooling is Pooling.LAST_TOKEN:
        last = attention_mask.sum(dim=1, keepdim=True).to(torch.int64).unsqueeze(-1) - 1
        return torch.gather(hidden, 1, last.expand(-1, 1, hidden.shape[-1])).squeeze(1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def load_module(directory: Path, spec: ModelSpec) -> EmbeddingModule:
    """Load the checkpoint in float32, for the reference and for export; never remote code."""
    with _quiet():
        encoder = _load_encoder(directory, spec)
    dense = torch.nn.Sequential(*[_load_dense(directory, module) for module in spec.dense_modules])
    return EmbeddingModule(encoder, spec.pooling, dense).eval()


def export_onnx(module: EmbeddingModule, path: Path) -> None:
    """Write the module's ONNX graph, batch and length dynamic; raises BuildError if it cannot."""
    # Two different sizes, neither 0 nor 1, so that no size is taken for a constant; and two
    # tensors, because torch.export takes one tensor given twice for one input.
    input_ids = torch.ones(2, 7, dtype=torch.int32)
    attention_mask = torch.ones(2, 7, dtype=torch.int32)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                module, (input_ids, attention_mask), dynamic_shapes=(dynamic, dynamic)
            )
            onnx_program = torch.onnx.export(
                program,
                opset_version=ONNX_OPSET,
                dynamo=True,
                input_names=[tensor.name for tensor in INPUTS],
                output_names=["embeddings"],
            )
            onnx_program.save(path)
    except Exception as error:
        # The exporter raises anything from TypeError to its own internal classes.
        raise BuildError(
            f"the model cannot be exported: {type(error).__name__}: {_first_line(error)}",
            hint="report it with the name of the checkpoint",
        ) from error


def _load_encoder(directory: Path, spec: ModelSpec) -> torch.nn.Module:
    attention = "eager" if spec.model_type in _EAGER_MODEL_TYPES else "sdpa"
    try:
        encoder, found = AutoModel.from_pretrained(
            directory,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation=attention,
            # Tensors of another shape are then reported below, by name.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, ImportError, StrictDataclassError) as error:
        raise UnsupportedModelError(
            f"transformers cannot load `{spec.architecture}` (model type `{spec.model_type}`) "
            f"without code from the checkpoint: {_first_line(error)}",
            hint="code from checkpoints is never run; choose a model transformers knows",
        ) from error
    except (OSError, SafetensorError) as error:
        raise BuildError(
            f"the weights cannot be loaded: {_first_line(error)}", hint=_DAMAGED_HINT
        ) from error
    # transformers fills what the files lack with random numbers and goes on.
    lacking = {name for name, *_ in found["mismatched_keys"]} | {*found["missing_keys"]}
    # The pooler is not used, and a checkpoint saved with another head has none.
    lacking = {name for name in lacking if not name.startswith("pooler.")}
    if lacking:
        raise BuildError(
            f"the safetensors do not hold the weights `config.json` describes: {len(lacking)} are "
            f"missing or of another shape, such as `{min(lacking)}`",
            hint=_DAMAGED_HINT,
        )
    return encoder


def _load_dense(directory: Path, module: DenseModule) -> torch.nn.Sequential:
    linear = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias)
    try:
        weights = load_file(directory / module.path / "model.safetensors")
        linear.load_state_dict(
            {name.removeprefix("linear."): tensor.float() for name, tensor in weights.items()}
        )
    except (RuntimeError, OSError, SafetensorError) as error:
        raise BuildError(
            f"`{module.path}/model.safetensors` does not fit its config: {_first_line(error)}",
            hint=_DAMAGED_HINT,
        ) from error
    return torch.nn.Sequential(linear, getattr(torch.nn, module.activation.value)())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # A line that ends in a colon says nothing without the next.
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, prints and deprecation notes off the user's terminal."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
