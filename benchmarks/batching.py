"""How much of what a batch computes is real: a simulation of the queue under closed loops.

No model and no clock: a batch takes the time its cost says, padded tokens plus an overhead, which
the scheduler's model of costs learns by and by. Prints one JSON line: for each load the share of
real tokens (`density`), the share of the engine's time that real tokens take (`utilisation`) and
sequences in a batch.
"""

import argparse
import heapq
import itertools
import json
import random
from dataclasses import dataclass, field

from beicli.scheduler.cost import CostModel, Workload
from beicli.scheduler.queue import BatchLimits, SequenceQueue

NUM_SLOTS = 2
# Tokens of time a batch takes beside its own; measured 15 for the forward pass alone.
TRUE_OVERHEAD_NUM_TOKENS = 24
TOKEN_S = 1e-4
LIMITS = BatchLimits(max_num_tokens=8192, max_batch_size=256, preferred_num_tokens=1024)


@dataclass(eq=False)
class Request:
    """One client's request; the client sends the next when all its rows are back."""

    num_missing: int


@dataclass(frozen=True, eq=False)
class Entry:
    """One sequence of a request."""

    request: Request
    num_tokens: int
    cancelled: bool = False
    latest_start_at: float = float("inf")


@dataclass
class Totals:
    """What happened in a simulation."""

    now: float = 0.0
    num_batches: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    num_padded_tokens: int = 0
    running: list[tuple[float, int, list[Entry]]] = field(default_factory=list)


def main() -> None:
    """Simulate each load and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=20_000)
    num_sequences = parser.parse_args().sequences
    loads = {"8x32": (8, 32), "64x1": (64, 1), "2x128": (2, 128), "512x1": (512, 1)}
    print(json.dumps({name: simulate(*load, num_sequences) for name, load in loads.items()}))


def simulate(num_clients: int, batch_size: int, num_sequences: int) -> dict[str, float]:
    """Run a closed loop of clients until `num_sequences` are done."""
    source = random.Random(0)  # noqa: S311 - a fixed sequence is the point
    queue: SequenceQueue[Entry] = SequenceQueue(LIMITS)
    totals, costs = Totals(), CostModel()
    tie_breaker = itertools.count()

    def send() -> None:
        request = Request(batch_size)
        queue.push(Entry(request, draw_length(source)) for _ in range(batch_size))

    for _ in range(num_clients):
        send()
    while totals.num_sequences < num_sequences:
        while len(totals.running) < NUM_SLOTS:
            batch = queue.take_batch(num_free_slots=NUM_SLOTS - len(totals.running))
            if not batch:
                break
            start(batch, totals, next(tie_breaker))
        totals.now, _, finished = heapq.heappop(totals.running)
        work = Workload.of_batch([entry.num_tokens for entry in finished])
        costs.observe(work, (work.num_tokens + TRUE_OVERHEAD_NUM_TOKENS) * TOKEN_S)
        queue.cost = costs.cost
        for entry in finished:
            entry.request.num_missing -= 1
            if entry.request.num_missing == 0:
                send()
    return {
        "density": round(totals.num_tokens / totals.num_padded_tokens, 3),
        "utilisation": round(totals.num_tokens / (totals.now * NUM_SLOTS), 3),
        "sequences_per_batch": round(totals.num_sequences / totals.num_batches, 1),
    }


def start(batch: list[Entry], totals: Totals, number: int) -> None:
    """Account for a batch and put it where the running ones are."""
    padded = max(entry.num_tokens for entry in batch) * len(batch)
    totals.num_batches += 1
    totals.num_sequences += len(batch)
    totals.num_tokens += sum(entry.num_tokens for entry in batch)
    totals.num_padded_tokens += padded
    ends_at = totals.now + padded + TRUE_OVERHEAD_NUM_TOKENS
    heapq.heappush(totals.running, (ends_at, number, batch))


def draw_length(source: random.Random) -> int:
    """8 to 238 tokens, most of them short: the distribution of `serving.py`'s texts."""
    return round(8 * (238 / 8) ** source.random())


if __name__ == "__main__":
    main()
