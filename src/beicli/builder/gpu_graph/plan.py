"""Which products of a graph a GPU computes in FP8 or FP4: what each costs, and plans of them.

Every eligible product is tried on rows that were observed. The plans leave out one product after
another, the one with the largest error first, and the gate says which of them is good enough. The
first and the last layer need no rule of their own: if they are fragile, their error says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from beicli.builder.gpu_graph.linears import Linear, find_linears, weight_of
from beicli.builder.gpu_graph.number_formats import (
    BLOCK_SIZE,
    Float32,
    emulate_fp4,
    emulate_fp8,
    fp4_global_scale,
    fp8_scale,
    quantize_fp4,
    quantize_fp8,
)
from beicli.builder.gpu_graph.prepare import load_prepared
from beicli.builder.gpu_graph.quantize import LowPrecision, QuantizedLinear
from beicli.builder.quantization.activations import Activations, Int32, observe_values
from beicli.builder.quantization.graph import Level
from beicli.builder.quantization.plan import Plan, ProductErrors, plans
from beicli.builder.quantization.scales import relative_error
from beicli.config.schema import QuantizationType
from beicli.errors import BuildError

GpuMethod = Literal["fp8", "fp8_mlp_only", "fp4", "fp4_mlp_only"]

# Nothing here has a cache of keys and values, so what is said of its type changes nothing.
GPU_METHODS: Mapping[QuantizationType, GpuMethod] = {
    QuantizationType.FP8: "fp8",
    QuantizationType.FP8_KV: "fp8",
    QuantizationType.FP8_MLP_ONLY: "fp8_mlp_only",
    QuantizationType.FP4: "fp4",
    QuantizationType.FP4_KV: "fp4",
    QuantizationType.FP4_MLP_ONLY: "fp4_mlp_only",
}
METHOD_PRECISIONS: Mapping[GpuMethod, LowPrecision] = {
    "fp8": "fp8",
    "fp8_mlp_only": "fp8",
    "fp4": "fp4",
    "fp4_mlp_only": "fp4",
}
# FP8 has one scale for all activations; FP4 has blocks, which are scaled as they come.
PRECISION_LEVELS: Mapping[LowPrecision, Level] = {"fp8": Level.STATIC, "fp4": Level.DYNAMIC}
# On GPUs what is left in 16 bit is fast as well, and the limits are above those of 8 bit on CPUs.
_MIN_FRACTION = 0.2
MLP_ONLY: frozenset[GpuMethod] = frozenset({"fp8_mlp_only", "fp4_mlp_only"})
# Kernels of 8 and 4 bit read 16 numbers at once; that others are computed is not to be relied on.
_ALIGNMENT = BLOCK_SIZE
# Of activations, that every product is tried on: enough to tell products apart.
_NUM_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedGraph:
    """A graph whose products are known in the precision of a method.

    linears: all of them. amax: the largest number of each activation, by name of the value.
    errors: of the products that the method is for, in the graph's order.
    """

    method: GpuMethod
    linears: tuple[Linear, ...]
    amax: Mapping[str, float]
    errors: tuple[ProductErrors, ...]

    def plans(self) -> list[Plan]:
        """Return the plans to try, loosest first: down to a fifth of what the method is for.

        Raises BuildError if it is for nothing here.
        """
        found = plans(self.errors, min_fraction=_MIN_FRACTION)
        if not found:
            raise BuildError(
                f"none of the {len(self.linears):,} products of tokens and weights is one that "
                f"`{self.method}` is for, of sizes that are multiples of {_ALIGNMENT}",
                hint="build it with `quantization_type: no_quant`",
            )
        return [self._whole(plan) for plan in found]

    def quantized(self, plan: Plan) -> dict[str, QuantizedLinear]:
        """Return what `quantize` is to do for a plan, by the name of the product."""
        precision = METHOD_PRECISIONS[self.method]
        return {
            linear.name: QuantizedLinear(
                linear=linear, precision=precision, amax=self.amax[linear.activation]
            )
            for linear in self.linears
            if plan.levels[linear.name] is not Level.KEPT
        }

    def _whole(self, plan: Plan) -> Plan:
        """Return a plan that has the products as well that the method leaves alone."""
        levels = {linear.name: plan.levels.get(linear.name, Level.KEPT) for linear in self.linears}
        total = sum(linear.num_weights for linear in self.linears)
        quantized = sum(
            linear.num_weights for linear in self.linears if levels[linear.name] is not Level.KEPT
        )
        return replace(plan, levels=levels, quantized_fraction=quantized / total)


def calibrate(
    exported: Path, samples: Sequence[Mapping[str, Int32]], method: GpuMethod
) -> CalibratedGraph:
    """Observe the activations of `samples` in an exported float32 graph, and try each product.

    samples: inputs of the graph by name, each [1, num_tokens].
    """
    model = load_prepared(exported)
    linears = find_linears(model)
    eligible = [linear for linear in linears if _is_eligible(linear, method)]
    if not eligible:
        return CalibratedGraph(method=method, linears=linears, amax={}, errors=())
    # Products of the same activation see it once.
    names = list(dict.fromkeys(linear.activation for linear in eligible))
    seen = observe_values(exported, names, samples)
    level = PRECISION_LEVELS[METHOD_PRECISIONS[method]]
    trials = {name: Trial.of(activations, method) for name, activations in seen.items()}
    errors = tuple(
        ProductErrors(
            name=linear.name,
            num_weights=linear.num_weights,
            errors={level: trials[linear.activation].error(weight_of(model, linear))},
        )
        for linear in eligible
    )
    amax = {name: activations.amax for name, activations in seen.items()}
    return CalibratedGraph(method=method, linears=linears, amax=amax, errors=errors)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Some rows of activations, [num_rows, in_features], and what a precision leaves of them."""

    precision: LowPrecision
    exact: Float32
    rows: Float32

    @staticmethod
    def of(seen: Activations, method: GpuMethod) -> "Trial":
        """Choose the rows; whoever multiplies them with weights does it with few."""
        rows = seen.rows
        if len(rows) > _NUM_ROWS:
            rows = np.random.default_rng(0).choice(rows, _NUM_ROWS, replace=False)
        precision = METHOD_PRECISIONS[method]
        if precision == "fp8":
            return Trial(precision, rows, emulate_fp8(rows, fp8_scale(seen.amax)))
        return Trial(precision, rows, emulate_fp4(rows, fp4_global_scale(seen.amax)))

    def error(self, weight: Float32) -> float:
        """Return the relative squared error of a product; weight: [in_features, out_features]."""
        quantize = quantize_fp8 if self.precision == "fp8" else quantize_fp4
        return relative_error(self.exact @ weight, self.rows @ quantize(weight).values)


def _is_eligible(linear: Linear, method: GpuMethod) -> bool:
    is_aligned = not (linear.in_features % _ALIGNMENT or linear.out_features % _ALIGNMENT)
    return is_aligned and (linear.is_mlp or method not in MLP_ONLY)
