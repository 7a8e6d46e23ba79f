"""From values to places on a picture, and where an axis has its ticks. Pure arithmetic."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Above this ratio of largest to smallest, the small values of a linear axis cannot be told apart.
_LOG_RATIO = 20.0
_MANTISSAS = (1, 2, 5)
# With one tick alone nobody can tell how far apart two values are.
_FEWEST_TICKS = 2
# Six decimals would show less than two digits of what lies below.
_SMALLEST_PLAIN = 1e-4
_FIRST_WHOLE = 999.5


@dataclass(frozen=True, slots=True)
class Scale:
    """One axis: values `low` to `high` lie evenly, or by their logarithm, from start to end.

    ticks: values with their labels, ascending. start_px may lie beyond end_px: y grows downwards.
    """

    low: float
    high: float
    start_px: float
    end_px: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The place of `value`; what lies outside is drawn at the edge."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            fraction = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            fraction = (value - self.low) / (self.high - self.low)
        return self.start_px + fraction * (self.end_px - self.start_px)


def linear_scale(
    values: Iterable[float], start_px: float, end_px: float, *, max_ticks: int, min_step: float = 0
) -> Scale:
    """From 0 to a round number that no value exceeds; min_step: 1 where only whole values occur."""
    largest = max(values, default=0.0)
    step = max(_round_up(largest / max_ticks), min_step) if largest > 0 else 1.0
    num_steps = max(math.ceil(largest / step - 1e-9), 1)
    ticks = tuple((i * step, tick_label(i * step)) for i in range(num_steps + 1))
    return Scale(0.0, num_steps * step, start_px, end_px, ticks)


def log_scale(values: Iterable[float], start_px: float, end_px: float, *, max_ticks: int) -> Scale:
    """A little beyond the smallest and largest positive value, with ticks at 1, 2 and 5.

    max_ticks: 4 or more.
    """
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive) / 1.1, max(positive) * 1.1
    candidates = _log_ticks(low, high, _MANTISSAS)
    if len(candidates) > max_ticks:
        decades = _log_ticks(low, high, (1,))
        candidates = decades[:: -(-len(decades) // max_ticks)]
    if len(candidates) < _FEWEST_TICKS:
        candidates = _even_ticks(low, high, max_ticks)
    ticks = tuple((value, tick_label(value)) for value in candidates)
    return Scale(low, high, start_px, end_px, ticks, is_log=True)


def latency_scale(
    values: Sequence[float], start_px: float, end_px: float, *, max_ticks: int
) -> Scale:
    """Linear from 0, or logarithmic where that would press small values onto the axis."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > _LOG_RATIO:
        return log_scale(positive, start_px, end_px, max_ticks=max_ticks)
    return linear_scale(values, start_px, end_px, max_ticks=max_ticks)


def tick_label(value: float) -> str:
    """The shortest form people read: no trailing zeros, commas from 1,000."""
    if value != 0 and abs(value) < _SMALLEST_PLAIN:
        return f"{value:.3g}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def short_number(value: float) -> str:
    """Four digits where the value has a fraction worth it, whole numbers from 1,000."""
    return f"{value:,.0f}" if abs(value) >= _FIRST_WHOLE else f"{value:.4g}"


def _round_up(value: float) -> float:
    """The next of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    mantissa = next(m for m in (*_MANTISSAS, 10) if value <= m * power * (1 + 1e-9))
    return mantissa * power


def _log_ticks(low: float, high: float, mantissas: Sequence[int]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # Through text, since 3 * 10.0**-1 is not quite 0.3.
    values = (float(f"{mantissa}e{decade}") for decade in decades for mantissa in mantissas)
    return [value for value in values if low <= value <= high]


def _even_ticks(low: float, high: float, max_ticks: int) -> list[float]:
    """Round values between two that are close: a decade has too few of its own."""
    step = _round_up((high - low) / max_ticks)
    if math.floor(high / step) - math.ceil(low / step) + 1 < _FEWEST_TICKS:
        # The step is over half the span then, so half of it finds two to four multiples.
        step /= 2
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
