"""What a tokenizer puts around texts, so that texts tokenised once can be joined into pairs."""

from dataclasses import dataclass

import numpy as np
import tokenizers

from beicli.engine.batch import Int32, TokenSequence
from beicli.errors import ArtifactError

# Any text: what stands around it is the same for all.
_PROBE = "a"


@dataclass(frozen=True, slots=True, eq=False)
class SpecialTokens:
    """Ids before, between and after texts, and the type ids that go with them.

    around_text: ids before and after a single text.
    around_pair: ids before, between and after two texts; pair_type_ids: theirs.
    text_type_ids: type id of the tokens of the first and the second text.
    """

    around_text: tuple[Int32, Int32]
    around_pair: tuple[Int32, Int32, Int32]
    pair_type_ids: tuple[Int32, Int32, Int32]
    text_type_ids: tuple[int, int]

    @classmethod
    def learn(cls, tokenizer: tokenizers.Tokenizer) -> "SpecialTokens":
        """Read them off one text and one pair, whatever post-processor makes them."""
        single = tokenizer.encode(_PROBE)
        pair = tokenizer.encode(_PROBE, _PROBE)
        first, second = (_range(pair, sequence) for sequence in (0, 1))
        ids, type_ids = (np.array(values, dtype=np.int32) for values in (pair.ids, pair.type_ids))
        start, end = _range(single, 0)
        single_ids = np.array(single.ids, dtype=np.int32)
        return cls(
            around_text=(single_ids[:start], single_ids[end:]),
            around_pair=(ids[: first[0]], ids[first[1] : second[0]], ids[second[1] :]),
            pair_type_ids=(
                type_ids[: first[0]],
                type_ids[first[1] : second[0]],
                type_ids[second[1] :],
            ),
            text_type_ids=(int(type_ids[first[0]]), int(type_ids[second[0]])),
        )

    @property
    def num_around_text(self) -> int:
        return sum(map(len, self.around_text))

    @property
    def num_around_pair(self) -> int:
        return sum(map(len, self.around_pair))

    def join_pair(self, first: Int32, second: Int32, *, with_type_ids: bool) -> TokenSequence:
        """Return one sequence of two texts' ids, each [num_tokens]."""
        before, between, after = self.around_pair
        input_ids = np.concatenate([before, first, between, second, after], dtype=np.int32)
        if not with_type_ids:
            return TokenSequence(input_ids)
        of_before, of_between, of_after = self.pair_type_ids
        of_texts = [
            np.full(len(text), type_id, dtype=np.int32)
            for text, type_id in zip((first, second), self.text_type_ids, strict=True)
        ]
        return TokenSequence(
            input_ids,
            np.concatenate([of_before, of_texts[0], of_between, of_texts[1], of_after]),
        )


def fit_pair(lengths: tuple[int, int], max_num_tokens: int) -> tuple[int, int]:
    """Return what is kept of two texts so that both fit; the longer is cut first.

    Source: `LongestFirst` of the tokenizers library, with which this agrees.
    """
    if sum(lengths) <= max_num_tokens:
        return lengths
    shorter = min(lengths)
    longer = max(shorter, max_num_tokens - shorter)
    if shorter + longer > max_num_tokens:
        shorter = max_num_tokens // 2
        longer = max_num_tokens - shorter
    return (shorter, longer) if lengths[0] <= lengths[1] else (longer, shorter)


def _range(encoding: tokenizers.Encoding, sequence: int) -> tuple[int, int]:
    """Where the tokens of a text lie in `encoding`, as start and end."""
    places = [place for place, owner in enumerate(encoding.sequence_ids) if owner == sequence]
    if not places:
        raise ArtifactError(
            f"the tokenizer makes no tokens of the text {_PROBE!r}",
            hint="`tokenizer.json` is damaged, or is none for text",
        )
    return places[0], places[-1] + 1
