"""Configurations as people write them, and with a mistake or two in them."""

import copy
from typing import Any

from hypothesis import strategies as st

from beicli.config.choices import Accelerator, CheckpointSource, QuantizationType

ENCODERS = ["encoder", "encoder_bert"]
BASE_MODELS = [*ENCODERS, "decoder", "palmyra", "qwen", "llama", "mistral", "deepseek", "whisper"]
ROUTES = ["/v1/embeddings", "/v1/systemone", "/rerank", "/predict", "/predict_tokens"]
ARCHITECTURES = [
    None,
    "BertModel",
    "XLMRobertaForSequenceClassification",
    "BertForTokenClassification",
    "Qwen3ForCausalLM",
    "Qwen3ForSequenceClassification",
    "MistralModel",
]
COUNT = st.integers(1, 8)
CALIBRATION = st.integers(1, 256).map(lambda steps: steps * 64)

_REPOSITORIES = st.fixed_dictionaries(
    {
        "source": st.sampled_from(list(map(str, CheckpointSource))),
        "repo": st.sampled_from(["org/model", "model", "BAAI/bge-m3", "a.b/c_d-e"]),
    },
    optional={
        "revision": st.sampled_from([None, "main", "5617a9f"]),
        "runtime_secret_name": st.sampled_from(["hf_access_token", "other"]),
    },
)
_LOOKAHEAD = st.fixed_dictionaries(
    {
        "speculative_decoding_mode": st.just("LOOKAHEAD_DECODING"),
        # With 1 Truss computes a draft of no tokens, and refuses that number.
        "lookahead_windows_size": st.integers(2, 8),
        "lookahead_ngram_size": st.integers(2, 8),
        "lookahead_verification_set_size": st.integers(2, 8),
    }
)
_BUILDS = st.fixed_dictionaries(
    {"base_model": st.sampled_from(ENCODERS * 4 + BASE_MODELS)},
    optional={
        "checkpoint_repository": _REPOSITORIES,
        "max_num_tokens": st.integers(65, 1_048_576),
        "max_seq_len": st.none() | st.integers(1, 1_048_576),
        "max_batch_size": st.integers(1, 2048),
        "max_beam_width": st.just(1),
        "quantization_type": st.sampled_from(
            ["no_quant"] * 4 + list(map(str, QuantizationType)) * 2
        ),
        "quantization_config": st.fixed_dictionaries(
            {},
            optional={
                "calib_size": CALIBRATION,
                "calib_dataset": st.just("org/data"),
                "calib_max_seq_length": CALIBRATION,
            },
        ),
        "tensor_parallel_count": COUNT,
        "pipeline_parallel_count": COUNT,
        "sequence_parallel_count": COUNT,
        "plugin_configuration": st.fixed_dictionaries(
            {},
            optional={
                "paged_kv_cache": st.booleans(),
                "use_paged_context_fmha": st.booleans(),
                "use_fp8_context_fmha": st.booleans(),
            },
        ),
        "num_builder_gpus": st.none() | COUNT,
        "speculator": st.none() | _LOOKAHEAD,
        "lora_adapters": st.none() | st.dictionaries(st.text("aZ9_-.:", min_size=1), _REPOSITORIES),
        "strongly_typed": st.booleans(),
        "skip_build_result": st.booleans(),
    },
)
_RUNTIMES = st.fixed_dictionaries(
    {},
    optional={
        "webserver_default_route": st.sampled_from([None, *ROUTES]),
        "kv_cache_free_gpu_mem_fraction": st.floats(0, 1),
        "kv_cache_host_memory_bytes": st.none() | COUNT,
        "enable_chunked_context": st.booleans(),
        "batch_scheduler_policy": st.sampled_from(["max_utilization", "guaranteed_no_evict"]),
        "served_model_name": st.none() | st.just("name"),
        "total_token_limit": COUNT,
        "lora_cache_max_adapter_size": st.none() | COUNT,
        "lora_cache_optimal_adapter_size": st.none() | COUNT,
    },
)
_ENGINES = st.fixed_dictionaries(
    {"build": _BUILDS},
    optional={
        "inference_stack": st.just("v1"),
        "runtime": _RUNTIMES,
        "version_overrides": st.fixed_dictionaries(
            {}, optional={"bei_version": st.just("1.2"), "v2_llm_version": st.just("x")}
        ),
    },
)
_SOUND = st.fixed_dictionaries(
    {"trt_llm": _ENGINES},
    optional={
        "model_name": st.none() | st.just("name"),
        "python_version": st.just("py39"),
        "model_metadata": st.just({"example_model_input": {"input": "text"}}),
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "accelerator": st.sampled_from(
                    [None, "H100:2", *map(str, Accelerator), *map(str, Accelerator)]
                ),
                "cpu": st.sampled_from(["1", "500m"]),
                "memory": st.sampled_from(["10Gi", "512Mi"]),
                "use_gpu": st.booleans(),
            },
        ),
        "secrets": st.just({"hf_access_token": None}),
        "environment_variables": st.just({"POOLING": "mean", "COUNT": 3, "FLAG": True}),
    },
)

_WRONG_NUMBERS = [None, True, 0, -1, 1, 1.5, 64, 65, 100, 2049, 1_048_577]
_WRONG_TEXTS = ["", "1", "512", "yes", "fp8", "a b", "v1", "v2", "v3", "hub", "encoderbert"]
_WRONG_NAMES = ["llama", "org/a/b", "a--b", "x.git", "/rerank", "H100:0", "H100:x", "X1", "T4"]
_WRONG_NAMES += ["1.5Gi", "5Q"]
_WRONG = st.sampled_from(
    [*_WRONG_NUMBERS, *_WRONG_TEXTS, *_WRONG_NAMES, [], ["a"], {}, {"a": 1}],
)
_NEW_KEYS = ["max_num_token", "quantisation_type", "new_key", "lora_cache_host_memory_bytes", "x"]


def _paths(tree: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """List the path of every key below."""
    if not isinstance(tree, dict):
        return []
    # Speculation is refused as a whole, and only the platform reads the version of Python.
    names = [] if path[-1:] == ("speculator",) else [n for n in tree if n != "python_version"]
    below = [(*path, name) for name in names]
    return below + [deeper for name in names for deeper in _paths(tree[name], (*path, name))]


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a sound configuration, and change up to two of its keys."""
    tree = copy.deepcopy(draw(_SOUND))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        path = draw(st.sampled_from(_paths(tree) or [("trt_llm",)]))
        section: Any = tree
        for name in path[:-1]:
            section = section[name]
        match draw(st.sampled_from(["wrong", "wrong", "missing", "added"])):
            case "wrong":
                section[path[-1]] = copy.deepcopy(draw(_WRONG))
            case "missing":
                section.pop(path[-1], None)
            case _:
                section[draw(st.sampled_from(_NEW_KEYS))] = copy.deepcopy(draw(_WRONG))
    return tree
