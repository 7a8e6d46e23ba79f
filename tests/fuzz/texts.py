"""Well-formed inputs that fuzzing starts from."""

import json

from tests.model.checkpoint_folder import BERT_CONFIG

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]
_DENSE = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "x.Tanh"}
_CLASSIFIER = BERT_CONFIG | {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "no", "1": "yes"},
    "label2id": {"no": 0, "yes": 1},
}

# The files of a checkpoint that are read as JSON, in the order in which an input holds them.
FOLDER_SEED = {
    name: json.dumps(value).encode()
    for name, value in {
        "config.json": _CLASSIFIER,
        "modules.json": _MODULES,
        "1_Pooling/config.json": {"pooling_mode": "mean", "word_embedding_dimension": 32},
        "2_Dense/config.json": _DENSE,
        "tokenizer_config.json": {"model_max_length": 512, "pad_token": "[PAD]"},
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "query: "},
            "default_prompt_name": "query",
        },
        "hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}},
        "model.safetensors.index.json": {"weight_map": {"a": "model.safetensors"}},
        "tokenizer.json": {"version": "1.0", "model": {"vocab": {}}},
    }.items()
}


def _request(path: str, body: object) -> bytes:
    return path.encode() + b"\n" + json.dumps(body).encode()


_PARAMETERS = {"truncate": True, "truncation_direction": "left", "prompt_name": None}
# An address in the first line, then a body.
REQUEST_SEEDS = (
    _request(
        "/v1/embeddings",
        {
            "input": ["w1 w2", [2, 5, 3]],
            "model": "tiny",
            "dimensions": 4,
            "encoding_format": "base64",
            "embed_dtype": "float16",
            "endianness": "little",
            "input_type": "query",
            "user": "me",
            **_PARAMETERS,
        },
    ),
    _request("/embed", {"inputs": ["w1", "w2"], "normalize": False, "dimensions": 2}),
    _request("/embed_all", {"inputs": "w1 w2"}),
    _request("/similarity", {"inputs": {"source_sentence": "w1", "sentences": ["w2", "w3"]}}),
    _request(
        "/v2/embed",
        {
            "texts": ["w1"],
            "input_type": "search_query",
            "model": "tiny",
            "embedding_types": ["float", "base64"],
            "output_dimension": 4,
            "truncate": "END",
        },
    ),
    _request("/embed_sparse", {"inputs": ["w1 w1 w2"]}),
    _request(
        "/rerank",
        {
            "query": "w1",
            "texts": ["w2", "w3"],
            "return_text": True,
            "raw_scores": False,
            **_PARAMETERS,
        },
    ),
    _request(
        "/v1/rerank",
        {
            "query": "w1",
            "documents": ["w2", {"text": "w3"}],
            "top_n": 1,
            "return_documents": True,
            "max_chunks_per_doc": 1,
        },
    ),
    _request("/v2/rerank", {"query": "w1", "documents": ["w2"], "max_tokens_per_doc": 9}),
    _request("/predict", {"inputs": [["w1"], ["w2", "w3"]], "raw_scores": True}),
    _request(
        "/predict_tokens",
        {"inputs": [["w1 w2"]], "aggregation_strategy": "simple", "raw_scores": False},
    ),
    _request("/tokenize", {"inputs": ["w1"], "add_special_tokens": False}),
    _request("/decode", {"ids": [[2, 5, 3]], "skip_special_tokens": True}),
    _request("/vertex", {"instances": [{"inputs": "w1"}, {"inputs": ["w2"]}]}),
)

# Lines of a header each, in the order of `serving.HEADER_NAMES`.
HEADER_SEEDS = (
    (
        b"application/msgpack;q=0.9, application/json;q=0.1, */*;q=0.5\n"
        b"gzip, zstd;q=0.5, identity;q=0\napplication/json; charset=utf-8\n"
        b"identity\n15\nrequest-1\nBearer secret\n1"
    ),
    b"*/*\n*\napplication/x+json\nIdentity\n\n\nApi-Key secret\n",
)

_POST = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
HTTP_SEEDS = (
    _POST + b'content-length: 15\r\n\r\n{"input": "w1"}',
    _POST + b'transfer-encoding: chunked\r\n\r\nf\r\n{"input": "w1"}\r\n0\r\n\r\n',
    _POST + b'expect: 100-continue\r\ncontent-length: 15\r\n\r\n{"input": "w1"}',
    2 * (_POST + b'content-length: 15\r\n\r\n{"input": "w1"}'),
    b"GET /metrics HTTP/1.0\r\n\r\n",
    (
        b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\n"
        b"upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    ),
    # HTTP/2 with prior knowledge: the preface, empty settings, and their acknowledgement.
    (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"
    ),
)
