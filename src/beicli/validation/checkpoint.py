"""What a configuration means for its checkpoint: whether the two fit, and how large it will be.

Only small files are read: no weight is fetched or loaded.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from beicli.config.schema import BaseModel, Config, DefaultRoute
from beicli.errors import BeiError, CheckpointError, UnsupportedModelError
from beicli.model.adapters import configured_adapter
from beicli.model.classifier import activation_warning
from beicli.model.files import CheckpointFile
from beicli.model.inspect import read_spec
from beicli.model.recipe import configured_pooling
from beicli.model.rerank_templates import RerankRequest, missing_template_warning
from beicli.model.routes import platform_route, routes_of, words_for
from beicli.model.spec import ModelSpec, Task
from beicli.model.weights import check_tokenizer, check_weights, count_parameters, onnx_files
from beicli.validation.estimate import SizeEstimate, estimate_sizes
from beicli.validation.findings import Finding, Level, Rule

CHECKPOINT_FILE = Rule(
    name="checkpoint-file",
    level=Level.ERROR,
    why="the build stops at a file that is missing or wrong",
)
UNSUPPORTED_MODEL = Rule(
    name="unsupported-model",
    level=Level.ERROR,
    why="the checkpoint is sound, but nothing here can serve a model of this kind",
)
ROUTE_OF_ANOTHER_TASK = Rule(
    name="route-of-another-task",
    level=Level.WARNING,
    why="every request to the platform's bare predict address would be answered with 424",
)
ROUTE_CHOSEN = Rule(
    name="route-chosen",
    level=Level.INFO,
    why="Truss would send the bare predict address to `/v1/embeddings`, where this model fails",
)
TOKEN_CLASSIFIER_ON_ENCODER = Rule(
    name="token-classifier-on-encoder",
    level=Level.WARNING,
    why="on the platform `encoder` gives no outputs of single tokens, so its build fails",
)
WINDOW_CUT_SHORT = Rule(
    name="window-cut-short",
    level=Level.WARNING,
    why="a whole input is computed at once, so longer ones would be cut though the model could "
    "read them",
)
RERANK_PROMPT_UNKNOWN = Rule(
    name="rerank-prompt-unknown",
    level=Level.WARNING,
    why="a causal reranker gives meaningless scores without the prompt it was trained on",
)
ACTIVATION_NOT_APPLIED = Rule(
    name="activation-not-applied",
    level=Level.WARNING,
    why="scores differ from those of sentence-transformers; the logits behind them do not",
)
CODE_IGNORED = Rule(
    name="checkpoint-code-ignored",
    level=Level.INFO,
    why="code of a checkpoint never runs; the architecture of transformers is used in its place",
)
MEMORY_TOO_SMALL = Rule(
    name="memory-too-small",
    level=Level.WARNING,
    why="a server that needs more memory than there is gets killed while it loads",
)
RULES = (
    CHECKPOINT_FILE,
    UNSUPPORTED_MODEL,
    ROUTE_OF_ANOTHER_TASK,
    ROUTE_CHOSEN,
    TOKEN_CLASSIFIER_ON_ENCODER,
    WINDOW_CUT_SHORT,
    RERANK_PROMPT_UNKNOWN,
    ACTIVATION_NOT_APPLIED,
    CODE_IGNORED,
    MEMORY_TOO_SMALL,
)

_BUILD = "trt_llm.build"
_ROUTE_KEY = "trt_llm.runtime.webserver_default_route"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointListing:
    """A checkpoint of which the small files are on this disk.

    sizes: bytes of every file of the whole checkpoint, by its name relative to the root.
    headers: by the same names, files that hold at least the header of a safetensors file.
    """

    path: Path
    sizes: Mapping[str, int]
    headers: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointVerdict:
    """What inspection found. architecture: the class that `config.json` names, if it does."""

    findings: tuple[Finding, ...]
    architecture: str | None
    facts: dict[str, Any]


def check_checkpoint(config: Config, listing: CheckpointListing) -> CheckpointVerdict:
    """Inspect the checkpoint of `config` as a build would, and whether the configuration fits."""
    findings: list[Finding] = []
    num_parameters = None
    try:
        weights = check_weights(listing.path, listing.sizes)
        num_parameters = _num_parameters(listing, weights)
    except CheckpointError as error:
        findings.append(_refusal(error))
    try:
        check_tokenizer(listing.path, listing.sizes)
    except CheckpointError as error:
        findings.append(_refusal(error))
    spec = None
    try:
        spec = _read_spec(config, listing.path)
    except BeiError as error:
        findings.append(_refusal(error))
    facts: dict[str, Any] = {}
    if spec is not None:
        findings += _fit(config, spec, listing.path)
        facts = _describe(spec)
        if num_parameters is not None:
            estimates = estimate_sizes(config, spec, num_parameters=num_parameters)
            facts["num_parameters"] = num_parameters
            facts["estimates"] = [asdict(estimate) for estimate in estimates]
            findings += _memory(config, estimates)
    return CheckpointVerdict(
        findings=tuple(findings), architecture=_architecture(listing.path), facts=facts
    )


def _architecture(directory: Path) -> str | None:
    try:
        names = CheckpointFile.read(directory, "config.json").values.get("architectures")
    except CheckpointError:
        return None
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return None
    architecture: str = names[0]
    return architecture


def _read_spec(config: Config, directory: Path) -> ModelSpec:
    repository = config.trt_llm.build.checkpoint_repository
    return read_spec(
        directory,
        pooling=configured_pooling(config.environment_variables),
        rerank=RerankRequest.from_metadata(config.model_metadata, repository=repository.repo),
        adapter=configured_adapter(config.model_metadata),
    )


def _refusal(error: BeiError) -> Finding:
    rule = UNSUPPORTED_MODEL if isinstance(error, UnsupportedModelError) else CHECKPOINT_FILE
    return rule.broken(error.message, fix=error.hint, place=f"{_BUILD}.checkpoint_repository")


def _fit(config: Config, spec: ModelSpec, directory: Path) -> Iterator[Finding]:
    yield from _route(config, spec)
    build = config.trt_llm.build
    if spec.task is Task.TOKEN_CLASSIFICATION and build.base_model is BaseModel.ENCODER:
        yield TOKEN_CLASSIFIER_ON_ENCODER.broken(
            f"`{spec.architecture}` labels tokens, and `base_model` is `encoder`",
            fix="write `base_model: encoder_bert`",
            place=f"{_BUILD}.base_model",
        )
    if build.max_num_tokens < spec.max_input_length:
        yield WINDOW_CUT_SHORT.broken(
            f"`max_num_tokens` is {build.max_num_tokens:,}, and the model reads "
            f"{spec.max_input_length:,} tokens at once",
            fix=f"write `max_num_tokens: {spec.max_input_length}` or more",
            place=f"{_BUILD}.max_num_tokens",
        )
    warning = missing_template_warning(
        model_type=spec.model_type, labels=spec.labels, template=spec.rerank_template
    )
    if warning is not None:
        yield RERANK_PROMPT_UNKNOWN.broken(warning, place="model_metadata")
    warning = activation_warning(directory, spec.task)
    if warning is not None:
        yield ACTIVATION_NOT_APPLIED.broken(warning, place=f"{_BUILD}.checkpoint_repository")
    if CheckpointFile.read(directory, "config.json").values.get("auto_map"):
        yield CODE_IGNORED.broken(
            "`config.json` has an `auto_map`, which names code of the checkpoint's own",
            place=f"{_BUILD}.checkpoint_repository",
        )


def _route(config: Config, spec: ModelSpec) -> Iterator[Finding]:
    configured = config.trt_llm.runtime.webserver_default_route
    routes = routes_of(spec)
    if configured is not None and configured not in {*routes, platform_route(spec, None)}:
        yield ROUTE_OF_ANOTHER_TASK.broken(
            f"`{spec.architecture}` is {words_for(spec.task)}, which `{configured}` does not serve",
            fix=_route_fix(spec) or "leave `webserver_default_route` out",
            place=_ROUTE_KEY,
        )
    if configured is None and spec.task in {Task.TOKEN_CLASSIFICATION, Task.SPARSE_EMBEDDING}:
        yield ROUTE_CHOSEN.broken(
            f"no route is set, so `{platform_route(spec, None)}` is taken for "
            f"{words_for(spec.task)}",
            fix=_route_fix(spec),
            place=_ROUTE_KEY,
        )


def _route_fix(spec: ModelSpec) -> str | None:
    """Name the route of the model's task, where Truss knows one."""
    route = platform_route(spec, None)
    is_known = route in get_args(DefaultRoute)
    return f"write `webserver_default_route: {route}`" if is_known else None


