"""What a user can ask for: a frozen mirror of the Truss `config.yaml` keys that shape an engine.

Each field carries its limits and its meaning as metadata; validation, did-you-mean and the
reference page all read them from here. The texts of refusals equal those of truss 0.18.35.
Instances made by hand are not validated: `load_config` is the way in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Gt, Le
from pydantic import AfterValidator, BeforeValidator, PlainValidator, Strict
from typing_extensions import Doc

from beicli.config.build_schema import (
    ENCODER_MAX_NUM_TOKENS,
    BuildConfig,
    CheckpointRepository,
    Count,
    LoraConfiguration,
    PluginConfiguration,
    QuantizationConfig,
)
from beicli.config.choices import (
    Accelerator,
    AcceleratorSpec,
    BaseModel,
    BatchSchedulerPolicy,
    CheckpointSource,
    DefaultRoute,
    InferenceStack,
    QuantizationType,
)
from beicli.config.rules import (
    check_lora_cache_sizes,
    check_version,
    environment_value_as_text,
    parse_accelerator,
    parse_inference_stack,
)

__all__ = [
    "Accelerator",
    "AcceleratorSpec",
    "BaseModel",
    "BatchSchedulerPolicy",
    "BuildConfig",
    "CheckpointRepository",
    "CheckpointSource",
    "Config",
    "DefaultRoute",
    "InferenceStack",
    "LoraConfiguration",
    "PluginConfiguration",
    "QuantizationConfig",
    "QuantizationType",
    "Resources",
    "RuntimeConfig",
    "TrtLlmConfig",
    "VersionOverrides",
]

Version = Annotated[str | None, AfterValidator(check_version)]
EnvironmentValue = Annotated[str, BeforeValidator(environment_value_as_text)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How to serve the engine; for embedding engines only the default route matters."""

    webserver_default_route: Annotated[
        DefaultRoute | None,
        Doc("Route behind the platform's bare `predict` address; detected when unset."),
    ] = None
    served_model_name: Annotated[str | None, Doc("Name to answer with as `model`.")] = None
    kv_cache_free_gpu_mem_fraction: Annotated[float, Doc("No effect: no KV cache.")] = 0.9
    kv_cache_host_memory_bytes: Annotated[Count | None, Doc("No effect: no KV cache.")] = None
    enable_chunked_context: Annotated[bool, Doc("No effect on embedding engines.")] = True
    batch_scheduler_policy: Annotated[
        BatchSchedulerPolicy, Doc("No effect on embedding engines.")
    ] = BatchSchedulerPolicy.GUARANTEED_NO_EVICT
    request_default_max_tokens: Annotated[Count | None, Doc("Generative engines only.")] = None
    total_token_limit: Annotated[int, Doc("Generative engines only.")] = 500_000
    lora_cache_max_adapter_size: Annotated[Count | None, Doc("Generative engines only.")] = None
    lora_cache_optimal_adapter_size: Annotated[
        Count | None,
        AfterValidator(check_lora_cache_sizes),
        Doc("At most `lora_cache_max_adapter_size`. Generative engines only."),
    ] = None
    lora_cache_gpu_memory_fraction: Annotated[
        Annotated[float, Strict(), Gt(0), Le(1)] | None, Doc("Generative engines only.")
    ] = None
    lora_cache_host_memory_bytes: Annotated[Count | None, Doc("Generative engines only.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionOverrides:
    """Image versions of the platform; read so that its configs load, and without effect here."""

    engine_builder_version: Annotated[Version, Doc("No effect. Begins with a digit.")] = None
    briton_version: Annotated[Version, Doc("No effect. Begins with a digit.")] = None
    bei_version: Annotated[Version, Doc("No effect. Begins with a digit.")] = None
    bei_bert_version: Annotated[Version, Doc("No effect. Begins with a digit.")] = None
    v2_llm_version: Annotated[str | None, Doc("No effect.")] = None


def _with_encoder_token_default(build: object) -> object:
    if not isinstance(build, dict) or "max_num_tokens" in build:
        return build
    if build.get("base_model") != BaseModel.ENCODER:
        return build
    return {**build, "max_num_tokens": ENCODER_MAX_NUM_TOKENS}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtLlmConfig:
    """The engine. The section's name is Truss's; it holds for every backend."""

    inference_stack: Annotated[
        InferenceStack,
        BeforeValidator(parse_inference_stack),
        Doc("Embedding engines are `v1`; `v2` is for text generation and refused."),
    ] = InferenceStack.V1
    build: Annotated[
        BuildConfig, BeforeValidator(_with_encoder_token_default), Doc("What to compile.")
    ]
    runtime: Annotated[RuntimeConfig, Doc("How to serve it.")] = field(
        default_factory=RuntimeConfig
    )
    version_overrides: Annotated[VersionOverrides, Doc("Image versions of the platform.")] = field(
        default_factory=VersionOverrides
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The machine to build for and serve on."""

    accelerator: Annotated[
        AcceleratorSpec | None,
        PlainValidator(parse_accelerator),
        Doc(
            "NVIDIA GPU to build for, such as `L4` or `H100:2`; without one, the CPU. Known are"
            f" {', '.join(Accelerator)}."
        ),
    ] = None
    cpu: Annotated[str, Doc("CPU cores the platform should reserve. No effect here.")] = "1"
    memory: Annotated[str, Doc("Memory the platform should reserve. No effect here.")] = "2Gi"
    use_gpu: Annotated[
        bool, Doc("Follows from `accelerator`, whatever is written here, as in Truss.")
    ] = False


def _with_derived_use_gpu(resources: Resources) -> Resources:
    return replace(resources, use_gpu=resources.accelerator is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole `config.yaml`. Other keys that Truss knows may stand in the file and are ignored."""

    trt_llm: Annotated[TrtLlmConfig, Doc("The engine.")]
    model_name: Annotated[str | None, Doc("Name to show to people.")] = None
    python_version: Annotated[str, Doc("No effect here.")] = "py313"
    model_metadata: Annotated[
        Mapping[str, Any],
        Doc(
            "Anything; `example_model_input` is a sample request for the default route,"
            " `rerank_template` the prompt of a causal reranker, as Jinja, `rerank_label` the"
            " label that means relevant, `adapter` the task adapter of a Jina v3 checkpoint."
        ),
    ] = field(default_factory=dict)
    resources: Annotated[Resources, AfterValidator(_with_derived_use_gpu), Doc("The machine.")] = (
        field(default_factory=Resources)
    )
    secrets: Annotated[
        Mapping[str, str | None], Doc("Names of secrets; the values stay outside, so write null.")
    ] = field(default_factory=dict)
    environment_variables: Annotated[
        Mapping[str, EnvironmentValue],
        Doc("Environment of the platform's container; the build reads `POOLING`."),
    ] = field(default_factory=dict)
    runtime: Annotated[
        Mapping[str, Any], Doc("Truss's settings for custom model code. No effect here.")
    ] = field(default_factory=dict)
    weights: Annotated[
        tuple[Any, ...],
        Doc("Truss's weight delivery. No effect: `checkpoint_repository` does it."),
    ] = ()
