"""Which CPUs lie close together, so that a replica gets neighbours and not halves of cores.

Many machines number the first hardware thread of every core before the second of any: cut in the
order of their numbers, two replicas would each get one thread of the same cores.
"""

from collections.abc import Iterable
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")


def neighbours_first(cpus: Iterable[int], *, root: Path = _CPUS) -> list[int]:
    """Order CPUs by processor, then by core, then by number; by number where nothing is known.

    root: where Linux describes them.
    """
    return sorted(cpus, key=lambda cpu: (*_place(root / f"cpu{cpu}" / "topology"), cpu))


def _place(topology: Path) -> tuple[int, int]:
    try:
        package, core = (
            int((topology / name).read_text(encoding="ascii"))
            for name in ("physical_package_id", "core_id")
        )
    except (OSError, ValueError):
        # Behind every CPU whose place is known.
        return (2**31, 0)
    return (package, core)
