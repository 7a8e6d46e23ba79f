"""Which products of a network are computed in 8 bit: the loosest plan that the gate passes.

Each product's error is known from calibration, at each level. A tolerance makes a plan: every
product takes the fastest level whose error is within it. One number is left to search, by halving:
the largest tolerance with which the whole engine passes the gate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from beicli.artifact.report import AccuracyReport
from beicli.builder.quantization.graph import Level

Method = Literal["weights_int8", "smooth_quant"]
# The levels of each method, fastest first.
METHOD_LEVELS: Mapping[Method, tuple[Level, ...]] = {
    "weights_int8": (Level.DYNAMIC,),
    "smooth_quant": (Level.STATIC, Level.DYNAMIC),
}
# With less in 8 bit than this the name would promise more than the engine keeps.
MIN_QUANTIZED_FRACTION = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductErrors:
    """A product, and its relative squared error at each level of the method."""

    name: str
    num_weights: int
    errors: Mapping[Level, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The level of each product, by name, and the share of the multiplications in 8 bit."""

    levels: Mapping[str, Level]
    quantized_fraction: float

    def names(self, level: Level) -> tuple[str, ...]:
        """Return the products at `level`, in the graph's order."""
        return tuple(name for name, chosen in self.levels.items() if chosen is level)


@dataclass(frozen=True, slots=True)
class Found:
    """The plan that was taken, what the gate says of it, and how many were tried."""

    plan: Plan
    report: AccuracyReport
    num_tried: int


def plans(
    products: Sequence[ProductErrors], *, min_fraction: float = MIN_QUANTIZED_FRACTION
) -> list[Plan]:
    """Return every plan that some tolerance makes, loosest first.

    min_fraction: of the multiplications that must be quantised for a plan to be worth its name.
    """
    tolerances = sorted({error for each in products for error in each.errors.values()})
    found: list[Plan] = []
    for tolerance in reversed(tolerances):
        plan = _plan(products, tolerance)
        if plan.quantized_fraction < min_fraction:
            break
        if not found or plan != found[-1]:
            found.append(plan)
    return found


def search(candidates: Sequence[Plan], evaluate: Callable[[Plan], AccuracyReport]) -> Found:
    """Return the loosest of `candidates`, loosest first, whose report passes; else the tightest.

    It is taken for granted that what is tighter than a plan that passes passes as well.
    """
    reports: dict[int, AccuracyReport] = {}

    def passes(number: int) -> bool:
        reports[number] = evaluate(candidates[number])
        return reports[number].passed

    low, high = 0, len(candidates) - 1
    # Most networks take the loosest, so it is tried before anything is halved.
    if passes(low):
        return Found(candidates[low], reports[low], len(reports))
    if high == 0 or not passes(high):
        return Found(candidates[high], reports[high], len(reports))
    while high - low > 1:
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle
    return Found(candidates[high], reports[high], len(reports))


def _plan(products: Sequence[ProductErrors], tolerance: float) -> Plan:
    levels = {
        each.name: next(
            (level for level, error in each.errors.items() if error <= tolerance), Level.KEPT
        )
        for each in products
    }
    total = sum(each.num_weights for each in products)
    in_8_bit = sum(each.num_weights for each in products if levels[each.name] is not Level.KEPT)
    return Plan(levels=levels, quantized_fraction=in_8_bit / total if total else 0.0)
