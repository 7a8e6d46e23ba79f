"""How what a server says is shown: on one line, cut, and always printable."""

_MAX_SHOWN_CHARACTERS = 300


def shown(value: object, *, max_characters: int = _MAX_SHOWN_CHARACTERS) -> str:
    """Return a text, or any other value as Python writes it, fit for a message."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        text = "a value of too many levels"
    # Many times what is shown, as spaces may go; a text of megabytes is not looked at as a whole.
    words = " ".join(text[: 20 * max_characters].split())
    printable = "".join(character for character in words if character.isprintable())
    return printable if len(printable) <= max_characters else f"{printable[:max_characters]}…"


def is_encodable(text: str) -> bool:
    """Whether a text can be sent and printed: JSON can write halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
