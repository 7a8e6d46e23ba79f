"""Scores against transformers, whose tokenizers join, cut and pad by themselves."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from tests.server.fakes import make_manifest
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from beicli.artifact.manifest import Limits
from beicli.engine.batch import Batch, EngineOutput, Float32
from beicli.model.spec import ScoreActivation, Task
from beicli.pipeline.pipeline import InferencePipeline
from beicli.pipeline.tokenizer import Tokenizer

pytestmark = pytest.mark.models

T = TypeVar("T")

NUM_PAIRS = 50
WINDOW = 64
PROMPT_WINDOW = 128
PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
    "answer the query\n<Query>: {{ query }}\n<Document>: {{ document }}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


class TorchEngine:
    """Computes one sequence after the other, without padding."""

    num_slots = 1
    preferred_num_tokens = 4096

    def __init__(self, model: Any) -> None:
        self.model = model

    def padded_length(self, num_tokens: int) -> int:
        return num_tokens

    def forward(self, batch: Batch) -> EngineOutput:
        places = batch.cu_seqlens[1:-1]
        ids = np.split(batch.input_ids, places)
        types: Sequence[Any] = [None] * len(ids)
        if batch.token_type_ids is not None:
            types = np.split(batch.token_type_ids, places)
        return EngineOutput(
            np.concatenate([self._logits(*one) for one in zip(ids, types, strict=True)])
        )

    def close(self) -> None: ...

    def _logits(self, ids: Any, types: Any) -> Float32:
        of_types = {} if types is None else {"token_type_ids": torch.tensor(types[None])}
        with torch.inference_mode():
            return self.model(input_ids=torch.tensor(ids[None]), **of_types).logits.numpy()


def ask(
    model: Any,
    tokenizer: Tokenizer,
    question: Callable[[InferencePipeline], Awaitable[T]],
    **spec: object,
) -> T:
    manifest = make_manifest(Task.CLASSIFICATION)
    manifest = replace(
        manifest,
        model=replace(manifest.model, **spec),
        limits=Limits(
            max_num_tokens=4096, max_batch_size=16, max_input_length=tokenizer.max_input_length
        ),
    )

    async def run() -> T:
        with InferencePipeline(manifest, tokenizer, TorchEngine(model)) as pipeline:
            return await question(pipeline)

    return asyncio.run(run())


def opened(path: Path, window: int = WINDOW) -> Tokenizer:
    return Tokenizer.open(path, max_input_length=window, takes_token_type_ids=True)


def reference_logits(path: Path, model: Any, texts: list[str], pairs: list[str] | None) -> Float32:
    """What transformers gives, in padded batches and with its own truncation."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    encoded = tokenizer(
        texts, pairs, truncation=True, max_length=WINDOW, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        return model(**encoded).logits.numpy()


def test_rerank_scores_as_transformers_does(models_directory: Path) -> None:
    path = models_directory / "tiny-reranker"
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    queries = json.loads((path / "held_out.json").read_text())[:NUM_PAIRS:10]

    for number, item in enumerate(queries):
        query = item["query"] * (1 if number else 12)
        # Every third document outgrows the window.
        documents = [
            " ".join([text] * (12 if index % 3 == 0 else 1))
            for index, text in enumerate(item["documents"][:10])
        ]
        wanted = reference_logits(path, model, [query] * len(documents), documents)[:, 0]

        raw = ask(
            model,
            opened(path),
            lambda p, query=query, documents=documents: p.rerank(query, documents, raw_scores=True),
            score_activation=ScoreActivation.SIGMOID,
            relevance_label=0,
            labels=("relevance",),
        )
        scores = ask(
            model,
            opened(path),
            lambda p, query=query, documents=documents: p.rerank(query, documents),
            score_activation=ScoreActivation.SIGMOID,
            relevance_label=0,
            labels=("relevance",),
        ).scores

        assert np.abs(raw.scores - wanted).max() < 1e-4
        assert np.abs(scores - 1 / (1 + np.exp(-wanted.astype(np.float64)))).max() < 1e-4
        assert np.argsort(-raw.scores).tolist() == np.argsort(-wanted).tolist()
        assert raw.usage.num_truncated_inputs >= 3


