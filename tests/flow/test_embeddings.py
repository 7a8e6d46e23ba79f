"""The promises about numbers, kept by a real model behind a real server."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from baseten_performance_client import PerformanceClient
from openai import AsyncOpenAI, OpenAI
from sentence_transformers import SentenceTransformer
from tests.flow.conftest import RunningServer

from beicli.builder.texts import REFERENCE_TEXTS

pytestmark = pytest.mark.models

MIN_COSINE = {"f32": 0.9999, "bf16": 0.999}
MAX_DIFFERENCE_BETWEEN_BATCHES = {"f32": 1e-5, "bf16": 1e-3}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


@pytest.fixture(scope="session")
def news(models_directory: Path) -> list[str]:
    text = (models_directory / "lee50" / "lee_background.cor").read_text(encoding="utf-8")
    return text.splitlines()


@pytest.fixture(scope="session")
def varied_texts(news: list[str]) -> list[str]:
    """300 texts: every reference text, and pieces of news of 1 to 300 words."""
    source = random.Random(0)
    texts = list(REFERENCE_TEXTS)
    while len(texts) < 300:
        words = source.choice(news).split()
        texts.append(" ".join(words[: 1 + round(300 ** source.random())]))
    return texts


@pytest.fixture(scope="session")
def reference(minilm_checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm_checkpoint), device="cpu", local_files_only=True)


def embed(client: OpenAI, texts: Sequence[str], size: int = 100) -> np.ndarray:
    rows: list[list[float]] = []
    for start in range(0, len(texts), size):
        response = client.embeddings.create(model="any", input=list(texts[start : start + size]))
        assert [item.index for item in response.data] == list(range(len(response.data)))
        rows += [item.embedding for item in response.data]
    return np.array(rows)


def test_vectors_are_those_of_sentence_transformers(
    client: OpenAI, reference: SentenceTransformer, varied_texts: list[str], precision: str
) -> None:
    expected = reference.encode(varied_texts, normalize_embeddings=True)

    cosines = np.sum(embed(client, varied_texts) * expected, axis=1)

    worst = int(np.argmin(cosines))
    assert cosines[worst] >= MIN_COSINE[precision], varied_texts[worst]


def test_a_vector_does_not_depend_on_its_batch_mates(
    client: OpenAI, varied_texts: list[str], precision: str
) -> None:
    sample = varied_texts[::5]
    alone = embed(client, sample, size=1)
    shuffled = random.Random(1).sample(range(len(sample)), len(sample))

    together = embed(client, sample, size=60)
    otherwise = np.empty_like(together)
    otherwise[shuffled] = embed(client, [sample[i] for i in shuffled], size=23)

    limit = MAX_DIFFERENCE_BETWEEN_BATCHES[precision]
    assert np.abs(alone - together).max() <= limit
    assert np.abs(alone - otherwise).max() <= limit


def test_two_thousand_concurrent_texts_return_to_their_own_callers(
    server: RunningServer, client: OpenAI, precision: str
) -> None:
    texts = [f"Document {i} is about the number {i * 7919 % 10007}." for i in range(2000)]

    async def ask_all() -> list[list[float]]:
        async with AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=120
        ) as concurrent:

            async def ask(text: str) -> list[float]:
                response = await concurrent.embeddings.create(model="any", input=text)
                return response.data[0].embedding

            return await asyncio.gather(*[ask(text) for text in texts])

    answers = np.array(asyncio.run(ask_all()))

    expected = embed(client, texts, size=128)
    nearest = np.argmax(answers @ expected.T, axis=1)
    assert nearest.tolist() == list(range(2000))
    assert np.abs(answers - expected).max() <= MAX_DIFFERENCE_BETWEEN_BATCHES[precision]


def test_quality_on_labelled_text_arrives_through_the_server(
    client: OpenAI, models_directory: Path
) -> None:
    """Lee50: 50 news texts and people's judgement of every pair; MiniLM reaches 0.656."""
    corpus = models_directory / "lee50"
    texts = (corpus / "lee.cor").read_text(encoding="latin-1").splitlines()
    judged = np.loadtxt(corpus / "similarities0-1.txt")
    vectors = embed(client, texts)

    pairs = np.triu_indices(50, k=1)
    pearson = np.corrcoef((vectors @ vectors.T)[pairs], judged[pairs])[0, 1]

    assert len(texts) == 50
    assert pearson >= 0.65


def test_dimensions_are_the_first_ones_renormalised(client: OpenAI) -> None:
    full = np.array(client.embeddings.create(model="any", input="a text").data[0].embedding)

    short = client.embeddings.create(model="any", input="a text", dimensions=64)

    expected = full[:64] / np.linalg.norm(full[:64])
    assert np.allclose(short.data[0].embedding, expected, atol=1e-3)


def test_float_and_base64_carry_the_same_numbers(client: OpenAI) -> None:
    by_default = client.embeddings.create(model="any", input="a text").data[0].embedding
    as_floats = (
        client.embeddings.create(model="any", input="a text", encoding_format="float")
        .data[0]
        .embedding
    )

    assert np.array_equal(np.float32(by_default), np.float32(as_floats))


def test_token_ids_give_the_vector_of_their_text(
    client: OpenAI, reference: SentenceTransformer
) -> None:
    text = "How do I reset my password?"
    ids = reference.tokenizer(text)["input_ids"]

    from_text = embed(client, [text])[0]
    response = client.embeddings.create(model="any", input=[ids, ids])
    single = client.embeddings.create(model="any", input=ids)

    assert np.allclose(response.data[1].embedding, from_text, atol=1e-3)
    assert np.allclose(single.data[0].embedding, from_text, atol=1e-3)
    assert response.usage.prompt_tokens == 2 * len(ids)


def test_usage_counts_tokens_as_the_model_sees_them(
    client: OpenAI, reference: SentenceTransformer, news: list[str]
) -> None:
    texts = ["one", news[0]]
    response = client.embeddings.create(model="any", input=texts)

    lengths = [min(len(reference.tokenizer(text)["input_ids"]), 256) for text in texts]
    assert response.usage.prompt_tokens == response.usage.total_tokens == sum(lengths)


def test_truncation_is_announced(client: OpenAI, news: list[str]) -> None:
    long = " ".join(news[:5])

    raw = client.embeddings.with_raw_response.create(model="any", input=["short", long])

    assert raw.headers["x-bei-truncated-inputs"] == "1"


def test_the_performance_client_gets_a_thousand_vectors_in_order(
    server: RunningServer, client: OpenAI
) -> None:
    texts = [f"item number {i}" for i in range(1000)]

    response = PerformanceClient(base_url=server.url, api_key="any").embed(input=texts, model="any")

    assert np.abs(response.numpy() - embed(client, texts, size=128)).max() <= 1e-3
