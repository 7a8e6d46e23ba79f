"""A run as rows of text for people, from the JSON that `run_format.Run` describes.

Pure. One point makes a list of labels and values, a sweep a table with a row for each point.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beicli.bench.points import load_label, pair_points

RunMapping = Mapping[str, Any]

_CLIENT_IS_LIMIT = (
    "the client may be the limit, not the server: give `--client-processes auto`, larger "
    "requests, or run the client on another machine"
)
_BEHIND = "the server does not keep up with this rate"
_SENT_LATE = (
    "were sent late, and their wait counts as latency: every connection was busy, or the client "
    "was; give more `--max-connections` or `--client-processes`"
)
# Below this share of requests left over, it is what is in flight at any moment; of late ones, it is
# how processes are scheduled.
_NOTABLE_SHARE = 0.05
_PERCENTILES = ("p50", "p90", "p99")
_PERCENTILES_AND_MAX = (*_PERCENTILES, "max")
# Answers at least this equal are not worth a line.
_EQUAL = 0.999
_MAX_CHARACTERS = 60


def headings(run: RunMapping) -> Iterator[tuple[str, str]]:
    """Yield label and value of what all points share."""
    against = run["against"]
    yield "server", run["url"]
    yield "model", run["served_model"] or run["settings"]["model"] or "not named"
    if against is not None:
        yield "against", against["url"]
        yield "its model", against["served_model"] or "not named"
    if len(run["points"]) == 1:
        yield "load", _load(run["points"][0])
    if run["workload"] != "embeddings":
        yield "workload", run["workload"]
    dataset = run["dataset"]
    mean = f"mean {dataset['mean_characters']:.0f} characters"
    if dataset["mean_tokens"] is not None:
        mean += f", {dataset['mean_tokens']:,.1f} tokens"
    yield "dataset", f"{dataset['name']}, {dataset['num_texts']:,} texts, {mean}"
    for part in dataset.get("by_length") or ():
        size = f"{part['num_texts']:,} texts, mean {part['mean_characters']:.0f} characters"
        yield f"  {part['length']}", size


def point_rows(run: RunMapping) -> Iterator[tuple[str, str]]:
    """Yield label and value of each line about a run of a single point."""
    point = run["points"][0]
    yield "window", f"{point['window_s']:.2f} s" + (" (interrupted)" if run["interrupted"] else "")
    yield "texts", f"{point['texts_per_second']:,.1f} /s"
    tokens = point["tokens_per_second"]
    yield "tokens", "not told by the server" if tokens is None else f"{tokens:,.0f} /s"
    in_all = f"({point['num_requests']:,} in all)"
    yield "requests", f"{point['requests_per_second']:,.1f} /s {in_all}"
    for name, label in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p999", "p99.9")):
        yield f"latency {label}", f"{point['latency_ms'][name]:,.1f} ms"
    yield "latency max", f"{point['latency_ms']['max']:,.1f} ms"
    for part in point.get("by_length") or ():
        yield f"  {part['length']} texts", _length_latencies(part)
    if fill := point["batch_fill"]:
        sequences = f"{fill['sequences_per_batch']:.1f} texts a batch"
        yield "batches", f"{sequences}, {1 - fill['real_token_fraction']:.1%} padding"
    yield "sent", f"{point['request_bytes'] / 1e6:,.2f} MB"
    yield "received", f"{point['response_bytes'] / 1e6:,.2f} MB"
    yield "client", _client(point)
    if point["load"]["kind"] == "open":
        yield "sent late", f"{point['late_requests']:,} requests"
    yield "failed", f"{point['num_failed_requests']:,} requests"
    for error in point["errors"]:
        yield f"  {error['kind']}", f"{error['count']:,} x {error['first_message']}"


def sweep_columns(run: RunMapping) -> tuple[str, ...]:
    """Return the headings of `sweep_rows`."""
    if run["against"] is None:
        return ("load", "texts/s", *_latency_columns(_PERCENTILES_AND_MAX), "failed", "client")
    return ("load", "server", "texts/s", *_latency_columns(_PERCENTILES), "failed")


def sweep_rows(run: RunMapping) -> Iterator[tuple[str, ...]]:
    """Yield a row for each point; three where there are two servers: each server's, and the ratio.

    A ratio is this server's figure by the other's.
    """
    # Files of earlier runs have none.
    kept: Sequence[Mapping[str, float]] = (run["against"] or {}).get("latency_ratios", ())
    no_ratios: Mapping[str, float] = {}
    pairs_and_ratios = itertools.zip_longest(pair_points(run), kept, fillvalue=None)
    for pair, of_latencies in pairs_and_ratios:
        assert pair is not None, "there are no more ratios than points"
        ratios = of_latencies or no_ratios
        if pair.second is None or pair.ratio is None:
            client = f"{pair.first['client_cpu_fraction']:.0%}"
            yield (pair.label, *_figures(pair.first, _PERCENTILES_AND_MAX), client)
            for part in pair.first.get("by_length") or ():
                latencies = (f"{part['latency_ms'][name]:,.1f}" for name in _PERCENTILES_AND_MAX)
                yield (f"  {part['length']} texts", "", *latencies, "", "")
        else:
            yield (pair.label, "url", *_figures(pair.first, _PERCENTILES))
            yield ("", "against", *_figures(pair.second, _PERCENTILES))
            latencies = (f"{ratios[name]:.3f}" if name in ratios else "" for name in _PERCENTILES)
            yield ("", "ratio", f"{pair.ratio:.3f}", *latencies, "")


def _length_latencies(part: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{name} {part['latency_ms'][name]:,.1f} ms" for name in _PERCENTILES)
    if part["mean_tokens"] is None:
        return figures
    return f"{figures}; mean {part['mean_tokens']:,.1f} tokens"


def _latency_columns(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name} ms" for name in names)


def _figures(point: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return (
        f"{point['texts_per_second']:,.1f}",
        *(f"{point['latency_ms'][name]:,.1f}" for name in names),
        f"{point['num_failed_requests']:,}",
    )


def notes(run: RunMapping) -> Iterator[str]:
    """Yield what a reader has to know before using the figures."""
    for point in run["points"]:
        where = load_label(point)
        if point["client_is_limit"]:
            yield f"{where}: {_CLIENT_IS_LIMIT}"
        if note := _open_loop_note(point):
            yield f"{where}: {note}"
        if len(run["points"]) > 1:
            for error in point["errors"]:
                yield f"{where}: {error['count']:,} x {error['kind']}: {error['first_message']}"
    for skipped in run.get("skipped_points", ()):
        yield f"{load_label(skipped)} has no figures: {skipped['url']}: {skipped['reason']}"
    if run["interrupted"] and len(run["points"]) > 1:
        yield "interrupted: the last point is shorter than asked, and others may be missing"
    yield from _answer_notes(run)


def _open_loop_note(point: Mapping[str, Any]) -> str | None:
    """Say what kept an open loop from its clock, if anything did."""
    notable = _NOTABLE_SHARE * point["num_requests"]
    unfinished, late = point.get("unfinished_requests", 0), point["late_requests"]
    if unfinished > notable:
        return f"{_BEHIND}: {unfinished:,} requests were not answered within the window"
    return f"{late:,} requests {_SENT_LATE}" if late > notable else None


def _answer_notes(run: RunMapping) -> Iterator[str]:
    answers = (run["against"] or {}).get("answers")
    if answers is None:
        return
    if answers.get("finding") is not None:
        yield f"answers: {answers['finding']}"
    if not answers["num_compared"]:
        return
    figures = f"{answers['measure']} mean {answers['mean']:.6f}, least {answers['min']:.6f}"
    if answers.get("order_agreement") is not None:
        figures += f", rank correlation {answers['order_agreement']:.6f}"
    yield f"answers to {answers['num_compared']:,} texts: {figures}"
    for worst in answers["worst"]:
        if worst["value"] < _EQUAL:
            yield f"  {worst['value']:.6f}  {_shortened(worst['text'])}"


def _load(point: Mapping[str, Any]) -> str:
    batch = f"batch size {point['batch_size']}"
    if point["load"]["kind"] == "closed":
        return f"{point['load']['concurrency']} clients, {batch}"
    return f"{point['load']['rate_per_second']:,g} requests/s, {batch}"


def _client(point: Mapping[str, Any]) -> str:
    lag = f"event loop late by {point['client_loop_lag_p99_ms']:,.1f} ms (p99)"
    return f"{point['client_cpu_fraction']:.0%} of a core, {lag}"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARACTERS else line[:_MAX_CHARACTERS] + "…"
