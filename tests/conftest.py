"""Fixtures every test may use."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# Torch and the hub's client take seconds to import, and most tests need neither.
if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sources.fake_hub import FakeHub

# Some tests import OpenVINO by themselves, and that reports it to its makers; see
# `beicli.openvino_api`.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# A property is about results; a busy machine is no counterexample. CI judges a change, by the same
# examples each time; `make fuzz` and other runs look for new ones.
settings.register_profile("beicli", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("beicli")

# Threads of OpenMP that wait for a core which another worker holds make torch many times slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with mean pooling; read only."""
    from tests.builder.tiny_models import save_checkpoint, tiny_bert

    return save_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-bert", tiny_bert())


@pytest.fixture(scope="session")
def dense_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with two Dense modules behind its pooling; read only."""
    from tests.builder.tiny_models import Dense, save_checkpoint, tiny_bert

    dense = (
        Dense(32, 24),
        Dense(24, 8, bias=False, activation="torch.nn.modules.linear.Identity"),
    )
    directory = tmp_path_factory.mktemp("tiny") / "tiny-dense"
    return save_checkpoint(directory, tiny_bert(), dense=dense)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[FakeHub]":
    """A hub that the real client talks to, whose `main` lacks its files, and an empty cache."""
    import huggingface_hub
    from huggingface_hub import constants
    from tests.sources.fake_hub import COMMIT, FakeHub, point_client_at

    hub = FakeHub({COMMIT: {}}, {"main": COMMIT})
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "hf_access_token", "HF_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "huggingface"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "harnesses.json"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub.serving():
        point_client_at(hub.endpoint, monkeypatch)
        yield hub
        # It keeps connections open, which would outlive the test.
        huggingface_hub.close_session()


def _require(directory: Path) -> None:
    if directory.is_dir():
        return
    message = f"the test models are not in {directory}; run `make models`"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