def _memory(config: Config, estimates: tuple[SizeEstimate, ...]) -> Iterator[Finding]:
    if config.resources.accelerator is not None:
        return  # it is for another machine
    on_cpu = [estimate for estimate in estimates if estimate.backend == "openvino"]
    needed = min(estimate.memory_bytes for estimate in on_cpu)
    there_is = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there_is:
        yield MEMORY_TOO_SMALL.broken(
            f"a CPU engine needs about {needed / 1e9:,.1f} GB of memory, and this machine has "
            f"{there_is / 1e9:,.1f} GB",
            fix="serve it on a machine with more memory, or choose a smaller model",
            place="resources",
        )


def _num_parameters(listing: CheckpointListing, weights: tuple[str, ...]) -> int:
    """Count from the files' headers where they are here, else from their sizes."""
    if onnx_files(listing.sizes):
        # Float32 alone is built from.
        return sum(listing.sizes[name] for name in weights) // 4
    paths = [listing.headers.get(name, listing.path / name) for name in weights]
    if all(path.is_file() for path in paths):
        return sum(
            count_parameters(path, size_bytes=listing.sizes[name])
            for name, path in zip(weights, paths, strict=True)
        )
    config = CheckpointFile.read(listing.path, "config.json").values
    is_half = str(config.get("dtype") or config.get("torch_dtype")).endswith("float16")
    return sum(listing.sizes[name] for name in weights) // (2 if is_half else 4)


def _describe(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architecture": spec.architecture,
        "task": spec.task,
        "pooling": list(spec.pooling),
        "labels": list(spec.labels),
        "max_input_length": spec.max_input_length,
        "routes": list(routes_of(spec)),
    }
