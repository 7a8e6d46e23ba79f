"""What strangers may hand to `bei`, each as a function of bytes that must end well.

Well means: it was read, or refused by an error of the project's own that a person can understand.
Anything else that escapes is a defect.
"""

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.serving import open_headers, open_http, open_requests
from tests.fuzz.texts import FOLDER_SEED, HEADER_SEEDS, HTTP_SEEDS, REQUEST_SEEDS
from tests.model.checkpoint_folder import write_checkpoint
from tests.server.fakes import make_manifest, make_tokenizer
from tests.sources.archives import pack

from beicli.artifact.directory import read_manifest
from beicli.artifact.manifest import dump_manifest
from beicli.artifact.names import MANIFEST_NAME
from beicli.config.dump import to_yaml
from beicli.config.load import load_config
from beicli.errors import ArtifactError, BeiError, CheckpointError, ConfigError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.weights import count_parameters
from beicli.pipeline.tokenizer import Tokenizer, Truncation
from beicli.sources.archive import ArchiveLimits, unpack

EXAMPLES = Path(__file__).parents[2] / "examples"

# Whether the input was taken; False if it was refused.
Read = Callable[[bytes], bool]


@dataclass(frozen=True)
class Target:
    """One thing that is read.

    open: gives the function, and takes down afterwards what it needed. seeds: what is well-formed.
    words: worth putting into it.
    """

    open: Callable[[], AbstractContextManager[Read]]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


def _in_folder(read: Callable[[Path, bytes], bool]) -> Callable[[], AbstractContextManager[Read]]:
    """Give the function a folder of its own, the same for every input."""

    @contextmanager
    def opened() -> Iterator[Read]:
        with tempfile.TemporaryDirectory(prefix="bei-fuzz-") as folder:
            yield lambda data: read(Path(folder), data)

    return opened


def _read_config(folder: Path, data: bytes) -> bool:
    path = folder / "config.yaml"
    path.write_bytes(data)
    try:
        loaded = load_config(path)
    except ConfigError as error:
        if not error.problems:
            raise AssertionError("a refusal says what is wrong") from error
        return False
    # What was read is written in a form that reads the same.
    path.write_text(to_yaml(loaded.config), encoding="utf-8")
    assert load_config(path).config == loaded.config
    return True


def _read_manifest(folder: Path, data: bytes) -> bool:
    (folder / MANIFEST_NAME).write_bytes(data)
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return False
    assert dump_manifest(manifest).encode() == data
    return True


def _read_checkpoint(folder: Path, data: bytes) -> bool:
    """Read a checkpoint whose JSON files are the parts of `data`, between NUL bytes."""
    directory = folder / "checkpoint"
    if not directory.exists():
        write_checkpoint(directory)
    parts = data.split(b"\0")
    for number, name in enumerate(FOLDER_SEED):
        path = directory / name
        if number < len(parts) and parts[number]:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(parts[number])
        else:
            path.unlink(missing_ok=True)
    return _is_taken(lambda: inspect_checkpoint(directory), CheckpointError)


def _read_weights(folder: Path, data: bytes) -> bool:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return _is_taken(lambda: count_parameters(path, size_bytes=len(data)), CheckpointError)


def _read_tokenizer(folder: Path, data: bytes) -> bool:
    (folder / "tokenizer.json").write_bytes(data)

    def open_and_use() -> None:
        tokenizer = Tokenizer.open(folder, max_input_length=16)
        tokenizer.encode(["w1 w2 and others"], truncation=Truncation())

    return _is_taken(open_and_use, ArtifactError)


def _read_archive(folder: Path, data: bytes) -> bool:
    """Unpack a tar, packed here unless it comes packed; nothing may land beside its folder."""
    packed = folder / "model.tar.gz"
    packed.write_bytes(data if data.startswith(b"\x1f\x8b") else gzip.compress(data, 1))
    limits = ArchiveLimits(max_unpacked_bytes=2**20, max_entries=100)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        is_taken = _is_taken(
            lambda: unpack(packed, Path(directory), limits=limits, place="model.tar.gz"),
            CheckpointError,
        )
        assert {path.name for path in folder.iterdir()} == {packed.name, Path(directory).name}
    return is_taken


def _is_taken(read: Callable[[], object], refusal: type[BeiError]) -> bool:
    try:
        read()
    except refusal:
        return False
    return True


def _tokenizer_seed() -> bytes:
    return make_tokenizer()._tokenizer.to_str().encode()


def _weights_seed() -> bytes:
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    header = json.dumps({"a": entry, "__metadata__": {"format": "pt"}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(24)


_JSON_WORDS = (
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e999",
    b"0",
    b'""',
    b"true",
    b'"\\ud800"',
    b"1" * 5000,
)
_YAML_WORDS = (
    b"&a ",
    b"*a",
    b"!!python/name:os ",
    b"<<: *a\n",
    b"? ",
    b"|\n",
    b"~",
    b"1_0",
    b".inf",
)
_FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "1_Pooling/config.json": b"{}"}

TARGETS = {
    "config": Target(
        _in_folder(_read_config),
        tuple(path.read_bytes() for path in sorted(EXAMPLES.glob("*/config.yaml"))),
        (*_JSON_WORDS, *_YAML_WORDS),
    ),
    "manifest": Target(
        _in_folder(_read_manifest), (dump_manifest(make_manifest()).encode(),), _JSON_WORDS
    ),
    "checkpoint": Target(
        _in_folder(_read_checkpoint), (b"\0".join(FOLDER_SEED.values()),), (b"\0", *_JSON_WORDS)
    ),
    "weights": Target(_in_folder(_read_weights), (_weights_seed(),), _JSON_WORDS),
    "tokenizer": Target(_in_folder(_read_tokenizer), (_tokenizer_seed(),), _JSON_WORDS),
    "archive": Target(
        _in_folder(_read_archive),
        (gzip.decompress(pack(_FILES)), pack(_FILES)),
        (b"../", b"/", b"\0" * 512, b"x", b"L", b"1", b"GNU.sparse", b"99999999999"),
    ),
    "requests": Target(open_requests, REQUEST_SEEDS, _JSON_WORDS),
    "headers": Target(open_headers, HEADER_SEEDS, (b";q=", b"nan", b"*", b",", b"\xff", b" ")),
    "http": Target(
        open_http, HTTP_SEEDS, (b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"chunked", b"\0", b"-1")
    ),
}
