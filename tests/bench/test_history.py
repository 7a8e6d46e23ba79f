import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.runs import make_against, make_point, make_run

from beicli.bench.history import Comparison, compare_runs, load_run, save_run
from beicli.errors import UsageError

PERCENT = 5.0


def compare(before: dict[str, Any], after: dict[str, Any], percent: float = PERCENT) -> Comparison:
    return compare_runs(before, after, max_regression_percent=percent)


def point_with(*, texts_per_second: float = 100.0, p99_ms: float = 20.0, **changes: Any) -> Any:
    point = make_point(texts_per_second=texts_per_second, **changes)
    point["latency_ms"]["p99"] = p99_ms
    return point


def verdict_on(comparison: Comparison, quantity: str) -> str:
    (verdict,) = {row.verdict for row in comparison.rows if row.quantity == quantity}
    return verdict


def load_error(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as caught:
        load_run(path)
    return caught.value.message


def test_a_saved_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    run = make_run(make_point(1), make_point(4))
    run["against"] = make_against(run, make_point(1, speed=0.5), make_point(4, speed=0.5))

    save_run(run, tmp_path / "run.json")

    assert load_run(tmp_path / "run.json") == run


def test_a_saved_run_is_indented_and_alone_in_its_folder(tmp_path: Path) -> None:
    save_run(make_run(), tmp_path / "run.json")

    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert '\n  "schema_version": 2,\n' in (tmp_path / "run.json").read_text("utf-8")


def test_half_of_a_surrogate_pair_in_a_message_survives(tmp_path: Path) -> None:
    error = {"kind": "status_500", "count": 1, "first_message": "\ud83d and é"}
    run = make_run(make_point(errors=[error]))

    save_run(run, tmp_path / "run.json")

    assert load_run(tmp_path / "run.json") == run


def test_a_failed_save_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_text("old", "utf-8")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match=r"cannot write run .*run\.json.: No space left"):
        save_run(make_run(), path)

    assert path.read_text("utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_saving_into_a_folder_that_is_not_there_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/run\.json.: No such file or directory"):
        save_run(make_run(), tmp_path / "nowhere" / "run.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read run .*absent\.json.: No such file"):
        load_run(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"schema_version": NaN}', "`NaN` is not a JSON number"),
        ("[]", "is not a JSON object"),
        ("{}", "has `schema_version` None, wanted 2"),
        ('{"schema_version": 1}', "has `schema_version` 1, wanted 2"),
        ('{"schema_version": 2}', "lacks `bei_version`"),
    ],
)
def test_a_file_that_holds_no_run_is_refused_with_the_reason(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    found = load_error(tmp_path / "run.json", content)

    assert str(tmp_path / "run.json") in found
    assert message in found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("machine",), "lacks `machine`"),
        (("dataset", "num_texts"), "lacks `dataset.num_texts`"),
        (("points", 0, "texts_per_second"), "lacks `points[0].texts_per_second`"),
        (("points", 0, "latency_ms", "p99"), "lacks `points[0].latency_ms.p99`"),
        (("points", 0, "timeline", 3, "texts"), "lacks `points[0].timeline[3].texts`"),
        (("points", 0, "load", "concurrency"), "lacks `points[0].load.closed.concurrency`"),
    ],
)
def test_a_missing_key_is_named_with_its_place(
    tmp_path: Path, keys: tuple[str | int, ...], message: str
) -> None:
    run: Any = make_run()
    holder = run
    for key in keys[:-1]:
        holder = holder[key]
    del holder[keys[-1]]

    assert message in load_error(tmp_path / "run.json", json.dumps(run))


@pytest.mark.parametrize(
    "change",
    [
        {"points": []},
        {"points": [make_point(texts_per_second="many")]},
        {"points": [make_point(num_requests=-1)]},
        {"points": [make_point(latency_histogram=[[1.0]])]},
        {"points": [make_point() | {"load": {"kind": "ajar", "concurrency": 1}}]},
        {"workload": "poetry"},
        {"interrupted": 0},
    ],
)
def test_a_key_of_another_kind_is_refused_and_named(tmp_path: Path, change: dict[str, Any]) -> None:
    found = load_error(tmp_path / "run.json", json.dumps(make_run(**change)))

    assert f"has a wrong `{next(iter(change))}" in found


def test_keys_that_may_be_null_may_be_missing_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    run = make_run(make_point(), later_addition=[1])
    del run["served_model"], run["against"], run["dataset"]["mean_tokens"]
    for key in ("num_tokens", "tokens_per_second", "batch_fill"):
        del run["points"][0][key]
    del run["points"][0]["timeline"][0]["p50_ms"]

    save_run(run, tmp_path / "run.json")

    assert load_run(tmp_path / "run.json") == run


def test_a_run_compared_with_itself_is_the_same_and_nothing_is_warned_of() -> None:
    run = make_run(make_point(1), make_point(8))

    comparison = compare(run, run, percent=0)

    assert {row.verdict for row in comparison.rows} == {"same"}
    assert {row.change_percent for row in comparison.rows} == {0.0}
    assert [row.point for row in comparison.rows[::6]] == ["concurrency 1", "concurrency 8"]
    assert comparison.warnings == ()
    assert not comparison.is_regression


@pytest.mark.parametrize(
    ("after", "verdict"), [(106.0, "better"), (105.0, "same"), (95.0, "same"), (94.0, "worse")]
)
def test_fewer_texts_per_second_than_the_threshold_allows_are_a_regression(
    after: float, verdict: str
) -> None:
    comparison = compare(
        make_run(point_with(texts_per_second=100.0)), make_run(point_with(texts_per_second=after))
    )

    assert verdict_on(comparison, "texts/s") == verdict
    assert comparison.is_regression == (verdict == "worse")


