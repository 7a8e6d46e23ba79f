import asyncio
import time
from contextlib import closing
from pathlib import Path

import pytest

from beicli.server.replicas import beats
from beicli.server.replicas.beats import Beats


def test_what_one_process_beats_another_hears(tmp_path: Path) -> None:
    path = tmp_path / "beats"
    with (
        closing(Beats.create(path, num_replicas=2)) as heard,
        closing(Beats.open(path, num_replicas=2)) as own,
    ):
        own.beat(1)

        assert heard.silent_for_s(1) < 60
        # Of whoever never said a word it is as long as the machine runs.
        assert heard.silent_for_s(0) == pytest.approx(time.monotonic(), abs=60)


def test_a_loop_that_turns_beats_and_one_that_does_not_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beats, "BEAT_INTERVAL_S", 0.001)

    async def run() -> tuple[float, float]:
        with closing(Beats.create(tmp_path / "beats", num_replicas=1)) as own:
            beating = asyncio.create_task(own.keep_beating(0))
            await asyncio.sleep(0.05)
            turning_s = own.silent_for_s(0)
            time.sleep(0.2)  # noqa: ASYNC251 - a loop that hangs
            hanging_s = own.silent_for_s(0)
            beating.cancel()
            return turning_s, hanging_s

    turning_s, hanging_s = asyncio.run(run())

    assert hanging_s >= 0.2
    assert turning_s < hanging_s
