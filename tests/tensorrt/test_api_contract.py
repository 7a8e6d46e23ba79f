"""Every name of TensorRT that our code uses exists in both flavours, and means the same.

TensorRT itself cannot be installed without a GPU's libraries, so what its bindings define lies
in `api/`: of a class its members, of an enumeration its values. Our sources are parsed for uses, so
that a new one is looked up by itself; what it is a use of is told by the names of variables below.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from beicli.tensorrt.targets import RTX_SMS

SOURCES = Path(__file__).parents[2] / "src" / "beicli"
API = Path(__file__).parent / "api"
API_11 = json.loads((API / "tensorrt-11.4.json").read_text())
API_RTX = json.loads((API / "tensorrt-rtx-1.7.json").read_text())
# Where objects of TensorRT are used, and which variables and attributes are what. All others of the
# program have to go by other names there.
VARIABLES: Mapping[str, Mapping[str, str]] = {
    "tensorrt/api.py": {"runtime": "Runtime"},
    "tensorrt/compiler.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "layer": "IAttentionInputLayer",
        "attention": "IAttention",
        "cache": "ITimingCache",
        "plan": "IHostMemory",
    },
    "engine/tensorrt/load.py": {
        "runtime": "Runtime",
        "cuda_engine": "ICudaEngine",
        "config": "IRuntimeConfig",
    },
    "engine/tensorrt/contexts.py": {
        "cuda_engine": "ICudaEngine",
        "config": "IRuntimeConfig",
        "raw": "IExecutionContext",
    },
    "engine/tensorrt/checks.py": {"cuda_engine": "ICudaEngine"},
    "engine/tensorrt/slots.py": {"cuda_engine": "ICudaEngine"},
}
# What calls return that is kept in a variable; None is nothing of TensorRT's.
RETURNS: Mapping[str, str | None] = {
    "Builder.create_network": "INetworkDefinition",
    "Builder.create_builder_config": "IBuilderConfig",
    "Builder.create_optimization_profile": "IOptimizationProfile",
    "Builder.build_serialized_network": "IHostMemory",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "INetworkDefinition.get_layer": "IAttentionInputLayer",
    "ICudaEngine.create_runtime_config": "IRuntimeConfig",
    "ICudaEngine.create_execution_context": "IExecutionContext",
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
}
# What only tensorrt-rtx has; our code asks first which flavour it is, or whether it is there.
ONLY_RTX = frozenset(
    {
        "ComputeCapability",
        "CudaGraphStrategy",
        "IBuilderConfig.num_compute_capabilities",
        "IBuilderConfig.set_compute_capability",
        "IRuntimeConfig.create_runtime_cache",
        "IRuntimeConfig.cuda_graph_strategy",
        "IRuntimeConfig.set_runtime_cache",
    }
)
# Of Python, not of TensorRT.
_OF_PYTHON = frozenset({"__class__", "__init__", "__version__"})


@dataclass(slots=True)
class Uses:
    """What one file uses: `Class.member` or a lone name of the module."""

    names: set[str] = field(default_factory=set)
    # Variables that hold what a call returned, by its name.
    kept: set[tuple[str, str]] = field(default_factory=set)


def test_sources_are_found() -> None:
    names = {name for uses in all_uses().values() for name in uses.names}

    # By the module, by a variable, by an alias of an enumeration, and by `getattr`.
    assert names >= {
        "ILogger.Severity",
        "OnnxParser.parse_from_file",
        "IAttention.decomposable",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "IExecutionContext.execute_async_v3",
        "DataType",
    }


def test_every_name_that_is_used_is_of_both_flavours() -> None:
    for file, uses in all_uses().items():
        for name in uses.names:
            assert has(API_RTX, name), f"{file}: tensorrt-rtx 1.7 has no {name}"
            assert has(API_11, name) is not is_only_rtx(name), f"{file}: {name} in TensorRT 11.4"


def test_every_name_that_is_used_is_of_the_package_that_is_installed(rtx: ModuleType) -> None:
    for file, uses in all_uses().items():
        for name in uses.names:
            found: Any = rtx
            for part in name.split("."):
                assert hasattr(found, part), f"{file}: {rtx.__version__} has no {name}"
                found = getattr(found, part)


def test_the_values_of_enumerations_are_the_same_everywhere(rtx: ModuleType) -> None:
    enumerations = [name for name, members in API_RTX.items() if isinstance(members, dict)]
    assert len(enumerations) > 5

    for name in enumerations:
        for member, value in API_RTX[name].items():
            assert int(getattr(getattr(rtx, name), member)) == value, f"{name}.{member}"
            # What only RTX has is nothing that the sources may use: see above.
            in_both = API_11.get(name, {}).get(member, value)
            assert in_both == value, f"{name}.{member}"


def test_variables_that_hold_something_of_tensorrt_are_listed_as_what_it_is() -> None:
    for file, uses in all_uses().items():
        for variable, call in uses.kept:
            assert call in RETURNS or call in ONLY_RTX, f"{file}: `{variable}` holds {call}()"
            wanted = RETURNS.get(call)
            assert wanted is None or VARIABLES[file].get(variable) == wanted, f"{file}: {variable}"


def test_every_gpu_of_tensorrt_rtx_is_one_that_it_names() -> None:
    assert {f"SM{sm}" for sm in RTX_SMS} == API_RTX["ComputeCapability"].keys() - {
        "NONE",
        "CURRENT",
    }


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("trt.BuilderFlag.FP16", {"BuilderFlag", "BuilderFlag.FP16"}),
        ("plan.trt.DataType.HALF", {"DataType", "DataType.HALF"}),
        ("modes = trt.TensorIOMode\nmodes.BOTH", {"TensorIOMode", "TensorIOMode.BOTH"}),
        ("plan.cuda_engine.num_bindings", {"ICudaEngine.num_bindings"}),
        ("raw.execute(1)", {"IExecutionContext.execute"}),
        ("hasattr(trt, 'Gone')", {"Gone"}),
        (
            "context = cuda_engine.create_execution_context()",
            {"ICudaEngine.create_execution_context"},
        ),
    ],
)
def test_uses_are_found_however_they_are_written(source: str, names: set[str]) -> None:
    found = find_uses(ast.parse(source), VARIABLES["engine/tensorrt/contexts.py"])

    assert found.names == names
    assert bool(found.kept) is source.startswith("context")


def is_only_rtx(name: str) -> bool:
    return name in ONLY_RTX or name.partition(".")[0] in ONLY_RTX


def has(api: Mapping[str, Any], name: str) -> bool:
    first, *members = name.split(".")
    return first in api and all(member in api[first] for member in members)


def all_uses() -> Mapping[str, Uses]:
    files = {}
    for path in SOURCES.rglob("*.py"):
        name = str(path.relative_to(SOURCES))
        uses = find_uses(ast.parse(path.read_text(encoding="utf-8")), VARIABLES.get(name, {}))
        if uses.names:
            files[name] = uses
    return files


def find_uses(tree: ast.AST, variables: Mapping[str, str]) -> Uses:
    uses = Uses()
    known = dict(variables)
    for node in walk(tree):
        match node:
            case ast.Attribute() | ast.Call(func=ast.Name(id="hasattr" | "getattr")):
                name = name_of(node, known)
                if name is not None:
                    uses.names.add(name)
            case ast.Assign(targets=[ast.Name(id=variable)], value=ast.Attribute() as value):
                # An enumeration under a shorter name.
                alias = name_of(value, known)
                if alias is not None and "." not in alias:
                    known[variable] = alias
            case ast.Assign(targets=[ast.Name(id=variable)], value=ast.Call(func=called)):
                call = name_of(called, known)
                if call is not None and "." in call:
                    uses.kept.add((variable, call))
    return uses


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield nodes in the order of the text, which `ast.walk` does not keep."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk(child)


def name_of(node: ast.AST, known: Mapping[str, str]) -> str | None:
    """Return `Class.member`, or a name of the module, if the expression is one of TensorRT's."""
    match node:
        case ast.Attribute(value=owner, attr=member):
            pass
        case ast.Call(args=[owner, ast.Constant(value=str(member)), *_]):
            pass
        case _:
            return None
    if member in _OF_PYTHON:
        return None
    if last_name(owner) == "trt":
        return member
    # Two names are enough: `ILogger.Severity` says what its members are by itself.
    whole = name_of(owner, known) if isinstance(owner, ast.Attribute) else None
    if whole is not None and "." not in whole:
        return f"{whole}.{member}"
    name = last_name(owner)
    return f"{known[name]}.{member}" if name is not None and name in known else None


def last_name(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return None
