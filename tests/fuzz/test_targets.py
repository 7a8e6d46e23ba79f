"""Everything strangers may hand over, well-formed and then tampered with, is read or refused."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.targets import TARGETS, Target

NUM_EXAMPLES = 100
REPOSITORY = Path(__file__).parents[2]


def tampered(target: Target) -> st.SearchStrategy[bytes]:
    """A seed in which a few places hold something else, or nothing."""
    anything = st.binary(max_size=6)
    put = st.sampled_from(target.words) | anything if target.words else anything
    edits = st.lists(
        st.tuples(st.integers(0, 2**16), st.integers(0, 24), put), min_size=1, max_size=4
    )

    def apply(seed: bytes, made: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(seed)
        for place, length, content in made:
            start = place % (len(data) + 1)
            data[start : start + length] = content
        return bytes(data)

    return st.builds(apply, st.sampled_from(target.seeds), edits)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_well_formed_is_read_and_what_was_tampered_with_is_read_or_refused(
    name: str,
) -> None:
    target = TARGETS[name]
    with target.open() as read:
        assert all(read(seed) for seed in target.seeds)

        @settings(
            max_examples=NUM_EXAMPLES, suppress_health_check=[HealthCheck.too_slow], deadline=None
        )
        @given(tampered(target))
        def read_any(data: bytes) -> None:
            read(data)

        read_any()


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed; `make fuzz` does",
)
def test_a_second_of_fuzzing_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "archive", "--seconds", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
