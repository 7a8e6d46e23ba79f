"""The closed sets of values a config may choose from, spelled and ordered as Truss has them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class InferenceStack(StrEnum):
    """Generation of the platform's engines; embedding engines are all `v1`."""

    V1 = "v1"
    V2 = "v2"


class BaseModel(StrEnum):
    """Family of the model; the last six names are refused, but have to be recognised."""

    ENCODER = "encoder"
    ENCODER_BERT = "encoder_bert"
    DECODER = "decoder"
    PALMYRA = "palmyra"
    QWEN = "qwen"
    LLAMA = "llama"
    MISTRAL = "mistral"
    DEEPSEEK = "deepseek"
    WHISPER = "whisper"


class QuantizationType(StrEnum):
    """Precision of the engine's weights and activations."""

    NO_QUANT = "no_quant"
    WEIGHTS_INT8 = "weights_int8"
    WEIGHTS_KV_INT8 = "weights_kv_int8"
    WEIGHTS_INT4 = "weights_int4"
    WEIGHTS_INT4_KV_INT8 = "weights_int4_kv_int8"
    SMOOTH_QUANT = "smooth_quant"
    FP8 = "fp8"
    FP8_KV = "fp8_kv"
    FP8_MLP_ONLY = "fp8_mlp_only"
    FP4 = "fp4"
    FP4_KV = "fp4_kv"
    FP4_MLP_ONLY = "fp4_mlp_only"


class CheckpointSource(StrEnum):
    """Where a checkpoint lives."""

    HF = "HF"
    GCS = "GCS"
    S3 = "S3"
    AZURE = "AZURE"
    LOCAL = "LOCAL"
    REMOTE_URL = "REMOTE_URL"
    BASETEN_TRAINING = "BASETEN_TRAINING"


class BatchSchedulerPolicy(StrEnum):
    """How a generative engine fills its batches; embedding engines ignore it."""

    MAX_UTILIZATION = "max_utilization"
    GUARANTEED_NO_EVICT = "guaranteed_no_evict"


class Accelerator(StrEnum):
    """NVIDIA GPUs that have a name on the platform."""

    B10 = "B10"
    T4 = "T4"
    L4 = "L4"
    A10G = "A10G"
    V100 = "V100"
    A100 = "A100"
    A100_40GB = "A100_40GB"
    H100 = "H100"
    H200 = "H200"
    H100_40GB = "H100_40GB"
    B200 = "B200"
    L40S = "L40S"
    RTX_PRO_6000 = "RTX_PRO_6000"
    B300 = "B300"
    GB300 = "GB300"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorSpec:
    """A GPU type and how many of it; written `H100` or `H100:2`."""

    accelerator: Accelerator
    count: int = 1

    def __str__(self) -> str:
        """The spelling the config uses."""
        return self.accelerator.value if self.count == 1 else f"{self.accelerator}:{self.count}"


DefaultRoute = Literal["/v1/embeddings", "/v1/systemone", "/rerank", "/predict", "/predict_tokens"]
