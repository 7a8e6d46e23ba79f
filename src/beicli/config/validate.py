"""Checks what the user wrote against the schema, and reports everything wrong at once."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, is_dataclass
from functools import cache

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from beicli.config.keys import (
    ENGINE_SECTION,
    Suggestion,
    closest,
    keys_of,
    known_prefix,
    suggest,
)
from beicli.config.problems import UNKNOWN_KEY, ConfigProblem, KeyPath, describe_type
from beicli.config.schema import BuildConfig, Config, InferenceStack, RuntimeConfig
from beicli.config.source import ConfigSource

# Truss's other top-level keys, so that `model_type` is not taken for a misspelt `model_name`.
OTHER_TRUSS_KEYS = frozenset(
    {
        "apply_library_patches",
        "base_image",
        "bdn",
        "bis_llm",
        "build",
        "build_commands",
        "bundled_packages_dir",
        "cache_internal",
        "data_dir",
        "description",
        "docker_server",
        "examples_filename",
        "external_data",
        "external_package_dirs",
        "hf_cache",
        "input_type",
        "live_reload",
        "model_cache",
        "model_class_filename",
        "model_class_name",
        "model_framework",
        "model_module_dir",
        "model_type",
        "requirements",
        "requirements_file",
        "spec_version",
        "system_packages",
        "training_checkpoints",
        "use_local_src",
    }
)

# The only build keys a `v2` config may set.
_V2_BUILD_KEYS = frozenset(
    {
        "checkpoint_repository",
        "quantization_type",
        "quantization_config",
        "skip_build_result",
        "num_builder_gpus",
    }
)

_RUNTIME_LORA_KEYS = frozenset(
    name for name in keys_of(RuntimeConfig) if name.startswith("lora_cache_")
)

# A misspelt value is an error in any case, so a hint may guess more freely than for keys.
_SIMILAR_VALUE_RATIO = 0.6

MINIMAL_CONFIG = """\
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository: {source: HF, repo: sentence-transformers/all-MiniLM-L6-v2}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome: `config` is None exactly when there are errors."""

    config: Config | None
    errors: tuple[ConfigProblem, ...]
    warnings: tuple[ConfigProblem, ...]


def validate(source: ConfigSource) -> Verdict:
    """Check a whole config; pure, and complete in one go."""
    engine = source.root.get(ENGINE_SECTION)
    if isinstance(engine, dict) and engine.get("inference_stack") == InferenceStack.V2:
        return Verdict(config=None, errors=tuple(_v2_problems(source, engine)), warnings=())
    unknown = list(_unknown_keys(source, Config, source.root, ()))
    errors = [entry.problem for entry in unknown if entry.is_error]
    meant = {entry.suggestion.path for entry in unknown if entry.suggestion}
    config = None
    if engine is None:
        # A misspelt `trt_llm` has been reported above; one cause, one problem.
        errors += [] if (ENGINE_SECTION,) in meant else [_missing_engine(source)]
    else:
        try:
            config = _config_type().validate_python(source.root)
        except ValidationError as error:
            details = error.errors(include_url=False)
            errors += [
                _schema_problem(source, detail)
                for detail in details
                if not (detail["type"] == "missing" and detail["loc"] in meant)
            ]
    return Verdict(
        config=None if errors else config,
        errors=tuple(errors),
        warnings=tuple(entry.problem for entry in unknown if not entry.is_error),
    )


@cache
def _config_type() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnknownKey:
    problem: ConfigProblem
    is_error: bool
    suggestion: Suggestion | None


def _unknown_keys(
    source: ConfigSource, section: type, values: Mapping[str, object], path: tuple[str, ...]
) -> Iterator[_UnknownKey]:
    for name, value in values.items():
        key = keys_of(section).get(name)
        if key is None:
            yield from _unknown_key(source, section, (*path, name))
        elif key.section is not None and isinstance(value, dict):
            yield from _unknown_keys(source, key.section, value, (*path, name))
        elif key.entries is not None and isinstance(value, dict):
            for entry_name, entry in value.items():
                if isinstance(entry, dict):
                    yield from _unknown_keys(source, key.entries, entry, (*path, name, entry_name))


def _unknown_key(
    source: ConfigSource, section: type, path: tuple[str, ...]
) -> Iterator[_UnknownKey]:
    """At most one finding: outside the engine's section, only what looks like a typo counts."""
    name = path[-1]
    if len(path) == 1 and name in OTHER_TRUSS_KEYS:
        return
    suggestion = suggest(path, section)
    if suggestion is not None:
        if section is BuildConfig and name in _RUNTIME_LORA_KEYS:
            message = f"{name} must be configured under trt_llm.runtime, not trt_llm.build"
            problem = source.problem(path, message)
        else:
            problem = source.problem(path, UNKNOWN_KEY, hint=f"did you mean `{suggestion.text}`?")
        yield _UnknownKey(problem=problem, is_error=True, suggestion=suggestion)
    elif path[0] == ENGINE_SECTION:
        hint = "it has no effect here; a newer Truss may know it"
        problem = source.problem(path, UNKNOWN_KEY, hint=hint)
        yield _UnknownKey(problem=problem, is_error=False, suggestion=None)


