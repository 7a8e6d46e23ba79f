"""A bucket of a few lines in place of a store."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from beicli.errors import CheckpointError
from beicli.sources.checksum import Checksum
from beicli.sources.files import RemoteFile

HEADER = b"\x02\0\0\0\0\0\0\0{}"
FILES = {"config.json": b"{}", "model.safetensors": HEADER + b"weights"}


@dataclass
class FakeBucket:
    """A bucket without checksums; `answer` stands in for its readings if set."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    answer: Callable[[RemoteFile], Future[bytes]] | None = None
    num_readings: int = 0

    def list_files(self) -> list[RemoteFile]:
        return [RemoteFile(name, len(content), "1") for name, content in self.files.items()]

    def read(self, file: RemoteFile, start: int, end: int) -> Future[bytes]:
        self.num_readings += 1
        if self.answer is not None:
            return self.answer(file)
        reading: Future[bytes] = Future()
        reading.set_result(self.files[file.name][start:end])
        return reading

    def checksum(self, file: RemoteFile) -> Checksum | None:
        return None

    def explain(self, error: Exception) -> CheckpointError:
        return CheckpointError(str(error))
