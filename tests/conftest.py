"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def models_directory() -> Path:
    """The folder `make models` fills, or the one `BEI_TEST_MODELS` names.

    Without it a test is skipped, except on CI, where nothing may be skipped silently.
    """
    directory = Path(os.environ.get("BEI_TEST_MODELS") or _REPOSITORY / ".models").resolve()
    _require(directory)
    return directory


@pytest.fixture(scope="session")
def minilm_checkpoint(models_directory: Path) -> Path:
    checkpoint = models_directory / "all-minilm-l6-v2"
    _require(checkpoint)
    return checkpoint


def _require(directory: Path) -> None:
    if directory.is_dir():
        return
    message = f"the test models are not in {directory}; run `make models`"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
