import errno
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.server.fakes import make_manifest

from beicli.scheduler.scheduler import FinishedBatch
from beicli.server.canary import CanaryFigures, CanaryResult
from beicli.server.metrics import ServerMetrics
from beicli.server.replicas.pages import MetricsPages, end_page, sum_pages


def page(*, requests: int, waiting: int = 0, wait_s: float = math.nan) -> bytes:
    metrics = ServerMetrics()
    metrics.watch_queue(lambda: waiting, lambda: wait_s)
    for _ in range(requests):
        metrics.answered("/v1/embeddings", "200")
    return metrics.render()


def values(text: bytes) -> dict[str, float]:
    """Return every series of a page, as a scraper reads it."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


OK = "bei_requests_total[('route', '/v1/embeddings'), ('status', '200')]"


@given(st.lists(st.integers(0, 20), min_size=1, max_size=4), st.integers(0, 20))
def test_what_replicas_count_adds_up_also_of_those_that_ended(
    counts: list[int], ended: int
) -> None:
    own, *others = [page(requests=count, waiting=count) for count in counts]

    total = values(sum_pages(own, running=others, ended=[page(requests=ended, waiting=7)]))

    assert total.get(OK, 0) == sum(counts) + ended
    # What waited in a replica that ended waits no more.
    assert total["te_queue_size[]"] == sum(counts)


def test_a_page_alone_stays_as_it_is() -> None:
    own = page(requests=2, waiting=1)

    assert values(sum_pages(own, running=[], ended=[])).keys() == values(own).keys()
    assert values(sum_pages(own, running=[], ended=[]))[OK] == 2


def test_a_series_that_only_others_have_stands_with_its_metric() -> None:
    other = ServerMetrics()
    other.answered("/rerank", "422")

    lines = sum_pages(page(requests=1), running=[other.render()], ended=[]).decode().splitlines()

    place = lines.index("# TYPE bei_requests_total counter")
    assert set(lines[place + 1 : place + 3]) == {
        'bei_requests_total{route="/v1/embeddings",status="200"} 1.0',
        'bei_requests_total{route="/rerank",status="422"} 1.0',
    }


def test_an_estimate_is_the_longest_not_the_sum_and_one_is_enough() -> None:
    pages = [page(requests=0, wait_s=wait_s) for wait_s in (math.nan, 2.0, 3.0, math.nan)]

    total = values(sum_pages(pages[0], running=pages[1:], ended=[]))

    assert total["bei_estimated_wait_seconds[]"] == 3


def test_slots_add_up_over_those_that_run_and_reasons_over_all() -> None:
    def page_of(reason: str) -> bytes:
        metrics = ServerMetrics()
        metrics.describe(make_manifest(), served_model_name="tiny", num_slots=2)
        metrics.failed(reason)
        return metrics.render()

    pages = [page_of(reason) for reason in ("input_too_long", "dropped", "input_too_long")]

    total = values(sum_pages(pages[0], running=pages[1:2], ended=pages[2:]))

    assert total["bei_slots[]"] == 4
    assert total["bei_failed_requests_total[('reason', 'input_too_long')]"] == 2
    assert total["bei_failed_requests_total[('reason', 'dropped')]"] == 1


def test_shares_of_padding_add_up_bucket_by_bucket() -> None:
    pages = []
    for num_tokens in (8, 10):
        metrics = ServerMetrics()
        metrics.observe_batch(
            FinishedBatch(
                num_sequences=2, num_tokens=num_tokens, num_padded_tokens=10, inference_s=1.0
            )
        )
        pages.append(metrics.render())

    total = values(sum_pages(pages[0], running=pages[1:], ended=[]))

    shares = "bei_batch_padding_share_bucket[('le', '{}')]"
    assert total[shares.format("0.0")] == 1
    assert total[shares.format("0.3")] == total[shares.format("+Inf")] == 2
    assert total["bei_batch_duration_sum[]"] == 2


def test_histograms_stay_histograms() -> None:
    metrics = ServerMetrics()
    pages = [metrics.render()] * 3

    total = sum_pages(pages[0], running=pages[1:], ended=[])

    kinds = {family.name: family.type for family in text_string_to_metric_families(total.decode())}
    assert kinds["te_request_duration"] == "histogram"


def test_a_replica_that_ended_counts_for_what_it_did(tmp_path: Path) -> None:
    asked, other = MetricsPages(tmp_path, 0), MetricsPages(tmp_path, 1)
    other.keep(page(requests=2, waiting=2))
    other.keep(page(requests=3, waiting=2))

    both = values(asked.add_others(page(requests=1, waiting=1)))
    end_page(tmp_path, 1)
    after = values(asked.add_others(page(requests=1, waiting=1)))

    assert (both[OK], both["te_queue_size[]"]) == (4, 3)
    assert (after[OK], after["te_queue_size[]"]) == (4, 1)


def test_a_replica_that_ended_before_it_counted_is_nothing(tmp_path: Path) -> None:
    end_page(tmp_path, 1)

    assert values(MetricsPages(tmp_path, 0).add_others(page(requests=1)))[OK] == 1


def test_a_process_counts_on_from_those_that_had_its_place(tmp_path: Path) -> None:
    asked = MetricsPages(tmp_path, 0)
    for ended in range(3):
        again = MetricsPages(tmp_path, 1)
        again.keep(page(requests=2, waiting=5))
        assert values(again.add_others(page(requests=2, waiting=5)))[OK] == 2 * (ended + 1)
        end_page(tmp_path, 1)
    again = MetricsPages(tmp_path, 1)

    # Before its first page what was counted stands for it, and afterwards it is in that page.
    before = values(asked.add_others(page(requests=1)))
    again.keep(page(requests=4, waiting=1))
    after = values(asked.add_others(page(requests=1)))

    assert (before[OK], before["te_queue_size[]"]) == (7, 0)
    assert (after[OK], after["te_queue_size[]"]) == (11, 1)
    assert len(list(tmp_path.iterdir())) <= 3


def test_what_one_replica_told_of_itself_all_tell(tmp_path: Path) -> None:
    MetricsPages(tmp_path, 0).add_others(page(requests=3))

    assert values(MetricsPages(tmp_path, 1).add_others(page(requests=0)))[OK] == 3


def test_without_the_folder_a_replica_speaks_for_itself(tmp_path: Path) -> None:
    pages = MetricsPages(tmp_path / "removed", 0)

    assert values(pages.add_others(page(requests=2)))[OK] == 2


def test_a_page_that_finds_no_room_is_left_out_and_the_next_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write_nothing(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    asked, other = MetricsPages(tmp_path, 0), MetricsPages(tmp_path, 1)
    other.keep(page(requests=2))
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_nothing)
        # Said once, however often it is tried.
        other.keep(page(requests=3))
        other.keep(page(requests=4))
        assert len(caplog.records) == 1
        assert values(asked.add_others(page(requests=1)))[OK] == 3

    other.keep(page(requests=5))

    assert values(asked.add_others(page(requests=1)))[OK] == 6


def canary_page(*, cosine: float, passed: bool, finished_at: float) -> bytes:
    metrics = ServerMetrics()
    result = CanaryResult(cosine, finished_at, None if passed else "it is wrong")
    metrics.watch_canary(lambda: CanaryFigures(is_cosine=True, allowed=0.999, last=result))
    return metrics.render()


def test_of_canaries_the_worst_and_the_oldest_is_told() -> None:
    pages = [
        canary_page(cosine=1.0, passed=True, finished_at=30.0),
        canary_page(cosine=math.nan, passed=True, finished_at=20.0),
        canary_page(cosine=0.5, passed=False, finished_at=25.0),
    ]

    for own in pages:
        others = [page for page in pages if page is not own]
        # One that ended computes nothing any more, right or wrong.
        ended = [canary_page(cosine=-1.0, passed=False, finished_at=1.0)]
        total = values(sum_pages(own, running=others, ended=ended))
        assert total["bei_canary_cosine_min[]"] == 0.5
        assert total["bei_canary_cosine_min_allowed[]"] == 0.999
        assert total["bei_canary_passed[]"] == 0
        assert total["bei_canary_timestamp_seconds[]"] == 20


def test_a_canary_that_is_gone_is_told_no_more() -> None:
    metrics, result = ServerMetrics(), CanaryResult(1.0, 1.0, None)
    metrics.watch_canary(lambda: CanaryFigures(is_cosine=True, allowed=0.999, last=result))
    assert b"bei_canary" in metrics.render()

    metrics.watch_canary(None)

    assert b"bei_canary" not in metrics.render()


def test_of_errors_of_scores_the_largest_is_told() -> None:
    def scores(error: float) -> bytes:
        metrics, result = ServerMetrics(), CanaryResult(error, 1.0, None)
        metrics.watch_canary(lambda: CanaryFigures(is_cosine=False, allowed=0.1, last=result))
        return metrics.render()

    total = values(sum_pages(scores(0.01), running=[scores(0.03), scores(0.02)], ended=[]))

    assert total["bei_canary_score_error_max[]"] == 0.03
    assert total["bei_canary_score_error_max_allowed[]"] == 0.1
