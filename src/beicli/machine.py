"""What this machine is and how much of it this process may use, which in a container is less.

Linux says both in files: `/proc` for the machine, the control group's own for the limits.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
# Instruction sets that decide how fast a model runs, as `/proc/cpuinfo` spells them.
_FEATURES = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
_PAGES_OF_FILES = ("active_file ", "inactive_file ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a measured speed depends on; two that are equal may be compared.

    cpu: as the processor names itself; its family and model too, since some names are generic.
    num_cpus, memory_bytes: what a process here may use.
    """

    cpu: str
    cpu_features: tuple[str, ...]
    num_cpus: int
    memory_bytes: int

    def differences(self, other: "Machine") -> tuple[str, ...]:
        """Say in what `other`, where something was measured, is not this machine."""
        found = []
        if self.cpu != other.cpu:
            found.append(f"{other.cpu} there, {self.cpu} here")
        elif self.cpu_features != other.cpu_features:
            theirs, ours = " ".join(other.cpu_features), " ".join(self.cpu_features)
            found.append(f"instruction sets {theirs} there, {ours} here")
        if self.num_cpus != other.num_cpus:
            found.append(f"{other.num_cpus} CPUs there, {self.num_cpus} here")
        return tuple(found)


def this_machine() -> Machine:
    """Describe the machine as this process finds it."""
    values = _cpuinfo()
    flags = set(values.get("flags", values.get("Features", "")).split())
    name = values.get("model name", values.get("CPU implementer", "unknown"))
    family = values.get("cpu family"), values.get("model")
    return Machine(
        cpu=f"{name}, family {family[0]} model {family[1]}" if all(family) else name,
        cpu_features=tuple(feature for feature in _FEATURES if feature in flags),
        num_cpus=available_cpus(),
        memory_bytes=total_memory_bytes(),
    )


def available_cpus() -> int:
    """CPUs this process may use: its affinity, and its control group's quota where there is one."""
    affinity = len(os.sched_getaffinity(0))
    quotas = [quota for quota in _cpu_quotas() if quota is not None]
    return min([affinity, *(max(int(quota), 1) for quota in quotas)])


def total_memory_bytes() -> int:
    """Memory this process could ever have: the machine's, or its control group's limit."""
    total = _meminfo().get("MemTotal", 0)
    limits = [_read_int(group / name) for group, name in _memory_limits()]
    return min([total, *(limit for limit in limits if limit is not None)])


def available_memory_bytes() -> int | None:
    """Return what this process may still take: of the machine, and of its container's limit.

    Swap counts: what uses it is slow, not wrong. None where it cannot be told.
    """
    sizes = _meminfo()
    if "MemAvailable" not in sizes:
        return None
    machine_bytes = sizes["MemAvailable"] + sizes.get("SwapFree", 0)
    in_groups = [_available_in_group(group) for group in _groups("memory")]
    return min([machine_bytes, *(found for found in in_groups if found is not None)])


def _cpuinfo() -> dict[str, str]:
    """Keys and values of the first processor."""
    try:
        text = (_PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", maxsplit=1)[0]
    return dict(re.findall(r"^(.+?)\s*: ?(.*)$", first, flags=re.MULTILINE))


def _meminfo() -> dict[str, int]:
    try:
        lines = (_PROC / "meminfo").read_text(encoding="ascii").splitlines()
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    except (OSError, ValueError, IndexError):
        return {}


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it.

    Version 2 has one tree for all controllers, version 1 one for each. Inside a container both
    show the process's own group as the root, whatever `/proc/self/cgroup` says.
    """
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUP / controllers if controllers else _CGROUP
        group = root / path.lstrip("/")
        while group != root:
            yield group
            group = group.parent
    yield _CGROUP
    yield _CGROUP / controller


def _cpu_quotas() -> Iterator[float | None]:
    """Yield the CPUs that each control group allows; None where it allows all."""
    for group in _groups("cpu"):
        try:
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            quota, period = (
                str(_read_int(group / f"cpu.cfs_{name}_us")) for name in ("quota", "period")
            )
        is_limited = quota.isdigit() and period.isdigit() and int(period) > 0
        yield int(quota) / int(period) if is_limited else None


def _memory_limits() -> Iterator[tuple[Path, str]]:
    for group in _groups("memory"):
        yield group, "memory.max"
        yield group, "memory.limit_in_bytes"


def _available_in_group(group: Path) -> int | None:
    limit, used = _read_int(group / "memory.max"), _read_int(group / "memory.current")
    if limit is None or used is None:
        limit = _read_int(group / "memory.limit_in_bytes")
        used = _read_int(group / "memory.usage_in_bytes")
    if limit is None or used is None:
        # No limit is written as `max`.
        return None
    try:
        statistics = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        # Pages of files count as used, but make room when it is needed.
        mapped = sum(
            int(line.split()[1]) for line in statistics if line.startswith(_PAGES_OF_FILES)
        )
    except (OSError, ValueError, IndexError):
        mapped = 0
    return max(limit - used + mapped, 0)


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
