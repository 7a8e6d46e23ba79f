import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.model.checkpoint_folder import (
    ROBERTA_CONFIG,
    change_json,
    write_dense,
    write_json,
    write_modules,
)

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, Pooling, Task


def test_a_sound_checkpoint_is_described(checkpoint: Path) -> None:
    spec = inspect_checkpoint(checkpoint)

    assert spec == ModelSpec(
        architecture="BertModel",
        model_type="bert",
        task=Task.EMBEDDING,
        pooling=(Pooling.MEAN,),
        hidden_size=32,
        embedding_dimension=32,
        num_hidden_layers=2,
        vocab_size=100,
        max_position_embeddings=512,
        position_offset=0,
        max_input_length=512,
        pad_token_id=0,
        normalize=True,
        do_lower_case=False,
        dense_modules=(),
        prompts={},
        default_prompt_name=None,
        dtype="float32",
    )


@pytest.mark.models
def test_a_real_checkpoint_is_described(minilm_checkpoint: Path) -> None:
    spec = inspect_checkpoint(minilm_checkpoint)

    assert (spec.architecture, spec.pooling, spec.normalize) == ("BertModel", (Pooling.MEAN,), True)
    assert (spec.hidden_size, spec.embedding_dimension, spec.num_hidden_layers) == (384, 384, 6)
    assert (spec.max_position_embeddings, spec.max_input_length) == (512, 256)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
    ],
)
def test_a_missing_file_is_named_with_its_path(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()

    with pytest.raises(CheckpointError) as raised:
        inspect_checkpoint(checkpoint)

    assert f"`{name}`" in raised.value.message
    assert f"(expected at `{checkpoint / name}`)" in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "tf_model.h5"])
def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    checkpoint: Path, name: str
) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / name)

    with pytest.raises(CheckpointError, match="never loaded: it can run code") as raised:
        inspect_checkpoint(checkpoint)

    assert f"found `{name}`" in raised.value.message
    assert "save_pretrained" in str(raised.value.hint)


def test_pickled_weights_are_not_opened(checkpoint: Path) -> None:
    # Its loading would leave a trace; the file itself need not even be readable as one.
    trace = checkpoint / "was-run"
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(
        b"cos\nmkdir\n(V" + str(trace).encode() + b"\ntR."
    )

    with pytest.raises(CheckpointError):
        inspect_checkpoint(checkpoint)

    assert not trace.exists()


@pytest.mark.parametrize("content", ["", "{", "[1", "\x00", "{'a': 1}", "9" * 5000])
def test_a_file_that_is_no_json_is_named(checkpoint: Path, content: str) -> None:
    (checkpoint / "config.json").write_text(content)

    with pytest.raises(CheckpointError, match="cannot be read as JSON") as raised:
        inspect_checkpoint(checkpoint)

    assert str(checkpoint / "config.json") in raised.value.message


def test_a_file_that_is_not_utf8_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_bytes(b'{"model_type": "\xff\xfe"}')

    with pytest.raises(CheckpointError, match=r"config\.json` cannot be read as JSON"):
        inspect_checkpoint(checkpoint)


def test_json_nested_beyond_reason_is_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("[" * 100_000)

    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize(("content", "kind"), [([], "list"), (1, "int"), (None, "NoneType")])
def test_a_config_that_is_no_object_is_refused(checkpoint: Path, content: Any, kind: str) -> None:
    write_json(checkpoint / "config.json", content)

    with pytest.raises(CheckpointError, match=f"holds a {kind}, not a JSON object"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "32"),
        ("hidden_size", 32.0),
        ("hidden_size", True),
        ("hidden_size", [32]),
        ("hidden_size", 0),
        ("hidden_size", -32),
        ("num_hidden_layers", "2"),
        ("vocab_size", 0),
        ("vocab_size", {}),
        ("max_position_embeddings", "512"),
        ("max_position_embeddings", 0),
        ("pad_token_id", "0"),
        ("pad_token_id", -1),
        ("pad_token_id", 100),
        ("model_type", 7),
        ("torch_dtype", 32),
        ("architectures", "BertModel"),
        ("architectures", []),
        ("architectures", [None]),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_naming_key_and_file(
    checkpoint: Path, key: str, value: Any
) -> None:
    change_json(checkpoint / "config.json", **{key: value})

    with pytest.raises(CheckpointError) as raised:
        inspect_checkpoint(checkpoint)

    assert key in raised.value.message
    assert "config.json" in raised.value.message


