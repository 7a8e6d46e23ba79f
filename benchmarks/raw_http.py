"""An HTTP client that costs little: whoever presses a server must not take its CPU away.

It sends requests that were written beforehand, and reads the status, two headers and the body.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

# Answers of many vectors are read in one piece.
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What came back; retry_after: whether a refusal says when to come again."""

    status: int
    has_retry_after: bool
    body: bytes


class RawConnection:
    """One connection, for one request at a time; broken once a call was cancelled or failed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to `http://host:port`."""
        host, _, port = url.removeprefix("http://").rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=_READ_BYTES))

    async def ask(self, request: bytes) -> RawAnswer:
        """Send a request and wait for the whole answer; raises OSError or EOFError without one."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        body = await self._reader.readexactly(int(_value(head, b"content-length") or b"0"))
        return RawAnswer(int(head[9:12]), _value(head, b"retry-after") is not None, body)

    def close(self) -> None:
        self._writer.close()


def _value(head: bytes, name: bytes) -> bytes | None:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else None


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Write a request of JSON, whether it is JSON or not."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: benchmark",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def embeddings(texts: list[str], headers: Mapping[str, str] | None = None) -> bytes:
    """Write a request for the vectors of texts, in base64."""
    fields: dict[str, Any] = {"input": texts, "encoding_format": "base64"}
    return post("/v1/embeddings", orjson.dumps(fields), headers)
