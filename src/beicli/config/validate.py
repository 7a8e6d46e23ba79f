"""Checks what the user wrote against the schema, and reports everything wrong at once."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, is_dataclass, replace
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
from beicli.config.problems import (
    UNKNOWN_CONFIG_KEY,
    UNKNOWN_KEY,
    ConfigProblem,
    KeyPath,
    describe_type,
    format_key_path,
)
from beicli.config.schema import BuildConfig, Config, InferenceStack, Resources, RuntimeConfig
from beicli.config.source import ConfigSource
from beicli.config.truss_rules import truss_problems
from beicli.findings import Level, Rule

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

_OTHER_RESOURCE_KEYS = frozenset({"fabric", "instance_type", "node_count"})

_REFUSED_KEY = replace(UNKNOWN_CONFIG_KEY, level=Level.ERROR)

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

_REPOSITORY: KeyPath = (ENGINE_SECTION, "build", "checkpoint_repository")

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
    """The outcome: `config` is None exactly when a value breaks the schema."""

    config: Config | None
    problems: tuple[ConfigProblem, ...]


def validate(source: ConfigSource, *, strict: bool = False) -> Verdict:
    """Check a whole config; pure, and complete in one go.

    strict: a key that nothing reads is an error, not a warning.
    """
    config, problems = _check_schema(source, _REFUSED_KEY if strict else UNKNOWN_CONFIG_KEY)
    if config is not None:
        problems += truss_problems(source, config)
    return Verdict(config=config, problems=tuple(problems))


def _check_schema(
    source: ConfigSource, unknown_key: Rule
) -> tuple[Config | None, list[ConfigProblem]]:
    """Return the config, None if a value breaks the schema, and what is wrong."""
    engine = source.root.get(ENGINE_SECTION)
    if isinstance(engine, dict) and engine.get("inference_stack") == InferenceStack.V2:
        return None, list(_v2_problems(source, engine))
    unknown = list(_unknown_keys(source, Config, source.root, (), unknown_key))
    errors: list[ConfigProblem] = []
    missing: set[KeyPath] = set()
    config = None
    try:
        config = _config_type().validate_python(source.root)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            errors.append(_schema_problem(source, detail))
            if _is_absent(detail):
                missing.add(detail["loc"])
    # A required key that is misspelt is one mistake: the misspelling, and it is an error.
    misspelt = {
        format_key_path(entry.suggestion.path)
        for entry in unknown
        if entry.suggestion and entry.suggestion.path in missing
    }
    problems = [error for error in errors if error.key_path not in misspelt]
    for entry in unknown:
        is_needed = entry.suggestion and format_key_path(entry.suggestion.path) in misspelt
        problem = entry.problem
        problems.append(replace(problem, rule=_REFUSED_KEY) if is_needed else problem)
    return config, problems


@cache
def _config_type() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnknownKey:
    problem: ConfigProblem
    suggestion: Suggestion | None


def _unknown_keys(
    source: ConfigSource,
    section: type,
    values: Mapping[str, object],
    path: tuple[str, ...],
    rule: Rule,
) -> Iterator[_UnknownKey]:
    for name, value in values.items():
        key = keys_of(section).get(name)
        if key is None:
            yield from _unknown_key(source, section, (*path, name), rule)
        elif key.section is not None and isinstance(value, dict):
            yield from _unknown_keys(source, key.section, value, (*path, name), rule)
        elif key.entries is not None and isinstance(value, dict):
            for entry_name, entry in value.items():
                if isinstance(entry, dict):
                    entry_path = (*path, name, entry_name)
                    yield from _unknown_keys(source, key.entries, entry, entry_path, rule)


def _unknown_key(
    source: ConfigSource, section: type, path: tuple[str, ...], rule: Rule
) -> Iterator[_UnknownKey]:
    """At most one finding: some keys are Truss's, for other things than engines."""
    name = path[-1]
    if (len(path) == 1 and name in OTHER_TRUSS_KEYS) or (
        section is Resources and name in _OTHER_RESOURCE_KEYS
    ):
        return
    if section is BuildConfig and name in _RUNTIME_LORA_KEYS:
        message = f"{name} must be configured under trt_llm.runtime, not trt_llm.build"
        yield _UnknownKey(problem=source.problem(path, message), suggestion=None)
        return
    suggestion = suggest(path, section)
    hint = "it has no effect here; a newer Truss may know it"
    if suggestion is not None:
        hint = f"did you mean `{suggestion.text}`?"
    yield _UnknownKey(
        problem=source.problem(path, UNKNOWN_KEY, hint=hint, rule=rule), suggestion=suggestion
    )


