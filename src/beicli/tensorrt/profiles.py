"""The ranges of batch sizes that a plan is compiled for, from the token budget.

TensorRT reserves memory for the largest batch of a profile, a rectangle of sequences and tokens,
while the budget is a product. One profile for everything would be `max_batch_size` sequences of
`max_input_length` tokens each, far more than the budget ever holds. So lengths are divided into a
few ranges, each with as many sequences as the budget has room for. Every profile costs compile
time and size of the plan; 2 to 4 are enough.
"""

from collections.abc import Mapping

from beicli.artifact.gpu import Dimensions, Profile
from beicli.artifact.manifest import Limits, TensorInfo

__all__ = ["Dimensions", "Profile", "Shape", "choose_profiles", "input_shape", "input_shapes"]

# The smallest profile: single queries and small batches of them, bound by launching kernels.
_SMALL = Dimensions(num_sequences=8, length=64)
# The longest inputs of the first larger profile.
_FIRST_LENGTH = 128
# Above it there is one range more.
_LONG_LENGTH = 2048
# A rectangle holds this many times the budget, so that a batch whose length is well below that of
# its profile can still fill the budget.
_OVERSHOOT = 2

Shape = tuple[int, ...]


def choose_profiles(limits: Limits) -> tuple[Profile, ...]:
    """Return 2 to 4 profiles, smallest first; the last admits one input of the greatest length."""
    lengths = _range_ends(limits.max_input_length)
    small = Dimensions(
        num_sequences=min(_SMALL.num_sequences, limits.max_batch_size),
        length=min(_SMALL.length, limits.max_input_length),
    )
    one = Dimensions(num_sequences=1, length=1)
    typical = Dimensions(num_sequences=1, length=max(small.length // 2, 1))
    profiles = [Profile(minimum=one, optimum=typical, maximum=small)]
    for length in lengths:
        budget = limits.max_num_tokens // length
        profiles.append(
            Profile(
                minimum=one,
                optimum=_dimensions(budget, length, limits),
                maximum=_dimensions(_OVERSHOOT * budget, length, limits),
            )
        )
    return tuple(profiles)


def _dimensions(num_sequences: int, length: int, limits: Limits) -> Dimensions:
    return Dimensions(
        num_sequences=max(min(num_sequences, limits.max_batch_size), 1), length=length
    )


def _range_ends(max_length: int) -> list[int]:
    """Return the greatest length of each range: equal steps of a ratio, in multiples of 8."""
    if max_length <= _FIRST_LENGTH:
        return [max_length]
    num_steps = 1 if max_length <= _LONG_LENGTH else 2
    ratio = max_length / _FIRST_LENGTH
    ends = [_FIRST_LENGTH * ratio ** (number / num_steps) for number in range(num_steps)]
    return [*(-(-int(end) // 8) * 8 for end in ends), max_length]


def input_shapes(
    inputs: tuple[TensorInfo, ...], profile: Profile
) -> Mapping[str, tuple[Shape, Shape, Shape]]:
    """Return the smallest, best and largest shape of each input, by name."""
    return {
        each.name: (
            input_shape(each, profile.minimum),
            input_shape(each, profile.optimum),
            input_shape(each, profile.maximum),
        )
        for each in inputs
    }


def input_shape(tensor: TensorInfo, dimensions: Dimensions, num_tokens: int | None = None) -> Shape:
    """Return the shape of an input for a batch.

    num_tokens: of an input that is not padded; None counts the padding too.
    """
    sizes = {
        "batch": dimensions.num_sequences,
        "length": dimensions.length,
        "tokens": dimensions.num_tokens if num_tokens is None else num_tokens,
    }
    return tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)
