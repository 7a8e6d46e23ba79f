"""The one seam between the server and whatever computes: a compiled model behind `forward`."""

from typing import Protocol

from beicli.engine.batch import Batch, EngineOutput


class Engine(Protocol):
    """A loaded engine. Fakes plug in here.

    num_slots: how many `forward` calls may run at the same time.
    preferred_num_tokens: padded tokens in a batch past which throughput stops growing.
    """

    @property
    def num_slots(self) -> int: ...

    @property
    def preferred_num_tokens(self) -> int: ...

    def padded_length(self, num_tokens: int) -> int:
        """Return to what length a batch is padded whose longest sequence has `num_tokens`.

        Never less than those, and never beyond what one input may have.
        """
        ...

    def forward(self, batch: Batch) -> EngineOutput:
        """Run one batch to its end; called from up to `num_slots` threads at once.

        The batch is already within the engine's limits. Raises whatever the runtime raises.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; no `forward` may be running or follow."""
        ...
