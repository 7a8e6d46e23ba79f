"""The numbers of 8 bit products: how activations and weights are scaled, and what that costs.

Pure numpy. A product is Y = X W, with X [num_rows, in_features] and W [in_features, out_features].

Weights have a scale for each output. Activations have one scale for the whole tensor, which a few
channels with large numbers would waste. As in SmoothQuant a channel is divided by a power of its
range, and the weights that meet the channel are multiplied by it. Channels are also moved so that
their ranges lie around zero, as in Outlier Suppression+, and a bias gives back what that takes
away. Which power, and how much of the range is worth keeping, is tried out on rows that were seen.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int8 = NDArray[np.int8]

# Levels on each side of zero; activations also have -128.
MAX_LEVEL = 127
# Numbers of a token that share a scale where activations are scaled as they come. Measured on
# all-MiniLM-L6-v2: 32 is closer and a fifth slower, the whole token slower as well.
DYNAMIC_GROUP_SIZE = 128
# Powers of a channel's range by which it is divided: 0 leaves it alone, 1 makes all alike.
_MIGRATIONS = (0.0, 0.5, 0.65, 0.8, 0.9, 1.0)
# Shares of the range that are kept; what lies beyond is cut off.
_CLIPS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_SMALLEST = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class ActivationScale:
    """How activations become levels: round((x - shift) / channel / step).

    shift, channel: [in_features]. step: what one level stands for.
    """

    shift: Float32
    channel: Float32
    step: float

    def levels(self, rows: Float32) -> Float32:
        """Return the levels of `rows`, whole numbers from -128 to 127; [num_rows, in_features]."""
        scaled = (rows - self.shift) / (self.channel * np.float32(self.step))
        levels: Float32 = np.clip(np.rint(scaled), -MAX_LEVEL - 1, MAX_LEVEL)
        return levels


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """levels: [in_features, out_features]; scale: [1, out_features]."""

    levels: Int8
    scale: Float32

    @property
    def values(self) -> Float32:
        """The weights that the levels stand for."""
        return self.levels * self.scale


def quantize_weight(weight: Float32) -> QuantizedWeight:
    """Round each output's weights to 255 levels."""
    scale = np.maximum(np.abs(weight).max(axis=0, keepdims=True), _SMALLEST) / MAX_LEVEL
    levels = np.rint(weight / scale).astype(np.int8)
    return QuantizedWeight(levels, scale.astype(np.float32))


def choose_scale(rows: Float32, low: Float32, high: Float32, weight: Float32) -> ActivationScale:
    """Return the scale with the least error on `rows`, among shifts, powers and clips.

    rows: [num_rows, in_features], some of what was seen; low, high: [in_features], the range of all
    of it. weight: [in_features, out_features], of every product that takes these activations.
    """
    product = rows @ weight

    def error(scale: ActivationScale) -> float:
        return relative_error(product, static_product(rows, weight, scale))

    whole = [
        _whole_range(low, high, is_shifted=is_shifted, migration=migration)
        for is_shifted in (False, True)
        for migration in _MIGRATIONS
    ]
    best = min(whole, key=error)
    return min([best, *(replace(best, step=best.step * clip) for clip in _CLIPS)], key=error)


def static_product(rows: Float32, weight: Float32, scale: ActivationScale) -> Float32:
    """Compute `rows` x `weight` as an engine does with this scale; [num_rows, out_features]."""
    quantized = quantize_weight(weight * scale.channel[:, None])
    product: Float32 = scale.levels(rows) @ (quantized.values * np.float32(scale.step))
    product += scale.shift @ weight
    # The rounding of many small numbers adds up to a constant, which the bias takes out again.
    product += (rows @ weight - product).mean(axis=0)
    return product


def dynamic_product(rows: Float32, weight: Float32) -> Float32:
    """Compute `rows` x `weight` with a scale for each group of a row's numbers."""
    num_rows, num_features = rows.shape
    padding = -num_features % DYNAMIC_GROUP_SIZE
    groups = np.pad(rows, ((0, 0), (0, padding))).reshape(num_rows, -1, DYNAMIC_GROUP_SIZE)
    step = np.maximum(np.abs(groups).max(axis=-1, keepdims=True), _SMALLEST) / MAX_LEVEL
    rounded = (np.rint(groups / step) * step).reshape(num_rows, -1)[:, :num_features]
    product: Float32 = rounded.astype(np.float32) @ quantize_weight(weight).values
    return product


def bias_of_static(rows: Float32, weight: Float32, scale: ActivationScale) -> Float32:
    """Return what is added to the product of levels, for shift and mean error; [out_features]."""
    quantized = quantize_weight(weight * scale.channel[:, None])
    levels = scale.levels(rows) @ (quantized.values * np.float32(scale.step))
    bias: Float32 = (rows @ weight - levels).mean(axis=0)
    return bias


def relative_error(wanted: Float32, found: Float32) -> float:
    """Mean over the rows of the squared error in relation to the squared row, or the median row's.

    A few large rows do not hide what becomes of the others; and of rows that are next to nothing,
    as the values of tokens that attention rests on, only what others notice counts.
    """
    size = (wanted * wanted).sum(axis=1)
    size = np.maximum(size, max(float(np.median(size)), _SMALLEST))
    difference = found - wanted
    return float(((difference * difference).sum(axis=1) / size).mean())


def _whole_range(
    low: Float32, high: Float32, *, is_shifted: bool, migration: float
) -> ActivationScale:
    shift = (low + high) / 2 if is_shifted else np.zeros_like(low)
    half = np.maximum(np.maximum(high - shift, shift - low), _SMALLEST)
    channel = half**migration
    # Only the ratios between channels matter; around 1 they neither overflow nor vanish.
    channel = channel / np.exp(np.log(channel).mean())
    return ActivationScale(
        shift.astype(np.float32),
        channel.astype(np.float32),
        float((half / channel).max()) / MAX_LEVEL,
    )
