"""A sound engine directory for each test to damage or replace."""

from pathlib import Path

import pytest
from tests.artifact.engines import build


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    build(tmp_path / "engine")
    return tmp_path / "engine"
