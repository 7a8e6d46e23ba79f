import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.config.loading import Problems

from beicli.config.yaml_source import MAX_VALUES, parse_yaml
from beicli.errors import ConfigError


def _error(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        parse_yaml(text, name="config.yaml")
    return raised.value


def test_every_key_and_item_knows_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  - x\n  - c: {d: 2}\n", name="config.yaml")

    assert document.value == {"a": 1, "b": ["x", {"c": {"d": 2}}]}
    assert document.lines[("a",)] == 1
    assert document.lines[("b", 0)] == 3
    assert document.lines[("b", 1, "c", "d")] == 4


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63) + 1, 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_values_survive_being_written_as_yaml(value: object) -> None:
    text = yaml.safe_dump(value)

    assert parse_yaml(text, name="config.yaml").value == value


def test_json_is_read_as_yaml_with_its_escaped_surrogate_pairs() -> None:
    text = json.dumps({"inputs": ["\N{GRINNING FACE} ok"]})

    assert parse_yaml(text, name="config.json").value == {"inputs": ["\N{GRINNING FACE} ok"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("off", False),
        ("~", None),
        ("010", 8),
        ("1_000", 1000),
        ("1e5", "1e5"),
        ("2024-05-01", "2024-05-01"),
        ("'8'", "8"),
        ("=", "="),
        ("!!str 8", "8"),
    ],
)
def test_scalars_mean_what_safe_loader_says_but_dates_stay_text(text: str, value: object) -> None:
    assert parse_yaml(f"a: {text}\n", name="config.yaml").value == {"a": value}


def test_keys_are_text_as_in_json() -> None:
    assert parse_yaml("{on: 1, 2: 3, null: 4}", name="config.yaml").value == {
        "on": 1,
        "2": 3,
        "null": 4,
    }


def test_duplicate_key_names_both_lines() -> None:
    document = parse_yaml("a:\n  b: 1\n  c: 2\n  b: 3\n", name="config.yaml")

    (problem,) = document.problems
    assert str(problem) == "`a.b` (line 4): duplicate key, first on line 2"


def test_duplicate_key_behind_an_alias_is_reported_once() -> None:
    document = parse_yaml("a: &x {k: 1, k: 2}\nb: *x\nc: {<<: *x}\n", name="config.yaml")

    assert len(document.problems) == 1


def test_duplicate_keys_are_a_config_error_beside_the_others(problems: Problems) -> None:
    found = problems(
        "model_name: a\nmodel_name: b\ntrt_llm: {build: {checkpoint_repository: {repo: a/b}}}\n"
    )

    assert [problem.key_path for problem in found] == [
        "model_name",
        "trt_llm.build.checkpoint_repository.source",
    ]


def test_merged_mappings_fill_in_what_the_own_keys_leave_out() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\nown: {<<: [*base, *more], a: 0}\n"

    document = parse_yaml(text, name="config.yaml")

    assert document.value["own"] == yaml.safe_load(text)["own"] == {"a": 0, "b": 2, "c": 4}
    assert document.lines[("own", "a")] == 3
    assert document.lines[("own", "c")] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\n", "is not valid YAML: while parsing a flow sequence"),
        ("a: b: c\n", "`config.yaml` is not valid YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "but found another document (line 2)"),
        ("a: *nowhere\n", "found undefined alias 'nowhere' (line 1)"),
        ("a: \x07\n", "`config.yaml` holds the control character '\\x07' (line 1)"),
        ('a: "\\UFFFFFFFF"\n', "an escape names no character (line 1)"),
        ("a:\n  b: !!binary aGk=\n", "`a.b` (line 2): the YAML tag `!!binary` has no meaning here"),
        ("a: !include x.yaml\n", "`a` (line 1): the YAML tag `!include` has no meaning here"),
        ("a: !!set {x}\n", "the YAML tag `!!set` has no meaning here"),
        ("a: !!int x\n", "`a` (line 1): `x` is no YAML int"),
        ("a: !!bool maybe\n", "`a` (line 1): `maybe` is no YAML bool"),
        ("a: .nan\n", "`a` (line 1): `.nan` is not a finite number"),
        ("a: 9223372036854775808\n", "`a` (line 1): a whole number must fit into 64 bits"),
        ('a: "\\ud800"\n', "`a` (line 1): half a surrogate pair is no text"),
        ("? [a, b]\n: 1\n", "a key must be text"),
        ("<<: [1]\n", "`<<` can only merge mappings"),
    ],
)
def test_yaml_that_is_no_config_says_what_and_where(text: str, message: str) -> None:
    assert message in _error(text).message


@pytest.mark.parametrize("text", ["a:\n\tb: 1\n", "a:\n  b: 1\n\tc: 2\n", "\ta: 1\n"])
def test_tab_as_indentation_is_called_by_its_name(text: str) -> None:
    error = _error(text)

    assert "a tab stands where only spaces may" in error.message
    assert error.hint == "indent with spaces"


def test_merge_bomb_is_refused_before_it_unfolds() -> None:
    levels = ["l0: &l0 {}"]
    levels += [f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 10)}]}}" for n in range(1, 15)]

    assert f"unfolds to more than {MAX_VALUES:,} values" in _error("\n".join(levels)).message


def test_alias_bomb_is_refused_before_it_unfolds() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    assert f"unfolds to more than {MAX_VALUES:,} values" in _error("\n".join(levels)).message


@pytest.mark.parametrize(
    "text", ["a: &a [*a]\n", "a: &a {<<: *a}\n", "[" * 5000, "[" * 100 + "]" * 100]
)
def test_endless_or_very_deep_nesting_is_refused(text: str) -> None:
    assert "is nested more than 64 deep" in _error(text).message
