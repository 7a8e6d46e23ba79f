"""Archives for tests: sound ones, and ones that no packer makes by accident."""

import io
import random
import tarfile
from collections.abc import Mapping

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    # No packer makes it smaller.
    "model.safetensors": random.Random(0).randbytes(200_000),
    "pytorch_model.bin": b"a pickle",
    "modeling_custom.py": b"import os",
}
KEPT = {name: FILES[name] for name in FILES if not name.endswith((".bin", ".py"))}


def entry(name: str, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def pack(
    files: Mapping[str, bytes] = FILES, *entries: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT
) -> bytes:
    """Return a tar.gz of `files`, and of `entries` without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=form) as archive:
        for name, content in files.items():
            archive.addfile(entry(name, size=len(content)), io.BytesIO(content))
        for info in entries:
            archive.addfile(info)
    return buffer.getvalue()
