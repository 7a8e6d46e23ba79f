import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bench.runs import make_against, make_point, make_run

from beicli.bench.html import render_html
from beicli.bench.run_format import first_problem

HOSTILE = "</script><script>alert('1')</script> & <b onload=\"x\">\u202eb</b> <!-- {{ 7*7 }}"
VOID_TAGS = {"meta"}


class Page(HTMLParser):
    """Elements with their attributes, table rows, and what is read outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.warnings: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "li":
            self.warnings.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts[-1] += data
            return
        if "style" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        if "li" in self.open:
            self.warnings[-1] += data


def pictures(html: str) -> dict[str, ET.Element]:
    """Each SVG by its title; raises when one is not well-formed XML."""
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    roots = [ET.fromstring(svg) for svg in svgs]  # noqa: S314 - our own, from made-up runs
    return {str(root.findtext("title")): root for root in roots}


def texts_of(picture: ET.Element) -> list[str]:
    return [element.text or "" for element in picture.iter("text")]


def marks(picture: ET.Element, tag: str, *css: str) -> list[ET.Element]:
    return [e for e in picture.iter(tag) if set(css) <= set(e.get("class", "").split())]


def two_server_run(*loads: int) -> dict[str, Any]:
    run = make_run(*(make_point(load) for load in loads))
    return run | {"against": make_against(run, *(make_point(load, speed=0.6) for load in loads))}


def failing_run() -> dict[str, Any]:
    point = make_point(
        32,
        num_failed_requests=212,
        late_requests=14,
        client_is_limit=True,
        client_cpu_fraction=0.98,
        errors=[
            {"kind": "status_429", "count": 200, "first_message": "overloaded"},
            {"kind": "timeout", "count": 12, "first_message": "no answer within 60 s"},
        ],
    )
    point["timeline"][3] = {"second": 3, "texts": 0, "p50_ms": None, "p99_ms": None, "errors": 53}
    return make_run(point, interrupted=True)


RUNS = {
    "single": make_run(),
    "sweep": make_run(*(make_point(load) for load in (1, 4, 16, 64, 256))),
    "rates": make_run(*(make_point(rate, is_open=True) for rate in (50, 100, 150))),
    "against": two_server_run(1, 16, 64),
    "against at one load": two_server_run(32),
    "failing": failing_run(),
    "one second": make_run(make_point(num_seconds=1)),
    "nothing recorded": make_run(make_point(timeline=[], latency_histogram=[], batch_fill=None)),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_page_and_its_pictures_are_well_formed(name: str) -> None:
    assert first_problem(RUNS[name]) is None

    html = render_html(RUNS[name])

    page = Page(html)
    assert len(pictures(html)) == html.count("<svg")
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("name", RUNS)
def test_the_page_loads_nothing_and_runs_nothing(name: str) -> None:
    page = Page(render_html(RUNS[name]))

    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"a", "base", "form", "iframe", "image", "img", "link", "use"})
    for tag, attributes in page.elements:
        assert attributes.keys().isdisjoint({"src", "href", "xlink:href", "style", "srcset"})
        assert not any(attribute.startswith("on") for attribute in attributes)
        assert tag != "script" or attributes["type"] == "application/json"
    policies = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


@pytest.mark.parametrize("name", RUNS)
def test_the_only_addresses_are_those_of_the_measured_servers(name: str) -> None:
    run = RUNS[name]
    html = render_html(run)

    servers = {run["url"]} | ({run["against"]["url"]} if run["against"] else set())
    assert set(re.findall(r"https?://[^\s<\"]*", html)) == servers
    assert "url(" not in html
    assert "@import" not in html


@pytest.mark.parametrize("name", RUNS)
def test_the_page_holds_the_run_itself(name: str) -> None:
    (script,) = Page(render_html(RUNS[name])).scripts

    assert json.loads(script) == RUNS[name]


@pytest.mark.parametrize("name", RUNS)
def test_equal_runs_give_equal_pages(name: str) -> None:
    assert render_html(RUNS[name]) == render_html(json.loads(json.dumps(RUNS[name])))


def test_the_head_names_model_server_date_machine_and_texts() -> None:
    text = Page(render_html(make_run())).text

    assert "BAAI/bge-small-en-v1.5" in text
    assert "http://127.0.0.1:7997" in text
    assert "2026-11-20 09:30 UTC" in text
    assert "Example CPU 9000, 8 CPUs, 33.5 GB of memory" in text
    assert "avx2 avx512_vnni" in text
    assert "bundled: 118 texts, mean 212 characters, 41 tokens" in text


def test_a_machine_of_unknown_features_has_no_line_for_them() -> None:
    run = make_run()
    run["machine"] = run["machine"] | {"cpu_features": []}

    assert "CPU features" not in Page(render_html(run)).text


def test_every_figure_of_a_point_is_in_its_row() -> None:
    point = make_point(
        1200,
        texts_per_second=1234.56,
        tokens_per_second=50_617.2,
        num_failed_requests=1021,
        latency_ms={
            "mean": 5.0, "p50": 4.26, "p90": 8.51, "p95": 9.0, "p99": 17.04, "p999": 88.0,
            "max": 1301.22,
        },
        batch_fill={"sequences_per_batch": 6.25, "real_token_fraction": 0.914, "num_batches": 9},
        client_cpu_fraction=0.37,
        client_loop_lag_p99_ms=1.26,
    )  # fmt: skip

    rows = Page(render_html(make_run(point))).rows

    header, row = rows[:2]
    assert dict(zip(header, row, strict=True)) == {
        "load": "concurrency 1,200",
        "texts/s": "1,234.6",
        "tokens/s": "50,617",
        "p50ms": "4.3",
        "p90ms": "8.5",
        "p99ms": "17.0",
        "maxms": "1,301.2",
        "errorsrequests": "1,021",
        "batch fillsequences, real tokens": "6.2, 91%",
        "clientof a core, lag p99": "37%, 1.3 ms",
    }


def test_what_the_server_does_not_tell_is_said_and_not_drawn() -> None:
    run = make_run(make_point())
    del run["served_model"], run["against"], run["dataset"]["mean_tokens"]
    for key in ("num_tokens", "tokens_per_second", "batch_fill"):
        del run["points"][0][key]

    html = render_html(run)

    row = Page(html).rows[1]
    assert row.count("not told") == 2
    assert "The server does not tell how it fills its batches." in html
    assert "Batch fill" not in pictures(html)


def test_header_cells_say_what_they_head() -> None:
    page = Page(render_html(two_server_run(1, 16)))

    headers = [attributes for tag, attributes in page.elements if tag == "th"]
    assert headers
    assert all(attributes["scope"] in ("col", "row", "rowgroup") for attributes in headers)


def test_warnings_stand_before_the_figures() -> None:
    html = render_html(failing_run())

    assert Page(html).warnings == [
        "The run was interrupted, so a load was measured for less time than asked for.",
        (
            "concurrency 32: the client was the limit, not the server, which may be faster than "
            "these figures. The client used 98% of a core."
        ),
        "concurrency 32: 212 requests failed, 2.72% of all.",
        "concurrency 32: 14 requests were sent late, so the load was less even than asked for.",
    ]
    assert html.index('class="warnings"') < html.index("<h2>Summary")


def test_a_clean_run_has_no_warnings_and_no_errors() -> None:
    html = render_html(make_run())

    assert Page(html).warnings == []
    assert "<h2>Errors" not in html


def test_each_kind_of_error_has_a_row_with_its_first_message() -> None:
    rows = Page(render_html(failing_run())).rows

    assert ["concurrency 32", "status_429", "200", "overloaded"] in rows
    assert ["concurrency 32", "timeout", "12", "no answer within 60 s"] in rows


def test_settings_are_listed_with_the_batch_size() -> None:
    run = make_run(make_point(batch_size=4))
    run["settings"] = {"rates": [1, 2], "model": None}

    rows = Page(render_html(run)).rows

    assert ["rates", "1, 2"] in rows
    assert ["model", "not given"] in rows
    assert ["batch_size", "4"] in rows


def test_what_strangers_wrote_stays_text() -> None:
    run = two_server_run(1, 4)
    run |= {"url": HOSTILE, "served_model": HOSTILE, "bei_version": HOSTILE, "date": HOSTILE}
    run["machine"] = {
        "cpu": HOSTILE,
        "cpu_features": [HOSTILE],
        "num_cpus": 1,
        "memory_bytes": 10**9,
    }
    run["dataset"] = run["dataset"] | {"name": HOSTILE}
    run["settings"] = {HOSTILE: HOSTILE}
    run["points"][0]["errors"] = [{"kind": HOSTILE, "count": 1, "first_message": HOSTILE}]
    run["against"] |= {"url": HOSTILE, "served_model": HOSTILE}
    worst = [{"text": HOSTILE, "value": 0.5}]
    run["against"]["answers"] |= {"measure": HOSTILE, "worst": worst}
    plain = Page(render_html(two_server_run(1, 4)))

    html = render_html(run)

    page = Page(html)
    (script,) = page.scripts
    assert json.loads(script) == run
    assert page.text.count(HOSTILE) == 18
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert not any(HOSTILE in "".join(picture.itertext()) for picture in pictures(html).values())


def test_control_characters_and_half_surrogates_do_not_reach_the_page() -> None:
    error = {"kind": "status_500", "count": 1, "first_message": "a\x00b\x1b[31mc\ud83dd\ne"}
    html = render_html(make_run(make_point(errors=[error])))

    assert "a\ufffdb\ufffd[31mc\ufffdd\ne" in html
    html.encode("utf-8")
    assert json.loads(Page(html).scripts[0])["points"][0]["errors"] == [error]


def test_two_servers_stand_one_below_the_other_with_their_ratio() -> None:
    run = two_server_run(1, 16)
    run["against"]["texts_per_second_ratios"] = [1.667, 0.5]

    rows = Page(render_html(run)).rows

    assert [(row[0], row[1], row[-1]) for row in rows[1:5:2]] == [
        ("concurrency 1", "A", "1.67"),
        ("concurrency 16", "A", "0.50"),
    ]
    assert [row[0] for row in rows[2:5:2]] == ["B", "B"]
    assert rows[1][2] == f"{run['points'][0]['texts_per_second']:,.1f}"
    assert rows[2][1] == f"{run['against']['points'][0]['texts_per_second']:,.1f}"


def test_answers_are_summed_up_and_the_worst_texts_shown() -> None:
    page = Page(render_html(two_server_run(8)))

    assert (
        "The answers of both servers to 118 texts were compared: cosine similarity mean 0.99993, "
        "least 0.99871."
    ) in page.text
    assert ["0.99871", "a text on which they differ"] in page.rows


def test_what_stands_out_in_the_answers_and_their_order_is_told() -> None:
    run = two_server_run(8)
    run["against"]["answers"] |= {"order_agreement": 0.75, "finding": "they are <short>"}

    text = Page(render_html(run)).text

    assert "least 0.99871, rank correlation 0.75. Mind that they are <short>." in text


def test_answers_that_could_not_be_compared_have_a_reason_and_no_figures() -> None:
    run = two_server_run(8)
    run["against"]["answers"] |= {"num_compared": 0, "finding": "other lengths", "worst": []}

    text = Page(render_html(run)).text

    assert "The answers of both servers could not be compared: other lengths." in text
    assert "cosine similarity" not in text


def test_a_long_text_is_shown_from_its_beginning_and_kept_in_the_data() -> None:
    run = two_server_run(8)
    run["against"]["answers"]["worst"] = [{"text": "word " * 5000, "value": 0.9}]

    page = Page(render_html(run))

    assert ["0.9", "word " * 120 + "…"] in page.rows
    assert json.loads(page.scripts[0]) == run


def test_without_compared_answers_there_is_no_such_section() -> None:
    run = two_server_run(8)
    run["against"]["answers"] = None

    assert "<h2>Answers" not in render_html(run)


def test_a_server_that_was_not_reached_at_every_load_has_rows_for_the_others() -> None:
    run = two_server_run(1, 16)
    del run["against"]["points"][1], run["against"]["texts_per_second_ratios"][1]

    rows = Page(render_html(run)).rows

    assert [row[0] for row in rows[1:4]] == ["concurrency 1", "B", "concurrency 16"]
    assert rows[3][-1] == ""


def test_a_sweep_has_a_dot_for_each_load_and_percentile_labelled_with_the_load() -> None:
    picture = pictures(render_html(RUNS["sweep"]))["Latency by throughput"]

    # One dot more of each kind is the legend's.
    assert len(marks(picture, "circle", "side0", "main")) == 6
    assert len(marks(picture, "circle", "side0", "tail")) == 6
    assert {"1", "4", "16", "64", "256"} <= set(texts_of(picture))
    assert "latency, ms, log scale" in texts_of(picture)


def test_a_sweep_is_drawn_in_the_order_of_its_loads_and_not_of_measuring() -> None:
    ascending = make_run(*(make_point(load) for load in (1, 8, 64)))
    mixed = make_run(*(make_point(load) for load in (64, 1, 8)))

    def curve(run: dict[str, Any]) -> set[str | None]:
        picture = pictures(render_html(run))["Latency by throughput"]
        return {line.get("points") for line in picture.iter("polyline")}

    assert curve(ascending) == curve(mixed)


def test_two_servers_differ_in_more_than_colour() -> None:
    found = pictures(render_html(RUNS["against"]))

    sweep = found["Latency by throughput"]
    assert len(marks(sweep, "circle", "side0")) == len(marks(sweep, "rect", "side1")) == 8
    assert {"A p50", "A p99", "B p50", "B p99"} <= set(texts_of(sweep))
    assert {"A", "B"} <= set(texts_of(found["Batch fill"]))
    style = render_html(RUNS["against"]).split("</style>")[0]
    dashes = re.findall(r"\.line\.(side\d\.\w+) \{ stroke-dasharray: ([\d ]+);", style)
    assert len({pattern for _, pattern in dashes}) == 3


def test_a_server_that_does_not_tell_its_batch_fill_has_no_bars() -> None:
    run = two_server_run(1, 16)
    for point in run["against"]["points"]:
        point["batch_fill"] = None

    picture = pictures(render_html(run))["Batch fill"]

    # Two panels of two bars and the legend's; of the other server the legend's only.
    assert len(marks(picture, "rect", "bar", "side0")) == 5
    assert len(marks(picture, "rect", "bar", "side1")) == 1
    assert {"A", "B: not told"} <= set(texts_of(picture))


def test_one_load_is_drawn_as_a_distribution_with_its_percentiles() -> None:
    run = make_run(make_point(num_requests=4000))
    picture = pictures(render_html(run))["Distribution of latency"]

    latency_ms = run["points"][0]["latency_ms"]
    for name, key in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99.9", "p999")):
        assert f"{name} {latency_ms[key]:.4g} ms" in texts_of(picture)
    assert {"0%", "50%", "90%", "99%", "99.9%"} <= set(texts_of(picture))


def test_percentiles_that_few_requests_cannot_tell_are_not_marked() -> None:
    point = make_point(latency_histogram=[[10.0, 20], [12.0, 5]])

    words = texts_of(pictures(render_html(make_run(point)))["Distribution of latency"])

    assert any(word.startswith("p90 ") for word in words)
    assert not any(word.startswith("p99") for word in words)


def test_a_bound_of_zero_is_drawn_at_the_edge() -> None:
    point = make_point(latency_histogram=[[0.0, 1], [10.0, 1]])

    assert "Distribution of latency" in pictures(render_html(make_run(point)))


def test_the_distribution_rises_only_at_the_bounds_of_its_buckets() -> None:
    point = make_point(latency_histogram=[[10.0, 50], [20.0, 0], [40.0, 50]])

    picture = pictures(render_html(make_run(point)))["Distribution of latency"]

    curve = next(line for line in picture.iter("polyline") if line.get("points", "").count(" ") > 1)
    places = [tuple(map(float, pair.split(","))) for pair in curve.get("points", "").split()]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3), (x4, y4) = places
    assert x0 <= x1 == x2 < x3 == x4
    assert y0 == y1 > y2 == y3 > y4


def test_a_second_without_an_answer_interrupts_the_line_of_latency() -> None:
    picture = pictures(render_html(failing_run()))
    timeline = picture["Latency and throughput over time, concurrency 32"]

    # Two pieces of latency and one line of throughput, besides the legend's sample.
    assert len(marks(timeline, "polyline", "main")) == 4
    assert len(marks(timeline, "polyline", "tail")) == 3
    assert [cross.findtext("title") for cross in marks(timeline, "path", "cross")] == ["53 errors"]


def test_one_second_is_drawn_as_dots() -> None:
    timeline = pictures(render_html(RUNS["one second"]))[
        "Latency and throughput over time, concurrency 8"
    ]

    tooltips = [dot.findtext("title") or "" for dot in timeline.iter("circle")]
    assert [tip.split(":")[0] for tip in tooltips if tip] == [
        "p50, second 0",
        "p50, second 0",
        "p99, second 0",
    ]


def test_without_anything_recorded_the_page_says_so_instead_of_empty_axes() -> None:
    html = render_html(RUNS["nothing recorded"])

    assert pictures(html) == {}
    assert "No latency was recorded." in html
    assert "Nothing was recorded second by second." in html


def test_seconds_in_which_nothing_succeeded_give_no_timeline() -> None:
    silent = {"second": 0, "texts": 0, "p50_ms": None, "p99_ms": None, "errors": 9}

    html = render_html(make_run(make_point(timeline=[silent])))

    assert "Nothing was recorded second by second." in html


POINTS = [
    make_point(load, speed=speed, num_seconds=num_seconds)
    for load in (1, 64, 20_000)
    for speed in (0.05, 1, 1000)
    for num_seconds in (1, 61)
]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(POINTS), min_size=1, max_size=9),
    st.none() | st.sampled_from(POINTS),
)
def test_every_mark_lies_within_its_picture(
    points: list[dict[str, Any]], other: dict[str, Any] | None
) -> None:
    run = make_run(*points)
    if other is not None:
        run["against"] = make_against(run, *[other] * len(points))

    for picture in pictures(render_html(run)).values():
        width, height = map(float, picture.get("viewBox", "").split()[2:])
        for element in picture.iter():
            for x_name, y_name in (("x", "y"), ("cx", "cy"), ("x1", "y1"), ("x2", "y2")):
                assert 0 <= float(element.get(x_name, 0)) <= width
                assert 0 <= float(element.get(y_name, 0)) <= height
            for pair in element.get("points", "").split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height
