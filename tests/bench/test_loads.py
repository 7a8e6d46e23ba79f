import itertools

import pytest

from beicli.bench.loads import Load, arrivals, parse_loads
from beicli.errors import UsageError


def test_without_a_word_the_load_is_32_clients() -> None:
    assert parse_loads(None, None) == (Load(concurrency=32),)


def test_a_list_is_a_sweep_in_its_order() -> None:
    assert [load.concurrency for load in parse_loads("64,1, 8", None)] == [64, 1, 8]
    assert [load.rate_per_second for load in parse_loads(None, "0.5,200")] == [0.5, 200.0]


def test_both_kinds_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        parse_loads("8", "100")


@pytest.mark.parametrize(
    ("concurrency", "rate", "message"),
    [
        ("0", None, "concurrency must be 1 or more, got 0"),
        ("8,", None, "concurrency `8,` is not a number"),
        ("many", None, "concurrency `many` is not a number"),
        ("1.5", None, "concurrency `1.5` is not a number"),
        (None, "0", "rate must be more than 0 requests/s, got 0"),
        (None, "nan", "rate must be more than 0 requests/s, got nan"),
        (None, "inf", "rate must be more than 0 requests/s, got inf"),
        (None, "", "rate `` is not a number"),
    ],
)
def test_a_senseless_load_is_refused(
    concurrency: str | None, rate: str | None, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_loads(concurrency, rate)

    assert message in caught.value.message


def test_a_load_is_of_one_kind() -> None:
    with pytest.raises(UsageError, match="either"):
        Load()
    with pytest.raises(UsageError, match="either"):
        Load(concurrency=1, rate_per_second=1)


def test_labels_are_those_of_the_plots() -> None:
    assert Load(concurrency=1024).label == "concurrency 1,024"
    assert Load(rate_per_second=150).label == "rate 150/s"


def test_arrivals_are_those_of_a_poisson_process() -> None:
    moments = list(itertools.islice(arrivals(50, start_s=100, seed=1), 20_000))

    gaps = [after - before for before, after in itertools.pairwise([100.0, *moments])]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert min(gaps) > 0
    assert mean == pytest.approx(1 / 50, rel=0.03)
    # What tells it from an even beat, whose deviation is 0.
    assert deviation == pytest.approx(mean, rel=0.05)


def test_the_same_seed_gives_the_same_arrivals_and_another_others() -> None:
    first = list(itertools.islice(arrivals(50, start_s=0, seed=1), 10))

    assert first == list(itertools.islice(arrivals(50, start_s=0, seed=1), 10))
    assert first != list(itertools.islice(arrivals(50, start_s=0, seed=2), 10))
