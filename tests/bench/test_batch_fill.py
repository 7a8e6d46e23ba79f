import pytest

from beicli.bench.batch_fill import BatchCounts, batch_fill, read_batch_counts

PAGE = """\
# HELP te_batch_next_size Inputs a batch
# TYPE te_batch_next_size histogram
te_batch_next_size_bucket{le="1.0"} 3.0
te_batch_next_size_count 10.0
te_batch_next_size_sum 45.0
te_batch_next_tokens_sum 1.2e+03
bei_batch_padded_tokens_total 1500.0
te_request_count{method="single"} 7.0
"""
COUNTS = BatchCounts(num_batches=10, num_sequences=45, num_tokens=1200, num_padded_tokens=1500)


def test_the_counters_are_found_among_the_others() -> None:
    assert read_batch_counts(PAGE) == COUNTS


@pytest.mark.parametrize(
    "page",
    [
        None,
        "",
        "<html>not found</html>",
        PAGE.replace("bei_batch_padded_tokens_total", "another_total"),
        PAGE.replace("1500.0", "many"),
    ],
)
def test_a_page_that_lacks_one_tells_nothing(page: str | None) -> None:
    assert read_batch_counts(page) is None


def test_the_fill_is_that_between_two_readings() -> None:
    after = BatchCounts(num_batches=14, num_sequences=65, num_tokens=1500, num_padded_tokens=1900)

    fill = batch_fill(COUNTS, after)

    assert fill is not None
    assert fill.num_batches == 4
    assert fill.sequences_per_batch == 5
    assert fill.real_token_fraction == 0.75


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, COUNTS),
        (COUNTS, None),
        (COUNTS, COUNTS),
        # Restarted in between.
        (COUNTS, BatchCounts(num_batches=1, num_sequences=1, num_tokens=9, num_padded_tokens=9)),
    ],
)
def test_without_batches_between_two_readings_nothing_is_told(
    before: BatchCounts | None, after: BatchCounts | None
) -> None:
    assert batch_fill(before, after) is None
