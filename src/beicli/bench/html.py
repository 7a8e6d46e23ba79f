"""A run as one page of HTML that loads nothing and runs nothing.

Server messages, model names and texts come from strangers: all of it goes through an escaping
template. Only our own pictures, which hold none of it, and the run's JSON are put in as they are.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from beicli.bench.latency_plots import draw_distribution, draw_timeline
from beicli.bench.plots import draw_batch_fill, draw_sweep
from beicli.bench.points import PointMapping, PointPair, pair_points

# What XML forbids or a terminal obeys, and halves of surrogate pairs, which UTF-8 cannot hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_COLUMNS = (
    ("texts", "/s"),
    ("tokens", "/s"),
    ("p50", "ms"),
    ("p90", "ms"),
    ("p99", "ms"),
    ("max", "ms"),
    ("errors", "requests"),
    ("batch fill", "sequences, real tokens"),
    ("client", "of a core, lag p99"),
)
_NOT_TOLD = "not told"
# Texts may be as long as a model's window; the JSON has all of them.
_MAX_SHOWN_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the summary, as it is written."""

    text: str
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One load on one server; the cells follow `_COLUMNS`."""

    server: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """One load; ratio: texts per second of the two servers, or empty."""

    label: str
    rows: tuple[Row, ...]
    ratio: str


@dataclass(frozen=True, slots=True)
class LatencyFigure:
    """A sweep's curve or, of a single load, the distribution."""

    heading: str
    caption: str
    markup: Markup | None


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """One kind of failure at one load."""

    place: str
    kind: str
    count: str
    message: str


def render_html(run: Mapping[str, Any]) -> str:
    """The page of one run, as `run_format.Run` describes it; equal runs give equal pages."""
    pairs = pair_points(run)
    model = run.get("served_model")
    timelines = [
        (pair.label, _markup(draw_timeline(pair, f"timeline-{i}"))) for i, pair in enumerate(pairs)
    ]
    return _template().render(
        run=run,
        title=model or run["url"],
        facts=list(_facts(run)),
        warnings=list(_warnings(run, pairs)),
        has_two=run.get("against") is not None,
        columns=_COLUMNS,
        groups=[_group(pair) for pair in pairs],
        latency_figure=_latency_figure(pairs),
        timelines=[(label, markup) for label, markup in timelines if markup],
        batch_fill=_markup(draw_batch_fill(pairs)),
        answers=_answers(run),
        errors=list(_errors(pairs)),
        settings=list(_settings(run)),
        raw_json=_script_json(run),
    )


