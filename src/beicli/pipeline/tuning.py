"""Finds how an engine is fastest on this machine: slots, threads and the size of a batch.

Two questions, one after the other: how the CPUs are shared among slots, with batches of the usual
size, and then where batches are cut. The candidates of a question are measured in turn, round after
round, because the speed of a shared machine drifts; each has the best of its rounds.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Precision, Tuning
from beicli.datasets import bundled_dataset
from beicli.engine.batch import Batch, TokenSequence
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions
from beicli.machine import available_cpus, this_machine
from beicli.model.spec import Task
from beicli.pipeline.loaded_engine import open_tokenizer

# Padded tokens of a batch that are tried; the first is where most engines stop growing.
_BATCH_SIZES = (1024, 512, 2048, 4096)
# Within this a difference is noise, and the candidate that answers sooner is the better one.
_SAME_SPEED = 0.98
_NUM_ROUNDS = 3
# A pass over the texts takes about as long: many texts for a small model, few for a large one.
_PASS_S = 0.5
_MAX_NUM_COPIES = 64

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class _Setting:
    """What is measured: a precision, a way to share the CPUs, and where batches are cut."""

    precision: Precision
    num_slots: int
    num_threads: int
    preferred_num_tokens: int


@dataclass(frozen=True, slots=True)
class _Workload:
    """Sequences of many lengths, and whether the output of every token is wanted of them."""

    sequences: tuple[TokenSequence, ...]
    needs_tokens: bool

    def batches(self, preferred_num_tokens: int) -> list[Batch]:
        return [
            Batch.from_sequences(group, needs_tokens=self.needs_tokens)
            for group in cut(self.sequences, preferred_num_tokens)
        ]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.sequences))


def tune(
    artifact: EngineArtifact, precisions: Sequence[Precision] = ()
) -> tuple[Precision, Tuning]:
    """Measure an engine directory on this machine; takes about half a minute.

    precisions: those to choose from, the preferred one first; none to keep the engine's own.
    """
    machine = this_machine()
    manifest = artifact.manifest
    workload = _sized_workload(artifact)
    limit = manifest.limits.max_num_tokens
    usual = _Setting(manifest.precision, 1, machine.num_cpus, min(_BATCH_SIZES[0], limit))
    best = choose(
        _measure(
            artifact,
            workload,
            [replace(usual, num_slots=count) for count in slot_counts(machine.num_cpus)],
        )
    )
    if len(precisions) > 1:
        others = [replace(best, precision=precision) for precision in precisions]
        best = choose(_measure(artifact, workload, others))
    sizes = sorted({min(size, limit) for size in _BATCH_SIZES})
    rates = _measure(
        artifact, workload, [replace(best, preferred_num_tokens=size) for size in sizes]
    )
    best = choose(rates)
    return best.precision, Tuning(
        machine=machine,
        num_slots=best.num_slots,
        num_threads=best.num_threads,
        preferred_num_tokens=best.preferred_num_tokens,
        tokens_per_second=round(rates[best], 1),
    )


def slot_counts(num_cpus: int) -> list[int]:
    """Return how many slots the CPUs may be shared among, those first that answer a lone text soon.

    From one slot with all threads to a slot for each thread, each twice as many as the last.
    """
    counts = []
    count = 1
    while count < num_cpus:
        counts.append(count)
        count *= 2
    return [*counts, num_cpus]


def choose(rates: Mapping[C, float]) -> C:
    """Return the first candidate that is about as fast as the fastest."""
    fastest = max(rates.values())
    return next(each for each, rate in rates.items() if rate >= _SAME_SPEED * fastest)


def cut(
    sequences: Sequence[TokenSequence], preferred_num_tokens: int
) -> Iterator[list[TokenSequence]]:
    """Sort by length and cut where a batch would have more padded tokens than that."""
    batch: list[TokenSequence] = []
    for sequence in sorted(sequences, key=len):
        if batch and len(sequence) * (len(batch) + 1) > preferred_num_tokens:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def _sized_workload(artifact: EngineArtifact) -> _Workload:
    """Take as many texts as the engine computes in half a second, or the bundled ones once."""
    manifest = artifact.manifest
    tokenizer = open_tokenizer(artifact.path, manifest)
    sequences = [each.sequence for each in tokenizer.encode(bundled_dataset().texts)]
    once = _Workload(tuple(sequences), manifest.model.task is Task.TOKEN_CLASSIFICATION)
    num_tokens = min(_BATCH_SIZES[0], manifest.limits.max_num_tokens)
    setting = _Setting(manifest.precision, 1, available_cpus(), num_tokens)
    rate = _measure(artifact, once, [setting], num_rounds=1)[setting]
    copies = max(min(round(_PASS_S * rate / once.num_tokens), _MAX_NUM_COPIES), 1)
    return replace(once, sequences=once.sequences * copies)


def _measure(
    artifact: EngineArtifact,
    workload: _Workload,
    settings: Sequence[_Setting],
    *,
    num_rounds: int = _NUM_ROUNDS,
) -> dict[_Setting, float]:
    """Return tokens/s of each setting, without padding, in the order of `settings`."""
    rates = dict.fromkeys(settings, 0.0)
    for _ in range(num_rounds):
        for setting in settings:
            rates[setting] = max(rates[setting], _rate(artifact, workload, setting))
    return rates


def _rate(artifact: EngineArtifact, workload: _Workload, setting: _Setting) -> float:
    """Load the engine, run every batch once for the memory it takes, and once for the time."""
    manifest = replace(artifact.manifest, precision=setting.precision)
    options = EngineOptions(num_slots=setting.num_slots, num_threads=setting.num_threads)
    engine = load_engine(replace(artifact, manifest=manifest), options)
    batches = workload.batches(setting.preferred_num_tokens)
    try:
        with ThreadPoolExecutor(engine.num_slots) as slots:
            list(slots.map(engine.forward, batches))
            started_at = time.perf_counter()
            list(slots.map(engine.forward, batches))
            return workload.num_tokens / (time.perf_counter() - started_at)
    finally:
        engine.close()