def _missing_engine(source: ConfigSource) -> ConfigProblem:
    what = "is empty" if ENGINE_SECTION in source.root else "is missing"
    return source.problem(
        (ENGINE_SECTION,),
        f"the section that describes the engine {what}",
        hint=f"the least it needs:\n\n{MINIMAL_CONFIG}",
    )


def _v2_problems(source: ConfigSource, engine: dict[str, object]) -> Iterator[ConfigProblem]:
    """Refuse a generative engine: by Truss's rule for each key it forbids, else by our own."""
    hint = "embedding engines are `v1`: write `inference_stack: v1`, or leave the key out"
    build = engine.get("build")
    forbidden = [
        name
        for name, value in (build.items() if isinstance(build, dict) else ())
        if name in keys_of(BuildConfig)
        and name not in _V2_BUILD_KEYS
        and not _is_default(name, value)
    ]
    for name in forbidden:
        message = (
            f"Field trt_llm.build.{name} is not allowed to be set when using v2 inference stack. "
        )
        yield source.problem((ENGINE_SECTION, "build", name), message, hint=hint)
    if not forbidden:
        message = "`v2` is for text generation, which has no place in an embedding engine"
        yield source.problem((ENGINE_SECTION, "inference_stack"), message, hint=hint)


def _is_default(name: str, value: object) -> bool:
    default = keys_of(BuildConfig)[name].default
    if is_dataclass(default) and not isinstance(default, type) and isinstance(value, dict):
        return {**asdict(default), **value} == asdict(default)
    return default is not MISSING and value == default


def _schema_problem(source: ConfigSource, detail: ErrorDetails) -> ConfigProblem:
    path: KeyPath = tuple(part for part in detail["loc"] if part != "[key]")
    return source.problem(path, _message(path, detail), hint=_hint(path, detail))


def _message(path: KeyPath, detail: ErrorDetails) -> str:
    """Truss's text, unless it speaks of Python's types."""
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "missing" if path == (ENGINE_SECTION, "build", "checkpoint_repository"):
            return "trt_llm.build.checkpoint_repository is required for v1 inference stack."
        case "dataclass_type":
            return f"Input should be a mapping of keys, found {describe_type(detail['input'])}"
        case "tuple_type":
            return "Input should be a valid list"
    return detail["msg"]


def _hint(path: KeyPath, detail: ErrorDetails) -> str | None:
    value = detail["input"]
    match detail["type"]:
        case "value_error":
            hint: str | None = getattr(detail["ctx"]["error"], "hint", None)
            return hint
        case "missing" if path[-1] == "source":
            return "add `source: HF`, or `source: LOCAL` for a directory"
        case "int_type" | "float_type" if isinstance(value, str):
            return "write the number without quotes"
        case "string_type" if isinstance(value, bool | int | float):
            return "put the value in quotes"
        case "enum" | "literal_error" if isinstance(value, str):
            return _similar_choice(path, value)
    return None


def _similar_choice(path: KeyPath, value: str) -> str | None:
    names = tuple(str(part) for part in path)
    _, section = known_prefix(names[:-1])
    choices = keys_of(section)[names[-1]].choices if section is not None else ()
    choice = closest(value, choices, ratio=_SIMILAR_VALUE_RATIO)
    return f"did you mean `{choice}`?" if choice is not None else None
