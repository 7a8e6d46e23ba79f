"""The same entities as transformers' own pipeline, from the same logits.

Each strategy, on real models and on random ones, whose labels change within words as those of
trained models seldom do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from tests.pipeline.ner_pipeline import LogitsEngine, predict, torch_logits
from tests.pipeline.ner_texts import TEXTS
from transformers.pipelines import token_classification as reference

from beicli.engine.batch import Float32
from beicli.pipeline.entities import AggregationStrategy, EntityFinder
from beicli.pipeline.results import Entity, TokenizedText
from beicli.pipeline.tokenizer import Tokenizer, Truncation, TruncationDirection
from beicli.pipeline.words import WordRule

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "S-ORG")
STRATEGIES = list(AggregationStrategy)
CHECKPOINTS = ("rampart-ner", "rampart-xlmr", "random/modernbert-ner")
CUT = Truncation()
WHOLE = Truncation(allowed=False)
PEOPLE = ("John Smith", "Clara Jones", "Maria Garcia", "Tim Cook", "Jane Doe", "Peter Parker")

# Where a vocabulary marks no words, transformers says that it guesses.
pytestmark = pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")


@dataclass(frozen=True)
class Found:
    """An entity, or a token, in terms both sides have."""

    label: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Case:
    """One model, for both sides. reference: transformers' pipeline."""

    reference: Any
    tokenizer: Tokenizer
    labels: list[str]
    compute: Callable[[Sequence[int]], Float32]

    def predict(
        self, texts: Sequence[str], *, truncation: Truncation = CUT
    ) -> list[list[list[Entity]]]:
        """Our entities: of each strategy, of each text."""
        results = predict(
            LogitsEngine(self.compute),
            self.tokenizer,
            self.labels,
            texts,
            strategies=STRATEGIES,
            truncation=truncation,
        )
        return [result.entities for result in results]

    def expect(self, text: str) -> list[list[Found]]:
        """What transformers finds with each strategy, from one forward pass."""
        outputs = [
            self.reference.forward(inputs)
            for inputs in self.reference.preprocess(text, is_split_into_words=False)
        ]
        return [
            [
                Found(e.get("entity", e.get("entity_group")), e["start"], e["end"], e["score"])
                for e in self.reference.postprocess(
                    outputs, reference.AggregationStrategy(str(strategy))
                )
            ]
            for strategy in STRATEGIES
        ]

    def without_special(self, entities: list[Entity]) -> list[Entity]:
        before, after = self.tokenizer.special_tokens.around_text
        return entities[len(before) : len(entities) - len(after)]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    # Threads of torch that wait for each other take a hundred times as long on a busy machine.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def make_case(model: Any, fast_tokenizer: Any, tokenizer: Tokenizer) -> Case:
    model = model.eval()
    return Case(
        reference=transformers.pipeline(
            "token-classification", model=model, tokenizer=fast_tokenizer, device="cpu"
        ),
        tokenizer=tokenizer,
        labels=[model.config.id2label[i] for i in range(model.config.num_labels)],
        compute=torch_logits(model),
    )


def trained_case(directory: Path) -> Case:
    return make_case(
        transformers.AutoModelForTokenClassification.from_pretrained(directory),
        transformers.AutoTokenizer.from_pretrained(directory),
        Tokenizer.open(directory, max_input_length=512),
    )


def random_case(directory: Path, *, changed: Callable[[tokenizers.Tokenizer], None]) -> Case:
    """A tiny random model on the tokenizer of a checkpoint, which `changed` may alter."""
    raw = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    changed(raw)
    named = transformers.AutoTokenizer.from_pretrained(directory)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token=named.unk_token, model_max_length=512
    )
    config = transformers.RobertaConfig(
        vocab_size=raw.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=520,
        pad_token_id=1,
        initializer_range=1.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    torch.manual_seed(5)
    model = transformers.RobertaForTokenClassification(config)
    copy = tokenizers.Tokenizer.from_str(raw.to_str())
    return make_case(model, fast, Tokenizer(copy, max_input_length=512))


def keep(_: tokenizers.Tokenizer) -> None:
    """Leave a tokenizer as it is."""


def like_roberta(tokenizer: tokenizers.Tokenizer) -> None:
    """Put a space before texts, special tokens around them, and leave spaces out of offsets."""
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
        ("<|im_end|>", 2), ("<|im_start|>", 1), trim_offsets=True, add_prefix_space=True
    )


def check_same(case: Case, texts: Sequence[str]) -> int:
    """Compare both sides on every text and strategy; returns how many entities were compared."""
    found = case.predict(texts)
    num_compared = 0
    for index, text in enumerate(texts):
        for strategy, ours, expected in zip(STRATEGIES, found, case.expect(text), strict=True):
            entities = ours[index]
            if strategy is AggregationStrategy.NONE:
                entities = case.without_special(entities)
            assert all(entity.token == text[entity.start : entity.end] for entity in entities)
            got = [
                Found(label, entity.start, entity.end, score)
                for entity in entities
                for label, score in entity.scores.items()
                if label != "O"
            ]
            where = f"{strategy} of {text!r}"
            assert [_place(one) for one in got] == [_place(one) for one in expected], where
            for one, other in zip(got, expected, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-4), where
            num_compared += len(got)
    return num_compared


def _place(found: Found) -> tuple[str, int, int]:
    return found.label, found.start, found.end


