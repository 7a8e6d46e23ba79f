import os
from dataclasses import replace
from pathlib import Path

import pytest

from beicli import machine
from beicli.machine import (
    Machine,
    available_cpus,
    available_memory_bytes,
    this_machine,
    total_memory_bytes,
)

NUM_CPUS = 8
GB = 1_000_000_000
CPUINFO = """processor\t: 0
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni

processor\t: 1
model name\t: another
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight CPUs and 8 GiB, 5 of them free, whose files a test may change."""
    monkeypatch.setattr(machine, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(NUM_CPUS)))
    write(tmp_path, "proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 5242880 kB\n")
    write(tmp_path, "proc/cpuinfo", CPUINFO)
    return tmp_path


def write(files: Path, name: str, content: str) -> None:
    path = files / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def limit_memory(files: Path, *, limit: str, used: int, of_files: int) -> None:
    write(files, "cgroup/memory.max", f"{limit}\n")
    write(files, "cgroup/memory.current", f"{used}\n")
    pages = f"anon 17\nfile 99\ninactive_file {of_files - 1}\nactive_file 1\n"
    write(files, "cgroup/memory.stat", pages)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", NUM_CPUS),
        ("400000 100000\n", 4),
        ("50000 25000\n", 2),
        # What is not a whole CPU is not counted: threads on it would be throttled.
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("6400000 100000\n", NUM_CPUS),
        ("", NUM_CPUS),
        ("nonsense\n", NUM_CPUS),
        ("a b\n", NUM_CPUS),
        ("100000 0\n", NUM_CPUS),
    ],
)
def test_a_quota_limits_the_cpus(files: Path, content: str, expected: int) -> None:
    write(files, "cgroup/cpu.max", content)

    assert available_cpus() == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", NUM_CPUS), ("", NUM_CPUS)])
def test_so_does_one_of_the_first_version(files: Path, quota: str, expected: int) -> None:
    write(files, "cgroup/cpu/cpu.cfs_quota_us", quota)
    write(files, "cgroup/cpu/cpu.cfs_period_us", "100000\n")

    assert available_cpus() == expected


def test_the_group_that_a_process_is_in_counts_and_all_around_it(files: Path) -> None:
    write(files, "proc/self/cgroup", "0::/user.slice/serve.scope\n")
    write(files, "cgroup/user.slice/serve.scope/cpu.max", "max 100000\n")
    write(files, "cgroup/user.slice/cpu.max", "200000 100000\n")
    write(files, "cgroup/other.slice/cpu.max", "100000 100000\n")

    assert available_cpus() == 2


def test_groups_of_the_first_version_have_a_tree_for_each_controller(files: Path) -> None:
    write(files, "proc/self/cgroup", "5:memory:/jobs\n2:cpu,cpuacct:/batch\n")
    write(files, "cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us", "500000\n")
    write(files, "cgroup/cpu,cpuacct/batch/cpu.cfs_period_us", "100000\n")
    write(files, "cgroup/memory/jobs/memory.limit_in_bytes", f"{3 * GB}\n")
    write(files, "cgroup/memory/jobs/memory.usage_in_bytes", f"{GB}\n")

    assert available_cpus() == 5
    assert total_memory_bytes() == 3 * GB
    assert available_memory_bytes() == 2 * GB


def test_without_a_limit_the_affinity_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cpus() == NUM_CPUS

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert available_cpus() == 2


def test_without_a_container_memory_is_what_the_machine_has(files: Path) -> None:
    assert available_memory_bytes() == 5 * 2**30
    limit_memory(files, limit="max", used=GB, of_files=GB)
    assert available_memory_bytes() == 5 * 2**30
    assert total_memory_bytes() == 8 * 2**30


def test_swap_can_be_taken_too(files: Path) -> None:
    write(files, "proc/meminfo", "MemAvailable: 1048576 kB\nSwapFree: 1048576 kB\n")

    assert available_memory_bytes() == 2 * 2**30


def test_a_container_has_what_its_limit_leaves(files: Path) -> None:
    limit_memory(files, limit=str(4 * GB), used=3 * GB, of_files=2 * GB)

    assert available_memory_bytes() == 3 * GB
    assert total_memory_bytes() == 4 * GB


def test_a_container_does_not_make_the_machine_larger(files: Path) -> None:
    limit_memory(files, limit=str(64 * GB), used=0, of_files=1)

    assert available_memory_bytes() == 5 * 2**30
    assert total_memory_bytes() == 8 * 2**30


def test_what_is_nowhere_written_is_not_made_up(files: Path) -> None:
    (files / "proc/meminfo").unlink()
    (files / "proc/cpuinfo").unlink()

    assert available_memory_bytes() is None
    assert this_machine().cpu == "unknown"


def test_a_machine_is_told_by_its_first_processor(files: Path) -> None:
    assert this_machine() == Machine(
        cpu="AMD EPYC, family 26 model 2",
        cpu_features=("avx2", "avx512f", "avx512_vnni", "avx512_bf16"),
        num_cpus=NUM_CPUS,
        memory_bytes=8 * 2**30,
    )


def test_differences_name_what_decides_a_speed() -> None:
    here = this_machine()
    other = replace(here, cpu="Xeon", num_cpus=4, memory_bytes=1)

    assert here.differences(here) == ()
    assert here.differences(other) == (
        "Xeon there, AMD EPYC, family 26 model 2 here",
        "4 CPUs there, 8 here",
    )
    assert here.differences(replace(here, cpu_features=("avx2",))) == (
        "instruction sets avx2 there, avx2 avx512f avx512_vnni avx512_bf16 here",
    )
