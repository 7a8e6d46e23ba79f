"""A sound checkpoint folder for each test to change one thing in."""

from pathlib import Path

import pytest
from tests.model.checkpoint_folder import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")
