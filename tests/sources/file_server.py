"""One file behind an HTTP address on loopback, with ranges, and with the troubles of networks."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.loopback import listening


@dataclass(slots=True)
class FileServer:
    """What is served, and what was asked.

    broken_after: bytes after which each answer's connection breaks, one number an answer.
    refusals: statuses to answer with first. honours_ranges: whether parts can be asked for.
    left_out_of_parts: headers that a part goes without when `If-Range` named them already.
    """

    content: bytes
    etag: str = '"one"'
    headers: Mapping[str, str] = field(default_factory=dict)
    broken_after: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    honours_ranges: bool = True
    left_out_of_parts: tuple[str, ...] = ()
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    endpoint: str = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        with listening(_Server(self)) as self.endpoint:
            yield


class _Server(ThreadingHTTPServer):
    def __init__(self, file: FileServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.file = file


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        file = self.server.file
        file.requests.append((self.path, dict(self.headers.items())))
        if file.refusals:
            self.send_response(file.refusals.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end = 0, len(file.content)
        is_same = self.headers.get("If-Range", file.etag) == file.etag
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        is_part = bool(asked) and is_same and file.honours_ranges
        if asked and is_part:
            start = int(asked[1])
            end = min(int(asked[2]) + 1 if asked[2] else end, end)
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(file.content)}")
        self.send_header("Content-Length", str(end - start))
        if file.etag:
            self.send_header("ETag", file.etag)
        left_out = file.left_out_of_parts if "If-Range" in self.headers else ()
        for name, value in file.headers.items():
            if name not in left_out:
                self.send_header(name, value)
        self.end_headers()
        body = file.content[start:end]
        is_probe = end - start == 1
        limit = file.broken_after.pop(0) if file.broken_after and not is_probe else len(body)
        self.wfile.write(body[:limit])
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Stay silent: `requests` has it all."""
