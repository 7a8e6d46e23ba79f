"""The fields of a request in a few words each, for pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from beicli.server.openapi.operation import JsonSchema

_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
    "null": "null",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a request, one inside another named with a dot between.

    kind: its type in words; default: None if it has none.
    """

    name: str
    kind: str
    is_required: bool
    default: str | None
    meaning: str


def list_fields(schema: JsonSchema, components: JsonSchema) -> list[Field]:
    """Return the fields of a request; components: the schemas it refers to."""
    return list(_fields(schema, components, prefix="", is_required=True))


def _fields(
    schema: JsonSchema, components: JsonSchema, *, prefix: str, is_required: bool
) -> Iterator[Field]:
    required = set(schema.get("required", ())) if is_required else set()
    for name, child in schema.get("properties", {}).items():
        full = prefix + name
        default = child.get("default")
        yield Field(
            name=full,
            kind=describe_type(child, components),
            is_required=name in required,
            default=None if default is None else _literal(default),
            meaning=_resolve(child, components).get("description", ""),
        )
        yield from _fields(
            child, components, prefix=f"{full}.", is_required="null" not in child.get("type", ())
        )


def describe_type(schema: JsonSchema, components: JsonSchema) -> str:
    """Return what values a schema takes, in words; null is left out where it is one of several."""
    if "$ref" in schema:
        resolved = _resolve(schema, components)
        return str(resolved.get("title") or describe_type(resolved, components))
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values is not None:
        return ", ".join(f"`{value}`" for value in values if value is not None) or "null"
    if "anyOf" in schema:
        return _any_of([describe_type(option, components) for option in schema["anyOf"]])
    if "allOf" in schema:
        return describe_type(schema["allOf"][0], components)
    if "type" not in schema:
        return "anything"
    types = schema["type"]
    names = [types] if isinstance(types, str) else types
    return _any_of(
        [
            _describe_list(schema, components) if name == "array" else _TYPES[name]
            for name in names
            if name != "null" or len(names) == 1
        ]
    )


def _describe_list(schema: JsonSchema, components: JsonSchema) -> str:
    if schema.get("minItems", 0) == schema.get("maxItems"):
        return f"list of {schema['maxItems']} ({describe_type(schema['items'], components)})"
    return f"list ({describe_type(schema['items'], components)})"


def _any_of(options: list[str]) -> str:
    return ", or ".join(dict.fromkeys(options))


def _literal(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _resolve(schema: JsonSchema, components: JsonSchema) -> JsonSchema:
    if "$ref" not in schema:
        return schema
    found: JsonSchema = components[schema["$ref"].rpartition("/")[2]]
    return found
