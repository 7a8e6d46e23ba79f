from pathlib import Path

from beicli.server.replicas.topology import neighbours_first


def describe(root: Path, places: dict[int, tuple[int, int]]) -> Path:
    """Write what Linux says of CPUs: the processor and the core of each."""
    for cpu, (package, core) in places.items():
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{package}\n")
        (folder / "core_id").write_text(f"{core}\n")
    return root


def test_the_threads_of_a_core_stay_together(tmp_path: Path) -> None:
    root = describe(tmp_path, {0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 1)})

    assert neighbours_first({0, 1, 2, 3}, root=root) == [0, 2, 1, 3]


def test_the_cores_of_a_processor_stay_together(tmp_path: Path) -> None:
    root = describe(tmp_path, {0: (0, 0), 1: (1, 0), 2: (0, 1), 3: (1, 1)})

    assert neighbours_first({0, 1, 2, 3}, root=root) == [0, 2, 1, 3]


def test_only_the_given_cpus_are_ordered(tmp_path: Path) -> None:
    root = describe(tmp_path, {0: (0, 1), 5: (0, 0), 7: (0, 0)})

    assert neighbours_first({0, 7}, root=root) == [7, 0]


def test_cpus_that_nobody_describes_keep_their_order_at_the_end(tmp_path: Path) -> None:
    root = describe(tmp_path, {2: (0, 0)})

    assert neighbours_first({3, 1, 2}, root=root) == [2, 1, 3]
