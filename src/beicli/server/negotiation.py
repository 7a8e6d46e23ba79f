"""In which form an answer travels: JSON or MessagePack, compressed or not, as the client asks.

JSON is what a client gets who asks for nothing, for anything, or for something else: one that
names neither form has rarely thought about it, and a 406 would help nobody.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import orjson
import ormsgpack
import zstandard
from starlette.responses import Response

from beicli.pipeline.results import Usage

MediaType = Literal["application/json", "application/msgpack"]

_JSON_NAMES = frozenset({"application/json"})
_MSGPACK_NAMES = frozenset(
    {
        "application/msgpack",
        "application/x-msgpack",
        "application/messagepack",
        "application/vnd.msgpack",
    }
)
_WILDCARDS = frozenset({"application/*", "*/*"})

# Ten packets leave at once on a new connection (RFC 6928): below that nobody waits any less.
MIN_COMPRESSED_BYTES = 16 * 1024
# 32 vectors of 384 numbers, one core of a Xeon: JSON of 152 KB becomes 56 KB in 0.4 ms and back in
# 0.1 ms, so it pays on links below 1.5 Gbit/s; elsewhere half a millisecond is lost. Level 3 takes
# twice as long and makes 64 KB of it: it searches for repetitions, and digits have none.
ZSTD_LEVEL = 1
# The same vectors packed, as base64 or raw keep 82, 73 and 92 %. Whether an answer is of that kind
# shows in its first bytes, for 0.01 ms.
SAMPLE_BYTES = 1024
MAX_SAMPLE_RATIO = 2 / 3
# About 0.7 ms of the event loop; a thread and back is 0.07 ms.
MAX_INLINE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a route answers.

    content: plain values and numpy arrays, encoded as the client prefers, or a function that makes
        them when they are wanted; or bytes, finished.
    usage: None where no model was asked.
    to_json: how to write `content` as JSON, where the route knows a faster way.
    media_type: of finished bytes. headers: beside those every answer has.
    """

    content: object | Callable[[], object]
    usage: Usage | None
    to_json: Callable[[], bytes] | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, media_type: MediaType) -> bytes:
        """Write `content`, which must not be finished bytes; arrays never become Python numbers."""
        if media_type == "application/json" and self.to_json is not None:
            return self.to_json()
        content = self.content() if callable(self.content) else self.content
        if media_type == "application/msgpack":
            return ormsgpack.packb(content, option=ormsgpack.OPT_SERIALIZE_NUMPY)
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What a client accepts and asks for in its headers.

    takes_zstd: whether it decompresses Zstandard.
    wants_input_lengths: whether to tell each input's tokens before truncation.
    """

    media_type: MediaType = "application/json"
    takes_zstd: bool = False
    wants_input_lengths: bool = False

    async def respond(self, answer: Answer) -> Response:
        """Encode an answer, and compress it where that pays; finished bytes go out as they are."""
        headers = {"vary": "accept, accept-encoding", **answer.headers}
        if isinstance(answer.content, bytes):
            return Response(answer.content, media_type=answer.media_type, headers=headers)
        body = answer.encode(self.media_type)
        if self.takes_zstd and pays_to_compress(body):
            headers["content-encoding"] = "zstd"
            body = await _compress(body)
        return Response(body, media_type=self.media_type, headers=headers)


def negotiate(headers: Mapping[bytes, bytes]) -> Negotiated:
    """Read what the client's headers ask for."""
    return Negotiated(
        media_type=preferred_media_type(headers.get(b"accept", b"").decode("latin-1")),
        takes_zstd=accepts_zstd(headers.get(b"accept-encoding", b"").decode("latin-1")),
        wants_input_lengths=headers.get(b"x-bei-return-input-tokens", b"").lower()
        in {b"1", b"true"},
    )


def preferred_media_type(accept: str) -> MediaType:
    """Return MessagePack if an `Accept` header prefers it to JSON, else JSON.

    The higher quality wins; of equal ones a name before a wildcard, then what stands first. The
    Baseten Performance Client sends `application/json, application/msgpack`, and gets JSON.
    """
    # Nearly every client says one of these.
    if accept in {"", "*/*", "application/json"}:
        return "application/json"
    ranges = list(_weighted(accept))
    as_json, as_msgpack = _rank(ranges, _JSON_NAMES), _rank(ranges, _MSGPACK_NAMES)
    return "application/msgpack" if as_msgpack > as_json else "application/json"


def accepts_zstd(accept_encoding: str) -> bool:
    """Whether an `Accept-Encoding` header names zstd, and likes it no less than no encoding."""
    # `*` stands for zstd as well, but who sends it need not have heard of it.
    if "zstd" not in accept_encoding.lower():
        return False
    qualities = dict(_weighted(accept_encoding))
    quality = qualities.get("zstd", 0.0)
    return quality > 0 and quality >= qualities.get("identity", 0.0)


def pays_to_compress(body: bytes) -> bool:
    """Whether a body is long enough for compression to matter, and of a kind that gets smaller."""
    if len(body) < MIN_COMPRESSED_BYTES:
        return False
    compressed = zstandard.compress(body[:SAMPLE_BYTES], ZSTD_LEVEL)
    return len(compressed) <= SAMPLE_BYTES * MAX_SAMPLE_RATIO


async def _compress(body: bytes) -> bytes:
    if len(body) <= MAX_INLINE_BYTES:
        return zstandard.compress(body, ZSTD_LEVEL)
    # zstandard lets other threads run meanwhile.
    return await asyncio.to_thread(zstandard.compress, body, ZSTD_LEVEL)


def _rank(ranges: list[tuple[str, float]], names: frozenset[str]) -> tuple[float, bool, int]:
    """Return how much a client likes a form, comparable: quality, whether by name, how early."""
    named = [(quality, -place) for place, (name, quality) in enumerate(ranges) if name in names]
    if named:
        # A name overrides a wildcard, also to say no.
        quality, earliness = max(named)
        return (quality, quality > 0, earliness)
    # Where no name tells the forms apart, neither must the place of a wildcard.
    return (max((quality for name, quality in ranges if name in _WILDCARDS), default=0.0), False, 0)


def _weighted(header: str) -> Iterator[tuple[str, float]]:
    """Yield the elements of a header with their quality, 1 where none is given (RFC 9110, 12.4.2).

    A quality that is no number counts as 0: the element is not asked for.
    """
    for element in header.split(","):
        name, *parameters = (part.strip().lower() for part in element.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = _quality(value.strip())
        yield name, quality


def _quality(value: str) -> float:
    # Not float(): it takes `nan`, `1e3` and `infinity` for numbers.
    is_number = value.replace(".", "", 1).isdecimal() and value.isascii()
    return min(float(value), 1.0) if is_number else 0.0
