import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.artifact.gpu import Dimensions, Profile
from beicli.errors import PlanError
from beicli.tensorrt.plans import PlanIdentity, PlanStore, unsound_plans

PROFILE = Profile(
    minimum=Dimensions(num_sequences=1, length=1),
    optimum=Dimensions(num_sequences=1, length=8),
    maximum=Dimensions(num_sequences=2, length=16),
)
IDENTITY = PlanIdentity(
    graph_sha256=(("tensorrt/model.onnx", "a" * 64),),
    precision="f16",
    profiles=(PROFILE,),
    flavor="tensorrt",
    version="11.4.0.106",
    sm=90,
    gpu_name="NVIDIA H100 80GB HBM3",
    hardware_compatibility="none",
)
OTHERS = [
    replace(IDENTITY, graph_sha256=(("tensorrt/model.onnx", "b" * 64),)),
    replace(IDENTITY, precision="bf16"),
    replace(IDENTITY, profiles=(PROFILE, PROFILE)),
    replace(IDENTITY, flavor="tensorrt-rtx"),
    replace(IDENTITY, version="11.4.0.107"),
    replace(IDENTITY, sm=89),
    replace(IDENTITY, gpu_name="NVIDIA H200"),
    replace(IDENTITY, gpu_name=None),
    replace(IDENTITY, hardware_compatibility="same_compute_capability"),
    replace(IDENTITY, compiler_version=IDENTITY.compiler_version + 1),
]


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(tmp_path / "plans")


def never() -> bytes:
    raise AssertionError("there is a plan")


def test_the_name_of_a_plan_says_for_what_it_is() -> None:
    assert IDENTITY.key.startswith("tensorrt-11.4.0.106-sm90-nvidia-h100-80gb-hbm3-")
    assert replace(IDENTITY, gpu_name=None).key.startswith("tensorrt-11.4.0.106-sm90-")
    assert IDENTITY.key == replace(IDENTITY).key


def test_whatever_a_plan_depends_on_gives_it_another_name() -> None:
    assert len({each.key for each in [IDENTITY, *OTHERS]}) == len(OTHERS) + 1


@pytest.mark.parametrize("other", OTHERS)
def test_a_plan_is_compiled_once_and_never_taken_for_another(
    store: PlanStore, other: PlanIdentity
) -> None:
    assert not store.has(IDENTITY)
    assert store.get_or_compile(IDENTITY, lambda: b"plan") == b"plan"
    assert store.get_or_compile(IDENTITY, never) == b"plan"

    assert store.has(IDENTITY)
    assert store.get(other) is None
    assert not store.has(other)


@given(plan=st.binary(min_size=1, max_size=100), place=st.integers(0, 99), size=st.integers(0, 99))
def test_a_plan_that_was_damaged_or_cut_counts_as_none(
    tmp_path_factory: pytest.TempPathFactory, plan: bytes, place: int, size: int
) -> None:
    store = PlanStore(tmp_path_factory.mktemp("plans"))
    store.get_or_compile(IDENTITY, lambda: plan)
    path = store.directory / f"{IDENTITY.key}.plan"
    damaged = bytearray(plan)
    damaged[place % len(plan)] ^= 1

    for content in (bytes(damaged), plan[: size % len(plan)], b""):
        path.write_bytes(content)
        assert store.get(IDENTITY) is None

    assert store.get_or_compile(IDENTITY, lambda: b"anew") == b"anew"
    assert store.get(IDENTITY) == b"anew"


def test_plans_that_are_not_what_their_records_say_are_named(store: PlanStore) -> None:
    for each in (IDENTITY, OTHERS[0], OTHERS[1]):
        store.get_or_compile(each, lambda: b"plan")
    assert unsound_plans(store.directory) == []

    (store.directory / f"{IDENTITY.key}.json").unlink()
    (store.directory / f"{OTHERS[0].key}.plan").write_bytes(b"other")

    wanted = sorted([f"{IDENTITY.key}.plan", f"{OTHERS[0].key}.plan"])
    assert unsound_plans(store.directory) == wanted


@pytest.mark.parametrize("record", ["", "[]", "null", "{}", '{"sha256": 3}'])
def test_a_record_that_says_nothing_is_no_record(store: PlanStore, record: str) -> None:
    store.get_or_compile(IDENTITY, lambda: b"plan")
    (store.directory / f"{IDENTITY.key}.json").write_text(record, encoding="utf-8")

    assert store.get(IDENTITY) is None


