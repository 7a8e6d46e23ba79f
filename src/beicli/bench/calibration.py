"""How many words make a text of so many tokens: the server that will be measured is asked."""

from collections.abc import Awaitable, Callable

from beicli.errors import BenchError

_MAX_TRIES = 5
_CLOSE_ENOUGH = 0.01

# Mean tokens of texts of so many words, or None where the server does not count.
CountTokens = Callable[[int], Awaitable[float | None]]


async def words_for_length(length: int, count_tokens: CountTokens) -> int:
    """Return how many words come closest to `length` tokens; at least one.

    Special tokens and words of several tokens make the relation a line that does not start at 0,
    so each try corrects the last. Raises `BenchError` when the server does not count tokens.
    """
    num_words = best = max(length // 2, 1)
    smallest_error = float("inf")
    tried: set[int] = set()
    while num_words not in tried and len(tried) < _MAX_TRIES:
        tried.add(num_words)
        num_tokens = await count_tokens(num_words)
        if num_tokens is None:
            raise BenchError(
                "this server does not tell how many tokens a request had, so texts of "
                f"{length} tokens cannot be made for it",
                hint="leave `--length` out, or give a `--dataset` of texts of that length",
            )
        error = abs(num_tokens - length)
        if error < smallest_error:
            smallest_error, best = error, num_words
        if error <= _CLOSE_ENOUGH * length:
            break
        num_words = max(round(num_words * length / max(num_tokens, 1)), 1)
    return best
