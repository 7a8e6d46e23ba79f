"""The process that runs TensorRT-LLM: `python worker.py FD`, started by `process.py`.

It runs in an environment of its own, with any Python from 3.10 on, and needs nothing but numpy and
`tensorrt_llm` with its torch: nothing of beicli is imported. It talks over a Unix socket that it
inherits, since libraries print to the standard streams.

A message is MAGIC, the lengths of a header and a payload, a header in JSON, and a payload of
arrays, one after another. Each is answered by one: `ready` or `output`, or an `error` that says
what kind it is. The process ends when the socket is closed.
"""

import importlib
import inspect
import json
import socket
import struct
import sys
from typing import Any

import numpy as np

MAGIC = b"BEI1"
_PREFIX = struct.Struct("<4sIQ")
# Nobody sends more: whoever seems to has lost the beginning of a message.
_MAX_HEADER_BYTES = 1 << 24
_MAX_PAYLOAD_BYTES = 1 << 34

# What was asked for cannot be done by the version that is installed.
TOO_OLD = "too_old"
CANNOT_LOAD = "cannot_load"
CANNOT_ENCODE = "cannot_encode"


Header = dict[str, Any]
Message = tuple[Header, "bytes | bytearray"]


class ProtocolError(Exception):
    """What came is no message, or not all of one."""


def send(connection: socket.socket, header: Header, payload: "bytes | bytearray" = b"") -> None:
    """Send one message; raises OSError as the socket does."""
    encoded = json.dumps(header).encode()
    connection.sendall(_PREFIX.pack(MAGIC, len(encoded), len(payload)) + encoded)
    if len(payload):
        connection.sendall(payload)


def receive(connection: socket.socket) -> "tuple[Header, bytearray] | None":
    """Return header and payload of the next message; None if the other side is gone.

    Raises ProtocolError for what is no message, OSError as the socket does.
    """
    prefix = _receive_exactly(connection, _PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < _PREFIX.size:
        raise ProtocolError("the connection ended within a message")
    magic, header_length, payload_length = _PREFIX.unpack(prefix)
    is_sane = header_length <= _MAX_HEADER_BYTES and payload_length <= _MAX_PAYLOAD_BYTES
    if magic != MAGIC or not is_sane:
        raise ProtocolError(f"{bytes(prefix)!r} begins no message")
    encoded = _receive_exactly(connection, header_length)
    payload = _receive_exactly(connection, payload_length)
    if len(encoded) < header_length or len(payload) < payload_length:
        raise ProtocolError("the connection ended within a message")
    try:
        header = json.loads(encoded)
    except ValueError as error:
        raise ProtocolError(f"the header of a message is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError("the header of a message is no object")
    return header, payload


def _receive_exactly(connection: socket.socket, num_bytes: int) -> bytearray:
    """Return that many bytes, or fewer if the connection ends before."""
    received = bytearray(num_bytes)
    view = memoryview(received)
    num_received = 0
    while num_received < num_bytes:
        num_new = connection.recv_into(view[num_received:])
        if num_new == 0:
            view.release()
            return received[:num_received]
        num_received += num_new
    view.release()
    return received


def find_problem(tensorrt_llm: Any) -> "str | None":
    """Say why this version cannot encode; None if it can.

    Versions to 1.2 have no `LLM.encode`, and `LLM` takes keywords that its arguments' class names.
    """
    version = getattr(tensorrt_llm, "__version__", "of unknown version")
    llm_class = getattr(tensorrt_llm, "LLM", None)
    if llm_class is None or not callable(getattr(llm_class, "encode", None)):
        return f"TensorRT-LLM {version} has no `LLM.encode`"
    parameters = inspect.signature(llm_class.__init__).parameters
    if "encode_only" in parameters:
        return None
    try:
        arguments = importlib.import_module("tensorrt_llm.llmapi.llm_args")
    except ImportError:
        arguments = None
    known = getattr(getattr(arguments, "TorchLlmArgs", None), "model_fields", {})
    return None if "encode_only" in known else f"TensorRT-LLM {version} has no `encode_only`"


class Worker:
    """Answers the messages of one connection."""

    def __init__(self) -> None:
        self._llm: Any = None

    def answer(self, header: Header, payload: bytearray) -> Message:
        """Return header and payload of the answer."""
        kind = header.get("kind")
        if kind == "load":
            return self._load(header)
        if kind == "encode":
            return self._encode(header, payload)
        return _error("protocol", f"`{kind}` is no message")

    def close(self) -> None:
        """Free the GPU."""
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None

    def _load(self, header: Header) -> Message:
        try:
            tensorrt_llm = importlib.import_module("tensorrt_llm")
        except Exception as error:  # noqa: BLE001 - libraries that do not fit raise anything
            return _error(CANNOT_LOAD, f"`tensorrt_llm` cannot be imported: {_named(error)}")
        problem = find_problem(tensorrt_llm)
        if problem is not None:
            return _error(TOO_OLD, problem)
        try:
            self._llm = tensorrt_llm.LLM(
                model=header["model"],
                skip_tokenizer_init=True,
                dtype=header["dtype"],
                encode_only=True,
                max_batch_size=header["max_batch_size"],
                max_num_tokens=header["max_num_tokens"],
                max_seq_len=header["max_seq_len"],
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side is told
            return _error(CANNOT_LOAD, _named(error))
        return {"kind": "ready", "version": tensorrt_llm.__version__}, b""

    def _encode(self, header: Header, payload: bytearray) -> Message:
        try:
            outputs = self._run(header, payload)
        except Exception as error:  # noqa: BLE001 - the same
            return _error(CANNOT_ENCODE, _named(error))
        return {"kind": "output", "shape": list(outputs.shape)}, outputs.tobytes()

    def _run(self, header: Header, payload: bytearray) -> Any:
        """Return [num_sequences, dimension], float32."""
        numbers = np.frombuffer(payload, dtype=np.int32)
        lengths = header["lengths"]
        num_tokens = sum(lengths)
        ids = numbers[:num_tokens]
        ends = np.cumsum(lengths)[:-1]
        keywords = {}
        if header["has_type_ids"]:
            # One for each token, end to end as the ids are.
            torch = importlib.import_module("torch")
            type_ids = torch.from_numpy(numbers[num_tokens:].copy())
            keywords["token_type_ids"] = type_ids.cuda() if torch.cuda.is_available() else type_ids
        sequences = [sequence.tolist() for sequence in np.split(ids, ends)]
        outputs = self._llm.encode(sequences, add_special_tokens=False, **keywords)
        if len(outputs) != len(sequences):
            raise RuntimeError(f"{len(sequences)} sequences gave {len(outputs)} outputs")
        rows = [output.logits.float().cpu().numpy() for output in outputs]
        if any(row.ndim != 1 for row in rows):
            raise RuntimeError(f"an output has the shape {rows[0].shape}, wanted one vector")
        return np.ascontiguousarray(np.stack(rows))


def _error(kind: str, message: str) -> Message:
    return {"kind": "error", "error": kind, "message": message}, b""


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def main(descriptor: int) -> None:
    """Answer until the other side is gone."""
    # The folder of this script holds modules that no library means when it imports one.
    del sys.path[0]
    worker = Worker()
    with socket.socket(fileno=descriptor) as connection:
        while True:
            message = receive(connection)
            if message is None:
                break
            send(connection, *worker.answer(*message))
    worker.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
