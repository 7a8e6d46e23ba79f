"""From a float32 graph to one in 8 bit: every product known at every level, and plans of levels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beicli.builder.quantization.activations import Activations, Int32, observe
from beicli.builder.quantization.graph import (
    Level,
    Product,
    StaticProduct,
    find_products,
    products_by_source,
    quantize_graph,
)
from beicli.builder.quantization.plan import METHOD_LEVELS, Method, Plan, ProductErrors, plans
from beicli.builder.quantization.scales import (
    bias_of_static,
    choose_scale,
    dynamic_product,
    relative_error,
    static_product,
)
from beicli.errors import BuildError
from beicli.openvino_api import ov


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedNetwork:
    """A network whose products are known at every level of a method.

    graph: its float32 IR, which stays where it is and as it is. errors: of its products.
    static: what each product needs at the static level, by name.
    """

    graph: Path
    errors: tuple[ProductErrors, ...]
    static: Mapping[str, StaticProduct]

    def plans(self) -> list[Plan]:
        """Return the plans to try, loosest first; raises BuildError if there is none."""
        found = plans(self.errors)
        if not found:
            raise BuildError(
                "the network has no products of activations and weights to put into 8 bit",
                hint="build it with `quantization_type: no_quant`",
            )
        return found

    def write(self, plan: Plan, path: Path) -> None:
        """Write the IR of a plan to `path`, another than that of the float32 graph."""
        model = ov.Core().read_model(self.graph)
        quantize_graph(model, plan.levels, self.static)
        ov.save_model(model, path, compress_to_fp16=False)


def calibrate(
    graph: Path, samples: Sequence[Mapping[str, Int32]], method: Method
) -> CalibratedNetwork:
    """Observe the activations of `samples`, the graph's inputs, and choose every scale."""
    activations = observe(graph, samples)
    groups = products_by_source(find_products(ov.Core().read_model(graph)))
    calibrated = [
        found
        for source, group in groups.items()
        for found in _calibrate_group(group, activations[source], METHOD_LEVELS[method])
    ]
    return CalibratedNetwork(
        graph=graph,
        errors=tuple(errors for errors, _ in calibrated),
        static={errors.name: each for errors, each in calibrated if each is not None},
    )


def _calibrate_group(
    group: Sequence[Product], seen: Activations, levels: Sequence[Level]
) -> Iterator[tuple[ProductErrors, StaticProduct | None]]:
    """Calibrate the products of the same activations, which share a scale."""
    weights = [product.weight() for product in group]
    scale = None
    if Level.STATIC in levels:
        scale = choose_scale(seen.rows, seen.low, seen.high, np.concatenate(weights, axis=1))
    for product, weight in zip(group, weights, strict=True):
        wanted = seen.rows @ weight
        errors: dict[Level, float] = {}
        static = None
        if scale is not None:
            found = static_product(seen.rows, weight, scale)
            errors[Level.STATIC] = relative_error(wanted, found)
            static = StaticProduct(scale, bias_of_static(seen.rows, weight, scale))
        errors[Level.DYNAMIC] = relative_error(wanted, dynamic_product(seen.rows, weight))
        yield (
            ProductErrors(name=product.name, num_weights=weight.size, errors=errors),
            static,
        )
