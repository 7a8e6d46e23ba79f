"""`python -m tests.models`: make every test model that is missing or out of date."""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.models.catalog import MODELS, PinnedModel
from tests.models.errors import ToolMissingError
from tests.models.store import is_ready, make

from beicli.errors import BeiError

_DEFAULT_CACHE = Path("~/.cache/beicli-tests")


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when every model asked for is ready, or was skipped by `--all`; else 1."""
    options = _parser().parse_args(arguments)
    cache = Path(os.environ.get("BEI_TEST_CACHE") or _DEFAULT_CACHE).expanduser()
    if options.only:
        wanted = [MODELS[name] for name in options.only]
    else:
        wanted = [model for model in MODELS.values() if options.all or model.in_small_set]
    try:
        _make_all(wanted, output=options.output, cache=cache, may_skip=options.all)
    except BeiError as error:
        _say(f"error: {error.message}" + (f"\n\nhint: {error.hint}" if error.hint else ""))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.models", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the model folders")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--only", nargs="+", metavar="NAME", choices=list(MODELS), help="make just these"
    )
    choice.add_argument("--all", action="store_true", help="more than `make test` needs")
    return parser


def _make_all(wanted: Iterable[PinnedModel], *, output: Path, cache: Path, may_skip: bool) -> None:
    for model in wanted:
        try:
            _make_with_needs(model, output=output, cache=cache)
        except ToolMissingError as error:
            if not may_skip:
                raise
            _say(f"Skipped     {model.name}: {error.message}; {error.hint}")


def _make_with_needs(model: PinnedModel, *, output: Path, cache: Path) -> None:
    if is_ready(model, output=output):
        return
    for name in model.needs:
        _make_with_needs(MODELS[name], output=output, cache=cache)
    started_s = time.monotonic()
    make(model, output=output, cache=cache)
    _say(f"Made        {model.name}    {time.monotonic() - started_s:.1f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
