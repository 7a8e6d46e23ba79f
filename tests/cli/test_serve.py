from dataclasses import replace

import pytest
from tests.artifact.engines import MANIFEST

from beicli.artifact.manifest import Manifest, Tuning
from beicli.cli.serve import _warn_of_another_machine
from beicli.machine import Machine, this_machine


def tuned_on(machine: Machine) -> Manifest:
    tuning = Tuning(
        machine=machine,
        num_slots=1,
        num_threads=1,
        preferred_num_tokens=512,
        tokens_per_second=1.0,
    )
    return replace(MANIFEST, tuning=tuning)


def test_an_engine_tuned_elsewhere_says_what_is_different_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = this_machine()
    elsewhere = replace(here, num_cpus=here.num_cpus + 6)

    _warn_of_another_machine(tuned_on(elsewhere))

    printed = capsys.readouterr()
    assert printed.out == ""
    assert (
        f"this engine was tuned on another machine: {elsewhere.num_cpus} CPUs there, "
        f"{here.num_cpus} here"
    ) in " ".join(printed.err.split())
    assert "`bei build --tune`" in printed.err


@pytest.mark.parametrize("manifest", [MANIFEST, tuned_on(this_machine())])
def test_nothing_is_said_of_an_engine_that_is_at_home(
    manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    _warn_of_another_machine(manifest)

    assert capsys.readouterr().err == ""