def _missing_engine(source: ConfigSource) -> ConfigProblem:
    what = "is empty" if ENGINE_SECTION in source.root else "is missing"
    return source.problem(
        (ENGINE_SECTION,),
        f"the section that describes the engine {what}",
        hint=f"the least it needs:\n\n{MINIMAL_CONFIG}",
    )


def _v2_problems(source: ConfigSource, engine: dict[str, object]) -> Iterator[ConfigProblem]:
    """Refuse a generative engine: by each of Truss's rules that it breaks, else by our own."""
    hint = "embedding engines are `v1`: write `inference_stack: v1`, or leave the key out"
    build = engine.get("build")
    broken = list(_broken_v2_rules(build)) if isinstance(build, dict) else []
    for name, message in broken:
        yield source.problem((ENGINE_SECTION, "build", name), message, hint=hint)
    if not broken:
        message = "`v2` is for text generation, which has no place in an embedding engine"
        yield source.problem((ENGINE_SECTION, "inference_stack"), message, hint=hint)


def _broken_v2_rules(build: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Name the key of each rule that Truss has for `v2` and this section breaks, and its text."""
    if build.get("checkpoint_repository") is None and not build.get("skip_build_result"):
        message = (
            "trt_llm.build.checkpoint_repository is required when"
            " trt_llm.build.skip_build_result is not set for v2 inference stack."
        )
        yield "checkpoint_repository", message
    for name, value in build.items():
        is_known = name in keys_of(BuildConfig)
        if is_known and name not in _V2_BUILD_KEYS and not _is_default(name, value):
            message = (
                f"Field trt_llm.build.{name} is not allowed to be set when using v2 inference"
                " stack. "
            )
            yield name, message


def _is_default(name: str, value: object) -> bool:
    default = keys_of(BuildConfig)[name].default
    if is_dataclass(default) and not isinstance(default, type) and isinstance(value, dict):
        return {**asdict(default), **value} == asdict(default)
    return default is not MISSING and value == default


def _is_absent(detail: ErrorDetails) -> bool:
    """Whether nothing is written for the key, or only the key itself."""
    # The input of `missing` is the section around the key.
    return detail["type"] == "missing" or detail["input"] is None


def _schema_problem(source: ConfigSource, detail: ErrorDetails) -> ConfigProblem:
    path: KeyPath = tuple(part for part in detail["loc"] if part != "[key]")
    if path == (ENGINE_SECTION,) and _is_absent(detail):
        return _missing_engine(source)
    return source.problem(path, _message(path, detail), hint=_hint(path, detail))


def _message(path: KeyPath, detail: ErrorDetails) -> str:
    """Truss's text, unless it speaks of Python's types."""
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "missing" | "dataclass_type" if path == _REPOSITORY and _is_absent(detail):
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
            return _number_hint(value)
        case "string_type" if isinstance(value, bool | int | float):
            return "put the value in quotes"
        case "enum" | "literal_error" if isinstance(value, str):
            return _similar_choice(path, value)
    return None


def _number_hint(text: str) -> str:
    """Say how to write what YAML took for text: in quotes, or in a form it has no numbers in."""
    if text.strip().removeprefix("-").isdecimal():
        return "write the number without quotes"
    return "write it in digits, such as `8192`"


def _similar_choice(path: KeyPath, value: str) -> str | None:
    names = tuple(str(part) for part in path)
    _, section = known_prefix(names[:-1])
    choices = keys_of(section)[names[-1]].choices if section is not None else ()
    choice = closest(value, choices, ratio=_SIMILAR_VALUE_RATIO)
    return f"did you mean `{choice}`?" if choice is not None else None
