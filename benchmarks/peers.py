"""How fast texts become vectors here, beside what one would use instead, in one run.

Every contender embeds the same 600 texts with all-MiniLM-L6-v2, round after round, because the
speed of a shared machine drifts; ratios are medians over rounds of ratios within a round.

  gemm               the best matrix products in f32, bf16 and int8, GFLOP/s: the machine's ceiling
  st-f32, st-bf16    sentence-transformers in process, torch, batches of 32
  st-onnx, st-onnx-int8, st-openvino    its other backends, in their newest version that has them
  onnxruntime-f32, -int8    ONNX Runtime by hand: sorted, batches of 32
  fastembed          FastEmbed in process: its defaults, batches of 256 in their order
  infinity-DTYPE-N   Infinity over HTTP, torch, batches of at most N
  infinity-onnx-f32, -int8  Infinity over HTTP, ONNX Runtime
  bei-ENGINE         an engine of ours in process, all texts sorted, and behind `bei serve`
  bei-ENGINE-replicas    behind `bei serve --replicas`, with --replicas

HTTP is measured with 8 clients that send 32 texts, and with 64 that send one short text. The client
is `bei bench` in a process of its own, on the same CPUs, and part of what HTTP costs here. GFLOP/s
are the model's matrix products over the tokens of the texts, without padding.

What is not in our own environment runs in two others, PATH/infinity and PATH/libraries below
--peers-env, as `make bench-peers` makes them.
"""

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import tokenizers
from contenders import Contender, Measure, Setting, all_contenders
from goals import Rates, Ratio, Share, model_gflop, ratios_to_goals, shares_of_ceiling
from infinity import MissingPeerError
from libraries import Libraries
from measuring import BenchFailedError, make_texts, write_dataset

from beicli.machine import this_machine
from beicli.model.inspect import inspect_checkpoint

# Words of the longest text of each kind; the shortest has six.
MAX_NUM_WORDS = {"mixed": 190, "short": 60}
OURS = ("beicli", "openvino", "torch", "sentence-transformers", "transformers", "onnxruntime")
THEIRS = (
    *("infinity-emb", "fastembed", "torch", "sentence-transformers", "transformers", "optimum"),
    *("optimum-onnx", "optimum-intel", "onnxruntime", "openvino"),
)


def main() -> None:
    """Measure every contender in rounds and print the tables and one JSON line."""
    arguments = parse_arguments()
    contenders = choose(all_contenders(num_replicas=arguments.replicas), arguments.only)
    with tempfile.TemporaryDirectory(prefix="bei-peers-") as directory, ExitStack() as stack:
        setting = make_setting(arguments, Path(directory), stack)
        rates, left_out = measure_rounds(contenders, setting, arguments.rounds, stack)
    lengths = count_tokens(setting.checkpoint, setting.texts)
    gflop_per_text = model_gflop(setting.checkpoint, lengths)
    shares = shares_of_ceiling(rates, contenders, gflop_per_text)
    ratios = ratios_to_goals(rates, contenders, gflop_per_text)
    print_tables(rates, shares, ratios, markdown=arguments.markdown)
    machine = this_machine()
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        **{name: asdict(machine)[name] for name in ("cpu", "cpu_features", "num_cpus")},
        "versions": versions(arguments.peers_env),
        "texts": arguments.texts,
        "mean_num_tokens": round(statistics.fmean(lengths), 1),
        "rounds": arguments.rounds,
        "duration_s": arguments.duration,
        "left_out": left_out,
        "medians": {
            " ".join(key): round(statistics.median(each), 1) for key, each in rates.items()
        },
        "ceiling": [asdict(share) for share in shares],
        "ratios": [asdict(ratio) for ratio in ratios],
    }
    print(json.dumps(result))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--peers-env", type=Path, metavar="PATH", help="environments of the peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=10, help="seconds of each HTTP run")
    parser.add_argument(
        "--texts", choices=list(MAX_NUM_WORDS), default="mixed", help="in process, and for 8x32"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="contenders, or how their names begin: `st`"
    )
    parser.add_argument("--replicas", type=int, default=1, help="measure so many, too")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return parser.parse_args()


def choose(contenders: Sequence[Contender], only: Sequence[str] | None) -> list[Contender]:
    """Return those that are named, whole or by the first words of their names."""
    if only is None:
        return list(contenders)
    chosen = [c for c in contenders if any(f"{c.name}-".startswith(f"{n}-") for n in only)]
    if not chosen:
        sys.exit(f"--only fits none of: {', '.join(c.name for c in contenders)}")
    return chosen


def environment_of(peers_env: Path | None, name: str) -> Path | None:
    """Return one of the peers' environments, None if it is not there."""
    path = None if peers_env is None else peers_env / name
    return path if path is not None and path.exists() else None


