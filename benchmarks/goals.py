"""What the comparison with peers is to show: ratios, and shares of the machine's ceiling.

Rates in, figures out; nothing here measures.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contenders import BATCHES, IN_PROCESS, SINGLES, Contender

# Texts/s of a contender under a load, one a round; GFLOP/s of a precision for `gemm`.
Rates = Mapping[tuple[str, str], Sequence[float]]
# Over HTTP beside sentence-transformers in torch, and beside Infinity, by what we compute in.
OVER_REFERENCE: Mapping[str, Mapping[str, float]] = {
    "bf16": {"st-f32": 6.5, "st-bf16": 2.3},
    "int8": {"st-f32": 9.0, "st-bf16": 3.2},
}
OVER_INFINITY: Mapping[str, Mapping[str, float]] = {"bf16": {BATCHES: 3.0}, "int8": {SINGLES: 5.0}}
OF_IN_PROCESS = 0.95
OF_CEILING = 0.75


@dataclass(frozen=True)
class Share:
    """What a contender made of the machine: the median, and its share of the best product.

    of_ceiling: None if the products were not measured.
    """

    contender: str
    load: str
    gflops: float
    of_ceiling: float | None


@dataclass(frozen=True)
class Ratio:
    """A ratio beside what is wanted of it: the median over the rounds, and each of them."""

    label: str
    measured: float
    wanted: float
    holds: bool
    by_round: tuple[float, ...]


def model_gflop(checkpoint: Path, lengths: Sequence[int]) -> float:
    """Return the mean GFLOP of a BERT's matrix products for texts of these lengths in tokens.

    Each layer has four products of hidden by hidden, two of hidden by intermediate, and two of
    every pair of tokens. Padding does not count: it is work, but nobody asked for it.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    per_token = 2 * (4 * hidden**2 + 2 * hidden * intermediate)
    total = sum((per_token + 4 * length * hidden) * length for length in lengths)
    return float(config["num_hidden_layers"] * total / len(lengths) / 1e9)


def shares_of_ceiling(
    rates: Rates, contenders: Sequence[Contender], gflop_per_text: float
) -> list[Share]:
    """Return GFLOP/s of all who embedded the whole texts, and what part of their ceiling it is.

    The ceiling is the best product in the precision that the contender computes in.
    """
    precisions = {each.name: each.precision for each in contenders}
    shares = []
    for (name, load), each in rates.items():
        precision = precisions[name]
        if precision is None or load == SINGLES:
            continue
        ceiling = rates.get(("gemm", precision))
        parts = None
        if ceiling is not None:
            parts = [rate * gflop_per_text / most for rate, most in zip(each, ceiling, strict=True)]
        shares.append(
            Share(
                contender=name,
                load=load,
                gflops=round(statistics.median(each) * gflop_per_text, 1),
                of_ceiling=None if parts is None else round(statistics.median(parts), 3),
            )
        )
    return shares


def ratios_to_goals(
    rates: Rates, contenders: Sequence[Contender], gflop_per_text: float
) -> list[Ratio]:
    """Return the ratios of ours to others for which both were measured."""
    ours = [each for each in contenders if each.name.startswith("bei-")]
    return [ratio for each in ours for ratio in _ratios_of(each, rates, gflop_per_text)]


def _ratios_of(ours: Contender, rates: Rates, gflop_per_text: float) -> Iterator[Ratio]:
    precision = str(ours.precision)
    batches = rates.get((ours.name, BATCHES))
    alone = rates.get((ours.name.removesuffix("-replicas"), IN_PROCESS))
    for peer, wanted in OVER_REFERENCE.get(precision, {}).items():
        reference = rates.get((peer, IN_PROCESS))
        yield from _ratio(f"{ours.name} {BATCHES} / {peer}", batches, reference, wanted)
    for load, wanted in OVER_INFINITY.get(precision, {}).items():
        best = _best_of("infinity", load, rates)
        label = f"{ours.name} {load} / Infinity's best"
        yield from _ratio(label, rates.get((ours.name, load)), best, wanted)
    yield from _ratio(f"{ours.name} {BATCHES} / {IN_PROCESS}", batches, alone, OF_IN_PROCESS)
    if precision == "bf16":
        ceiling = rates.get(("gemm", precision))
        # Texts/s that the best product would be: a model that is nothing but products.
        texts = None if ceiling is None else [most / gflop_per_text for most in ceiling]
        label = f"{ours.name} {BATCHES} / best bf16 product"
        yield from _ratio(label, batches, texts, OF_CEILING)


def _best_of(family: str, load: str, rates: Rates) -> list[float] | None:
    """Return the figures of the one whose median is the highest under this load."""
    candidates = [
        list(each) for (name, at), each in rates.items() if name.startswith(family) and at == load
    ]
    return max(candidates, key=statistics.median, default=None)


def _ratio(
    label: str, over: Sequence[float] | None, under: Sequence[float] | None, wanted: float
) -> Iterator[Ratio]:
    """Yield the ratio if both sides were measured."""
    if over is None or under is None:
        return
    by_round = tuple(round(a / b, 3) for a, b in zip(over, under, strict=True))
    measured = statistics.median(by_round)
    yield Ratio(label, measured, wanted, measured >= wanted, by_round)
