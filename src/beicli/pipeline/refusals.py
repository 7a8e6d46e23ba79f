"""What the tokenizer refuses, in text-embeddings-inference's words, naming the input at fault."""

from beicli.errors import EmptyInputError, InputTooLongError, RequestError


def name_input(index: int) -> str:
    """Name an input in a message, where its route has no better word."""
    return f"input {index}"


def empty_text(name: str) -> EmptyInputError:
    """Make the error for a text without characters."""
    return EmptyInputError(
        "Input validation error: `inputs` cannot be empty",
        hint=f"{name} is an empty string: leave it out or send a text",
    )


def empty_ids(name: str) -> EmptyInputError:
    """Make the error for a list without token ids."""
    return EmptyInputError(
        "Input validation error: `inputs` cannot be empty",
        hint=f"{name} is an empty list of token ids: leave it out",
    )


def nothing_to_compute(name: str) -> EmptyInputError:
    """Make the error for a text of which the tokenizer leaves nothing."""
    return EmptyInputError(
        "Input validation error: `inputs` cannot be empty",
        hint=f"the tokenizer makes no tokens of {name}: leave it out or send a text",
    )


def unknown_token(token_id: int, name: str, *, vocab_size: int) -> RequestError:
    """Make the error for a token id that stands for nothing."""
    return RequestError(
        f"Input validation error: token id {token_id} of {name} is not in this model's "
        f"vocabulary of {vocab_size} tokens",
        hint="token ids must come from this model's own tokenizer; send the text instead",
    )


def too_many_tokens(num_tokens: int, name: str, *, limit: int, part: str = "") -> InputTooLongError:
    """Make the error for an input beyond the model's window, which may hold `limit` tokens.

    part: what of the input is too long already without the rest, and how long it is.
    """
    return InputTooLongError(
        f"Input validation error: `inputs` must have less than {limit} tokens. Given: {num_tokens}",
        hint=_shorten(name, part),
    )


def too_many_characters(
    num_characters: int, name: str, *, limit: int, part: str = ""
) -> InputTooLongError:
    """Make the error for an input so long that it is not even tokenised."""
    return InputTooLongError(
        f"Input validation error: `inputs` must have less than {limit} characters. "
        f"Given: {num_characters}",
        hint=_shorten(name, part),
    )


def query_too_long(num_tokens: int, name: str, *, limit: int) -> InputTooLongError:
    """Make the error for a query whose prompt has no room for a document, however short."""
    return InputTooLongError(
        f"Input validation error: `inputs` must have less than {limit} tokens. Given: {num_tokens}",
        hint=f"{name} is too long: the query and the prompt around it alone have {num_tokens} "
        "tokens, and only documents are cut; shorten the query",
    )


def _shorten(name: str, part: str) -> str:
    because = f": {part}" if part else ""
    return (
        f"{name} is too long{because}; send `truncate: true` to have its end cut off, or split it"
    )
