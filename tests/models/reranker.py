"""Train a tiny cross-encoder to tell a word's definition from others, in seeded steps.

A toy: it orders well enough to test scores and ranking, and says nothing about quality.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.models.checkpoint import copy_tokenizer, write_json
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

_WORDINGS = ("{}", "what is {}", "define {}", "{} meaning", "what does {} mean")
_NUM_HELD_OUT = 200
_NUM_CANDIDATES = 20
_NUM_STEPS = 350
_NUM_WARMUP_STEPS = 50
_QUERIES_PER_STEP = 16
_DEFINITIONS_PER_QUERY = 4
_MAX_LENGTH = 48
_LEARNING_RATE = 7e-4
# Cross-entropy orders the candidates; this much of the other loss makes scores comparable
# between queries.
_ABSOLUTE_LOSS_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Gloss:
    word: str
    topic: str
    definition: str


@dataclass(frozen=True, slots=True)
class Question:
    """One query and its candidates; the first is the right one."""

    query: str
    documents: list[str]


class QuestionWriter:
    """Asks for a definition among wrong ones, half of them from the right one's topic."""

    def __init__(self, glosses: list[Gloss], *, seed: int) -> None:
        self._glosses = glosses
        self._generator = np.random.default_rng(seed)
        self._by_topic: dict[str, list[Gloss]] = defaultdict(list)
        for gloss in glosses:
            self._by_topic[gloss.topic].append(gloss)

    def ask(self, gloss: Gloss, *, wording: str, num_documents: int) -> Question:
        wrong = [self._wrong_definition(gloss) for _ in range(num_documents - 1)]
        return Question(wording.format(gloss.word), [gloss.definition, *wrong])

    def draw_batch(self, glosses: list[Gloss]) -> list[Question]:
        chosen = self._generator.choice(len(glosses), _QUERIES_PER_STEP, replace=False)
        wordings = self._generator.choice(_WORDINGS, _QUERIES_PER_STEP)
        return [
            self.ask(glosses[index], wording=str(wording), num_documents=_DEFINITIONS_PER_QUERY)
            for index, wording in zip(chosen, wordings, strict=True)
        ]

    def _wrong_definition(self, gloss: Gloss) -> str:
        same_topic = self._generator.random() < 0.5
        pool = self._by_topic[gloss.topic] if same_topic else self._glosses
        drawn = pool[int(self._generator.integers(len(pool)))]
        while drawn.definition == gloss.definition:
            drawn = self._glosses[int(self._generator.integers(len(self._glosses)))]
        return drawn.definition


def write_tiny_reranker(sources: Mapping[str, Path], output: Path) -> None:
    """The cross-encoder, with questions it never saw and its mean reciprocal rank on them."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    glosses = _read_glosses(sources["wordnet"] / "glosses.tsv")
    np.random.default_rng(0).shuffle(glosses)
    held_out, training = glosses[:_NUM_HELD_OUT], glosses[_NUM_HELD_OUT:]
    base = sources["splade-bert-tiny"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    _train(model, tokenizer, QuestionWriter(glosses, seed=1), training)
    writer = QuestionWriter(glosses, seed=2)
    questions = [
        writer.ask(gloss, wording="what is {}", num_documents=_NUM_CANDIDATES) for gloss in held_out
    ]
    quality = _mean_reciprocal_rank(model, tokenizer, questions)
    model.save_pretrained(output)
    copy_tokenizer(base, output)
    evaluation = {"mean_reciprocal_rank": quality, "num_steps": _NUM_STEPS}
    write_json(output / "evaluation.json", evaluation)
    rows = [{"query": question.query, "documents": question.documents} for question in questions]
    write_json(output / "held_out.json", rows)


def _read_glosses(file: Path) -> list[Gloss]:
    with file.open(encoding="utf-8") as stream:
        return [Gloss(*line.rstrip("\n").split("\t")) for line in stream]


def _train(model: Any, tokenizer: Any, writer: QuestionWriter, glosses: list[Gloss]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / _NUM_WARMUP_STEPS) * max(0.02, 1 - step / _NUM_STEPS),
    )
    first_is_right = torch.zeros(_QUERIES_PER_STEP, dtype=torch.long)
    is_right = torch.eye(_DEFINITIONS_PER_QUERY)[0].expand(_QUERIES_PER_STEP, -1)
    model.train()
    for _ in range(_NUM_STEPS):
        scores = _score(model, tokenizer, writer.draw_batch(glosses))
        order_loss = torch.nn.functional.cross_entropy(scores, first_is_right)
        absolute_loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, is_right)
        optimizer.zero_grad()
        (order_loss + _ABSOLUTE_LOSS_WEIGHT * absolute_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _score(model: Any, tokenizer: Any, questions: list[Question]) -> torch.Tensor:
    """Returns [num_questions, num_documents]; every question has as many documents."""
    queries = [question.query for question in questions for _ in question.documents]
    documents = [document for question in questions for document in question.documents]
    encoded = tokenizer(
        queries,
        documents,
        padding=True,
        truncation=True,
        max_length=_MAX_LENGTH,
        return_tensors="pt",
    )
    logits: torch.Tensor = model(**encoded).logits
    return logits.view(len(questions), -1)


def _mean_reciprocal_rank(model: Any, tokenizer: Any, questions: list[Question]) -> float:
    model.eval()
    with torch.no_grad():
        scores = torch.cat([_score(model, tokenizer, [question]) for question in questions])
    ranks = 1 + (scores[:, 1:] > scores[:, :1]).sum(dim=1)
    return float((1 / ranks).mean())
