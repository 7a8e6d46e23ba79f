import os
from pathlib import Path

import pytest

from beicli.engine import cpu
from beicli.engine.cpu import available_cpus

NUM_CPUS = 8


@pytest.fixture(autouse=True)
def cgroup_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight CPUs whose cgroup says what the test writes."""
    path = tmp_path / "cpu.max"
    monkeypatch.setattr(cpu, "_CGROUP_CPU_MAX", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(NUM_CPUS)))
    return path


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
    ],
)
def test_a_cgroup_quota_limits_the_cpus(cgroup_file: Path, content: str, expected: int) -> None:
    cgroup_file.write_text(content)

    assert available_cpus() == expected


def test_without_a_cgroup_file_the_affinity_decides() -> None:
    assert available_cpus() == NUM_CPUS


def test_the_affinity_of_this_process_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})

    assert available_cpus() == 2
