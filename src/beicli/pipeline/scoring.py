"""What classifiers and rerankers are asked, as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from beicli.errors import EmptyInputError
from beicli.pipeline.refusals import name_input
from beicli.pipeline.rerank_prompt import PromptEncoder, RerankPrompt
from beicli.pipeline.text_tokenizer import InputName
from beicli.pipeline.tokenizer import Encoding, TextPair, Tokenizer, Truncation


@dataclass(frozen=True, slots=True)
class Ranking:
    """A query and texts to rank for it, of which equal ones are tokenised once.

    distinct: the texts, without repetition; positions: where each comes first in the request.
    rows: of each text of the request, which of `distinct` it is.
    """

    query: str
    distinct: tuple[str, ...]
    positions: tuple[int, ...]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, query: str, texts: Sequence[str]) -> "Ranking":
        """Find the equal texts; raises EmptyInputError without a query or without texts.

        A text may be empty: it is an unlikely answer, but no reason to refuse all the others.
        """
        if not texts:
            raise EmptyInputError("`texts` cannot be empty", hint="send at least one text")
        if not query:
            raise EmptyInputError(
                "Input validation error: `query` cannot be empty",
                hint="send what the texts are to be ranked for",
                param="query",
            )
        row_of: dict[str, int] = {}
        positions = []
        for position, text in enumerate(texts):
            if text not in row_of:
                row_of[text] = len(row_of)
                positions.append(position)
        return cls(query, tuple(row_of), tuple(positions), tuple(row_of[text] for text in texts))

    def pairs(self) -> list[TextPair]:
        return [(self.query, text) for text in self.distinct]

    def name(self, index: int) -> str:
        """Name the text at `index` of `distinct` as the request knows it."""
        return f"text {self.positions[index]}"


class ScoringEncoder:
    """Tokenises texts and pairs for a model with labels.

    rerank_template: the prompt that pairs are written into; None if they are joined as pairs.
    """

    def __init__(self, tokenizer: Tokenizer, rerank_template: str | None) -> None:
        self._tokenizer = tokenizer
        self._prompts = (
            None
            if rerank_template is None
            else PromptEncoder(tokenizer, RerankPrompt.parse(rerank_template))
        )

    def encode(self, inputs: Sequence[str | TextPair], truncation: Truncation) -> list[Encoding]:
        """Tokenise texts and pairs in one list.

        Texts are taken as they are, also by models with a prompt: who sends a text has written
        the prompt already.
        """
        of_texts = [i for i, item in enumerate(inputs) if isinstance(item, str)]
        of_pairs = [i for i, item in enumerate(inputs) if not isinstance(item, str)]
        texts = self._tokenizer.encode(
            [item for item in inputs if isinstance(item, str)],
            truncation=truncation,
            name=lambda index: name_input(of_texts[index]),
        )
        pairs = self._encode_pairs(
            [item for item in inputs if not isinstance(item, str)],
            truncation,
            name=lambda index: name_input(of_pairs[index]),
        )
        encodings = dict(zip([*of_texts, *of_pairs], [*texts, *pairs], strict=True))
        return [encodings[index] for index in range(len(inputs))]

    def encode_ranking(self, ranking: Ranking, truncation: Truncation) -> list[Encoding]:
        """Tokenise the query with each distinct text."""
        return self._encode_pairs(
            ranking.pairs(), truncation, name=ranking.name, first_name="the query"
        )

    def num_characters(self, inputs: Sequence[str | TextPair]) -> int:
        """Return about how many characters there are to tokenise."""
        texts = [item for item in inputs if isinstance(item, str)]
        pairs = [item for item in inputs if not isinstance(item, str)]
        num_characters = sum(map(len, texts))
        if self._prompts is not None:
            return num_characters + self._prompts.num_characters(pairs)
        return num_characters + sum(len(first) + len(second) for first, second in pairs)

    def _encode_pairs(
        self,
        pairs: Sequence[TextPair],
        truncation: Truncation,
        *,
        name: InputName,
        first_name: str = "the first text",
    ) -> list[Encoding]:
        if self._prompts is not None:
            return self._prompts.encode(pairs, truncation=truncation, name=name)
        return self._tokenizer.encode_pairs(
            pairs, truncation=truncation, name=name, first_name=first_name
        )
