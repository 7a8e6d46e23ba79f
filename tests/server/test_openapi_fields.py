import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.server.openapi.fields import Field, describe_type, list_fields

COMPONENTS = {
    "Text": {"type": "string", "title": "text", "minLength": 1},
    "Id": {"type": "integer", "description": "A token."},
}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string"}, "text"),
        ({"type": ["integer", "null"]}, "integer"),
        ({"type": ["boolean", "null"]}, "true or false"),
        ({"type": "null"}, "null"),
        ({}, "anything"),
        ({"enum": ["a", "b", None]}, "`a`, `b`"),
        ({"enum": [None]}, "null"),
        ({"const": "text"}, "`text`"),
        ({"$ref": "#/components/schemas/Text"}, "text"),
        ({"$ref": "#/components/schemas/Id"}, "integer"),
        ({"type": "array", "items": {"type": "string"}}, "list (text)"),
        (
            {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string"}},
            "list of 2 (text)",
        ),
        (
            {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "string"}]},
            "text, or integer",
        ),
        ({"allOf": [{"type": "object"}, {"properties": {}}]}, "object"),
    ],
)
def test_types_are_put_into_words(schema: dict[str, object], words: str) -> None:
    assert describe_type(schema, COMPONENTS) == words


def test_fields_inside_fields_are_listed_with_a_dot() -> None:
    inner = {"type": "object", "properties": {"b": {"$ref": "#/components/schemas/Id"}}}
    schema = {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {**inner, "required": ["b"]},
            "c": {"type": ["boolean", "null"], "default": True, "description": "A flag."},
        },
    }

    assert list_fields(schema, COMPONENTS) == [
        Field("a", "object", is_required=True, default=None, meaning=""),
        Field("a.b", "integer", is_required=True, default=None, meaning="A token."),
        Field("c", "true or false", is_required=False, default="true", meaning="A flag."),
    ]


def test_what_stands_in_something_that_may_be_left_out_is_not_required() -> None:
    inner = {"type": ["object", "null"], "required": ["b"], "properties": {"b": {"type": "string"}}}

    found = list_fields({"type": "object", "properties": {"a": inner}}, COMPONENTS)

    assert [field.is_required for field in found] == [False, False]


@given(st.sets(st.sampled_from(["string", "integer", "number", "boolean", "object", "null"])))
def test_every_type_has_words(names: set[str]) -> None:
    words = describe_type({"type": sorted(names)}, COMPONENTS)

    assert bool(words) == bool(names)
    assert ("null" in words) == (names == {"null"})
