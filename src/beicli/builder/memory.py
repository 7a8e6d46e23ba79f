"""Whether a build fits into memory, told before it starts.

Weights are mapped from their files, in the checkpoint and in the graph, so a build holds little
beside what the compiler makes of them for the accuracy gate.
"""

from pathlib import Path

from beicli.artifact.manifest import Backend, Precision
from beicli.errors import BuildError
from beicli.machine import available_memory_bytes
from beicli.model.weights import check_weights, count_parameters, list_files
from beicli.modeling.stored_weights import are_mapped

# Measured with `benchmarks/build_memory.py`: the process with its libraries and a graph of some
# thousand operators, and what the compiled weights and a few batches take beside it.
_PROCESS_BYTES = 700_000_000
_BYTES_PER_WEIGHT: dict[tuple[Backend, Precision], float] = {
    ("openvino", "bf16"): 2.5,
    ("openvino", "f32"): 5.5,
    # While it is calibrated it runs in float32, with its activations kept.
    ("openvino", "int8"): 6.5,
    ("torch", "bf16"): 2.5,
    ("torch", "f32"): 4.5,
    # As `openvino`, in float32: what a GPU would compute is emulated.
    ("tensorrt", "f32"): 5.5,
    ("tensorrt-rtx", "f32"): 5.5,
    # The float32 reference, and what torch compares with it in 16 bit.
    ("tensorrt-llm", "bf16"): 6.5,
    ("tensorrt-llm", "f16"): 6.5,
}
# Where the weights as they are stored are not what is computed with.
_HELD_BYTES_PER_WEIGHT = 4
# Below this nobody asks.
_WORTH_SAYING_BYTES = 1_500_000_000


def check_memory(checkpoint: Path, backend: Backend, precision: Precision) -> str:
    """Return what the build will take, in words if that is much; else nothing.

    Raises BuildError if it is more than there is.
    """
    names = check_weights(checkpoint, list_files(checkpoint))
    num_parameters = sum(_num_parameters(checkpoint / name) for name in names)
    needed = required_bytes(num_parameters, backend, precision)
    if names[0].endswith(".safetensors") and not are_mapped(checkpoint):
        needed += _HELD_BYTES_PER_WEIGHT * num_parameters
    available = available_memory_bytes()
    if available is not None and needed > available:
        raise BuildError(
            f"this build takes about {needed / 1e9:,.1f} GB of memory, and "
            f"{available / 1e9:,.1f} GB are available",
            hint="stop what else is running, or build on a machine with more memory: an engine "
            "serves on any machine whose CPU computes its precision",
        )
    return f", about {needed / 1e9:,.1f} GB of memory" if needed > _WORTH_SAYING_BYTES else ""


def required_bytes(num_parameters: int, backend: Backend, precision: Precision) -> int:
    """Estimate the most memory that a build holds, beside pages that are mapped from files."""
    return _PROCESS_BYTES + int(num_parameters * _BYTES_PER_WEIGHT[backend, precision])


def _num_parameters(path: Path) -> int:
    size_bytes = path.stat().st_size
    if path.suffix != ".safetensors":
        return size_bytes // 4  # ONNX, in float32
    return count_parameters(path, size_bytes=size_bytes)