@pytest.mark.parametrize(
    "key",
    [
        "architectures",
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
    ],
)
def test_a_missing_key_is_refused_by_name(checkpoint: Path, key: str) -> None:
    change_json(checkpoint / "config.json", **{key: None})

    with pytest.raises(CheckpointError, match=key):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("renamed", "original"),
    [
        ("dim", "hidden_size"),
        ("d_model", "hidden_size"),
        ("n_layers", "num_hidden_layers"),
        ("num_layers", "num_hidden_layers"),
        ("max_trained_positions", "max_position_embeddings"),
        ("n_positions", "max_position_embeddings"),
        ("dtype", "torch_dtype"),
    ],
)
def test_other_architectures_names_for_the_same_facts_are_known(
    checkpoint: Path, renamed: str, original: str
) -> None:
    expected = inspect_checkpoint(checkpoint)
    values = json.loads((checkpoint / "config.json").read_text())
    change_json(checkpoint / "config.json", **{renamed: values[original], original: None})

    assert inspect_checkpoint(checkpoint) == expected


def test_dtype_is_float32_when_nothing_is_said(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", torch_dtype=None)

    assert inspect_checkpoint(checkpoint).dtype == "float32"


def test_roberta_loses_the_positions_before_its_padding_id(checkpoint: Path) -> None:
    write_json(checkpoint / "config.json", ROBERTA_CONFIG)

    spec = inspect_checkpoint(checkpoint)

    assert spec.max_position_embeddings == 514
    assert spec.position_offset == 2
    assert spec.max_input_length == 512


@pytest.mark.parametrize("model_type", ["xlm-roberta", "camembert", "mpnet", "xmod", "longformer"])
def test_relatives_of_roberta_share_its_offset_even_when_they_do_not_state_the_padding_id(
    checkpoint: Path, model_type: str
) -> None:
    write_json(checkpoint / "config.json", ROBERTA_CONFIG)
    change_json(checkpoint / "config.json", model_type=model_type, pad_token_id=None)

    spec = inspect_checkpoint(checkpoint)

    assert (spec.pad_token_id, spec.position_offset, spec.max_input_length) == (1, 2, 512)


def test_a_position_table_used_up_by_the_offset_is_refused(checkpoint: Path) -> None:
    write_json(checkpoint / "config.json", ROBERTA_CONFIG | {"max_position_embeddings": 2})

    with pytest.raises(CheckpointError, match="leaves no position to use"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize(("stated", "expected"), [(128, 128), (512, 512), (4096, 512)])
def test_max_seq_length_holds_within_the_positions(
    checkpoint: Path, stated: int, expected: int
) -> None:
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": stated})

    assert inspect_checkpoint(checkpoint).max_input_length == expected


def test_max_seq_length_is_also_found_under_the_name_of_another_model(checkpoint: Path) -> None:
    write_json(checkpoint / "sentence_xlm-roberta_config.json", {"max_seq_length": 77})

    assert inspect_checkpoint(checkpoint).max_input_length == 77


def test_max_seq_length_wins_over_the_tokenizers_limit(checkpoint: Path) -> None:
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": 256})
    write_json(checkpoint / "tokenizer_config.json", {"model_max_length": 128})

    assert inspect_checkpoint(checkpoint).max_input_length == 256


@pytest.mark.parametrize(
    ("stated", "expected"),
    [(128, 128), (4096, 512), (10**30, 512), (0, 512), ("128", 512), (None, 512)],
)
def test_the_tokenizers_limit_holds_where_the_recipe_has_none(
    checkpoint: Path, stated: Any, expected: int
) -> None:
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": None})
    write_json(checkpoint / "tokenizer_config.json", {"model_max_length": stated})

    assert inspect_checkpoint(checkpoint).max_input_length == expected


def test_max_seq_length_of_a_wrong_type_is_refused(checkpoint: Path) -> None:
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": "256"})

    with pytest.raises(CheckpointError, match=r"`max_seq_length` in `sentence_bert_config\.json`"):
        inspect_checkpoint(checkpoint)


def test_do_lower_case_is_read_from_the_recipe(checkpoint: Path) -> None:
    write_json(checkpoint / "sentence_bert_config.json", {"do_lower_case": True})

    assert inspect_checkpoint(checkpoint).do_lower_case


def test_prompts_and_the_default_one_are_read(checkpoint: Path) -> None:
    prompts = {"query": "query: ", "document": ""}
    write_json(
        checkpoint / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": "query"},
    )

    spec = inspect_checkpoint(checkpoint)

    assert spec.prompts == prompts
    assert spec.default_prompt_name == "query"


@pytest.mark.parametrize("prompts", [["query: "], {"query": 1}, "query: "])
def test_prompts_that_are_no_map_of_texts_are_refused(checkpoint: Path, prompts: Any) -> None:
    write_json(checkpoint / "config_sentence_transformers.json", {"prompts": prompts})

    with pytest.raises(CheckpointError, match="not a map from names to texts"):
        inspect_checkpoint(checkpoint)


def test_a_default_prompt_that_does_not_exist_is_refused(checkpoint: Path) -> None:
    write_json(
        checkpoint / "config_sentence_transformers.json",
        {"prompts": {"a": "", "b": ""}, "default_prompt_name": "query"},
    )

    with pytest.raises(CheckpointError, match="`query`, which is none of its prompts: a, b"):
        inspect_checkpoint(checkpoint)


def test_a_sharded_checkpoint_is_accepted(checkpoint: Path) -> None:
    _shard(checkpoint, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])

    assert inspect_checkpoint(checkpoint).architecture == "BertModel"


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    _shard(checkpoint, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    (checkpoint / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"names `model-00002-of-00002\.safetensors`, which"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd.safetensors", "a/b.safetensors", "model.bin"]
)
def test_a_shard_that_is_no_safetensors_file_of_this_folder_is_refused(
    checkpoint: Path, name: str
) -> None:
    (checkpoint.parent / "outside.safetensors").touch()
    write_json(checkpoint / "model.safetensors.index.json", {"weight_map": {"weight": name}})

    with pytest.raises(CheckpointError, match="not a safetensors file") as raised:
        inspect_checkpoint(checkpoint)

    assert f"`{name}`" in raised.value.message


@pytest.mark.parametrize("index", [[], {}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_shards_is_refused(checkpoint: Path, index: Any) -> None:
    write_json(checkpoint / "model.safetensors.index.json", index)

    with pytest.raises(CheckpointError, match="has no `weight_map`"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize("key", ["quantization_config", "quant_config"])
def test_weights_that_are_quantised_already_are_refused(checkpoint: Path, key: str) -> None:
    change_json(checkpoint / "config.json", **{key: {"quant_method": "gptq", "bits": 4}})

    with pytest.raises(UnsupportedModelError, match=f"`{key}`: the weights are quantised already"):
        inspect_checkpoint(checkpoint)


def test_an_encoder_decoder_is_refused(checkpoint: Path) -> None:
    change_json(
        checkpoint / "config.json", is_encoder_decoder=True, architectures=["T5EncoderModel"]
    )

    with pytest.raises(UnsupportedModelError, match="`T5EncoderModel` is an encoder-decoder"):
        inspect_checkpoint(checkpoint)


def test_a_language_model_with_a_recipe_is_an_embedding_model(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", architectures=["Qwen3ForCausalLM"])

    assert inspect_checkpoint(checkpoint).architecture == "Qwen3ForCausalLM"


def test_a_language_model_without_a_recipe_is_refused(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", architectures=["BertForMaskedLM"])
    (checkpoint / "modules.json").unlink()

    with pytest.raises(UnsupportedModelError, match="`BertForMaskedLM` is not an embedding model"):
        inspect_checkpoint(checkpoint, pooling=Pooling.CLS)


def test_given_pooling_stands_in_for_a_missing_recipe(checkpoint: Path) -> None:
    (checkpoint / "modules.json").unlink()
    shutil.rmtree(checkpoint / "1_Pooling")

    spec = inspect_checkpoint(checkpoint, pooling=Pooling.CLS)

    assert spec.pooling == (Pooling.CLS,)
    assert not spec.normalize


def test_embedding_dimension_is_what_the_last_dense_module_gives(checkpoint: Path) -> None:
    write_modules(
        checkpoint,
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Dense", "2_Dense"),
        ("Dense", "3_Dense"),
    )
    write_dense(checkpoint, "2_Dense", out_features=64)
    write_dense(checkpoint, "3_Dense", in_features=64, out_features=8)

    spec = inspect_checkpoint(checkpoint)

    assert (spec.hidden_size, spec.embedding_dimension) == (32, 8)
    assert [module.path for module in spec.dense_modules] == ["2_Dense", "3_Dense"]


def test_dense_modules_that_do_not_fit_together_are_refused(checkpoint: Path) -> None:
    write_modules(
        checkpoint,
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Dense", "2_Dense"),
        ("Dense", "3_Dense"),
    )
    write_dense(checkpoint, "2_Dense", out_features=64)
    write_dense(checkpoint, "3_Dense", in_features=48)

    with pytest.raises(CheckpointError, match=r"3_Dense/config.json` takes 48 .* gives 64"):
        inspect_checkpoint(checkpoint)


def test_a_dense_module_that_does_not_fit_the_encoder_is_refused(checkpoint: Path) -> None:
    write_modules(checkpoint, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"))
    write_dense(checkpoint, "2_Dense", in_features=33)

    with pytest.raises(CheckpointError, match=r"2_Dense/config.json` takes 33 .* gives 32"):
        inspect_checkpoint(checkpoint)


def _shard(checkpoint: Path, names: list[str]) -> None:
    (checkpoint / "model.safetensors").unlink()
    weight_map = {f"layer.{index}.weight": name for index, name in enumerate(names)}
    write_json(checkpoint / "model.safetensors.index.json", {"weight_map": weight_map})
    for name in names:
        (checkpoint / name).touch()
