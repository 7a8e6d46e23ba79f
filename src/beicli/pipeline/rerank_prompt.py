"""Query and document written into the prompt that a causal reranker was trained on.

The prompt's closing part asks for the verdict, so what is too long loses a part of its document
and nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from beicli.engine.batch import Int32, TokenSequence
from beicli.errors import ArtifactError
from beicli.pipeline import refusals
from beicli.pipeline.refusals import name_input
from beicli.pipeline.results import TokenizedText
from beicli.pipeline.text_tokenizer import InputName
from beicli.pipeline.tokenizer import (
    Encoding,
    TextPair,
    Tokenizer,
    Truncation,
    TruncationDirection,
)

_VARIABLES = frozenset({"query", "document"})

# Stands for the document where its place is looked for; no text has these code points in a row.
_MARKER = "\ue0b5\uf8d3\ue0b5"

_REBUILD = "write a prompt of `{{ query }}` and `{{ document }}`, and rebuild the engine"


@dataclass(frozen=True, slots=True, eq=False)
class RerankPrompt:
    """A Jinja template of `query` and `document`, and its text."""

    source: str
    template: Template

    @classmethod
    def parse(cls, template: str) -> "RerankPrompt":
        """Read a template; raises ArtifactError if it is none, or no prompt of both texts."""
        # Newlines around tags and at the end belong to the prompt: the model was trained on them.
        environment = ImmutableSandboxedEnvironment(
            autoescape=False,
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=False,
            lstrip_blocks=False,
        )
        try:
            names = meta.find_undeclared_variables(environment.parse(template))
            compiled = environment.from_string(template)
        except TemplateError as error:
            raise ArtifactError(
                f"the engine's prompt for reranking is not a Jinja template: {error}",
                hint=_REBUILD,
            ) from error
        names -= set(environment.globals)
        if names != _VARIABLES:
            raise ArtifactError(
                f"the engine's prompt for reranking uses {_listed(names) or 'no text'}; "
                f"{_listed(_VARIABLES)} are wanted",
                hint=_REBUILD,
            )
        prompt = cls(template, compiled)
        prompt.render("query", "document")
        return prompt

    def render(self, query: str, document: str) -> str:
        """Write both texts into the prompt; what looks like Jinja in them stays as it is."""
        try:
            return self.template.render(query=query, document=document)
        except Exception as error:
            # A template may do anything to its texts, and fail in as many ways.
            raise ArtifactError(
                f"the engine's prompt for reranking cannot be written: {error}", hint=_REBUILD
            ) from error

    def locate(self, query: str, document: str) -> int | None:
        """Return where the prompt has `document`; None unless it stands there as it is, once."""
        before, _, after = self.render(query, _MARKER).partition(_MARKER)
        is_verbatim = self.render(query, document) == before + document + after
        return len(before) if is_verbatim else None


class PromptEncoder:
    """Tokenises pairs as prompts, without special tokens: the template writes its own.

    Each prompt is tokenised as one text, its query anew for each document: a tokenizer may join
    letters across the place where a text begins or ends.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: RerankPrompt) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._limit = tokenizer.max_input_length

    def num_characters(self, pairs: Sequence[TextPair]) -> int:
        """Return about how many characters there are to tokenise."""
        num_around = len(self._prompt.source) * len(pairs)
        return num_around + sum(len(query) + len(document) for query, document in pairs)

    def encode(
        self,
        pairs: Sequence[TextPair],
        *,
        truncation: Truncation = Truncation(),  # noqa: B008 - frozen
        name: InputName = name_input,
    ) -> list[Encoding]:
        """Tokenise pairs of query and document; documents are cut until their prompts fit.

        Raises RequestError naming the pair that is too long and may not be cut, or does not fit
        even without its document.
        """
        self._check(pairs, truncation, name)
        looked_at = [
            (query, self._tokenizer.cut_characters(document, truncation.direction))
            for query, document in pairs
        ]
        encoded = self._encode(looked_at)
        overlong = [index for index, ids in enumerate(encoded) if len(ids) > self._limit]
        lengths = [len(ids) for ids in encoded]
        if overlong and not truncation.allowed:
            query, _ = pairs[overlong[0]]
            part = self._overlong_part(query)
            raise self._tokenizer.too_long(lengths[overlong[0]], name(overlong[0]), part=part)
        for index, ids in self._shorten(overlong, looked_at, truncation.direction, name):
            encoded[index] = ids
        return [
            Encoding(
                TokenSequence(ids),
                # As with all texts, characters that are not looked at count as one token.
                max(num_tokens - len(ids), int(len(document) > self._tokenizer.max_characters)),
            )
            for ids, num_tokens, (_, document) in zip(encoded, lengths, pairs, strict=True)
        ]

    def _encode(self, pairs: Sequence[TextPair]) -> list[Int32]:
        return self._tokenizer.encode_verbatim([self._prompt.render(*pair) for pair in pairs])

    def _check(self, pairs: Sequence[TextPair], truncation: Truncation, name: InputName) -> None:
        """Refuse what is empty, and long queries before they are tokenised with each document."""
        checked = set()
        for index, (query, document) in enumerate(pairs):
            if not query and not document:
                raise refusals.empty_text(name(index))
            num_characters = len(query) + len(document)
            self._tokenizer.check_characters(num_characters, name(index), truncation)
            # A shorter one, in characters, is found out when its prompt turns out too long.
            if len(query) > self._limit and query not in checked:
                self._check_query(query, name(index))
                checked.add(query)

    def _check_query(self, query: str, name: str) -> None:
        max_characters = self._tokenizer.max_characters
        if len(query) > max_characters:
            raise refusals.too_many_characters(
                len(query), f"the query of {name}", limit=max_characters
            )
        num_tokens = self._num_tokens_around(query)
        if num_tokens > self._limit:
            raise refusals.query_too_long(num_tokens, name, limit=self._limit)

    def _num_tokens_around(self, query: str) -> int:
        """How long a prompt is without a document."""
        (ids,) = self._encode([(query, "")])
        return len(ids)

    def _overlong_part(self, query: str) -> str:
        num_tokens = self._num_tokens_around(query)
        if num_tokens <= self._limit:
            return ""
        return f"the query and the prompt around it alone have {num_tokens} tokens"

    def _shorten(
        self,
        indices: Sequence[int],
        pairs: Sequence[TextPair],
        direction: TruncationDirection,
        name: InputName,
    ) -> Iterable[tuple[int, Int32]]:
        """Cut the documents at `indices` of `pairs`; yield each index with ids that fit.

        In rounds: see which tokens are too many, cut there, tokenise again. A cut can make one
        token into two, so now and then there is another round.
        """
        waiting = {index: pairs[index] for index in indices}
        while waiting:
            texts = [self._prompt.render(*pair) for pair in waiting.values()]
            tokenized = self._tokenizer.tokenize(texts, add_special_tokens=False)
            for (index, pair), prompt in zip(list(waiting.items()), tokenized, strict=True):
                waiting[index] = (pair[0], self._cut(pair, prompt, direction))
            encoded = self._encode(list(waiting.values()))
            for (index, (_, document)), ids in zip(list(waiting.items()), encoded, strict=True):
                if len(ids) <= self._limit:
                    yield index, ids
                    del waiting[index]
                elif not document:
                    raise refusals.query_too_long(len(ids), name(index), limit=self._limit)

    def _cut(self, pair: TextPair, prompt: TokenizedText, direction: TruncationDirection) -> str:
        """Return a shorter document than that of `pair`, whose tokenised prompt is too long."""
        query, document = pair
        start = self._prompt.locate(query, document)
        if start is None:
            return self._bisect(pair, direction)
        starts, ends = prompt.offsets.T - start
        is_own = (starts >= 0) & (ends <= len(document))
        num_kept = is_own.sum() - (len(prompt.ids) - self._limit)
        if num_kept <= 0:
            return ""
        starts, ends = starts[is_own], ends[is_own]
        # A character may be several tokens: one whose tokens are not all kept goes too. And some
        # tokens stand for no character, so what is left may have to be made shorter.
        if direction is TruncationDirection.LEFT:
            first = len(starts) - num_kept
            return document[max(int(starts[first]), int(ends[first - 1]), 1) :]
        return document[: min(int(ends[num_kept - 1]), int(starts[num_kept]), len(document) - 1)]

    def _bisect(self, pair: TextPair, direction: TruncationDirection) -> str:
        """Return about as much of a document as fits, where the template changes or repeats it."""
        query, document = pair
        fitting, overlong = 0, len(document)
        while overlong - fitting > 1:
            middle = (fitting + overlong) // 2
            (ids,) = self._encode([(query, _keep_characters(document, middle, direction))])
            if len(ids) <= self._limit:
                fitting = middle
            else:
                overlong = middle
        return _keep_characters(document, fitting, direction)


def _keep_characters(text: str, num_characters: int, direction: TruncationDirection) -> str:
    if direction is TruncationDirection.LEFT:
        return text[len(text) - num_characters :]
    return text[:num_characters]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
