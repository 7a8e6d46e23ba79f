"""A number for each replica, in a file that all processes of a server map."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_NUMBER = struct.Struct("=d")


class SharedNumbers:
    """The numbers by replica, in memory, so that a full disk silences nobody.

    Nothing is locked: everyone writes its own, and reads whatever is there.
    """

    def __init__(self, path: Path, *, num_replicas: int) -> None:
        """Map the numbers at `path`, which `create` has made."""
        with path.open("r+b") as file:
            self._numbers = mmap.mmap(file.fileno(), num_replicas * _NUMBER.size)

    @classmethod
    def create(cls, path: Path, *, num_replicas: int, initial: float) -> Self:
        """Make the file, with the same number for every replica."""
        path.write_bytes(_NUMBER.pack(initial) * num_replicas)
        return cls(path, num_replicas=num_replicas)

    def __getitem__(self, replica: int) -> float:
        (number,) = _NUMBER.unpack_from(self._numbers, replica * _NUMBER.size)
        return float(number)

    def __setitem__(self, replica: int, number: float) -> None:
        _NUMBER.pack_into(self._numbers, replica * _NUMBER.size, number)

    def __iter__(self) -> Iterator[float]:
        return (number for (number,) in _NUMBER.iter_unpack(self._numbers))

    def close(self) -> None:
        self._numbers.close()