def _facts(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    against = run.get("against")
    if against is None:
        yield "server", run["url"]
        yield "model", run.get("served_model") or _NOT_TOLD
    else:
        for name, server in (("server A", run), ("server B", against)):
            yield name, f"{server['url']} ({server.get('served_model') or 'model not told'})"
    yield "date", re.sub(r"T(\d\d:\d\d).*", r" \1 UTC", run["date"])
    machine = run["machine"]
    gigabytes = f"{machine['memory_bytes'] / 1e9:,.1f} GB of memory"
    yield "client machine", f"{machine['cpu']}, {machine['num_cpus']} CPUs, {gigabytes}"
    if machine["cpu_features"]:
        yield "CPU features", " ".join(machine["cpu_features"])
    dataset = run["dataset"]
    lengths = f"mean {dataset['mean_characters']:,.0f} characters"
    if dataset.get("mean_tokens") is not None:
        lengths += f", {dataset['mean_tokens']:,.0f} tokens"
    yield "texts", f"{dataset['name']}: {dataset['num_texts']:,} texts, {lengths}"


def _warnings(run: Mapping[str, Any], pairs: Sequence[PointPair]) -> Iterator[str]:
    """What makes the figures less than they seem, most important first."""
    if run["interrupted"]:
        yield "The run was interrupted, so a load was measured for less time than asked for."
    for place, point in _places(pairs):
        if point["client_is_limit"]:
            yield (
                f"{place}: the client was the limit, not the server, which may be faster than "
                f"these figures. The client used {point['client_cpu_fraction']:.0%} of a core."
            )
    for place, point in _places(pairs):
        if point["num_failed_requests"]:
            total = point["num_failed_requests"] + point["num_requests"]
            share = point["num_failed_requests"] / total
            yield f"{place}: {point['num_failed_requests']:,} requests failed, {share:.2%} of all."
    for place, point in _places(pairs):
        if point["late_requests"]:
            yield (
                f"{place}: {point['late_requests']:,} requests were sent late, so the load was "
                "less even than asked for."
            )


def _places(pairs: Sequence[PointPair]) -> Iterator[tuple[str, PointMapping]]:
    """Each point of each server, with the words for which one it is."""
    has_two = any(pair.second is not None for pair in pairs)
    for pair in pairs:
        for server, point in zip("AB", pair.sides, strict=False):
            yield (f"{pair.label}, server {server}" if has_two else pair.label), point


def _group(pair: PointPair) -> Group:
    rows = tuple(
        Row(server, tuple(_cells(point))) for server, point in zip("AB", pair.sides, strict=False)
    )
    return Group(pair.label, rows, "" if pair.ratio is None else f"{pair.ratio:.2f}")


def _cells(point: PointMapping) -> Iterator[Cell]:
    yield Cell(f"{point['texts_per_second']:,.1f}")
    tokens = point.get("tokens_per_second")
    yield Cell(_NOT_TOLD if tokens is None else f"{tokens:,.0f}")
    for percentile in ("p50", "p90", "p99", "max"):
        yield Cell(f"{point['latency_ms'][percentile]:,.1f}")
    failed = point["num_failed_requests"]
    yield Cell(f"{failed:,}", is_bad=failed > 0)
    fill = point.get("batch_fill")
    yield Cell(
        _NOT_TOLD
        if fill is None
        else f"{fill['sequences_per_batch']:,.1f}, {fill['real_token_fraction']:.0%}"
    )
    lag = f"{point['client_loop_lag_p99_ms']:,.1f} ms"
    yield Cell(f"{point['client_cpu_fraction']:.0%}, {lag}", is_bad=point["client_is_limit"])


def _latency_figure(pairs: Sequence[PointPair]) -> LatencyFigure:
    if len(pairs) > 1:
        caption = "Each dot is a load, with its concurrency or rate beside it."
        return LatencyFigure("Latency by throughput", caption, _markup(draw_sweep(pairs)))
    return LatencyFigure(
        "Distribution of latency",
        "How to read it: at the height of 90%, the curve is at the latency that nine of ten "
        "requests did not exceed.",
        _markup(draw_distribution(pairs[0])),
    )


def _answers(run: Mapping[str, Any]) -> dict[str, Any] | None:
    answers = (run.get("against") or {}).get("answers")
    if answers is None:
        return None
    return {
        "words": _answer_words(answers),
        "measure": answers["measure"],
        "worst": [
            (f"{worst['value']:.6g}", _shortened(worst["text"])) for worst in answers["worst"]
        ],
    }


def _answer_words(answers: Mapping[str, Any]) -> str:
    finding = answers.get("finding")
    if not answers["num_compared"]:
        reason = "" if finding is None else f": {finding}"
        return f"The answers of both servers could not be compared{reason}."
    figures = f"mean {answers['mean']:.6g}, least {answers['min']:.6g}"
    if answers.get("order_agreement") is not None:
        figures += f", rank correlation {answers['order_agreement']:.6g}"
    words = (
        f"The answers of both servers to {answers['num_compared']:,} texts were compared: "
        f"{answers['measure']} {figures}."
    )
    return words if finding is None else f"{words} Mind that {finding}."


def _shortened(text: str) -> str:
    is_short = len(text) <= _MAX_SHOWN_CHARACTERS
    return text if is_short else text[:_MAX_SHOWN_CHARACTERS] + "…"


def _errors(pairs: Sequence[PointPair]) -> Iterator[ErrorLine]:
    for place, point in _places(pairs):
        for error in point["errors"]:
            yield ErrorLine(place, error["kind"], f"{error['count']:,}", error["first_message"])


def _settings(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "workload", run["workload"]
    for name, value in run["settings"].items():
        if value is None:
            yield name, "not given"
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(map(str, value))
        else:
            yield name, str(value)
    if "batch_size" not in run["settings"]:
        sizes = dict.fromkeys(str(point["batch_size"]) for point in run["points"])
        yield "batch_size", ", ".join(sizes)


def _markup(svg: str | None) -> Markup | None:
    """Mark a picture as safe: its texts were escaped when its tree was written."""
    return None if svg is None else Markup(svg)  # noqa: S704 - see above


def _script_json(run: Mapping[str, Any]) -> Markup:
    """The run, written so that nothing in it can end the element or open a comment in it."""
    text = json.dumps(run, allow_nan=False, separators=(",", ":"))
    # `<` occurs in strings only, where JSON may write it by its number.
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - see above


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_printable
    )
    source = resources.files("beicli.bench").joinpath("page.html").read_text("utf-8")
    return environment.from_string(source)
