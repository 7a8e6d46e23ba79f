import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
from tests.server.fakes import FakeEngine, live_server

from beicli.server.gathering import MAX_GATHERED_BYTES, GatheringWriter


class RecordingTransport:
    """Knows whether the connection was cut."""

    closing = False

    def is_closing(self) -> bool:
        return self.closing


class RecordingWriter:
    """The part of a stream writer that sends."""

    def __init__(self) -> None:
        self.transport = RecordingTransport()
        self.events: list[object] = []

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.events.append(bytes(data))

    def write_eof(self) -> None:
        self.events.append("eof")

    def close(self) -> None:
        self.events.append("close")


def record(use: Callable[[Any, RecordingWriter], None]) -> list[object]:
    """What reaches the socket, call by call, when a writer is used in one go."""

    async def run() -> list[object]:
        inner = RecordingWriter()
        use(GatheringWriter(inner), inner)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        return inner.events

    return asyncio.run(run())


def test_what_is_written_in_one_go_is_sent_at_once() -> None:
    def use(writer: Any, _: RecordingWriter) -> None:
        for part in (b"head", b"", b"body"):
            writer.write(part)

    assert record(use) == [b"headbody"]


def test_a_long_part_is_sent_without_a_copy_and_in_its_place() -> None:
    long = bytes(MAX_GATHERED_BYTES + 1)

    def use(writer: Any, _: RecordingWriter) -> None:
        for part in (b"head", long, b"tail"):
            writer.write(part)

    assert record(use) == [b"head", long, b"tail"]


def test_what_is_written_before_the_end_is_sent_before_the_end() -> None:
    def use(writer: Any, _: RecordingWriter) -> None:
        writer.write(b"last")
        writer.write_eof()
        writer.write(b"")
        writer.close()

    assert record(use) == [b"last", "eof", "close"]


def test_nothing_is_sent_on_a_connection_that_was_cut_meanwhile() -> None:
    def use(writer: Any, inner: RecordingWriter) -> None:
        writer.write(b"too late")
        inner.transport.closing = True

    assert record(use) == []


def test_answers_longer_and_shorter_than_what_is_gathered_arrive_whole() -> None:
    with live_server(FakeEngine()) as server, httpx2.Client(base_url=server.url) as client:
        for num_inputs in (1, 128):
            response = client.post("/embed", json={"inputs": ["w1 w2"] * num_inputs})
            assert len(response.json()) == num_inputs
