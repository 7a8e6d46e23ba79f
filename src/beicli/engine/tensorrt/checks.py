"""Whether a deserialised plan is the one that a manifest describes."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from beicli.artifact.manifest import Manifest, TensorInfo
from beicli.engine.tensorrt.contexts import LoadedPlan
from beicli.errors import PlanError
from beicli.tensorrt.engine_plan import gpu_target
from beicli.tensorrt.profiles import input_shapes

# What numpy calls a type, and what TensorRT calls it.
_TYPE_NAMES = {"int32": "INT32", "float32": "FLOAT", "float16": "HALF"}


def check_plan(plan: LoadedPlan, manifest: Manifest) -> None:
    """Raise PlanError if the plan takes or gives anything else than the manifest says."""
    differences = [*_tensor_differences(plan.trt, plan.cuda_engine, manifest)]
    # Their shapes can be asked for only of tensors that are there.
    if not differences:
        differences = [*_profile_differences(plan.cuda_engine, manifest)]
    if differences:
        raise PlanError(
            f"the plan is not that of this engine: {'; '.join(differences)}",
            hint="delete the directory with the plans, and they are compiled anew",
        )


def _tensor_differences(trt: ModuleType, cuda_engine: Any, manifest: Manifest) -> Iterator[str]:
    wanted: dict[str, tuple[Any, TensorInfo]] = {
        **{each.name: (trt.TensorIOMode.INPUT, each) for each in manifest.inputs},
        **{each.name: (trt.TensorIOMode.OUTPUT, each) for each in manifest.outputs},
    }
    found = {cuda_engine.get_tensor_name(index) for index in range(cuda_engine.num_io_tensors)}
    if found != wanted.keys():
        yield f"it has the tensors {', '.join(sorted(found))}, not {', '.join(sorted(wanted))}"
        return
    for name, (mode, tensor) in wanted.items():
        dtype = getattr(trt.DataType, _TYPE_NAMES[tensor.dtype])
        if cuda_engine.get_tensor_mode(name) != mode:
            yield f"`{name}` is no {mode.name.lower()}"
        elif cuda_engine.get_tensor_dtype(name) != dtype:
            yield f"`{name}` is {cuda_engine.get_tensor_dtype(name).name}, not {dtype.name}"


def _profile_differences(cuda_engine: Any, manifest: Manifest) -> Iterator[str]:
    profiles = gpu_target(manifest).profiles
    found = cuda_engine.num_optimization_profiles
    if found != len(profiles):
        yield f"it has {found} profiles, not {len(profiles)}"
        return
    for number, profile in enumerate(profiles):
        for name, shapes in input_shapes(manifest.inputs, profile).items():
            has = [tuple(each) for each in cuda_engine.get_tensor_profile_shape(name, number)]
            if has != list(shapes):
                yield f"`{name}` goes from {has[0]} to {has[-1]} in profile {number}"
