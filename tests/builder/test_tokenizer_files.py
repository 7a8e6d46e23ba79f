"""The tokenizer that an engine carries gives the ids that transformers gives for the checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tests.builder.builds import Recorder, run_build, write_config
from tests.model.checkpoint_folder import change_json, write_json
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from beicli.builder.reference import load_tokenizer
from beicli.builder.texts import REFERENCE_TEXTS
from beicli.builder.tokenizer_files import write_tokenizer
from beicli.errors import BuildError, CheckpointError
from beicli.model.inspect import read_spec
from beicli.pipeline.pipeline import compute_outputs

WINDOW = 64
FIRST_QWEN2 = {"AutoModel": "modeling_qwen.Qwen2Model"}
END = "<|endoftext|>"
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", END)
# The pattern of every Qwen2, which transformers puts into its tokenizers whatever their file says.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
WITH_START = processors.TemplateProcessing(
    single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
)
WITH_START_AND_END = processors.TemplateProcessing(
    single="<s> $A </s>",
    pair="<s> $A </s> <s>:1 $B:1 </s>:1",
    special_tokens=[("<s>", 1), ("</s>", 2)],
)


def byte_tokenizer(post_processor: Any) -> tokenizers.Tokenizer:
    """A token for each byte, as Qwen2 without its merges."""
    symbols = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def write_checkpoint(
    directory: Path,
    post_processor: Any = None,
    *,
    kind: str = "qwen2",
    auto_map: Any = None,
    **tokenizer_config: Any,
) -> Path:
    """Write a decoder of random weights with last-token pooling; `kind` is its model type."""
    sizes = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": WINDOW,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **sizes)
    transformers.utils.logging.disable_progress_bar()
    transformers.AutoModel.from_config(config).save_pretrained(directory)
    change_json(directory / "config.json", auto_map=auto_map)
    byte_tokenizer(post_processor).save(str(directory / "tokenizer.json"))
    stated = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": WINDOW,
        "pad_token": "<unk>",
        "eos_token": END,
    }
    write_json(directory / "tokenizer_config.json", stated | tokenizer_config)
    package = "sentence_transformers.models"
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"{package}.{name}"}
        for index, (name, path) in enumerate([("Transformer", ""), ("Pooling", "1_Pooling")])
    ]
    write_json(directory / "modules.json", modules)
    pooling = {"word_embedding_dimension": 32, "pooling_mode": "lasttoken"}
    write_json(directory / "1_Pooling" / "config.json", pooling)
    return directory


def write(checkpoint: Path) -> tuple[tokenizers.Tokenizer, list[str]]:
    """Return the tokenizer an engine would carry, and the warnings."""
    warnings: list[str] = []
    directory = checkpoint.parent / "written"
    write_tokenizer(checkpoint, directory, read_spec(checkpoint), warn=warnings.append)
    return tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json")), warnings


@pytest.mark.parametrize(
    "post_processor",
    [None, BYTE_LEVEL, processors.Sequence([BYTE_LEVEL])],
    ids=["none", "byte level", "sequence"],
)
def test_the_token_that_the_first_qwen2_models_append_is_in_the_file(
    tmp_path: Path, post_processor: Any
) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "gte", post_processor, auto_map=FIRST_QWEN2, add_eos_token=True
    )

    served, warnings = write(checkpoint)

    end = served.token_to_id(END)
    first, second = (served.encode(text, add_special_tokens=False).ids for text in ("one", "two"))
    assert served.encode("one").ids == [*first, end]
    pair = served.encode("one", "two")
    assert pair.ids == [*first, end, *second, end]
    assert pair.type_ids == [0] * (len(first) + 1) + [1] * (len(second) + 1)
    reference = load_tokenizer(checkpoint)
    assert reference("one", "two")["input_ids"] == pair.ids
    assert reference("one", "two", return_token_type_ids=True)["token_type_ids"] == pair.type_ids
    assert warnings == []


def test_what_the_post_processor_did_before_it_still_does(tmp_path: Path) -> None:
    before = processors.Sequence([BYTE_LEVEL, WITH_START])
    checkpoint = write_checkpoint(tmp_path / "gte", before, auto_map=FIRST_QWEN2)

    # transformers makes a post-processor of its own, without the token in front.
    with pytest.raises(BuildError, match=r"disagree on 'Hello': at token 0, transformers has \d+"):
        write(checkpoint)

    written = tokenizers.Tokenizer.from_file(str(tmp_path / "written" / "tokenizer.json"))
    end = written.token_to_id(END)
    bare = written.encode("one", add_special_tokens=False).ids
    assert written.encode("one").ids == [1, *bare, end]
    assert written.encode("one", "one").ids == [1, *bare, end, 1, *bare, end]


def test_a_token_that_the_file_appends_already_is_not_appended_twice(tmp_path: Path) -> None:
    ending = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B:1 {END}:1", special_tokens=[(END, 3)]
    )
    checkpoint = write_checkpoint(tmp_path / "jina", ending, auto_map=FIRST_QWEN2)

    served, _ = write(checkpoint)

    written = (tmp_path / "written" / "tokenizer.json").read_bytes()
    assert written == (checkpoint / "tokenizer.json").read_bytes()
    assert served.encode("one").ids.count(3) == 1
    assert load_tokenizer(checkpoint)("one")["input_ids"] == served.encode("one").ids


@pytest.mark.parametrize(
    ("auto_map", "add_eos_token"),
    [(None, None), (FIRST_QWEN2, False), ({"AutoModel": "a.B"}, None)],
)
def test_other_tokenizers_are_copied_as_they_are(
    tmp_path: Path, auto_map: Any, *, add_eos_token: bool | None
) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "plain", BYTE_LEVEL, auto_map=auto_map, add_eos_token=add_eos_token
    )

    _, warnings = write(checkpoint)

    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "written" / name).read_bytes() == (checkpoint / name).read_bytes()
    assert warnings == []


def test_a_token_that_is_not_in_the_vocabulary_is_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "gte", auto_map=FIRST_QWEN2, eos_token="<end>")

    with pytest.raises(CheckpointError, match="the tokenizer has no `<end>`"):
        write(checkpoint)


def test_a_post_processor_that_cannot_be_added_to_is_refused(tmp_path: Path) -> None:
    roberta = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    checkpoint = write_checkpoint(tmp_path / "gte", roberta, auto_map=FIRST_QWEN2)

    with pytest.raises(BuildError, match="post-processor of type `RobertaProcessing`") as raised:
        write(checkpoint)

    assert "TemplateProcessing" in str(raised.value.hint)


def test_a_damaged_file_of_such_a_model_is_a_build_error(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "gte", auto_map=FIRST_QWEN2)
    (checkpoint / "tokenizer.json").write_text('{"model": {}}')

    with pytest.raises(BuildError, match=r"`tokenizer\.json` of the checkpoint cannot be loaded"):
        write(checkpoint)


def test_vectors_of_the_first_qwen2_models_are_read_at_the_appended_token(tmp_path: Path) -> None:
    """Computed by hand: ids without special tokens, then the token, cut to the window."""
    checkpoint = write_checkpoint(
        tmp_path / "gte", BYTE_LEVEL, auto_map=FIRST_QWEN2, add_eos_token=True
    )
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    texts = ["a", "Where is the library?", "word " * WINDOW]

    result = run_build(write_config(tmp_path, checkpoint), tmp_path / "engine")
    vectors = compute_outputs(result.artifact, texts)

    for text, vector in zip(texts, vectors, strict=True):
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"][: WINDOW - 1], 3]
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        at_end, at_text = (hidden[place] / hidden[place].norm() for place in (-1, -2))
        np.testing.assert_allclose(vector, at_end.numpy(), rtol=0, atol=1e-4)
        assert np.abs(vector - at_text.numpy()).max() > 0.01


@pytest.mark.parametrize(
    ("kind", "tokenizer_class"),
    [
        ("llama", "LlamaTokenizer"),
        ("mistral", "LlamaTokenizer"),
        ("mistral", "LlamaTokenizerFast"),
        ("llama", "PreTrainedTokenizerFast"),
        ("qwen2", "Qwen2Tokenizer"),
    ],
)
def test_an_asked_for_token_that_transformers_leaves_out_is_warned_of(
    tmp_path: Path, kind: str, tokenizer_class: str
) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "e5",
        WITH_START,
        kind=kind,
        tokenizer_class=tokenizer_class,
        bos_token="<s>",
        eos_token="</s>",
        add_bos_token=True,
        add_eos_token=True,
    )

    served, warnings = write(checkpoint)

    from_transformers = transformers.AutoTokenizer.from_pretrained(checkpoint)
    for text in REFERENCE_TEXTS:
        assert served.encode(text).ids == from_transformers(text, verbose=False)["input_ids"]
    assert served.encode("a").ids[0] == 1
    assert served.encode("a").ids[-1] != 2
    assert len(warnings) == 1
    assert "has `add_eos_token: true`" in warnings[0]
    assert "does not add `</s>` to a text" in warnings[0]
    assert "add_bos_token=True, add_eos_token=True)" in warnings[0]


def test_the_way_out_of_the_warning_adds_the_tokens(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "e5",
        WITH_START,
        kind="mistral",
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        add_eos_token=True,
    )

    # As the warning says.
    transformers.AutoTokenizer.from_pretrained(
        checkpoint, add_bos_token=True, add_eos_token=True
    ).save_pretrained(checkpoint)

    served, warnings = write(checkpoint)
    assert served.encode("one").ids[0] == 1
    assert served.encode("one").ids[-1] == 2
    assert load_tokenizer(checkpoint)("one")["input_ids"] == served.encode("one").ids
    assert warnings == []


def test_a_start_token_that_transformers_leaves_out_is_warned_of_too(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "llama", bos_token="<s>", add_bos_token=True)

    _, warnings = write(checkpoint)

    assert len(warnings) == 1
    assert "does not add `<s>` to a text" in warnings[0]
    assert "add_bos_token=True, add_eos_token=False)" in warnings[0]


def test_asked_for_tokens_that_the_file_adds_are_not_warned_of(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "e5",
        WITH_START_AND_END,
        kind="mistral",
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token={"__type": "AddedToken", "content": "</s>", "special": True},
        add_bos_token=True,
        add_eos_token=True,
    )

    assert write(checkpoint)[1] == []


@pytest.mark.parametrize(
    "post_processor", [WITH_START, WITH_START_AND_END], ids=["without", "with"]
)
def test_vectors_are_those_of_sentence_transformers_with_or_without_the_token(
    tmp_path: Path, post_processor: Any
) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "e5",
        post_processor,
        kind="mistral",
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        add_eos_token=True,
    )
    reference = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    texts = ["a", "Where is the library?", "word " * WINDOW]
    progress = Recorder()

    result = run_build(write_config(tmp_path, checkpoint), tmp_path / "engine", progress=progress)

    vectors = np.stack(compute_outputs(result.artifact, texts))
    expected = reference.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-4)
    assert len(progress.warnings) == (post_processor is WITH_START)


def test_a_tokenizer_that_transformers_builds_otherwise_stops_the_build(tmp_path: Path) -> None:
    """A model type of Qwen2 gets Qwen2's way of cutting words, whatever its file has."""
    checkpoint = write_checkpoint(tmp_path / "other")
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    write_json(checkpoint / "tokenizer.json", content)
    progress = Recorder()

    with pytest.raises(BuildError) as raised:
        run_build(write_config(tmp_path, checkpoint), tmp_path / "engine", progress=progress)

    assert "'Hello': at token 0, transformers has 43 and the file 75" in raised.value.message
    assert "save_pretrained" in str(raised.value.hint)
    # Before the long steps.
    assert progress.started_steps == ["Fetched", "Inspected"]
    assert not (tmp_path / "engine").exists()


def test_the_hint_of_a_refused_tokenizer_helps(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "other")
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = None
    write_json(checkpoint / "tokenizer.json", content)
    with pytest.raises(BuildError, match="disagree on 'caf"):
        write(checkpoint)

    # As the hint says.
    transformers.AutoTokenizer.from_pretrained(checkpoint).save_pretrained(checkpoint)

    (tmp_path / "again").mkdir()
    write_tokenizer(
        checkpoint, tmp_path / "again" / "tokenizer", read_spec(checkpoint), warn=pytest.fail
    )