def make_setting(arguments: argparse.Namespace, work: Path, stack: ExitStack) -> Setting:
    """Write the texts to be sent and say what all contenders share."""
    kinds = {
        kind: make_texts(arguments.models / "lee50", max_num_words=most)
        for kind, most in MAX_NUM_WORDS.items()
    }
    texts = kinds[arguments.texts]
    checkpoint = arguments.models / "all-minilm-l6-v2"
    dataset = write_dataset(texts, work / "texts.jsonl")
    environment = environment_of(arguments.peers_env, "libraries")
    libraries = Libraries(environment, checkpoint, dataset, work)
    stack.callback(libraries.close)
    return Setting(
        checkpoint=checkpoint,
        texts=texts,
        dataset=dataset,
        short_dataset=write_dataset(kinds["short"], work / "short.jsonl"),
        duration_s=arguments.duration,
        infinity_env=environment_of(arguments.peers_env, "infinity"),
        libraries=libraries,
        work=work,
    )


def measure_rounds(
    contenders: Sequence[Contender], setting: Setting, num_rounds: int, stack: ExitStack
) -> tuple[Rates, Mapping[str, str]]:
    """Return texts/s, one a round, and why some contenders were left out.

    Who fails in any round is left out altogether: ratios are of all rounds.
    """
    left_out: dict[str, str] = {}
    ready: dict[str, Measure] = {}
    rates: dict[tuple[str, str], list[float]] = {}

    def leave_out(name: str, error: Exception) -> None:
        left_out[name] = str(error)
        ready.pop(name, None)
        print(f"left out  {name}: {error}", file=sys.stderr)

    for contender in contenders:
        try:
            ready[contender.name] = contender.prepare(setting, stack)
        except MissingPeerError as error:
            leave_out(contender.name, error)
    for number in range(num_rounds):
        for name, measure in list(ready.items()):
            try:
                figures = measure()
            except (MissingPeerError, BenchFailedError) as error:
                leave_out(name, error)
                continue
            for load, figure in figures.items():
                rates.setdefault((name, load), []).append(figure)
                print(f"round {number + 1}  {name:<24} {load:<10} {figure:9.1f}", file=sys.stderr)
    return {key: each for key, each in rates.items() if key[0] not in left_out}, left_out


def count_tokens(checkpoint: Path, texts: Sequence[str]) -> list[int]:
    """Return the length of each text in tokens, as every contender cuts it."""
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(inspect_checkpoint(checkpoint, pooling=None).max_input_length)
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]


def versions(peers_env: Path | None) -> dict[str, str]:
    """Return the versions of everything that was compared."""
    found = {name: importlib.metadata.version(name) for name in OURS}
    for kind in ("infinity", "libraries"):
        environment = environment_of(peers_env, kind)
        if environment is None:
            continue
        words = [str(environment / "bin" / "python"), "-m", "pip", "list", "--format", "json"]
        listed = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        found |= {
            f"{kind}: {name}": package["version"]
            for package in listed
            if (name := package["name"].replace("_", "-")) in THEIRS
        }
    return found


def print_tables(
    rates: Rates, shares: Sequence[Share], ratios: Sequence[Ratio], *, markdown: bool
) -> None:
    """Print medians, shares of the ceiling and ratios for people, on stderr."""
    of_ceiling = {(share.contender, share.load): share for share in shares}
    for row in table(
        ("contender", "load", "median", "GFLOP/s", "of the ceiling"),
        [
            (*key, f"{statistics.median(each):.1f}", *share_cells(of_ceiling.get(key)))
            for key, each in rates.items()
        ],
        markdown=markdown,
    ):
        print(row, file=sys.stderr)
    print(file=sys.stderr)
    for row in table(
        ("ratio", "measured", "wanted", ""),
        [
            (each.label, f"{each.measured:.2f}", f"{each.wanted:g}", "" if each.holds else "short")
            for each in ratios
        ],
        markdown=markdown,
    ):
        print(row, file=sys.stderr)


def share_cells(share: Share | None) -> tuple[str, str]:
    """Return GFLOP/s and the share of the ceiling as they are printed."""
    if share is None:
        return "", ""
    return f"{share.gflops:.0f}", "" if share.of_ceiling is None else f"{share.of_ceiling:.0%}"


def table(
    header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, markdown: bool
) -> Iterator[str]:
    """Lay out a table whose first column is words: in Markdown, or in aligned columns."""
    if markdown:
        yield from ("| " + " | ".join(row) + " |" for row in (header, ("---",) * len(header)))
        yield from ("| " + " | ".join(row) + " |" for row in rows)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


if __name__ == "__main__":
    main()
