"""Messages between the two processes: whatever is sent is received, and nothing else is."""

import json
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.engine.tensorrt_llm.worker import MAGIC, ProtocolError, Worker, receive, send

HEADERS = st.dictionaries(
    st.text(), st.one_of(st.integers(), st.text(), st.lists(st.integers(), max_size=3)), max_size=4
)


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=500)), max_size=4))
def test_messages_arrive_as_they_were_sent_and_in_order(
    messages: list[tuple[dict[str, object], bytes]],
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for header, payload in messages:
            send(ours, header, payload)
        ours.shutdown(socket.SHUT_WR)

        received = [receive(theirs) for _ in messages]

        assert received == messages
        assert receive(theirs) is None


def prefix(header_length: int, payload_length: int = 0) -> bytes:
    return struct.pack("<4sIQ", MAGIC, header_length, payload_length)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"BEI1", "ended within"),
        (b"something else entirely", "begins no message"),
        (prefix(2**31), "begins no message"),
        (prefix(2, 2**40) + b"{}", "begins no message"),
        (prefix(10) + b"{}", "ended within"),
        (prefix(2, 5) + b"{}abc", "ended within"),
        (prefix(3) + b"{a}", "no JSON"),
        (prefix(2) + b"[]", "no object"),
        (prefix(2) + b"\xff\xff", "no JSON"),
    ],
)
def test_what_is_no_message_is_told(sent: bytes, words: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)

        with pytest.raises(ProtocolError, match=words):
            receive(theirs)


def test_a_message_that_is_not_known_is_answered_with_an_error() -> None:
    header, payload = Worker().answer({"kind": "dance"}, bytearray())

    assert header == {"kind": "error", "error": "protocol", "message": "`dance` is no message"}
    assert payload == b""
    assert json.dumps(header)
