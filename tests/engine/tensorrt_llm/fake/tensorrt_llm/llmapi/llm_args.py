"""The keywords that the real class has, as far as anyone here could want them."""

import os
from typing import ClassVar


class TorchLlmArgs:
    model_fields: ClassVar[dict[str, object]] = dict.fromkeys(
        (
            *("model", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code"),
            *("tensor_parallel_size", "dtype", "revision", "tokenizer_revision"),
            *("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens"),
            *("cuda_graph_config", "kv_cache_config", "disable_overlap_scheduler", "encode_only"),
        )
    )


if os.environ.get("FAKE_TENSORRT_LLM") == "no encode_only":
    del TorchLlmArgs.model_fields["encode_only"]
