"""A histogram of durations that stays small however many it counts.

Buckets are log-linear: every power of two is cut into equal parts, by default 1,024, so a bucket is
narrower than a thousandth of its values and a percentile has three significant digits. Histograms
add up: those of several processes or rounds give exactly the histogram of all.
"""

import math
from collections import defaultdict

DEFAULT_PARTS = 1024
_MAX_COARSE_PARTS = 16
# A nanosecond: 0 has no power of two, and no clock here is finer.
_SMALLEST = 1e-9


class Histogram:
    """Counts of values of 0 or more, in any unit; mean and maximum are exact."""

    __slots__ = ("_counts", "_parts", "count", "maximum", "total")

    def __init__(self, parts: int = DEFAULT_PARTS) -> None:
        """Cut each power of two into `parts`: more is finer and takes more memory."""
        self._parts = parts
        self._counts: dict[int, int] = defaultdict(int)
        self.count = 0
        self.total = 0.0
        self.maximum = 0.0

    def add(self, value: float) -> None:
        """Count one value; a negative one, which a clock's granularity can make, counts as 0."""
        value = max(value, 0.0)
        # In [0.5, 1), so twice that times the parts is from once to twice the parts.
        mantissa, exponent = math.frexp(max(value, _SMALLEST))
        self._counts[exponent * self._parts + int(mantissa * 2 * self._parts)] += 1
        self.count += 1
        self.total += value
        self.maximum = max(self.maximum, value)

    def merge(self, other: "Histogram") -> None:
        """Count what `other`, of as many parts, counted as well."""
        assert self._parts == other._parts  # noqa: SLF001 - of our own kind
        for bucket, count in other._counts.items():  # noqa: SLF001 - the same
            self._counts[bucket] += count
        self.count += other.count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    @property
    def mean(self) -> float:
        """Their exact mean; 0 for none."""
        return self.total / self.count if self.count else 0.0

    @property
    def num_buckets(self) -> int:
        return len(self._counts)

    def percentile(self, percent: float) -> float:
        """Return the nearest-rank percentile, at most one part too high; percent: 0 to 100.

        It is the upper bound of the first bucket up to which at least `percent` percent of the
        values are, and never more than the maximum. 0 when nothing was counted.
        """
        # Rounded, since 0.999 x 1000 may come out a little above 999 in floating point.
        rank = max(math.ceil(round(percent * self.count / 100, 6)), 1)
        reached = 0
        for bucket in sorted(self._counts):
            reached += self._counts[bucket]
            if reached >= rank:
                return min(self._upper_bound(bucket), self.maximum)
        return 0.0

    def coarse_buckets(self) -> list[tuple[float, int]]:
        """Return upper bounds and counts, ascending, with at most 16 buckets a power of two."""
        width = self._parts // _MAX_COARSE_PARTS
        counts: dict[int, int] = defaultdict(int)
        for bucket, count in self._counts.items():
            counts[bucket // width] += count
        return [
            (min(self._upper_bound((bucket + 1) * width - 1), self.maximum), counts[bucket])
            for bucket in sorted(counts)
        ]

    def _upper_bound(self, bucket: int) -> float:
        """Give the first value beyond a bucket, whose number holds an exponent and a part."""
        exponent, part = divmod(bucket, self._parts)
        # The parts of a power of two begin at the next exponent's number.
        return math.ldexp((part + self._parts + 1) / (2 * self._parts), exponent - 1)
