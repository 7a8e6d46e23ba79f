"""Which of the checkpoint's prompts goes before an input."""

from collections.abc import Mapping, Sequence

from beicli.errors import RequestError
from beicli.model.spec import ModelSpec
from beicli.pipeline.tokenizer import TextOrIds

# What clients call the purpose of an input, in the order its names are looked for among the
# prompts; checkpoints differ in what they call them.
INPUT_TYPES: Mapping[str, tuple[str, ...]] = {
    "search_query": ("search_query", "query", "retrieval.query"),
    "query": ("query", "search_query", "retrieval.query"),
    "search_document": ("search_document", "document", "passage", "retrieval.passage", "corpus"),
    "document": ("document", "passage", "search_document", "retrieval.passage", "corpus"),
    "passage": ("passage", "document", "search_document", "retrieval.passage", "corpus"),
    "classification": ("classification", "Classification"),
    "clustering": ("clustering", "Clustering", "separation"),
}


def find_prompt(spec: ModelSpec, *, prompt_name: str | None, input_type: str | None) -> str:
    """Return the text to put before an input, "" for none.

    prompt_name: a name of the checkpoint's own; input_type: a key of INPUT_TYPES, for which the
    checkpoint may have no prompt. With neither, it is the checkpoint's default prompt.
    """
    if prompt_name is not None:
        return _named_prompt(spec, prompt_name)
    if input_type is not None:
        return _prompt_for(spec, input_type)
    name = spec.default_prompt_name
    return "" if name is None else spec.prompts[name]


def choose_prompt(spec: ModelSpec, inputs: Sequence[TextOrIds], prompt: str | None) -> str:
    """Return the text to put before `inputs`: the one asked for, or the checkpoint's default.

    Raises RequestError if a prompt is asked for token ids, which are complete as they are; the
    default one is simply not applied to them.
    """
    if prompt is None:
        return find_prompt(spec, prompt_name=None, input_type=None)
    if prompt:
        for index, item in enumerate(inputs):
            if not isinstance(item, str):
                raise RequestError(
                    "Input validation error: a prompt cannot be put before token ids",
                    hint=f"input {index} is a list of token ids: send its text, or leave the "
                    "prompt out",
                    param="prompt_name",
                )
    return prompt


def _named_prompt(spec: ModelSpec, name: str) -> str:
    if name in spec.prompts:
        return spec.prompts[name]
    if not spec.prompts:
        raise RequestError(
            f"Input validation error: `prompt_name` is set to `{name}` but no prompts were found "
            "in the Sentence Transformers configuration",
            hint="leave `prompt_name` out, and write what the model wants into the text",
            param="prompt_name",
        )
    raise RequestError(
        f"Input validation error: `prompt_name` is set to `{name}` but it was not found in the "
        f"Sentence Transformers prompts. Available prompts: {sorted(spec.prompts)}",
        param="prompt_name",
    )


def _prompt_for(spec: ModelSpec, input_type: str) -> str:
    if input_type not in INPUT_TYPES:
        raise RequestError(
            f"`input_type` is `{input_type[:40]}`; one of {', '.join(INPUT_TYPES)} is wanted",
            param="input_type",
        )
    names = INPUT_TYPES[input_type]
    return next((spec.prompts[name] for name in names if name in spec.prompts), "")
