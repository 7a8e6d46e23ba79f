"""What an engine directory says of the GPU it is for: part of the manifest."""

from dataclasses import dataclass
from typing import Literal

# Where the graph of a TensorRT engine lies; its weights may lie beside it.
TENSORRT_GRAPH = "tensorrt/model.onnx"
# Where plans are kept that were compiled of it. They come and go, so the manifest names none.
PLANS_DIRECTORY = "tensorrt/plans"

# `tensorrt` compiles on the GPU that serves; `tensorrt-rtx` also without one.
Flavor = Literal["tensorrt", "tensorrt-rtx"]
# `padded`: every tensor is [batch, length]. `hybrid`: tokens lie end to end, and are padded inside
# attention only.
Layout = Literal["padded", "hybrid"]
# `none`: a plan is for the very GPU model it was compiled on. `same_compute_capability`: for all
# GPUs of that number, such as H100 and H200, and somewhat slower.
HardwareCompatibility = Literal["none", "same_compute_capability"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The size of a padded batch: sequences, and tokens of each."""

    num_sequences: int
    length: int

    @property
    def num_tokens(self) -> int:
        """Tokens, padding included."""
        return self.num_sequences * self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A range of batches that a plan is compiled for; fastest at the optimum."""

    minimum: Dimensions
    optimum: Dimensions
    maximum: Dimensions

    def admits(self, num_sequences: int, length: int) -> bool:
        """Whether a padded batch of that size lies within."""
        return (
            self.minimum.num_sequences <= num_sequences <= self.maximum.num_sequences
            and self.minimum.length <= length <= self.maximum.length
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTarget:
    """What a TensorRT engine is compiled for.

    sm: the GPU's compute capability without the point, 90 for 9.0; None: that of the GPU which
        serves. profiles: smallest first.
    """

    sm: int | None
    layout: Layout
    hardware_compatibility: HardwareCompatibility
    profiles: tuple[Profile, ...]
