"""The parts that several schemas share: inputs, truncation, prompts, errors, headers."""

from collections.abc import Iterable, Mapping
from typing import Any

from beicli.errors import BeiError
from beicli.pipeline.prompts import INPUT_TYPES
from beicli.server.errors import WORDS, InternalError
from beicli.server.openapi.operation import JsonSchema, Served

NUMBER: JsonSchema = {"type": "number"}
STRING: JsonSchema = {"type": "string"}
COUNT: JsonSchema = {"type": "integer", "minimum": 0}
# The parser reads whole numbers up to here; longer ones become floating-point numbers.
MAX_INTEGER = 2**64 - 1
MODEL: JsonSchema = {
    "type": ["string", "null"],
    "description": "Ignored: the server has one model.",
}


def described(schema: Mapping[str, Any], description: str, **more: Any) -> JsonSchema:
    """Return `schema` with a description, and more keywords."""
    return {**schema, **more, "description": description}


def reference(name: str) -> JsonSchema:
    """Refer to a schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(
    items: JsonSchema, *, min_items: int | None = None, max_items: int | None = None
) -> JsonSchema:
    """Return the schema of a list."""
    bounds = {"minItems": min_items, "maxItems": max_items}
    return {
        "type": "array",
        "items": items,
        **{key: value for key, value in bounds.items() if value is not None},
    }


def record(properties: Mapping[str, JsonSchema], *, optional: Iterable[str] = ()) -> JsonSchema:
    """Return the schema of an object of an answer; all but `optional` are always there."""
    left_out = set(optional)
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in left_out],
    }


def body(properties: Mapping[str, JsonSchema], *, required: Iterable[str]) -> JsonSchema:
    """Return the schema of a request; keys it does not know are ignored."""
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def flag(description: str, *, default: bool | None) -> JsonSchema:
    """Return the schema of a field that is true, false or null."""
    schema = described({"type": ["boolean", "null"]}, description)
    return schema if default is None else {**schema, "default": default}


def choice(description: str, values: Iterable[str], *, default: str | None = None) -> JsonSchema:
    """Return the schema of a field with one of `values`, or null."""
    schema = described({"type": ["string", "null"], "enum": [*values, None]}, description)
    return schema if default is None else {**schema, "default": default}


def truncation(served: Served, *, if_not: str = "refuses them") -> dict[str, JsonSchema]:
    """Return the fields that say what to do with overlong inputs.

    if_not: what `false` does with them.
    """
    truncates = served.options.on_too_long == "truncate"
    window = served.limits.max_input_length
    return {
        "truncate": flag(
            f"Cut inputs beyond the model's window of {window} tokens; false {if_not}.",
            default=truncates,
        ),
        "truncation_direction": choice(
            "Which end is cut off.", ("left", "right", "Left", "Right"), default="right"
        ),
    }


def prompts(served: Served) -> dict[str, JsonSchema]:
    """Return the fields that choose a prompt; at most one of them may be set."""
    return {"prompt_name": prompt_name(served), "input_type": input_type()}


def prompt_name(served: Served) -> JsonSchema:
    """Return the field that names a prompt."""
    names = sorted(served.model.prompts)
    if not names:
        return choice("Name of a prompt to put before each text; this model has none.", ())
    return choice("Name of the model's own prompt to put before each text.", names)


def input_type() -> JsonSchema:
    """Return the field that says what an input is for."""
    return choice(
        "What the inputs are for; the model's prompt for that is put before each text, if it has "
        "one.",
        INPUT_TYPES,
    )


def not_both(first: str, second: str) -> JsonSchema:
    """Return what a schema says that takes at most one of two fields of text."""
    both = {first: STRING, second: STRING}
    return {"not": {"type": "object", "required": [first, second], "properties": both}}


def components(served: Served) -> dict[str, JsonSchema]:
    """Return the schemas that others refer to."""
    token_id: JsonSchema = {
        "title": "token id",
        "type": "integer",
        "minimum": 0,
        "maximum": served.model.vocab_size - 1,
        "description": "A token of this model's own tokenizer.",
    }
    text_or_ids: JsonSchema = {"anyOf": [reference("Text"), reference("TokenIds")]}
    inputs = {"items": text_or_ids, "maxItems": served.options.max_client_batch_size}
    return {
        "Text": {"type": "string", "minLength": 1, "title": "text"},
        "TokenId": token_id,
        "TokenIds": described(
            array(reference("TokenId"), min_items=1),
            "Taken as they are, so they hold the special tokens too.",
            title="list of token ids",
        ),
        "TextOrIds": text_or_ids,
        "Inputs": {
            "title": "text, list of token ids, or a list of those",
            "anyOf": [
                reference("Text"),
                reference("TokenIds"),
                {"type": "array", "minItems": 1, **inputs},
            ],
            "description": "What to compute; token ids are taken as they are.",
        },
        "Label": described(STRING, "One of the model's labels.", **_label_values(served)),
        "TeiError": _tei_error(),
        "OpenAIError": _openai_error(),
    }


def _label_values(served: Served) -> JsonSchema:
    models = (served.model, *(model for _, model in served.others))
    labels = list(dict.fromkeys(label for model in models for label in model.labels))
    return {"enum": labels} if labels else {}


def _queue() -> JsonSchema:
    fields = {
        "waiting_inputs": described(COUNT, "Inputs that wait for the engine."),
        "waiting_tokens": described(COUNT, "Their tokens."),
        "estimated_wait_ms": described(COUNT, "Until new work is begun; left out while unknown."),
    }
    return described(
        record(fields, optional=["estimated_wait_ms"]), "What waits, where that is the reason."
    )


def _tei_error() -> JsonSchema:
    return record(
        {
            "error": described(STRING, "What is wrong."),
            "error_type": described(STRING, "Match this one.", enum=_error_types(WORDS)),
            "hint": described(STRING, "What to do about it."),
            "queue": _queue(),
        },
        optional=["hint", "queue"],
    )


def _openai_error() -> JsonSchema:
    inner = record(
        {
            "message": described(STRING, "What is wrong."),
            "type": described(STRING, "A class of errors."),
            "param": described({"type": ["string", "null"]}, "The field at fault."),
            "code": described(STRING, "Match this one.", enum=_codes(WORDS)),
            "hint": described(STRING, "What to do about it."),
            "queue": _queue(),
        },
        optional=["hint", "queue"],
    )
    return record({"error": inner})


def error_schema(status: int, *, is_openai: bool) -> JsonSchema:
    """Return the schema of an error with a status: a shape, and the words it may hold there."""
    kinds = [kind for kind in WORDS if _on_the_wire(kind).http_status == status]
    if is_openai:
        codes: JsonSchema = {"error": {"properties": {"code": {"enum": _codes(kinds)}}}}
        return {"allOf": [reference("OpenAIError"), {"properties": codes}]}
    types: JsonSchema = {"error_type": {"enum": _error_types(kinds)}}
    return {"allOf": [reference("TeiError"), {"properties": types}]}


def _on_the_wire(kind: type[BeiError]) -> type[BeiError]:
    # A plain BeiError reaches no client; a bug does, with the same words.
    return InternalError if kind is BeiError else kind


def _codes(kinds: Iterable[type[BeiError]]) -> list[str]:
    return sorted({WORDS[kind].code for kind in kinds})


def _error_types(kinds: Iterable[type[BeiError]]) -> list[str]:
    return sorted({_on_the_wire(kind).error_type for kind in kinds})
