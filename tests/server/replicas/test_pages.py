import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from beicli.server.metrics import ServerMetrics
from beicli.server.replicas.pages import MetricsPages, sum_pages


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


def test_histograms_stay_histograms() -> None:
    metrics = ServerMetrics()
    pages = [metrics.render()] * 3

    total = sum_pages(pages[0], running=pages[1:], ended=[])

    kinds = {family.name: family.type for family in text_string_to_metric_families(total.decode())}
    assert kinds["te_request_duration"] == "histogram"


def test_pages_are_kept_under_the_process_and_outlive_it(tmp_path: Path) -> None:
    pages = MetricsPages(tmp_path)
    pages.write(1, page(requests=1, waiting=1))
    pages.write(2, page(requests=2, waiting=2))
    pages.write(2, page(requests=3, waiting=2))

    both = values(pages.add_others(1, page(requests=1, waiting=1)))
    pages.end(2)
    pages.end(3)
    after = values(pages.add_others(1, page(requests=1, waiting=1)))

    assert (both[OK], both["te_queue_size[]"]) == (4, 3)
    assert (after[OK], after["te_queue_size[]"]) == (4, 1)
