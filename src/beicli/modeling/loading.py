"""Loads a checkpoint's weights into its task module, in float32; never code of the checkpoint."""

import importlib
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from beicli.errors import BuildError, UnsupportedModelError
from beicli.model.files import CheckpointFile
from beicli.model.modelopt import read_modelopt_config, without_quantization
from beicli.model.remote_code import native_config
from beicli.model.remote_code.bidirectional import SCORE_TEMPERATURE
from beicli.model.remote_code.jina_v3 import is_flash
from beicli.model.spec import DenseModule, ModelSpec, Pooling, Task
from beicli.model.weights import list_files, onnx_files
from beicli.modeling.flash_weights import read_flash_weights
from beicli.modeling.modelopt import read_dequantized
from beicli.modeling.modelopt_emulation import emulate_activations
from beicli.modeling.quiet import first_line, quiet
from beicli.modeling.stored_weights import in_float32, stored_dtype
from beicli.modeling.tasks import (
    CausalClassificationModule,
    ClassificationModule,
    EmbeddingModule,
    SparseEmbeddingModule,
    TaskModule,
    TokenClassificationModule,
)

# Their scaled-dot-product attention does not export with a dynamic batch.
_EAGER_MODEL_TYPES = frozenset({"mpnet", "deberta", "deberta-v2", "gemma2"})
# Model types that transformers lacks; each module makes its own known to the automatic classes.
_OWN_MODULES = {
    "jina_bert": "beicli.modeling.jina_bert",
    "nomic_bert_moe": "beicli.modeling.nomic_moe",
}
_DAMAGED_HINT = "fetch the checkpoint again, or choose another revision of it"
_AUTO_CLASSES: dict[Task, Any] = {
    Task.EMBEDDING: AutoModel,
    Task.SPARSE_EMBEDDING: AutoModelForMaskedLM,
    Task.CLASSIFICATION: AutoModelForSequenceClassification,
    Task.RERANKING: AutoModelForSequenceClassification,
    Task.TOKEN_CLASSIFICATION: AutoModelForTokenClassification,
}


def load_module(directory: Path, spec: ModelSpec) -> TaskModule:
    """Load the checkpoint, to compute in float32, for the reference and for export.

    16 bit weights are mapped from the files and widened when they are read, so that memory holds
    little beside them.
    """
    with quiet():
        model = _load_network(directory, spec)
    module = _task_module(directory, model, spec)
    module.eval()
    return module


def _load_network(directory: Path, spec: ModelSpec) -> Any:
    files = onnx_files(list_files(directory))
    if not files:
        model = _load_model(directory, spec)
        quantization = read_modelopt_config(directory)
        if quantization is not None and quantization.emulates_activations:
            emulate_activations(model, directory)
        return model
    from beicli.modeling.onnx_network import OnnxNetwork  # noqa: PLC0415 - brings onnx, for few

    return OnnxNetwork.load(directory, files[0], spec)


def _task_module(directory: Path, model: Any, spec: ModelSpec) -> TaskModule:
    match spec.task:
        case Task.EMBEDDING:
            dense = [_load_dense(directory, module) for module in spec.dense_modules]
            return EmbeddingModule(model, spec.pooling, torch.nn.Sequential(*dense))
        case Task.SPARSE_EMBEDDING:
            return SparseEmbeddingModule(model)
        case Task.TOKEN_CLASSIFICATION:
            return TokenClassificationModule(model)
        case Task.CLASSIFICATION | Task.RERANKING:
            # transformers names this layer `score` in every causal model, and only there.
            score = getattr(model, "score", None)
            if isinstance(score, torch.nn.Linear):
                return CausalClassificationModule(
                    model.base_model,
                    score,
                    pooling=spec.pooling[0] if spec.pooling else Pooling.LAST_TOKEN,
                    temperature=getattr(model.config, SCORE_TEMPERATURE, 1.0),
                )
            return ClassificationModule(model)


def _load_model(directory: Path, spec: ModelSpec) -> Any:
    attention = "eager" if spec.model_type in _EAGER_MODEL_TYPES else "sdpa"
    try:
        model_class, source, translated = _translated(directory, spec)
        model, found = model_class.from_pretrained(
            source,
            **translated,
            dtype=torch.float32 if "state_dict" in translated else stored_dtype(directory),
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
            f"transformers cannot load `{spec.architecture}` (model type `{spec.model_type}`): "
            f"{first_line(error)}",
            hint="its configuration asks for what transformers does not compute; choose another "
            "revision of it, or another model"
            if spec.model_type in CONFIG_MAPPING
            else "code from checkpoints is never run; choose a model transformers knows",
        ) from error
    except (OSError, SafetensorError) as error:
        raise BuildError(
            f"the weights cannot be loaded: {first_line(error)}", hint=_DAMAGED_HINT
        ) from error
    _check_complete(found, spec)
    if model.dtype != torch.float32:
        model = in_float32(model)
    # Nothing is generated. A cache's own branches on the length would be part of the graph.
    model.config.use_cache = False
    return model


def _translated(directory: Path, spec: ModelSpec) -> tuple[Any, Path | None, dict[str, Any]]:
    """Return the class to load with, from where, and what to tell it.

    A checkpoint written for code of its own gets its configuration in transformers' words, and its
    weights too if they are not what transformers takes for them. One of the Model Optimizer gets
    the values of its weights.
    """
    model_class = _AUTO_CLASSES[spec.task]
    stated = CheckpointFile.read(directory, "config.json").values
    values = native_config(stated)
    is_quantized = read_modelopt_config(directory) is not None
    if values is stated and not is_quantized:
        return model_class, directory, {}
    if values["model_type"] in _OWN_MODULES:
        importlib.import_module(_OWN_MODULES[values["model_type"]])
    config = AutoConfig.for_model(**without_quantization(values))
    if not is_quantized and not is_flash(stated):
        return model_class, directory, {"config": config}
    with torch.device("meta"):
        # An automatic class takes no weights from memory.
        model_class = type(model_class.from_config(config))
    if is_quantized:
        weights = read_dequantized(directory)
    else:
        weights = read_flash_weights(directory, adapter=spec.adapter, model_type=spec.model_type)
    return model_class, None, {"config": config, "state_dict": weights}


def _check_complete(found: dict[str, Any], spec: ModelSpec) -> None:
    """Refuse what the files lack: transformers fills it with random numbers and goes on."""
    lacking = {name for name, *_ in found["mismatched_keys"]} | {*found["missing_keys"]}
    if spec.task is Task.EMBEDDING:
        # The pooler is not used, and a checkpoint saved with another head has none.
        lacking = {name for name in lacking if not name.startswith("pooler.")}
    if lacking:
        labels = f" with {len(spec.labels)} labels" if spec.labels else ""
        raise BuildError(
            f"the safetensors do not hold the weights `config.json` describes{labels}: "
            f"{len(lacking)} are missing or of another shape, such as `{min(lacking)}`",
            hint=_DAMAGED_HINT,
        )


def _load_dense(directory: Path, module: DenseModule) -> torch.nn.Sequential:
    linear = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias)
    try:
        weights = load_file(directory / module.path / "model.safetensors")
        linear.load_state_dict(
            {name.removeprefix("linear."): tensor.float() for name, tensor in weights.items()}
        )
    except (RuntimeError, OSError, SafetensorError) as error:
        raise BuildError(
            f"`{module.path}/model.safetensors` does not fit its config: {first_line(error)}",
            hint=_DAMAGED_HINT,
        ) from error
    return torch.nn.Sequential(linear, getattr(torch.nn, module.activation.value)())
