"""The configs people have: those published for the platform, and our own."""

from pathlib import Path

import pytest
import yaml
from tests.config.loading import Load

from beicli.config.load import load_config
from beicli.config.schema import CheckpointSource

EXAMPLES = Path(__file__).parents[2] / "examples"

# base model, repository, quantization, tokens, builder GPUs, route, GPU
PUBLISHED = """
encoder_bert|Alibaba-NLP/gte-modernbert-base|-|16384|-|/v1/embeddings|L4
encoder_bert|Alibaba-NLP/gte-Qwen2-1.5B-instruct|-|131072|-|/v1/embeddings|L4
encoder_bert|Alibaba-NLP/gte-Qwen2-7B-instruct|-|131072|-|/v1/embeddings|H100
encoder_bert|Alibaba-NLP/gte-reranker-modernbert-base|-|16384|-|/rerank|L4
encoder_bert|BAAI/bge-reranker-large|-|16384|-|/rerank|H100
encoder_bert|Babelscape/wikineural-multilingual-ner|-|16384|-|/predict_tokens|L4
encoder_bert|baseten-admin/bert-base-ner-uncased|-|16384|-|/predict_tokens|L4
encoder_bert|google/embeddinggemma-300m|-|16384|-|/v1/embeddings|L4
encoder_bert|intfloat/multilingual-e5-large-instruct|-|16384|-|/v1/embeddings|L4
encoder_bert|jinaai/jina-embeddings-v2-base-en|-|16384|-|/v1/embeddings|L4
encoder_bert|jinaai/jina-embeddings-v2-base-code|-|16384|-|/v1/embeddings|L4
encoder_bert|lcampillos/roberta-es-clinical-trials-ner|-|16384|-|/predict_tokens|L4
encoder_bert|mixedbread-ai/mxbai-embed-large-v1|-|16384|-|/v1/embeddings|L4
encoder_bert|baseten-admin/bert-base-ner-uncased|-|16384|-|/rerank|L4
encoder_bert|nomic-ai/nomic-embed-text-v1.5|-|16384|-|/v1/embeddings|A10G
encoder_bert|nomic-ai/nomic-embed-text-v2-moe|-|16384|-|/v1/embeddings|L4
encoder_bert|nvidia/llama-embed-nemotron-8b|-|131072|-|/v1/embeddings|H100
encoder_bert|nvidia/llama-nemotron-embed-1b-v2|-|131072|-|/v1/embeddings|H100
encoder_bert|redis/langcache-embed-v2|-|16384|-|/v1/embeddings|L4
encoder_bert|sentence-transformers/all-MiniLM-L6-v2|-|16384|-|/v1/embeddings|L4
encoder_bert|tanaos/tanaos-NER-v1|-|16384|-|/predict_tokens|L4
encoder_bert|TaylorAI/bge-micro-v2|-|16384|-|/v1/embeddings|A10G
encoder_bert|voyageai/voyage-4-nano|-|40960|-|/v1/embeddings|L4
encoder|allenai/Llama-3.1-Tulu-3-8B-RM|fp8|131072|1|/predict|H100_40GB
encoder|BAAI/bge-en-icl|fp8|32768|2|/v1/embeddings|H100
encoder|BAAI/bge-large-en-v1.5|-|16384|-|/v1/embeddings|L4
encoder|BAAI/bge-m3|-|16384|-|/v1/embeddings|H100
encoder|BAAI/bge-multilingual-gemma2|-|16384|-|/v1/embeddings|H100_40GB
encoder|BAAI/bge-reranker-large|-|16384|-|/rerank|L4
encoder|BAAI/bge-reranker-v2-m3|-|16384|-|/rerank|H100
encoder|baseten/example-Meta-Llama-3-70B-InstructForSequenceClassification|fp8|16384|2|/predict|H100
encoder|codefuse-ai/F2LLM-4B|fp8|40960|2|/v1/embeddings|H100
encoder|intfloat/e5-mistral-7b-instruct|fp8|32768|2|/v1/embeddings|H100
encoder|jinaai/jina-code-embeddings-0.5b|fp8|32768|1|/v1/embeddings|H100_40GB
encoder|mixedbread-ai/mxbai-embed-large-v1|-|16384|-|/v1/embeddings|L4
encoder|michaelfeil/mxbai-rerank-base-v2-seq|fp8|32768|4|/predict|L4
encoder|michaelfeil/mxbai-rerank-large-v2-seq|fp8|32768|4|/predict|L4
encoder|ncbi/MedCPT-Cross-Encoder|-|16384|-|/rerank|A10G
encoder|nomic-ai/nomic-embed-code|fp8|32768|1|/v1/embeddings|H100_40GB
encoder|papluca/xlm-roberta-base-language-detection|-|16384|-|/predict|L4
encoder|michaelfeil/Qwen3-Embedding-0.6B-auto|fp8|32768|4|/v1/embeddings|L4
encoder|michaelfeil/Qwen3-Embedding-4B-auto|fp4|40960|1|/v1/embeddings|B200
encoder|michaelfeil/Qwen3-Embedding-4B-auto|fp8|40960|1|/v1/embeddings|H100_40GB
encoder|michaelfeil/Qwen3-Embedding-8B-auto|fp8|40960|1|/v1/embeddings|H100_40GB
encoder|michaelfeil/Qwen3-Reranker-0.6B-seq|fp8|40960|4|/predict|L4
encoder|michaelfeil/Qwen3-Reranker-4B-seq|fp8|40960|1|/predict|H100_40GB
encoder|michaelfeil/Qwen3-Reranker-8B-seq|fp4|40960|1|/predict|B200
encoder|michaelfeil/Qwen3-Reranker-8B-seq|fp8|40960|1|/predict|H100_40GB
encoder|Salesforce/SFR-Embedding-Mistral|fp8|32768|1|/v1/embeddings|H100_40GB
encoder|SamLowe/roberta-base-go_emotions|-|16384|-|/predict|L4
encoder|Skywork/Skywork-Reward-Llama-3.1-8B-v0.2|fp8|131072|1|/predict|H100_40GB
encoder|Snowflake/snowflake-arctic-embed-l-v2.0|-|16384|-|/v1/embeddings|H100
encoder|WhereIsAI/UAE-Large-V1|-|16384|-|/v1/embeddings|L4
encoder_bert|baseten-admin/bert-base-ner-uncased|-|16384|-|/predict_tokens|H100
encoder|michaelfeil/Qwen3-Embedding-0.6B-auto|-|32768|1|/v1/embeddings|A10G
"""


