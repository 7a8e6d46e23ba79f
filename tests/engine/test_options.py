from dataclasses import replace

import pytest
from tests.artifact.engines import MANIFEST

from beicli.artifact.manifest import Tuning
from beicli.engine.options import EngineOptions, tuned_options
from beicli.machine import Machine

MACHINE = Machine(cpu="some CPU", cpu_features=("avx2",), num_cpus=8, memory_bytes=2**33)
TUNED = replace(
    MANIFEST,
    tuning=Tuning(
        machine=MACHINE,
        num_slots=4,
        num_threads=8,
        preferred_num_tokens=2048,
        tokens_per_second=1000.0,
    ),
)


def test_what_tuning_found_is_used_on_such_a_machine() -> None:
    assert tuned_options(TUNED, EngineOptions(), MACHINE) == EngineOptions(
        num_slots=4, num_threads=8, preferred_num_tokens=2048
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(MACHINE, cpu="another"),
        replace(MACHINE, num_cpus=4),
        replace(MACHINE, cpu_features=("avx2", "avx512f")),
    ],
)
def test_on_another_machine_it_is_not(other: Machine) -> None:
    assert tuned_options(TUNED, EngineOptions(), other) == EngineOptions()


def test_memory_does_not_make_another_machine() -> None:
    other = replace(MACHINE, memory_bytes=2**35)

    assert tuned_options(TUNED, EngineOptions(), other).num_slots == 4


@pytest.mark.parametrize("given", [EngineOptions(num_threads=2), EngineOptions(num_slots=1)])
def test_what_is_said_wins_and_slots_go_with_threads(given: EngineOptions) -> None:
    assert tuned_options(TUNED, given, MACHINE) == replace(given, preferred_num_tokens=2048)


def test_an_engine_that_was_not_tuned_is_left_to_its_backend() -> None:
    assert tuned_options(MANIFEST, EngineOptions(), MACHINE) == EngineOptions()
