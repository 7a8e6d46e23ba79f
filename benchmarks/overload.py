"""Whether a server that is offered twice what it can do still does what it can.

First one bulk request of 32 texts after the other, alone: the unloaded time. Then clients in a
closed loop, of single texts and of bulk: the peak. Then twice the rates of the peak, by the clock,
whether or not anything is answered. Under overload the goodput, which is texts answered a second,
is to stay at 90 % of the peak; 99 of 100 single texts that are admitted are to be answered within
twice the unloaded time of bulk; and who is refused is to hear when to come again.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from measuring import make_texts, serving, write_dataset
from overload_clients import (
    BULK,
    INTERACTIVE,
    OK,
    REFUSED,
    Kind,
    LoadPlan,
    Outcome,
    meet_at,
    put_load,
    write_requests,
)
from raw_http import RawConnection
from trends import percentile

from beicli.bench.open_files import allow_connections

MIN_GOODPUT_SHARE = 0.9
MAX_LATENCY_RATIO = 2.0
OVERLOAD = 2.0
NUM_CLIENTS = {INTERACTIVE: 16, BULK: 4}
NUM_UNLOADED = 20
# More than a server admits: whoever is neither answered nor refused keeps one.
MAX_CONNECTIONS = 8192
# Of each phase, in the beginning: queues fill and estimates are learnt.
WARM_UP_SHARE = 0.2

Outcomes = Mapping[Kind, Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a phase that counts."""

    begins_at: float
    ends_at: float

    @property
    def seconds(self) -> float:
        return self.ends_at - self.begins_at

    def over_within(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        return [each for each in outcomes if self.begins_at <= each.over_at < self.ends_at]

    def due_within(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        return [each for each in outcomes if self.begins_at <= each.due_at < self.ends_at]


def main() -> None:
    """Measure and print one JSON line; exit 1 if something is not as it is to be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--models", type=Path, help="has the corpus that texts are cut from")
    parser.add_argument("--texts", type=Path, help="use these instead, one JSON string a line")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--peak-seconds", type=float, default=30.0)
    parser.add_argument("--max-wait-s", default="2", help="of the server")
    parser.add_argument("--max-interactive-wait-s", default="0.03", help="of the server")
    arguments = parser.parse_args()
    if (arguments.texts is None) == (arguments.models is None):
        parser.error("one of --models and --texts is needed")
    allow_connections(MAX_CONNECTIONS)
    limits = (
        *("--max-wait-s", arguments.max_wait_s),
        *("--max-interactive-wait-s", arguments.max_interactive_wait_s),
    )
    with tempfile.TemporaryDirectory() as work, serving(arguments.engine, *limits) as (url, _):
        texts = arguments.texts or write_dataset(
            make_texts(arguments.models / "lee50"), Path(work) / "texts.jsonl"
        )
        unloaded_s = asyncio.run(time_bulk(url, texts))
        plan = LoadPlan(url, texts, BULK, seconds=0.0)
        peak = put_phase(plan, arguments.peak_seconds, {})
        rates = {kind: OVERLOAD * answered_per_second(*peak, kind) for kind in NUM_CLIENTS}
        overload = put_phase(plan, arguments.minutes * 60, rates)
    if not goodput(*peak):
        sys.exit("error: nothing was answered in time")
    result = summarise(unloaded_s, peak, rates, overload)
    print(json.dumps(result))
    sys.exit(0 if result["verdict"] == "passed" else 1)


async def time_bulk(url: str, texts: Path) -> float:
    """Return the median time of bulk requests that have the server for themselves."""
    connection = await RawConnection.open(url)
    durations = []
    for request in write_requests(texts, BULK)[:NUM_UNLOADED]:
        started_at = time.perf_counter()
        answer = await connection.ask(request)
        assert answer.status == OK, answer
        durations.append(time.perf_counter() - started_at)
    connection.close()
    # The first half made kernels for shapes that were new.
    return statistics.median(durations[NUM_UNLOADED // 2 :])


def put_phase(
    plan: LoadPlan, seconds: float, rates: Mapping[Kind, float]
) -> tuple[Window, Outcomes]:
    """Put both kinds of load on the server; rates: none for a closed loop."""
    plans = [
        replace(plan, kind=kind, seconds=seconds, num_clients=num_clients, rate=rates.get(kind))
        for kind, num_clients in NUM_CLIENTS.items()
    ]
    # New interpreters: a copy of this one would share what it has open.
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(plans))
    with ProcessPoolExecutor(
        len(plans), mp_context=context, initializer=meet_at, initargs=(barrier,)
    ) as processes:
        sent = dict(zip(NUM_CLIENTS, processes.map(put_load, plans), strict=True))
    started_at = max(each.started_at for each in sent.values())
    window = Window(started_at + WARM_UP_SHARE * seconds, started_at + seconds)
    return window, {kind: each.outcomes for kind, each in sent.items()}


def answered_per_second(window: Window, outcomes: Outcomes, kind: Kind) -> float:
    """Return the requests of a kind that were answered within the window, a second."""
    answered = [each for each in window.over_within(outcomes[kind]) if each.status == OK]
    return len(answered) / window.seconds


def goodput(window: Window, outcomes: Outcomes) -> float:
    """Return the texts that were answered within the window, a second."""
    return sum(kind.num_texts * answered_per_second(window, outcomes, kind) for kind in NUM_CLIENTS)


def summarise(
    unloaded_s: float,
    peak: tuple[Window, Outcomes],
    rates: Mapping[Kind, float],
    overload: tuple[Window, Outcomes],
) -> dict[str, object]:
    """Judge a run; the keys of `broken` name what was not kept."""
    window, outcomes = overload
    due = {kind: window.due_within(outcomes[kind]) for kind in NUM_CLIENTS}
    everything = [each for kind in NUM_CLIENTS for each in due[kind]]
    refused = [each for each in everything if each.status in REFUSED]
    num_told = sum(each.has_retry_after for each in refused)
    admitted_s = [each.latency_s for each in due[INTERACTIVE] if each.status == OK]
    p99_s = percentile(admitted_s, 0.99) if admitted_s else float("inf")
    peak_texts_s, texts_s = goodput(*peak), goodput(*overload)
    statuses = Counter(str(each.status) for each in everything)
    broken = {
        "goodput": texts_s < MIN_GOODPUT_SHARE * peak_texts_s,
        "interactive_p99": p99_s > MAX_LATENCY_RATIO * unloaded_s,
        "retry_after": num_told < len(refused),
        # Neither an answer nor a refusal.
        "failures": statuses.total() > statuses[str(OK)] + len(refused),
    }
    return {
        "verdict": "failed" if any(broken.values()) else "passed",
        "broken": [name for name, is_broken in broken.items() if is_broken],
        "unloaded_bulk_ms": round(unloaded_s * 1e3, 1),
        "peak_texts_per_second": round(peak_texts_s, 1),
        "offered_requests_per_second": {kind.name: round(rates[kind], 1) for kind in NUM_CLIENTS},
        "goodput_texts_per_second": round(texts_s, 1),
        "goodput_of_peak": round(texts_s / peak_texts_s, 3),
        "interactive_p99_ms": round(min(p99_s, 1e6) * 1e3, 1),
        "interactive_p99_of_unloaded_bulk": round(min(p99_s / unloaded_s, 1e6), 2),
        "admitted_interactive": len(admitted_s),
        "statuses": dict(sorted(statuses.items())),
        "refusals_with_retry_after": round(num_told / len(refused), 4) if refused else None,
    }


if __name__ == "__main__":
    main()
