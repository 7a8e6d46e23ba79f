"""A real engine that is made in a moment, and texts that it knows."""

from pathlib import Path

import pytest
from tests.server.tiny_engine import make_artifact


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "engine").path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    lines = [f'"w{number} w{number * 2} w{number * 3}"\n' for number in range(1, 200)]
    path.write_text("".join(lines), encoding="utf-8")
    return path
