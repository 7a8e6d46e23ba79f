"""Rules for single values that a type and a range cannot express, with the texts Truss uses.

Each rule takes a value and returns it, changed or not, or raises `RuleError`. The schema
attaches them to its fields; nothing here knows about files, lines or key paths.
"""

import re

from pydantic import ValidationInfo

from beicli.config.choices import (
    Accelerator,
    AcceleratorSpec,
    BaseModel,
    CheckpointSource,
    InferenceStack,
)
from beicli.config.redaction import public_repo

# One half of `namespace/name` on the Hugging Face Hub: 1 to 96 characters, both ends a word
# character. Kept equal to `huggingface_hub.validate_repo_id`, whose import takes 0.1 s, by a test.
_HUB_NAME = r"\w(?:[\w.-]{0,94}\w)?"
_HUB_REPO_ID = re.compile(rf"(?:{_HUB_NAME}/)?{_HUB_NAME}", re.ASCII)

_CALIBRATION_STEP = 64
_CALIBRATION_MAX = 16384


class RuleError(ValueError):
    """A value breaks a rule; the text is what the user reads."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def parse_inference_stack(value: object) -> InferenceStack:
    """Accept `v1`, and `v2` for the caller to refuse with better reasons."""
    if isinstance(value, str) and value in set(InferenceStack):
        return InferenceStack(value)
    raise RuleError(
        f"{value!r} is not a valid InferenceStack",
        hint=f"embedding engines are `{InferenceStack.V1}`, which is also the default",
    )


def refuse_renamed_base_model(base_model: BaseModel) -> BaseModel:
    """Refuse the names Truss recognises only to say what became of them."""
    if base_model in {BaseModel.ENCODER, BaseModel.ENCODER_BERT, BaseModel.DECODER}:
        return base_model
    if base_model is BaseModel.WHISPER:
        raise RuleError(
            "Whisper models has been refactored to a Chain's version.  Please send us a message"
            " on Slack or Support if you want to deploy a Whisper model with truss."
        )
    raise RuleError(
        f"TrussTRTLLMModel.{base_model.name} has been renamed to `decoder` in"
        " trt_llm.build.base_model.  The decoder base_model now automatically detects the model"
        " architecture (e.g. Qwen, Llama, Mistral, etc.) from the checkpoint repository.  The"
        " functionality remains the same, only the name has changed to better reflect the usage"
        " of the base_model field.",
        hint="for embeddings, reranking or classification write `encoder` or `encoder_bert`",
    )


def check_repo(repo: str, info: ValidationInfo) -> str:
    """Refuse an empty repository, and a Hugging Face id the Hub cannot have."""
    problem = _hub_repo_id_problem(repo, shown=public_repo(repo))
    if info.data.get("source") is CheckpointSource.HF and problem is not None:
        hint = None
        if repo.startswith((".", "/", "~")):
            hint = "for a directory on this machine write `source: LOCAL`"
        raise RuleError(f"HuggingFace repository validation failed: {problem}", hint=hint)
    if not repo:
        raise RuleError("a checkpoint repository cannot be empty")
    return repo


def _hub_repo_id_problem(repo: str, *, shown: str) -> str | None:
    if repo.count("/") > 1:
        return (
            "Repo id must be in the form 'repo_name' or 'namespace/repo_name':"
            f" '{shown}'. Use `repo_type` argument if needed."
        )
    if not _HUB_REPO_ID.fullmatch(repo):
        return (
            "Repo id must use alphanumeric chars, '-', '_' or '.'. The name cannot start or end"
            f" with '-' or '.' and the maximum length is 96: '{shown}'."
        )
    if "--" in repo or ".." in repo:
        return f"Cannot have -- or .. in repo_id: '{shown}'."
    if repo.endswith(".git"):
        return f"Repo_id cannot end by '.git': '{shown}'."
    return None


def check_calibration_size(size: int, info: ValidationInfo) -> int:
    """Refuse what does not fill whole GPU tiles; the field's name is part of the text."""
    if not _CALIBRATION_STEP <= size <= _CALIBRATION_MAX:
        raise RuleError(
            f"{info.field_name} must be between {_CALIBRATION_STEP} and {_CALIBRATION_MAX},"
            f" but got {size}"
        )
    if size % _CALIBRATION_STEP:
        raise RuleError(
            f"{info.field_name} must be a multiple of {_CALIBRATION_STEP}, but got {size}"
        )
    return size


def check_version(version: str | None, info: ValidationInfo) -> str | None:
    """Refuse what cannot be an image tag; the field's name is part of the text."""
    if version is not None and not version[:1].isdigit():
        raise RuleError(f"{info.field_name} must start with a number")
    return version


def check_lora_cache_sizes(optimal_size: int | None, info: ValidationInfo) -> int | None:
    """Refuse an optimal size above the largest; the schema validates the largest first."""
    max_size = info.data.get("lora_cache_max_adapter_size")
    if optimal_size is not None and max_size is not None and optimal_size > max_size:
        raise RuleError(
            "lora_cache_optimal_adapter_size cannot be greater than lora_cache_max_adapter_size"
        )
    return optimal_size


def parse_accelerator(value: object) -> AcceleratorSpec | None:
    """Read `H100` or `H100:2`; None means no GPU."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise RuleError("Input should be a valid string", hint="such as `L4` or `H100:2`")
    name, separator, count = value.strip().partition(":")
    if not name:
        raise RuleError("Accelerator type cannot be empty.")
    if name not in set(Accelerator):
        raise RuleError(
            f"Unsupported accelerator type: `{name}`. Available types: {', '.join(Accelerator)}.",
            hint=_accelerator_hint(name),
        )
    if separator and (not count.isdecimal() or int(count) <= 0):
        raise RuleError(f"Invalid count: '{count}'. Must be positive integer.")
    return AcceleratorSpec(accelerator=Accelerator(name), count=int(count or 1))


def _accelerator_hint(name: str) -> str | None:
    if name.lower() == "cpu":
        return "leave `accelerator` out to run on the CPU"
    known = {accelerator.lower(): accelerator for accelerator in Accelerator}
    found = known.get(name.lower().replace("-", "_"))
    return None if found is None else f"did you mean `{found}`?"


def environment_value_as_text(value: object) -> object:
    """Spell a number or a boolean as the environment carries it; leave the rest to the type."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return value
