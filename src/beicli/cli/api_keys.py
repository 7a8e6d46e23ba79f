"""Files of API keys, one a line."""

from pathlib import Path

from beicli.errors import UsageError


def read_api_keys(file: Path) -> tuple[str, ...]:
    """Return the keys of a file; raises UsageError if there is none, or one no header can carry."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"`{file}` cannot be read: {error}") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise UsageError(
            f"`{file}` holds no key", hint="write one key a line, or leave `--api-key-file` out"
        )
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise UsageError(
            f"a key in `{file}` has characters that no HTTP header can carry",
            hint="use ASCII letters, digits and punctuation",
        )
    return keys
