import json
from pathlib import Path

import pytest
from tests.builder.builds import run_build
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.builder import memory
from beicli.builder.memory import available_bytes, check_memory, required_bytes
from beicli.config.load import LoadedConfig
from beicli.errors import BuildError

GB = 1_000_000_000


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 GiB of which 5 may be taken, with no container around the process."""
    directory = tmp_path / "machine"
    (directory / "cgroup").mkdir(parents=True)
    (directory / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 5242880 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", directory / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", directory / "cgroup")
    return directory


def limit(machine: Path, *, limit: str, used: int, of_files: int) -> None:
    cgroup = machine / "cgroup"
    (cgroup / "memory.max").write_text(f"{limit}\n")
    (cgroup / "memory.current").write_text(f"{used}\n")
    pages = f"anon 17\nfile 99\ninactive_file {of_files - 1}\nactive_file 1\n"
    (cgroup / "memory.stat").write_text(pages)


def test_without_a_container_it_is_what_the_machine_has(machine: Path) -> None:
    assert available_bytes() == 5 * 2**30
    limit(machine, limit="max", used=GB, of_files=GB)
    assert available_bytes() == 5 * 2**30


def test_swap_can_be_taken_too(machine: Path) -> None:
    (machine / "meminfo").write_text("MemAvailable: 1048576 kB\nSwapFree: 1048576 kB\n")

    assert available_bytes() == 2 * 2**30


def test_a_container_has_what_its_limit_leaves(machine: Path) -> None:
    limit(machine, limit=str(4 * GB), used=3 * GB, of_files=2 * GB)

    assert available_bytes() == 3 * GB


def test_a_container_does_not_make_the_machine_larger(machine: Path) -> None:
    limit(machine, limit=str(64 * GB), used=0, of_files=1)

    assert available_bytes() == 5 * 2**30


def test_where_nothing_can_be_told_nothing_is_refused(machine: Path, tiny_checkpoint: Path) -> None:
    (machine / "meminfo").unlink()

    assert available_bytes() is None
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
