"""What the activations of a network look like: their ranges, and some of their rows."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from beicli.builder.quantization.graph import (
    ActivationSource,
    find_products,
    products_by_source,
    source_output,
)
from beicli.builder.quantization.scales import Float32
from beicli.openvino_api import ov

Int32 = NDArray[np.int32]
Place = TypeVar("Place", bound=Hashable)
# Enough to tell scales apart, few enough to try each of them on.
_NUM_ROWS = 768
_MIN_ROWS_OF_SAMPLE = 2


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Activations at one place of the network.

    rows: [num_rows, features], of some tokens; low, high: [features], the range over all tokens.
    """

    rows: Float32
    low: Float32
    high: Float32

    @property
    def amax(self) -> float:
        """The largest number, whatever its sign."""
        return float(max(self.high.max(), -self.low.min()))


def observe(
    model_path: Path, samples: Sequence[Mapping[str, Int32]]
) -> dict[ActivationSource, Activations]:
    """Run `samples` in float32 and return the activations of every product with weights.

    samples: inputs of the network by name, each [1, num_tokens].
    """
    model = ov.Core().read_model(model_path)
    products = products_by_source(find_products(model))
    num_outputs = len(model.outputs)
    model.add_outputs([source_output(group[0]) for group in products.values()])
    return _collect(model, num_outputs, list(products), samples)


def observe_values(
    graph_path: Path, names: Sequence[str], samples: Sequence[Mapping[str, Int32]]
) -> dict[str, Activations]:
    """Do the same with values of an ONNX graph in float32, by their names."""
    model = ov.Core().read_model(graph_path)
    num_outputs = len(model.outputs)
    model.add_outputs(list(names))
    return _collect(model, num_outputs, list(names), samples)


def _collect(
    model: ov.Model,
    num_outputs: int,
    places: Sequence[Place],
    samples: Sequence[Mapping[str, Int32]],
) -> dict[Place, Activations]:
    """Run the samples and look at the outputs after the first `num_outputs`, one for each place."""
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    collected = {place: _Collected() for place in places}
    choice = np.random.default_rng(0)
    num_rows = max(-(-_NUM_ROWS // len(samples)), _MIN_ROWS_OF_SAMPLE)
    for sample in samples:
        outputs = request.infer(dict(sample), share_inputs=True, share_outputs=True)
        for output, place in zip(compiled.outputs[num_outputs:], collected.values(), strict=True):
            values = outputs[output]
            place.add(values.reshape(-1, values.shape[-1]), num_rows, choice)
    return {source: place.finish() for source, place in collected.items()}


class _Collected:
    """Activations at one place while samples run; owned by `observe`."""

    def __init__(self) -> None:
        self._rows: list[Float32] = []
        self._low: Float32 | None = None
        self._high: Float32 | None = None

    def add(self, rows: Float32, num_rows: int, choice: np.random.Generator) -> None:
        # The first and the last token are special ones, whose activations are like no others'.
        some = choice.integers(0, len(rows), num_rows)
        kept = np.unique([0, len(rows) - 1, *some])
        self._rows.append(rows[kept].astype(np.float32))
        low, high = rows.min(axis=0), rows.max(axis=0)
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)

    def finish(self) -> Activations:
        assert self._low is not None, "there is a sample"
        assert self._high is not None, "there is a sample"
        return Activations(np.concatenate(self._rows), self._low, self._high)
