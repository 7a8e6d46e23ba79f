"""Which tokens continue the word before them, decided as transformers decides it."""

from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray

from beicli.engine.batch import Int32
from beicli.pipeline.results import TokenizedText

# No vocabulary has this code point: it is reserved not to be a character.
_UNKNOWN_CHARACTER = "\U0010ffff"


@dataclass(frozen=True, slots=True, eq=False)
class WordRule:
    """How to tell that a token continues a word.

    token_lengths: by id, the characters of each token as the vocabulary writes it, `##` included;
        None if the vocabulary does not mark tokens that continue a word.
    unk_token_id: of the token for what the vocabulary lacks; None if there is none.
    """

    token_lengths: Int32 | None
    unk_token_id: int | None

    @classmethod
    def learn(cls, tokenizer: tokenizers.Tokenizer) -> "WordRule":
        """Read it off the tokenizer's model.

        transformers looks for the unknown token in `tokenizer_config.json`. The two can differ
        where the model has none, as byte-level ones: then only if a text spells that token out.
        """
        marks_subwords = getattr(tokenizer.model, "continuing_subword_prefix", None)
        return cls(
            token_lengths=_token_lengths(tokenizer) if marks_subwords else None,
            unk_token_id=_unk_token_id(tokenizer),
        )

    def continues_word(self, text: TokenizedText) -> NDArray[np.bool_]:
        """Tell of each token whether it belongs to the word of the token before; [num_tokens].

        Where the vocabulary marks such tokens they are longer than the text they stand for:
        `##ing`. Other vocabularies leave a space before a token as the only sign of a new word.
        Source: `gather_pre_entities` of transformers' `TokenClassificationPipeline`.
        """
        starts, ends = text.offsets[:, 0], text.offsets[:, 1]
        if self.token_lengths is not None:
            continues: NDArray[np.bool_] = self.token_lengths[text.ids] != ends - starts
        else:
            code_points = np.frombuffer(text.text.encode("utf-32-le"), dtype="<u4")
            # A token may start where the text ends.
            is_space = np.append(code_points == ord(" "), [False])
            continues = (starts > 0) & ~is_space[starts - 1] & ~is_space[starts]
        if self.unk_token_id is not None:
            continues &= text.ids != self.unk_token_id
        return continues


def _token_lengths(tokenizer: tokenizers.Tokenizer) -> Int32:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int32)
    lengths[list(vocabulary.values())] = [len(token) for token in vocabulary]
    return lengths


def _unk_token_id(tokenizer: tokenizers.Tokenizer) -> int | None:
    if hasattr(tokenizer.model, "unk_token"):
        name = tokenizer.model.unk_token
        return None if name is None else tokenizer.token_to_id(name)
    # A unigram model does not tell, so it is asked for what it cannot know.
    try:
        tokens = tokenizer.model.tokenize(_UNKNOWN_CHARACTER)
    except Exception:  # noqa: BLE001 - what tokenizers raises when the model has no such token
        return None
    # Several tokens are its bytes.
    return tokens[0].id if len(tokens) == 1 else None
