"""The routes of the tokenizer, which every model answers."""

from beicli.pipeline.tokenizer import MAX_CHARACTERS_PER_TOKEN
from beicli.server.openapi.operation import (
    INFERENCE_ERRORS,
    Example,
    JsonSchema,
    Operation,
    Served,
    negotiated,
)
from beicli.server.openapi.schemas import (
    COUNT,
    STRING,
    array,
    body,
    described,
    flag,
    prompt_name,
    record,
    reference,
)

_TAG = "Tokens"


def token_operations(served: Served) -> list[Operation]:
    """Describe `/tokenize` and `/decode`."""
    return [_tokenize(served), _decode(served)]


def _tokenize(served: Served) -> Operation:
    text = {**STRING, "maxLength": served.limits.max_input_length * MAX_CHARACTERS_PER_TOKEN}
    texts = array(text, min_items=1, max_items=served.options.max_client_batch_size)
    place: JsonSchema = {"type": ["integer", "null"], "minimum": 0}
    token = record(
        {
            "id": COUNT,
            "text": STRING,
            "special": described({"type": "boolean"}, "Whether the tokenizer added it."),
            "start": described(place, "In bytes of the text's UTF-8; null for special tokens."),
            "stop": place,
        }
    )
    return Operation(
        method="post",
        path="/tokenize",
        tag=_TAG,
        summary="Split texts into tokens",
        description="Answers the tokens of each text. Nothing is cut, and no model is asked.",
        request=body(
            {
                "inputs": {"anyOf": [text, texts]},
                "add_special_tokens": flag("Show what stands around the text.", default=True),
                "prompt_name": prompt_name(served),
            },
            required=["inputs"],
        ),
        answer_description="For each text its tokens.",
        content=negotiated(array(array(token), min_items=1)),
        errors=INFERENCE_ERRORS,
        examples=(
            Example(
                "text",
                "One text",
                {"inputs": "Turn left"},
                [
                    [
                        _token(101, "[CLS]", None),
                        _token(2735, "Turn", (0, 4)),
                        _token(2187, "left", (5, 9)),
                        _token(102, "[SEP]", None),
                    ]
                ],
            ),
        ),
    )


def _token(token_id: int, text: str, span: tuple[int, int] | None) -> JsonSchema:
    start, stop = span or (None, None)
    return {"id": token_id, "text": text, "special": span is None, "start": start, "stop": stop}


def _decode(served: Served) -> Operation:
    ids = reference("TokenId")
    batch = array(array(ids), min_items=1, max_items=served.options.max_client_batch_size)
    return Operation(
        method="post",
        path="/decode",
        tag=_TAG,
        summary="Turn token ids back into texts",
        description="Answers a list of texts, for a single list of ids too.",
        request=body(
            {
                "ids": {"anyOf": [array(ids, min_items=1), batch]},
                "skip_special_tokens": flag("Leave special tokens out.", default=True),
            },
            required=["ids"],
        ),
        answer_description="The texts.",
        content=negotiated(array(STRING, min_items=1)),
        errors=INFERENCE_ERRORS,
        examples=(
            Example("ids", "One list of ids", {"ids": [101, 2735, 2187, 102]}, ["turn left"]),
        ),
    )
