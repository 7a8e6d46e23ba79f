"""The keys under `trt_llm.build`: what to compile. Part of `schema.py`, which is the way in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, Strict, StringConstraints
from typing_extensions import Doc

from beicli.config.choices import BaseModel, CheckpointSource, QuantizationType
from beicli.config.redaction import public_repo
from beicli.config.rules import check_calibration_size, check_repo, refuse_renamed_base_model
from beicli.errors import CheckpointError

ENCODER_MAX_NUM_TOKENS = 16384

Count = Annotated[int, Strict(), Ge(1)]
CalibrationSize = Annotated[int, AfterValidator(check_calibration_size)]
# What Truss calls the secret where the configuration names none.
DEFAULT_SECRET_NAME = "hf_access_token"

AdapterName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_\-\.:]+$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRepository:
    """Where the checkpoint comes from; its files lie in the root, as on the Hugging Face Hub."""

    source: Annotated[
        CheckpointSource,
        Doc("Kind of place `repo` names. `LOCAL` is a directory on this machine."),
    ]
    repo: Annotated[
        str,
        AfterValidator(check_repo),
        Doc(
            "The place: `ORG/NAME` for `HF`, a directory for `LOCAL` (relative to the config"
            " file), `gs://`, `s3://` or `az://` and a path for a bucket, the address of a"
            " tar.gz for `REMOTE_URL`, the project for `BASETEN_TRAINING`."
        ),
    ]
    revision: Annotated[
        str | None,
        Doc(
            "Branch, tag or commit for `HF`; a commit makes the build repeatable. For a bucket or"
            " an archive, the sha256 it must have."
        ),
    ] = None
    runtime_secret_name: Annotated[
        str, Doc("Name of the secret that holds the token or the credentials.")
    ] = DEFAULT_SECRET_NAME

    def local_path(self, *, relative_to: Path) -> Path:
        """Absolute directory of a `LOCAL` checkpoint; `relative_to` is the config's directory."""
        try:
            return (relative_to / Path(self.repo).expanduser()).resolve()
        # For `~nobody`, for links that go in circles, and for a zero character, in turn.
        except (RuntimeError, OSError, ValueError):
            raise CheckpointError(
                f"`{public_repo(self.repo)}` does not lead to a directory",
                hint="write the path of the checkpoint out in full",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationConfig:
    """How to calibrate a precision that needs sample texts."""

    calib_size: Annotated[
        CalibrationSize, Doc("Number of sample texts: 64 to 16384, a multiple of 64.")
    ] = 1024
    calib_dataset: Annotated[
        str, Doc("Dataset whose `train` split holds them, in the column `text` or `messages`.")
    ] = "abisee/cnn_dailymail"
    calib_max_seq_length: Annotated[
        CalibrationSize,
        Doc("Tokens after which a sample is cut: 64 to 16384, a multiple of 64."),
    ] = 1536


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfiguration:
    """Attention plugins of generative engines; embedding engines have no KV cache to page."""

    paged_kv_cache: Annotated[bool, Doc("No effect on embedding engines.")] = True
    use_paged_context_fmha: Annotated[bool, Doc("No effect on embedding engines.")] = True
    use_fp8_context_fmha: Annotated[bool, Doc("No effect on embedding engines.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfiguration:
    """Shape of the LoRA adapters of a generative engine."""

    max_lora_rank: Annotated[int, Doc("Largest rank. Generative engines only.")] = 64
    lora_target_modules: Annotated[
        tuple[str, ...], Doc("Modules the adapters change. Generative engines only.")
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What to compile: the checkpoint, its precision, and the limits of one forward pass."""

    base_model: Annotated[
        BaseModel,
        AfterValidator(refuse_renamed_base_model),
        Doc(
            "Family of the model: `encoder_bert` for BERT-like and bidirectional models, `encoder`"
            " for causal ones (Llama, Mistral, Qwen, Gemma). Always say which: the default is for"
            " text generation. The last six names are retired and refused."
        ),
    ] = BaseModel.DECODER
    checkpoint_repository: Annotated[CheckpointRepository, Doc("Where the checkpoint comes from.")]
    max_num_tokens: Annotated[
        int,
        Strict(),
        Gt(64),
        Le(1_048_576),
        Doc(
            "Tokens in one forward pass, all inputs together; so also the longest input."
            f" {ENCODER_MAX_NUM_TOKENS} when `base_model` is `encoder` and the key is left out."
        ),
    ] = 8192
    max_seq_len: Annotated[
        Annotated[int, Strict(), Ge(1), Le(1_048_576)] | None,
        Doc("Leave unset: the longest input follows from the checkpoint."),
    ] = None
    max_batch_size: Annotated[
        int, Strict(), Ge(1), Le(2048), Doc("Inputs in one forward pass.")
    ] = 256
    max_beam_width: Annotated[int, Strict(), Ge(1), Le(1), Doc("Only 1 is allowed.")] = 1
    max_prompt_embedding_table_size: Annotated[int, Doc("Not used.")] = 0
    gather_all_token_logits: Annotated[bool, Doc("Not used.")] = False
    strongly_typed: Annotated[bool, Doc("Ignore the type the checkpoint's weights have.")] = False
    quantization_type: Annotated[
        QuantizationType,
        Doc(
            "Precision of the engine. `no_quant` is 16 or 32 bit, as the device computes best."
            " Which others a device offers, the build says."
        ),
    ] = QuantizationType.NO_QUANT
    quantization_config: Annotated[
        QuantizationConfig, Doc("How to calibrate a precision that needs sample texts.")
    ] = field(default_factory=QuantizationConfig)
    tensor_parallel_count: Annotated[
        Count, Doc("GPUs that share one model; 1 for embedding engines.")
    ] = 1
    pipeline_parallel_count: Annotated[int, Doc("As `tensor_parallel_count`.")] = 1
    sequence_parallel_count: Annotated[int, Doc("As `tensor_parallel_count`.")] = 1
    moe_expert_parallel_option: Annotated[int, Doc("Generative engines only.")] = -1
    plugin_configuration: Annotated[
        PluginConfiguration, Doc("Attention plugins of generative engines.")
    ] = field(default_factory=PluginConfiguration)
    num_builder_gpus: Annotated[
        Count | None, Doc("GPUs for the build, when quantising needs more than serving.")
    ] = None
    speculator: Annotated[
        Mapping[str, Any] | None, Doc("Speculative decoding. Generative engines only.")
    ] = None
    lora_adapters: Annotated[
        Mapping[AdapterName, CheckpointRepository] | None,
        Doc(
            "Adapters by name, of letters, digits and `_-.:`, each with the keys of a checkpoint."
            " Generative engines only."
        ),
    ] = None
    lora_configuration: Annotated[
        LoraConfiguration | None, Doc("Shape of the LoRA adapters. Generative engines only.")
    ] = None
    skip_build_result: Annotated[bool, Doc("Only for the `v2` stack.")] = False