def test_predict_scores_texts_and_pairs_as_transformers_does(models_directory: Path) -> None:
    path = models_directory / "tiny-sentiment"
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    texts = [item["text"] for item in json.loads((path / "held_out.json").read_text())[:NUM_PAIRS]]
    texts[::5] = [text * 10 for text in texts[::5]]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    of_texts = reference_logits(path, model, texts, None)
    of_pairs = reference_logits(path, model, texts[::2], texts[1::2])
    wanted = torch.softmax(torch.tensor(np.concatenate([of_texts, of_pairs])), dim=-1).numpy()

    result = ask(
        model,
        opened(path),
        lambda pipeline: pipeline.predict([*texts, *pairs]),
        score_activation=ScoreActivation.SOFTMAX,
        labels=("NEGATIVE", "POSITIVE"),
    )

    assert np.abs(result.scores - wanted).max() < 1e-4
    assert result.usage.num_truncated_inputs > 20


@pytest.fixture(scope="module")
def qwen3() -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        initializer_range=0.125,
        num_labels=2,
        pad_token_id=151643,
    )
    return Qwen3ForSequenceClassification(config).eval()


def test_a_causal_reranker_scores_as_its_prompt_does_in_transformers(
    models_directory: Path, qwen3: Any
) -> None:
    path = models_directory / "random" / "qwen3"
    tokenizer = AutoTokenizer.from_pretrained(path)
    query = "who wrote it?"
    # A number first, and plain words: the prompt's parts can then be tokenised one by one, as the
    # model's authors do, and the tokens of an overlong document be cut.
    documents = [
        f"{number} " + "the house and the river were there " * (number % 4 * number)
        for number in range(24)
    ]
    before, after = (
        tokenizer.encode(part, add_special_tokens=False)
        for part in PROMPT.replace("{{ query }}", query).split("{{ document }}")
    )
    room = PROMPT_WINDOW - len(before) - len(after)
    bodies = [tokenizer.encode(text.rstrip(), add_special_tokens=False) for text in documents]
    with torch.inference_mode():
        logits = torch.cat(
            [
                qwen3(input_ids=torch.tensor([[*before, *body[:room], *after]])).logits
                for body in bodies
            ]
        )
    wanted = torch.softmax(logits, dim=-1)[:, 1].numpy()

    result = ask(
        qwen3,
        opened(path, PROMPT_WINDOW),
        lambda pipeline: pipeline.rerank(query, [text.rstrip() for text in documents]),
        score_activation=ScoreActivation.SOFTMAX,
        labels=("no", "yes"),
        relevance_label=1,
        rerank_template=PROMPT,
    )

    lengths = [len(before) + len(body) + len(after) for body in bodies]
    assert result.usage.input_lengths == tuple(lengths)
    assert result.usage.num_truncated_inputs == sum(n > PROMPT_WINDOW for n in lengths) > 3
    assert np.abs(result.scores - wanted).max() < 1e-4
    assert np.argsort(-result.scores).tolist() == np.argsort(-wanted).tolist()
    assert np.ptp(result.scores) > 0.05


def test_texts_that_are_prompts_already_score_as_their_pairs_do(
    models_directory: Path, qwen3: Any
) -> None:
    path = models_directory / "random" / "qwen3"
    tokenizer = AutoTokenizer.from_pretrained(path)
    pairs = [("who?", "the answer"), ("what?", "日本の答え")]
    prompts = [
        PROMPT.replace("{{ query }}", query).replace("{{ document }}", document)
        for query, document in pairs
    ]
    with torch.inference_mode():
        wanted = torch.cat(
            [qwen3(**tokenizer(prompt, return_tensors="pt")).logits for prompt in prompts]
        ).numpy()

    result = ask(
        qwen3,
        opened(path, PROMPT_WINDOW),
        lambda pipeline: pipeline.predict([*prompts, *pairs], raw_scores=True),
        labels=("no", "yes"),
        rerank_template=PROMPT,
    )

    assert np.abs(result.scores - np.concatenate([wanted, wanted])).max() < 1e-4
