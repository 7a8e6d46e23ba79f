import importlib
from pathlib import Path

import pytest
from tests.models.catalog import MODELS, PinnedModel

_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "test-models.md"

every_model = pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))


def test_every_name_is_used_once() -> None:
    assert all(name == model.name for name, model in MODELS.items())


@every_model
def test_a_model_comes_after_those_it_needs(model: PinnedModel) -> None:
    names = list(MODELS)

    assert all(names.index(need) < names.index(model.name) for need in model.needs)


@every_model
def test_a_model_of_the_small_set_needs_nothing_outside_it(model: PinnedModel) -> None:
    if model.in_small_set:
        assert all(MODELS[need].in_small_set for need in model.needs)


@every_model
def test_the_named_converter_exists(model: PinnedModel) -> None:
    module, _, function = model.convert.partition(":")

    assert callable(getattr(importlib.import_module(f"tests.models.{module}"), function))


@every_model
def test_the_reference_page_lists_the_model_with_its_packages(model: PinnedModel) -> None:
    rows = _PAGE.read_text(encoding="utf-8").splitlines()

    (row,) = (row for row in rows if row.startswith(f"| `{model.name}` |"))

    for package in model.packages:
        assert f"{package.name} {package.version}" in row