@pytest.mark.models
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_entities_of_checkpoints_are_those_of_transformers(
    models_directory: Path, name: str
) -> None:
    case = trained_case(models_directory / name)

    assert check_same(case, TEXTS) > 400
    assert case.predict(TEXTS, truncation=WHOLE) == case.predict(TEXTS)


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "changed"),
    [("random/qwen3", keep), ("roberta-minilm", like_roberta), ("xlmr-e5-small", keep)],
    ids=["byte level", "byte level, trimmed", "unigram"],
)
def test_entities_of_tokenizers_without_marked_words_are_those_of_transformers(
    models_directory: Path, name: str, changed: Callable[[tokenizers.Tokenizer], None]
) -> None:
    assert check_same(random_case(models_directory / name, changed=changed), TEXTS) > 1500


@pytest.mark.models
def test_asking_transformers_the_usual_way_gives_the_same(models_directory: Path) -> None:
    case = trained_case(models_directory / "rampart-ner")
    text = "My name is Clara Jones and I live in Berkeley, California."

    expected = case.reference(text, aggregation_strategy="max")

    entities = case.predict([text])[STRATEGIES.index(AggregationStrategy.MAX)][0]
    assert [(e.start, e.end, *e.scores) for e in entities] == [
        (e["start"], e["end"], e["entity_group"]) for e in expected
    ]


@pytest.mark.models
@pytest.mark.parametrize("direction", TruncationDirection)
@pytest.mark.parametrize("name", ["rampart-ner", "random/modernbert-ner"])
def test_what_truncation_leaves_is_what_it_leaves_in_transformers(
    models_directory: Path, name: str, direction: TruncationDirection
) -> None:
    case = trained_case(models_directory / name)
    case.reference.tokenizer.truncation_side = str(direction)
    text = " ".join(
        f"{person} wrote to {number}@example.org." for number, person in enumerate(PEOPLE * 12)
    )

    found = case.predict([text], truncation=Truncation(direction=direction))

    for strategy, ours, expected in zip(STRATEGIES, found, case.expect(text), strict=True):
        if strategy is AggregationStrategy.NONE:
            assert len(ours[0]) == 512
            continue
        assert [(e.start, e.end, *e.scores) for e in ours[0]] == [
            (e.start, e.end, e.label) for e in expected
        ]


@pytest.mark.models
@pytest.mark.parametrize("max_input_length", [24, 48, 96, 200])
def test_names_in_a_long_text_are_found_wherever_its_windows_are_cut(
    models_directory: Path, max_input_length: int
) -> None:
    directory = models_directory / "rampart-ner"
    case = trained_case(directory)
    text = " ".join(
        f"My name is {person} and I live in the city. The weather was fine, so we had lunch."
        for person in PEOPLE * 2
    )
    engine = LogitsEngine(case.compute)

    (result,) = predict(
        engine,
        Tokenizer.open(directory, max_input_length=max_input_length),
        case.labels,
        [text],
        strategies=[AggregationStrategy.MAX],
        truncation=WHOLE,
    )

    assert len(engine.lengths) > 1
    names = [e.token for e in result.entities[0] if {*e.scores} & {"GIVEN_NAME", "SURNAME"}]
    assert names == " ".join(PEOPLE * 2).split()


# Few values, so that many of them are equal.
random_logits = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.just(len(LABELS))),
    elements=st.sampled_from([0.0, 1.0, 1.5, 4.0, 12.0, 16.0, 17.0]),
)


@given(logits=random_logits, data=st.data())
def test_any_logits_are_grouped_as_transformers_groups_them(
    logits: Float32, data: st.DataObject
) -> None:
    num_tokens = len(logits)
    is_subword = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    text, tokenized = _spell(is_subword)
    finder = EntityFinder(LABELS, WordRule(token_lengths=None, unk_token_id=None))

    for strategy in STRATEGIES[1:]:
        expected = _group_with_transformers(logits, is_subword, tokenized, strategy)
        (found,) = finder.find([tokenized], [logits], strategy=strategy, raw_scores=False)

        assert [(e.start, e.end, *e.scores) for e in found] == [
            (e["start"], e["end"], e["entity_group"]) for e in expected
        ]
        assert [score for e in found for score in e.scores.values()] == pytest.approx(
            [e["score"] for e in expected], abs=1e-6
        )
        assert all(e.token == text[e.start : e.end] for e in found)


def _spell(is_subword: list[bool]) -> tuple[str, TokenizedText]:
    """Write a text whose tokens continue words where they should."""
    text, offsets = "", []
    for index, continues in enumerate(is_subword):
        text += "" if continues or index == 0 else " "
        offsets.append((len(text), len(text) + 2))
        text += "ab"
    num_tokens = len(offsets)
    return text, TokenizedText(
        text,
        np.zeros(num_tokens, np.int32),
        ["ab"] * num_tokens,
        np.array(offsets),
        np.zeros(num_tokens, np.bool_),
    )


def _group_with_transformers(
    logits: Float32, is_subword: list[bool], text: TokenizedText, strategy: AggregationStrategy
) -> list[dict[str, Any]]:
    pipeline = reference.TokenClassificationPipeline.__new__(reference.TokenClassificationPipeline)
    pipeline.model = SimpleNamespace(config=SimpleNamespace(id2label=LABELS))
    pipeline.tokenizer = SimpleNamespace(convert_tokens_to_string="".join)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    tokens = [
        {
            "word": "ab",
            "scores": row,
            "start": start,
            "end": end,
            "index": index,
            "is_subword": continues,
        }
        for index, (row, (start, end), continues) in enumerate(
            zip(
                powers / powers.sum(axis=-1, keepdims=True),
                text.offsets.tolist(),
                is_subword,
                strict=True,
            )
        )
    ]
    groups = pipeline.aggregate(tokens, reference.AggregationStrategy(str(strategy)))
    return [group for group in groups if group["entity_group"] != "O"]
