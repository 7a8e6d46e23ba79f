from typing import Any

from tests.bench.runs import make_against, make_point, make_run

from beicli.bench.table import headings, notes, point_rows, sweep_columns, sweep_rows


def test_one_point_is_a_list_of_labels_and_values() -> None:
    rows = dict([*headings(make_run()), *point_rows(make_run())])

    assert list(rows)[:6] == ["server", "model", "load", "dataset", "window", "texts"]
    assert rows["load"] == "8 clients, batch size 1"
    assert rows["dataset"] == "bundled, 118 texts, mean 212 characters, 41.2 tokens"
    assert rows["texts"] == "514.3 /s"
    assert rows["latency p99.9"].endswith(" ms")
    assert rows["batches"] == "6.4 texts a batch, 5.1% padding"


def test_what_the_server_does_not_tell_is_said_so() -> None:
    point = make_point(num_tokens=None, tokens_per_second=None, batch_fill=None)
    run = make_run(point, served_model=None)

    rows = dict([*headings(run), *point_rows(run)])
    assert rows["tokens"] == "not told by the server"
    assert rows["model"] == "not named"
    assert "batches" not in rows


def test_the_errors_of_one_point_are_below_their_number() -> None:
    errors = [{"kind": "status_429", "count": 1200, "first_message": "busy"}]
    rows = list(point_rows(make_run(make_point(num_failed_requests=1200, errors=errors))))

    assert rows[-2:] == [("failed", "1,200 requests"), ("  status_429", "1,200 x busy")]


def test_an_open_loop_tells_what_was_sent_late() -> None:
    run = make_run(make_point(150, is_open=True, late_requests=3))

    assert dict(headings(run))["load"] == "150 requests/s, batch size 1"
    assert dict(point_rows(run))["sent late"] == "3 requests"


def test_a_sweep_has_a_row_for_each_point() -> None:
    run = make_run(make_point(1), make_point(64))

    rows = list(sweep_rows(run))
    assert [row[0] for row in rows] == ["concurrency 1", "concurrency 64"]
    assert {len(row) for row in rows} == {len(sweep_columns(run))}
    assert "load" not in dict(headings(run))


def run_against(**changes: Any) -> dict[str, Any]:
    run = make_run(make_point(8, speed=2.0))
    answers = {"finding": None} | make_against(run, make_point(8))["answers"] | changes
    ratios = [{"p50": 0.5, "p90": 0.52, "p99": 0.6}]
    return run | {
        "against": make_against(run, make_point(8), answers=answers, latency_ratios=ratios)
    }


def test_two_servers_stand_one_below_the_other_with_their_ratio() -> None:
    run = run_against()

    rows = list(sweep_rows(run))
    assert [row[:2] for row in rows] == [
        ("concurrency 8", "url"),
        ("", "against"),
        ("", "ratio"),
    ]
    assert rows[2][2:] == ("2.000", "0.500", "0.520", "0.600", "")
    assert {len(row) for row in rows} == {len(sweep_columns(run))}
    assert dict(headings(run))["against"] == "http://127.0.0.1:8080"


def test_a_run_kept_without_ratios_of_latencies_has_that_of_the_texts() -> None:
    run = run_against()
    del run["against"]["latency_ratios"]

    assert list(sweep_rows(run))[2] == ("", "ratio", "2.000", "", "", "", "")


def test_answers_are_summed_up_and_only_those_that_differ_are_quoted() -> None:
    found = list(notes(run_against()))

    assert found[0] == ("answers to 118 texts: cosine similarity mean 0.999930, least 0.998710")
    assert found[1:] == ["  0.998710  a text on which they differ"]


def test_a_finding_stands_for_the_figures_that_could_not_be_had() -> None:
    run = run_against(finding="other lengths", num_compared=0, worst=[])

    assert list(notes(run)) == ["answers: other lengths"]


def test_a_finding_comes_before_the_figures_it_goes_with() -> None:
    found = list(notes(run_against(finding="not normalised")))

    assert found[0] == "answers: not normalised"
    assert found[1].startswith("answers to 118 texts: ")


def test_rerankers_are_also_told_how_far_their_orders_agree() -> None:
    run = run_against(measure="1 - score difference", order_agreement=0.5)

    assert next(notes(run)).endswith("least 0.998710, rank correlation 0.500000")


MIX_LATENCIES = [
    {
        "length": length,
        "num_requests": 90,
        "mean_tokens": mean_tokens,
        "latency_ms": {"p50": 5.0, "p90": 7.0, "p99": 8.0, "max": 9.0},
    }
    for length, mean_tokens in (("short", 9.0), ("long", None))
]


def test_both_parts_of_a_mix_are_told_with_their_latencies() -> None:
    run = make_run(make_point(by_length=MIX_LATENCIES))
    run["dataset"]["by_length"] = [
        {"length": "short", "num_texts": 94, "mean_characters": 30.0},
        {"length": "long", "num_texts": 24, "mean_characters": 700.0},
    ]

    rows = dict([*headings(run), *point_rows(run)])
    assert rows["  short"] == "94 texts, mean 30 characters"
    assert rows["  long"] == "24 texts, mean 700 characters"
    assert rows["  short texts"] == "p50 5.0 ms, p90 7.0 ms, p99 8.0 ms; mean 9.0 tokens"
    assert rows["  long texts"] == "p50 5.0 ms, p90 7.0 ms, p99 8.0 ms"


def test_a_sweep_of_a_mix_has_a_row_for_each_part() -> None:
    run = make_run(make_point(1, by_length=MIX_LATENCIES), make_point(8))

    rows = list(sweep_rows(run))
    assert [row[0] for row in rows] == [
        "concurrency 1",
        "  short texts",
        "  long texts",
        "concurrency 8",
    ]
    assert rows[1] == ("  short texts", "", "5.0", "7.0", "8.0", "9.0", "", "")
    assert {len(row) for row in rows} == {len(sweep_columns(run))}


def test_a_client_at_its_limit_is_told_with_what_to_do() -> None:
    (note,) = notes(make_run(make_point(client_is_limit=True)))

    assert "the client may be the limit" in note
    assert "--client-processes" in note
    assert list(notes(make_run())) == []


def test_a_rate_that_the_server_cannot_keep_is_told() -> None:
    point = make_point(150, is_open=True)
    behind = point | {"unfinished_requests": point["num_requests"] // 2}
    usual = point | {"unfinished_requests": 3}

    (note,) = notes(make_run(behind))
    assert note.startswith("rate 150/s: the server does not keep up")
    assert list(notes(make_run(usual))) == []


def test_requests_that_were_sent_late_are_told_with_what_to_do() -> None:
    point = make_point(150, is_open=True)
    late = point | {"late_requests": point["num_requests"] // 10}
    usual = point | {"late_requests": 3}

    (note,) = notes(make_run(late))
    assert "were sent late" in note
    assert "--max-connections" in note
    assert list(notes(make_run(usual))) == []


def test_a_load_without_figures_is_told() -> None:
    skipped = {"load": {"kind": "closed", "concurrency": 512}, "url": "http://h", "reason": "no"}

    assert list(notes(make_run(skipped_points=[skipped]))) == [
        "concurrency 512 has no figures: http://h: no"
    ]