def _rows() -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")] for row in PUBLISHED.strip().splitlines()]


@pytest.mark.parametrize("row", _rows(), ids=lambda row: f"{row[1]}-{row[6]}-{row[5]}")
def test_published_config_loads_without_a_warning(load: Load, row: list[str]) -> None:
    base_model, repo, quantization, max_num_tokens, builder_gpus, route, gpu = row
    build = {
        "base_model": base_model,
        "checkpoint_repository": {"repo": repo, "revision": "main", "source": "HF"},
        "max_num_tokens": int(max_num_tokens),
    }
    if quantization != "-":
        build["quantization_type"] = quantization
    if builder_gpus != "-":
        build["num_builder_gpus"] = int(builder_gpus)
    truss = {
        "model_metadata": {"example_model_input": {"input": "text"}},
        "model_name": f"BEI-{repo}-truss-example",
        "python_version": "py39",
        "resources": {"accelerator": gpu, "cpu": "1", "memory": "10Gi", "use_gpu": True},
        "trt_llm": {"build": build, "runtime": {"webserver_default_route": route}},
    }

    loaded = load(yaml.safe_dump(truss))

    assert loaded.warnings == ()
    assert loaded.config.trt_llm.build.base_model == base_model
    assert loaded.config.trt_llm.build.checkpoint_repository.repo == repo
    assert loaded.config.trt_llm.build.max_num_tokens == int(max_num_tokens)
    assert loaded.config.trt_llm.build.quantization_type == quantization.replace("-", "no_quant")
    assert loaded.config.trt_llm.runtime.webserver_default_route == route
    assert str(loaded.config.resources.accelerator) == gpu


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/config.yaml")), ids=lambda path: path.parent.name
)
def test_our_own_example_loads_without_a_warning(path: Path) -> None:
    assert load_config(path).warnings == ()


def test_local_example_points_to_where_make_models_puts_the_model() -> None:
    loaded = load_config(EXAMPLES / "all-minilm-l6-v2")

    repository = loaded.config.trt_llm.build.checkpoint_repository
    assert repository.source is CheckpointSource.LOCAL
    assert repository.local_path(relative_to=loaded.path.parent) == (
        EXAMPLES.parent.resolve() / ".models/all-minilm-l6-v2"
    )


def test_hub_example_pins_a_commit() -> None:
    loaded = load_config(EXAMPLES / "all-minilm-l6-v2-hub")

    assert loaded.config.trt_llm.build.checkpoint_repository.revision == (
        "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    )
