import math
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tests.artifact.test_accuracy import TEXTS, unit_vectors

from beicli.artifact.accuracy import compare_vectors
from beicli.artifact.report import VectorReport
from beicli.builder.quantization.graph import Level
from beicli.builder.quantization.plan import (
    METHOD_LEVELS,
    MIN_QUANTIZED_FRACTION,
    Plan,
    ProductErrors,
    plans,
    search,
)

GOOD = compare_vectors(unit_vectors(0), unit_vectors(0), TEXTS, precision="int8")
BAD = replace(GOOD, cosine_min=0.0)


def product(number: int, static: float, dynamic: float, num_weights: int = 100) -> ProductErrors:
    return ProductErrors(
        name=f"product {number}",
        num_weights=num_weights,
        errors={Level.STATIC: static, Level.DYNAMIC: dynamic},
    )


errors = st.floats(1e-6, 1, allow_nan=False)
products = st.lists(st.tuples(errors, errors, st.integers(1, 1000)), min_size=1, max_size=12).map(
    lambda found: [product(number, *values) for number, values in enumerate(found)]
)


def test_the_loosest_plan_has_every_product_at_its_fastest_level() -> None:
    found = plans([product(0, 0.5, 0.1), product(1, 0.01, 0.001)])

    assert found[0].names(Level.STATIC) == ("product 0", "product 1")
    assert found[0].quantized_fraction == 1


def test_the_product_with_the_largest_error_is_slowed_down_first() -> None:
    found = plans([product(0, 0.5, 0.1), product(1, 0.01, 0.001), product(2, 0.02, 0.2)])

    assert found[1].levels == {
        "product 0": Level.DYNAMIC,
        "product 1": Level.STATIC,
        "product 2": Level.STATIC,
    }


@given(products)
def test_plans_get_tighter_and_keep_half_in_8_bit(made: list[ProductErrors]) -> None:
    order = list(Level)
    found = plans(made)

    assert found
    for looser, tighter in pairwise(found):
        assert looser != tighter
    for plan in found:
        assert plan.quantized_fraction >= MIN_QUANTIZED_FRACTION
        assert list(plan.levels) == [each.name for each in made]
    quantized = [plan.quantized_fraction for plan in found]
    assert quantized == sorted(quantized, reverse=True)
    assert all(level in order for level in found[0].levels.values())


def test_without_products_there_is_no_plan() -> None:
    assert plans([]) == []


def test_one_method_scales_by_token_only() -> None:
    assert METHOD_LEVELS["weights_int8"] == (Level.DYNAMIC,)


@given(st.integers(1, 200), st.data())
def test_the_loosest_plan_that_passes_is_found_in_few_tries(
    num_plans: int, data: st.DataObject
) -> None:
    first_that_passes = data.draw(st.integers(0, num_plans))
    candidates = [Plan(levels={}, quantized_fraction=1 - i / 1000) for i in range(num_plans)]
    tried: list[int] = []

    def evaluate(plan: Plan) -> VectorReport:
        tried.append(candidates.index(plan))
        return GOOD if tried[-1] >= first_that_passes else BAD

    found = search(candidates, evaluate)

    if first_that_passes == num_plans:
        assert not found.report.passed
        assert found.plan == candidates[-1]
    else:
        assert found.report.passed
        assert found.plan == candidates[first_that_passes]
    assert len(tried) == found.num_tried <= 2 + math.ceil(math.log2(max(num_plans, 2)))
