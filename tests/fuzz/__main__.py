"""`python -m tests.fuzz TARGET --seconds 60`: look for inputs that break a parser, by coverage.

Inputs that reach something new are kept in `.fuzz/TARGET`, so the next run goes on from there. One
that breaks the parser is written there as well, and read again by `--input FILE`.
"""

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fuzz.targets import Target

CORPUS = Path(__file__).parents[2] / ".fuzz"
MAX_INPUT_BYTES = 20_000
SLOWEST_S = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--input", type=Path, help="read this file and nothing else")
    arguments = parser.parse_args()
    is_one_input = arguments.input is not None
    if not is_one_input and importlib.util.find_spec("atheris") is None:
        sys.exit("error: fuzzing needs atheris; `make fuzz` installs it")
    targets = load_targets(is_instrumented=not is_one_input)
    target = targets.get(arguments.target)
    if target is None:
        parser.error(f"no target `{arguments.target}`; there are {', '.join(targets)}")
    if is_one_input:
        with target.open() as read:
            print("taken" if read(arguments.input.read_bytes()) else "refused")
        return
    fuzz(target, CORPUS / arguments.target, num_seconds=arguments.seconds)


def load_targets(*, is_instrumented: bool) -> "Mapping[str, Target]":
    """Import the parsers; is_instrumented: such that atheris sees which of their lines run."""
    name = "tests.fuzz.targets"
    if not is_instrumented:
        return importlib.import_module(name).TARGETS  # type: ignore[no-any-return]
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["beicli", "tarfile", "yaml", "h11"]):
        return importlib.import_module(name).TARGETS  # type: ignore[no-any-return]


def fuzz(target: "Target", corpus: Path, *, num_seconds: int) -> None:
    """Feed the target until the time is over or something breaks; ends the process."""
    atheris = importlib.import_module("atheris")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.with_suffix(".dict")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
    options = [
        f"-max_total_time={num_seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={SLOWEST_S}",
        f"-artifact_prefix={corpus}/broken-",
        f"-dict={words}",
        "-print_final_stats=1",
    ]
    with target.open() as read:

        def read_one(data: bytes) -> None:
            read(data)

        atheris.Setup([sys.argv[0], *options, str(corpus)], read_one)
        atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word[:64])


if __name__ == "__main__":
    main()
