import json
from pathlib import Path

import pytest
from tests.builder.builds import run_build
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli import machine as machine_module
from beicli.builder.memory import check_memory, required_bytes
from beicli.config.load import LoadedConfig
from beicli.errors import BuildError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of which nothing is known yet."""
    directory = tmp_path / "machine"
    directory.mkdir()
    monkeypatch.setattr(machine_module, "_PROC", directory)
    monkeypatch.setattr(machine_module, "_CGROUP", directory)
    return directory


def test_where_nothing_can_be_told_nothing_is_refused(machine: Path, tiny_checkpoint: Path) -> None:
    assert check_memory(tiny_checkpoint, "openvino", "f32") == ""


def test_a_build_that_does_not_fit_is_refused_with_the_figures(
    machine: Path, loaded: LoadedConfig, tmp_path: Path
) -> None:
    (machine / "meminfo").write_text("MemAvailable: 300000 kB\n")

    with pytest.raises(BuildError) as caught:
        run_build(loaded, tmp_path / "engine")

    assert caught.value.message == (
        "this build takes about 0.7 GB of memory, and 0.3 GB are available"
    )
    assert caught.value.hint
    assert not (tmp_path / "engine").exists()


def test_a_large_build_says_what_it_takes(machine: Path, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "large", tiny_bert())
    # As a header says it; the numbers themselves are a hole in the file.
    num_parameters = 700_000_000
    header = json.dumps(
        {"w": {"dtype": "BF16", "shape": [num_parameters], "data_offsets": [0, 2 * num_parameters]}}
    ).encode()
    with (checkpoint / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * num_parameters)

    assert check_memory(checkpoint, "openvino", "bf16") == ", about 2.5 GB of memory"
    assert required_bytes(num_parameters, "openvino", "f32") > required_bytes(
        num_parameters, "openvino", "bf16"
    )


def test_a_small_build_says_nothing(tiny_checkpoint: Path) -> None:
    assert check_memory(tiny_checkpoint, "openvino", "bf16") == ""
