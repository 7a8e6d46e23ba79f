"""From an ONNX graph to a plan: TensorRT's parser and builder, with their reasons made errors."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from beicli.artifact.gpu import Flavor, HardwareCompatibility
from beicli.errors import PlanError, UnfusedAttentionError
from beicli.tensorrt.api import Messages, collection_paused, create_builder, make_logger
from beicli.tensorrt.profiles import Shape

# What it says of attention that it may not compute in parts.
_UNFUSED = "Attention operation was not supported by a dedicated kernel"
_HINT = (
    "build for CPUs with `--backend openvino`, and report it with the name of the checkpoint and "
    "what TensorRT says"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """What a plan is compiled for.

    sm: the GPU, which must be this machine's for `tensorrt`.
    profiles: of each, the smallest, best and largest shape of every input, by name.
    is_attention_fused: whether attention must be one kernel; f32 has none, so there it may not.
    timing_cache: a file that remembers how fast kernels were, for `tensorrt`; None for no such.
    """

    flavor: Flavor
    sm: int
    profiles: Sequence[Mapping[str, tuple[Shape, Shape, Shape]]]
    hardware_compatibility: HardwareCompatibility
    is_attention_fused: bool
    timing_cache: Path | None = None


def compile_plan(trt: ModuleType, graph: Path, options: CompileOptions) -> bytes:
    """Compile the graph; raises PlanError with what TensorRT says if it cannot."""
    with collection_paused():
        try:
            return _compile(trt, graph, options)
        except PlanError as error:
            # Its frames hold what TensorRT made, which would become garbage with them.
            raise error.with_traceback(None) from None


def _compile(trt: ModuleType, graph: Path, options: CompileOptions) -> bytes:
    messages = Messages()
    logger = make_logger(trt, messages)
    builder = create_builder(trt, options.flavor, logger)
    # Strongly typed, as every network is since TensorRT 11: types are those of the graph.
    network = builder.create_network(0)
    parser = parse_graph(trt, network, graph, logger, messages)
    if not options.is_attention_fused:
        _let_attention_be_decomposed(trt, network)
    config = builder.create_builder_config()
    # On by default: products in float32 would have the 11 significant bits of f16.
    config.clear_flag(trt.BuilderFlag.TF32)
    _set_target(trt, config, options)
    _add_profiles(builder, config, network, options, messages)
    cache = _attach_timing_cache(config, options)
    plan = builder.build_serialized_network(network, config)
    # The network refers to weights that the parser holds.
    del parser
    if plan is None:
        reason = messages.take_errors()
        kind = UnfusedAttentionError if _UNFUSED in reason else PlanError
        raise kind(
            f"{options.flavor} cannot compile the graph for sm{options.sm}: {reason}", hint=_HINT
        )
    if cache is not None and options.timing_cache is not None:
        _keep_timing_cache(cache, options.timing_cache)
    return bytes(plan)


def parse_graph(trt: ModuleType, network: Any, graph: Path, logger: Any, messages: Messages) -> Any:
    """Fill an INetworkDefinition from an ONNX file; return the parser, which holds its weights."""
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        reason = "; ".join(reasons) or messages.take_errors()
        raise PlanError(f"TensorRT cannot read `{graph}`: {reason}", hint=_HINT)
    return parser


def _set_target(trt: ModuleType, config: Any, options: CompileOptions) -> None:
    if options.flavor == "tensorrt-rtx":
        # Without this it compiles for every GPU it knows, and takes that much longer.
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, f"SM{options.sm}", None)
        if capability is None or not config.set_compute_capability(capability, 0):
            raise PlanError(f"tensorrt-rtx does not compile for sm{options.sm}", hint=_HINT)
    elif options.hardware_compatibility == "same_compute_capability":
        level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        config.hardware_compatibility_level = level


def _add_profiles(
    builder: Any, config: Any, network: Any, options: CompileOptions, messages: Messages
) -> None:
    names = {network.get_input(number).name for number in range(network.num_inputs)}
    for shapes in options.profiles:
        _check_shapes(shapes, names)
        profile = builder.create_optimization_profile()
        for name, (smallest, best, largest) in shapes.items():
            profile.set_shape(name, smallest, best, largest)
        # It says so by -1, and raises nothing.
        if config.add_optimization_profile(profile) < 0:
            raise PlanError(
                f"TensorRT refuses the profile {dict(shapes)}: {messages.take_errors()}",
                hint="set `max_num_tokens` and `max_batch_size` to other values",
            )


def _check_shapes(shapes: Mapping[str, tuple[Shape, Shape, Shape]], names: set[str]) -> None:
    """See to what `set_shape` takes without a word: other inputs, and ranges upside down."""
    if set(shapes) != names:
        raise PlanError(
            f"the graph takes {', '.join(sorted(names))}, and a profile has "
            f"{', '.join(sorted(shapes))}",
            hint="rebuild the engine with `bei build`",
        )
    for name, (smallest, best, largest) in shapes.items():
        if not all(a <= b <= c for a, b, c in zip(smallest, best, largest, strict=True)):
            raise PlanError(
                f"the profile of `{name}` goes from {smallest} over {best} to {largest}",
                hint="rebuild the engine with `bei build`",
            )


def _let_attention_be_decomposed(trt: ModuleType, network: Any) -> None:
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _attach_timing_cache(config: Any, options: CompileOptions) -> Any:
    """Give the builder what it measured before; RTX measures nothing while it compiles."""
    path = options.timing_cache
    if path is None or options.flavor == "tensorrt-rtx":
        return None
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    # None, or False: no cache, or one of another GPU or version, and then it is begun anew.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _keep_timing_cache(cache: Any, path: Path) -> None:
    """Write it for the next build; compilers of other engines for this GPU share the file."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    # The plan that took minutes is worth more than what was measured for it.
    with contextlib.suppress(OSError):
        new.write_bytes(bytes(cache.serialize()))
        new.replace(path)
