"""The tokenizer that an engine carries gives the ids of the checkpoint's `tokenizer.json`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tests.builder.builds import Recorder, run_build, write_config
from tests.builder.published_tokenizers import Published, bge_m3, deberta_v2, llama_2
from tests.model.checkpoint_folder import change_json, write_json
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from beicli.builder.reference import load_rebuilt_tokenizer, load_tokenizer
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
    with pytest.raises(BuildError, match=r"with it on 'Hello': at token 0, transformers has \d+"):
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
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    # Their code looks both ways.
    config.is_causal = False
    model = transformers.AutoModel.from_pretrained(checkpoint, config=config).eval()
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
    transformers.PreTrainedTokenizerFast.from_pretrained(
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


def write_published(directory: Path, published: Published, **tokenizer_config: Any) -> Path:
    stated = published.tokenizer_config | tokenizer_config
    checkpoint = write_checkpoint(directory, kind=published.kind, **stated)
    published.tokenizer.save(str(checkpoint / "tokenizer.json"))
    return checkpoint


PUBLISHED = pytest.mark.parametrize("publish", [bge_m3, deberta_v2, llama_2])


@PUBLISHED
def test_tokens_are_those_of_the_file_where_transformers_5_makes_others(
    tmp_path: Path, publish: Callable[[], Published]
) -> None:
    published = publish()
    checkpoint = write_published(tmp_path / "published", published)

    served, warnings = write(checkpoint)

    assert served.encode(published.text, add_special_tokens=False).tokens == published.tokens
    reference, rebuilt = load_tokenizer(checkpoint), load_rebuilt_tokenizer(checkpoint)
    assert rebuilt is not None
    others = 0
    for text in REFERENCE_TEXTS:
        ids = published.tokenizer.encode(text).ids
        assert served.encode(text).ids == ids
        assert reference(text, verbose=False)["input_ids"] == ids
        others += rebuilt(text, verbose=False)["input_ids"] != ids
    assert len(warnings) == 1
    assert warnings[0].startswith(
        f"transformers 5 makes other tokens of {others} of {len(REFERENCE_TEXTS)} reference texts, "
        "such as '"
    )
    assert "the engine follows `tokenizer.json`, as transformers 4" in warnings[0]
    assert "\n" not in warnings[0]


@PUBLISHED
def test_the_reference_reads_the_settings_beside_the_file(
    tmp_path: Path, publish: Callable[[], Published]
) -> None:
    published = publish()
    checkpoint = write_published(tmp_path / "published", published, truncation_side="left")

    reference = load_tokenizer(checkpoint)

    config = published.tokenizer_config
    assert reference.special_tokens_map == {
        key: token for key, token in config.items() if key.endswith("_token") and "add_" not in key
    } | {"pad_token": config.get("pad_token", "<unk>"), "eos_token": config["eos_token"]}
    assert reference.model_max_length == WINDOW
    whole = published.tokenizer.encode("a fit", "a tie")
    encoded = reference("a fit", "a tie", return_token_type_ids=True)
    assert encoded["input_ids"] == whole.ids
    assert encoded["token_type_ids"] == whole.type_ids
    cut = reference("a fit", truncation=True, max_length=4)["input_ids"]
    text = published.tokenizer.encode("a fit", add_special_tokens=False).ids
    special = published.tokenizer.num_special_tokens_to_add(is_pair=False)
    assert [token for token in cut if token in text] == text[special - 4 :]


@PUBLISHED
def test_a_published_pipeline_builds_and_serves_by_its_file(
    tmp_path: Path, publish: Callable[[], Published]
) -> None:
    published = publish()
    checkpoint = write_published(tmp_path / "published", published)
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    rebuilt = load_rebuilt_tokenizer(checkpoint)
    assert rebuilt is not None
    progress = Recorder()

    result = run_build(write_config(tmp_path, checkpoint), tmp_path / "engine", progress=progress)
    [vector] = compute_outputs(result.artifact, [published.text])

    expected, other = (
        unit_vector(model, ids)
        for ids in (
            published.tokenizer.encode(published.text).ids,
            rebuilt(published.text).input_ids,
        )
    )
    np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-4)
    assert np.abs(vector - other).max() > 0.01
    assert ["makes other tokens of" in warning for warning in progress.warnings] == [True]


def unit_vector(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return (hidden / hidden.norm()).numpy()


def test_a_token_that_the_files_beside_it_add_stops_the_build(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "other", cls_token="Hello")
    progress = Recorder()

    with pytest.raises(BuildError) as raised:
        run_build(write_config(tmp_path, checkpoint), tmp_path / "engine", progress=progress)

    assert "on 'Hello': at token 0, transformers has 260 and the file 43" in raised.value.message
    # Before the long steps.
    assert progress.started_steps == ["Fetched", "Inspected"]
    assert not (tmp_path / "engine").exists()

    # As the hint says.
    assert "PreTrainedTokenizerFast.from_pretrained(folder).save_pret" in str(raised.value.hint)
    transformers.PreTrainedTokenizerFast.from_pretrained(checkpoint).save_pretrained(checkpoint)
    served, warnings = write(checkpoint)
    assert served.encode("Hello").ids == [260]
    assert warnings == []


def cased_bert(directory: Path, **tokenizer_config: Any) -> Path:
    """Write a BERT whose file lowercases."""
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    symbols = [*specials, "hello", "Hello", "the", "a", "."]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocab=vocabulary, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(list(specials))
    names = zip(("pad", "unk", "cls", "sep", "mask"), specials, strict=True)
    stated = {f"{name}_token": token for name, token in names} | {"eos_token": None}
    stated |= {"tokenizer_class": "BertTokenizer"} | tokenizer_config
    checkpoint = write_checkpoint(directory, kind="bert", **stated)
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    return checkpoint


def test_a_file_that_lowercases_against_its_settings_is_refused_with_a_way_out(
    tmp_path: Path,
) -> None:
    checkpoint = cased_bert(tmp_path / "bert", do_lower_case=False)

    with pytest.raises(BuildError) as raised:
        write(checkpoint)

    assert "`tokenizer.json` has `lowercase` true, transformers false" in raised.value.message
    assert "reference texts, such as 'Hello'" in raised.value.message
    assert "goes by `tokenizer_config.json`" in str(raised.value.hint)

    # As the hint says.
    transformers.AutoTokenizer.from_pretrained(checkpoint).save_pretrained(checkpoint)
    (tmp_path / "written").rename(tmp_path / "refused")
    served, warnings = write(checkpoint)
    assert served.encode("Hello").tokens == ["[CLS]", "Hello", "[SEP]"]
    assert warnings == []


def test_a_file_that_lowercases_as_its_settings_say_is_not_warned_of(tmp_path: Path) -> None:
    checkpoint = cased_bert(tmp_path / "bert", do_lower_case=True)

    served, warnings = write(checkpoint)

    assert served.encode("Hello").tokens == ["[CLS]", "hello", "[SEP]"]
    assert warnings == []


def test_a_byte_level_file_against_its_prefix_space_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(WITH_START_AND_END)
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    checkpoint = write_checkpoint(
        tmp_path / "roberta",
        kind="roberta",
        tokenizer_class="RobertaTokenizer",
        add_prefix_space=True,
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<unk>",
    )
    tokenizer.save(str(checkpoint / "tokenizer.json"))

    with pytest.raises(BuildError, match="has `add_prefix_space` false, transformers true"):
        write(checkpoint)


def test_a_tokenizer_class_of_the_checkpoint_is_not_run(tmp_path: Path) -> None:
    auto_map = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    checkpoint = write_checkpoint(tmp_path / "own", tokenizer_class="OwnTokenizer")
    change_json(checkpoint / "tokenizer_config.json", auto_map=auto_map)
    trace = tmp_path / "was-run"
    (checkpoint / "tokenization_own.py").write_text(f"open({str(trace)!r}, 'w')\n")

    served, warnings = write(checkpoint)

    assert load_tokenizer(checkpoint)("one")["input_ids"] == served.encode("one").ids
    assert warnings == []
    assert not trace.exists()


def test_a_file_that_the_class_cannot_be_made_of_is_served_as_it_is(tmp_path: Path) -> None:
    """An XLM-R whose tokenizer is none of SentencePiece's."""
    checkpoint = write_checkpoint(
        tmp_path / "other", kind="xlm-roberta", tokenizer_class="XLMRobertaTokenizer"
    )

    served, warnings = write(checkpoint)

    assert load_rebuilt_tokenizer(checkpoint) is None
    assert load_tokenizer(checkpoint)("one")["input_ids"] == served.encode("one").ids
    assert warnings == []
