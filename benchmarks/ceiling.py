"""The most that this machine computes: the best of some matrix products in each precision.

The products are as wide as MiniLM's and a few wider. float32 is the better of torch and OpenVINO,
since torch's library takes a slow path on some processors; 8 bit is signed by signed into 32 bits.
Prints one JSON line, in GFLOP/s.
"""

import json
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from beicli.machine import available_cpus, this_machine
from beicli.openvino_api import ov

# Rows, in and out features.
PRODUCTS = ((1024, 384, 1536), (2048, 1536, 384), (2048, 2048, 2048), (4096, 1024, 1024))
RUN_S = 0.1
NUM_RUNS = 3

Run = Callable[[], object]


def main() -> None:
    """Measure and print."""
    found = {name: round(gflops) for name, gflops in measure_ceiling().items()}
    print(json.dumps({"cpu": this_machine().cpu, "num_cpus": available_cpus(), "gflops": found}))


def measure_ceiling() -> dict[str, float]:
    """Return the most GFLOP/s of any product by its precision, with every CPU."""
    torch.set_num_threads(available_cpus())
    best = dict.fromkeys(("f32", "bf16", "int8"), 0.0)
    for rows, in_features, out_features in PRODUCTS:
        flop = 2 * rows * in_features * out_features
        for precision, run in products(rows, in_features, out_features):
            best[precision] = max(best[precision], flop * runs_per_second(run) / 1e9)
    return best


def products(rows: int, in_features: int, out_features: int) -> Iterator[tuple[str, Run]]:
    """Make the product of these sizes in each way, ready to run."""
    inputs, weight = torch.randn(rows, in_features), torch.randn(out_features, in_features)
    half = inputs.bfloat16(), weight.bfloat16()
    eight = (
        torch.randint(-128, 128, (rows, in_features), dtype=torch.int8),
        torch.randint(-128, 128, (in_features, out_features), dtype=torch.int8),
    )
    yield "f32", lambda: torch.nn.functional.linear(inputs, weight)
    yield "f32", openvino_product(inputs.numpy(), weight.numpy())
    yield "bf16", lambda: torch.nn.functional.linear(*half)
    yield "int8", lambda: torch._int_mm(*eight)  # noqa: SLF001 - torch has no public one


def openvino_product(inputs: np.ndarray, weight: np.ndarray) -> Run:
    """Make the product in float32 through OpenVINO."""
    parameter = ov.opset13.parameter(inputs.shape, np.float32)
    product = ov.opset13.matmul(parameter, ov.opset13.constant(weight), False, True)
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(available_cpus()),
    }
    compiled = ov.Core().compile_model(ov.Model([product], [parameter]), "CPU", options)
    request = compiled.create_infer_request()
    request.infer([inputs], share_inputs=True)
    return request.infer


def runs_per_second(run: Run) -> float:
    """Return how often a second the fastest of a few tenths of a second ran it."""
    run()
    best = 0.0
    for _ in range(NUM_RUNS):
        num_runs = 0
        started_at = time.perf_counter()
        while time.perf_counter() - started_at < RUN_S:
            run()
            num_runs += 1
        best = max(best, num_runs / (time.perf_counter() - started_at))
    return best


if __name__ == "__main__":
    main()