@pytest.mark.parametrize(
    ("after_ms", "verdict"), [(18.0, "better"), (21.0, "same"), (21.2, "worse")]
)
def test_a_longer_p99_than_the_threshold_allows_is_a_regression(
    after_ms: float, verdict: str
) -> None:
    comparison = compare(make_run(point_with(p99_ms=20.0)), make_run(point_with(p99_ms=after_ms)))

    assert verdict_on(comparison, "latency p99 (ms)") == verdict
    assert comparison.is_regression == (verdict == "worse")


def test_a_longer_median_alone_is_worse_and_no_regression() -> None:
    before, after = make_run(), make_run()
    after["points"][0]["latency_ms"]["p50"] *= 2

    comparison = compare(before, after)

    assert verdict_on(comparison, "latency p50 (ms)") == "worse"
    assert not comparison.is_regression


def test_one_error_where_there_was_none_is_a_regression_whatever_the_threshold() -> None:
    comparison = compare(make_run(), make_run(make_point(num_failed_requests=1)), percent=1000)

    (row,) = (row for row in comparison.rows if row.quantity == "failed requests (%)")
    assert (row.before, row.change_percent, row.verdict) == (0.0, None, "worse")
    assert comparison.is_regression


def test_errors_are_compared_as_shares_so_a_longer_window_is_no_regression() -> None:
    before = make_run(make_point(num_failed_requests=10, num_requests=990))
    after = make_run(make_point(num_failed_requests=20, num_requests=1980))

    assert verdict_on(compare(before, after), "failed requests (%)") == "same"
    assert verdict_on(compare(after, make_run()), "failed requests (%)") == "better"


def test_tokens_are_compared_only_when_both_runs_have_them() -> None:
    with_tokens, without = make_run(), make_run(make_point(tokens_per_second=None))

    assert "tokens/s" in {row.quantity for row in compare(with_tokens, with_tokens).rows}
    assert "tokens/s" not in {row.quantity for row in compare(with_tokens, without).rows}


def test_points_are_matched_by_load_and_not_by_position() -> None:
    before = make_run(make_point(1), make_point(8), make_point(64))
    after = make_run(make_point(64), make_point(1), make_point(128))

    comparison = compare(before, after, percent=0)

    assert {row.point for row in comparison.rows} == {"concurrency 64", "concurrency 1"}
    assert {row.verdict for row in comparison.rows} == {"same"}
    assert comparison.warnings == (
        "concurrency 8 was measured before and not after",
        "concurrency 128 was measured after and not before",
    )


def test_a_load_that_was_measured_twice_is_matched_in_order() -> None:
    fast, slow = point_with(texts_per_second=100.0), point_with(texts_per_second=50.0)

    comparison = compare(make_run(fast, slow), make_run(fast, slow), percent=0)

    rates = [(row.before, row.after) for row in comparison.rows if row.quantity == "texts/s"]
    assert rates == [(100.0, 100.0), (50.0, 50.0)]


def test_a_rate_and_a_concurrency_of_one_size_are_different_loads() -> None:
    with pytest.raises(
        UsageError, match=r"no load in common: concurrency 8 before, rate 8/s after"
    ):
        compare(make_run(make_point(8)), make_run(make_point(8, is_open=True)))


def test_another_machine_is_warned_of_and_still_compared() -> None:
    after = make_run()
    after["machine"] = after["machine"] | {"num_cpus": 4, "cpu_features": ["avx2"]}

    comparison = compare(make_run(), after)

    assert comparison.rows
    assert comparison.warnings == (
        "the machines differ: `cpu_features` was `avx2 avx512_vnni`, is `avx2`",
        "the machines differ: `num_cpus` was `8`, is `4`",
    )


def test_other_settings_are_warned_of() -> None:
    before = make_run(make_point(8), make_point(16))
    after = make_run(
        make_point(8, batch_size=4),
        make_point(16, window_s=5.0),
        workload="rerank",
        served_model=None,
        interrupted=True,
    )
    after["dataset"] = after["dataset"] | {"name": "news.txt"}
    after["settings"] = after["settings"] | {"warmup_s": 5, "model": "m"}
    after["points"][1]["client_is_limit"] = True

    assert compare(before, after).warnings == (
        "`workload` was `embeddings`, is `rerank`",
        "`served_model` was `BAAI/bge-small-en-v1.5`, is not given",
        "the datasets differ: `name` was `bundled`, is `news.txt`",
        "the settings differ: `warmup_s` was `2`, is `5`",
        "the settings differ: `model` was not given, is `m`",
        "the run after was interrupted",
        "concurrency 8: batch size was 1, is 4",
        "concurrency 16: the measured windows differ: 10 s before, 5 s after",
        "concurrency 16: the client was the limit after, not the server",
    )


@pytest.mark.parametrize("percent", [-1.0, math.nan, math.inf])
def test_a_threshold_that_is_no_percentage_is_refused(percent: float) -> None:
    with pytest.raises(UsageError, match="must be 0 percent or more"):
        compare(make_run(), make_run(), percent=percent)


RATES = st.floats(min_value=0, max_value=1e6, allow_subnormal=False)
POINT = make_point()


@given(RATES, RATES, st.floats(min_value=0, max_value=100))
def test_at_most_one_of_two_runs_is_worse_than_the_other(
    first: float, second: float, percent: float
) -> None:
    one, other = (make_run(POINT | {"texts_per_second": rate}) for rate in (first, second))

    there = verdict_on(compare(one, other, percent), "texts/s")
    back = verdict_on(compare(other, one, percent), "texts/s")

    assert "worse" not in (there, back) or there != back
    assert (there == "worse") <= (second < first)
    assert first != second or there == back == "same"
