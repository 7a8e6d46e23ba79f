"""Train a two-class sentiment head on a tiny BERT, in a fixed number of seeded steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.models.checkpoint import copy_tokenizer, write_json
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

_LABELS = ("NEGATIVE", "POSITIVE")
# Sentences nearer to neutral than this are left out, on a scale of -4 to 4.
_MIN_SCORE = 0.5
_NUM_HELD_OUT = 1500
_NUM_STEPS = 700
_BATCH_SIZE = 32
_MAX_LENGTH = 48
_LEARNING_RATE = 5e-4


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    label: int


def write_tiny_sentiment(sources: Mapping[str, Path], output: Path) -> None:
    """The classifier, with the sentences it never saw and its accuracy on them."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sentences = _read_sentences(sources["vader"] / "movies.tsv")
    np.random.default_rng(0).shuffle(sentences)
    held_out, training = sentences[:_NUM_HELD_OUT], sentences[_NUM_HELD_OUT:]
    base = sources["splade-bert-tiny"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        id2label=dict(enumerate(_LABELS)),
        label2id={label: index for index, label in enumerate(_LABELS)},
    )
    _train(model, tokenizer, training)
    accuracy = _accuracy(model, tokenizer, held_out)
    model.save_pretrained(output)
    copy_tokenizer(base, output)
    write_json(output / "evaluation.json", {"accuracy": accuracy, "num_steps": _NUM_STEPS})
    rows = [{"text": sentence.text, "label": _LABELS[sentence.label]} for sentence in held_out]
    write_json(output / "held_out.json", rows)


def _read_sentences(file: Path) -> list[Sentence]:
    sentences = []
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            score, text = line.rstrip("\n").split("\t", maxsplit=1)
            if abs(float(score)) >= _MIN_SCORE:
                sentences.append(Sentence(text, int(float(score) > 0)))
    return sentences


def _train(model: Any, tokenizer: Any, sentences: list[Sentence]) -> None:
    """Adam with a learning rate that falls in a straight line to almost nothing."""
    generator = np.random.default_rng(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=_NUM_STEPS)
    model.train()
    for _ in range(_NUM_STEPS):
        chosen = generator.choice(len(sentences), _BATCH_SIZE, replace=False)
        batch = [sentences[index] for index in chosen]
        logits = model(**_encode(tokenizer, batch)).logits
        labels = torch.tensor([sentence.label for sentence in batch])
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _accuracy(model: Any, tokenizer: Any, sentences: list[Sentence]) -> float:
    model.eval()
    num_right = 0
    with torch.no_grad():
        for start in range(0, len(sentences), _BATCH_SIZE):
            batch = sentences[start : start + _BATCH_SIZE]
            labels = torch.tensor([sentence.label for sentence in batch])
            predicted = model(**_encode(tokenizer, batch)).logits.argmax(dim=-1)
            num_right += int((predicted == labels).sum())
    return num_right / len(sentences)


def _encode(tokenizer: Any, batch: list[Sentence]) -> Any:
    return tokenizer(
        [sentence.text for sentence in batch],
        padding=True,
        truncation=True,
        max_length=_MAX_LENGTH,
        return_tensors="pt",
    )
