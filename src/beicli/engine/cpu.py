"""How many CPUs this process may use, which in a container is not how many there are."""

import os
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cpus() -> int:
    """CPUs this process may use: its affinity, and its cgroup's quota where there is one."""
    affinity = len(os.sched_getaffinity(0))
    try:
        quota, period = _CGROUP_CPU_MAX.read_text(encoding="ascii").split()
        limit = affinity if quota == "max" else max(int(quota) // int(period), 1)
    except (OSError, ValueError):
        limit = affinity
    return min(affinity, limit)