def test_a_record_tells_what_the_plan_is_of(store: PlanStore) -> None:
    store.get_or_compile(IDENTITY, lambda: b"plan")

    record = json.loads((store.directory / f"{IDENTITY.key}.json").read_text())
    assert record["size_bytes"] == 4
    assert record["identity"]["sm"] == 90
    assert record["identity"]["gpu_name"] == IDENTITY.gpu_name


def test_a_compilation_that_fails_leaves_nothing_and_may_be_tried_again(store: PlanStore) -> None:
    def fail() -> bytes:
        raise PlanError("no kernel")

    with pytest.raises(PlanError, match="no kernel"):
        store.get_or_compile(IDENTITY, fail)

    assert [path.suffix for path in store.directory.iterdir()] == [".lock"]
    assert store.get_or_compile(IDENTITY, lambda: b"plan") == b"plan"


def test_where_nothing_may_be_compiled_a_missing_plan_is_an_error(store: PlanStore) -> None:
    with pytest.raises(PlanError, match="there is no plan for sm90 with tensorrt 11") as raised:
        store.get_or_compile(IDENTITY, never, may_compile=False)

    assert "--no-compile" in (raised.value.hint or "")
    assert not store.directory.exists()
    store.get_or_compile(IDENTITY, lambda: b"plan")
    assert store.get_or_compile(IDENTITY, never, may_compile=False) == b"plan"


def test_threads_that_want_a_plan_at_once_wait_for_one_compilation(store: PlanStore) -> None:
    compiled = []
    may_go_on = threading.Event()

    def compile_slowly() -> bytes:
        compiled.append(1)
        may_go_on.wait(5)
        return b"plan"

    found: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(store.get_or_compile(IDENTITY, compile_slowly))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    may_go_on.set()
    for thread in threads:
        thread.join(5)

    assert found == [b"plan"] * 4
    assert len(compiled) == 1


def _die_while_compiling(directory: Path) -> None:
    def die() -> bytes:
        os._exit(1)

    PlanStore(directory).get_or_compile(IDENTITY, die)


def test_a_process_that_died_while_compiling_holds_up_nobody(store: PlanStore) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_die_while_compiling, args=(store.directory,)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 1

    assert store.get_or_compile(IDENTITY, lambda: b"plan") == b"plan"


def test_a_plan_that_does_not_load_is_kept_aside_and_compiled_anew(store: PlanStore) -> None:
    store.get_or_compile(IDENTITY, lambda: b"bad")

    assert store.recompile(IDENTITY, b"bad", lambda: b"good") == b"good"

    assert store.get(IDENTITY) == b"good"
    (aside,) = store.directory.glob("*.bad")
    assert aside.read_bytes() == b"bad"


def test_a_plan_that_another_process_has_replaced_is_taken(store: PlanStore) -> None:
    store.get_or_compile(IDENTITY, lambda: b"good")

    assert store.recompile(IDENTITY, b"bad", never) == b"good"


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A directory in which a file stands where the plans should be."""
    path = tmp_path / "closed"
    path.write_bytes(b"")
    return path


def test_a_directory_that_cannot_be_written_is_an_error_with_the_ways_out(closed: Path) -> None:
    with pytest.raises(PlanError, match=r"closed` cannot be written") as raised:
        PlanStore(closed).get_or_compile(IDENTITY, lambda: b"plan")

    assert "--plan-cache" in (raised.value.hint or "")


def test_plans_of_a_directory_that_is_only_read_are_found_and_replaced_elsewhere(
    tmp_path: Path,
) -> None:
    shipped = PlanStore(tmp_path / "engine")
    shipped.get_or_compile(IDENTITY, lambda: b"shipped")
    store = PlanStore(tmp_path / "cache", also_read=shipped.directory)

    assert store.get_or_compile(IDENTITY, never) == b"shipped"
    assert store.recompile(IDENTITY, b"shipped", lambda: b"own") == b"own"

    assert store.get(IDENTITY) == b"own"
    assert shipped.get(IDENTITY) == b"shipped"


def test_what_is_measured_of_kernels_is_kept_by_version_and_gpu(store: PlanStore) -> None:
    names = {store.timing_cache(each).name for each in [IDENTITY, *OTHERS]}

    assert store.timing_cache(IDENTITY).name == (
        "tensorrt-11.4.0.106-sm90-nvidia-h100-80gb-hbm3.timing"
    )
    # Version, flavour, GPU model (twice) and capability; the rest does not matter to kernels.
    assert len(names) == 6
