from tests.bench.runs import make_against, make_point, make_run

from beicli.bench.points import load_label, pair_points, points_by_load, short_load_label


def test_a_load_is_called_by_its_kind_and_size() -> None:
    rate = make_point(1500, is_open=True)
    rate["load"]["rate_per_second"] = 1500.5

    assert load_label(make_point(32)) == "concurrency 32"
    assert load_label(rate) == "rate 1,500.5/s"
    assert short_load_label(rate) == "1,500.5"


def test_a_run_against_nobody_has_pairs_of_one() -> None:
    (pair,) = pair_points(make_run(make_point(4)))

    assert (pair.label, pair.second, pair.ratio) == ("concurrency 4", None, None)
    assert pair.sides == (pair.first,)


def test_points_of_two_servers_are_paired_in_order_with_their_ratio() -> None:
    run = make_run(make_point(1), make_point(4))
    run["against"] = make_against(run, make_point(1, speed=0.5), make_point(4, speed=0.25))

    pairs = pair_points(run)

    assert [pair.second for pair in pairs] == run["against"]["points"]
    assert [pair.ratio for pair in pairs] == [2.0, 4.0]


def test_what_the_other_server_has_too_many_of_is_left_out() -> None:
    run = make_run(make_point(1))
    run["against"] = make_against(run, make_point(1), points=[make_point(1), make_point(4)])

    (pair,) = pair_points(run)

    assert pair.second == make_point(1)


def test_equal_loads_get_keys_of_their_own() -> None:
    keys = points_by_load([make_point(8), make_point(8), make_point(8, is_open=True)])

    assert list(keys) == [("closed", 8.0, 0), ("closed", 8.0, 1), ("open", 8.0, 0)]
