"""The tokenizer of an engine: the checkpoint's own, and proof that transformers reads it the same.

Serving has `tokenizer.json` alone. What the files beside it, or code of the checkpoint, do beyond
that file is written into it here, or the build stops. What only transformers 5 does, by rules of
the tokenizer's class, is warned of: models were trained and published with transformers 4.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from transformers import PreTrainedTokenizerFast

from beicli.artifact.golden import Sample, excerpt
from beicli.builder.reference import load_rebuilt_tokenizer, load_tokenizer
from beicli.builder.samples import reference_samples
from beicli.builder.texts import REFERENCE_TEXTS
from beicli.errors import BuildError, CheckpointError
from beicli.model.files import CheckpointFile, read_json
from beicli.model.spec import ModelSpec
from beicli.model.tokenizer_code import appended_token, stated_token

_NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Any text: what stands around it is the same for all.
_PROBE = "a"
_SAVE_HINT = (
    "have transformers write them into the file, of which this keeps the rest, then build from the "
    "folder: `PreTrainedTokenizerFast.from_pretrained(folder).save_pretrained(folder)`"
)
# What transformers 4 sets, too, by `tokenizer_config.json`, whatever `tokenizer.json` says.
_SETTINGS = {
    "BertNormalizer": ("lowercase", "strip_accents", "handle_chinese_chars"),
    "ByteLevel": ("add_prefix_space",),
}


def write_tokenizer(
    checkpoint: Path, directory: Path, spec: ModelSpec, *, warn: Callable[[str], None]
) -> None:
    """Put the tokenizer's files into `directory`, which is made.

    warn: told of a token that the checkpoint asks for and transformers leaves out, and of texts of
    which transformers 5 makes other tokens by rules of the tokenizer's class.
    Raises BuildError if transformers cannot load `tokenizer.json`, gives other ids for a reference
    text than the file that will serve, or the settings beside that file contradict it.
    """
    directory.mkdir()
    for name in _NAMES:
        if (checkpoint / name).is_file():
            # The content only: a hub cache's files are links, often read-only.
            shutil.copyfile(checkpoint / name, directory / name)
    path = directory / "tokenizer.json"
    token = appended_token(checkpoint)
    if token is not None:
        _append_token(path, token)
    reference = load_tokenizer(checkpoint)
    served = _open(path)
    encodings = [(sample, _served_ids(served, sample)) for sample in _compared_samples(spec)]
    _check_agreement(encodings, reference)
    rebuilt = load_rebuilt_tokenizer(checkpoint)
    warnings = (
        None if rebuilt is None else _rebuilt_otherwise(served, encodings, rebuilt),
        _ignored_flags(served, checkpoint, spec),
    )
    for warning in warnings:
        if warning is not None:
            warn(warning)


def _open(path: Path) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        # tokenizers raises nothing more precise.
        raise BuildError(
            f"`{path.name}` of the checkpoint cannot be loaded: {error}",
            hint="fetch the checkpoint again, or take another revision of it",
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _append_token(path: Path, token: str) -> None:
    """Have the post-processor of `tokenizer.json` put `token` after each text, if it does not."""
    tokenizer = _open(path)
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise CheckpointError(
            f"the tokenizer has no `{token}`, which its code puts after every text",
            hint="fetch the checkpoint again, or correct `eos_token` in `tokenizer_config.json`",
        )
    if tokenizer.encode(_PROBE).ids[-1:] == [token_id]:
        return
    content = read_json(path)
    content["post_processor"] = _appending(content.get("post_processor"), token, token_id)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _appending(processor: Any, token: str, token_id: int) -> Mapping[str, Any]:
    """Return a post-processor that does as `processor` and appends `token`.

    processor: as in `tokenizer.json`; None for none. Raises BuildError for a kind that cannot be
    added to.
    """
    if processor is None:
        return _appending(_bare_template(), token, token_id)
    kind = processor.get("type")
    if kind == "TemplateProcessing":
        return _longer_template(processor, token, token_id)
    if kind == "ByteLevel":
        # It moves offsets only, so a template may follow.
        template = _appending(None, token, token_id)
        return {"type": "Sequence", "processors": [processor, template]}
    if kind == "Sequence" and processor["processors"]:
        *before, last = processor["processors"]
        longer = _appending(last, token, token_id)
        added = longer["processors"] if longer["type"] == "Sequence" else [longer]
        return {"type": "Sequence", "processors": [*before, *added]}
    raise BuildError(
        f"the tokenizer's own code appends `{token}`, which cannot be added to a post-processor "
        f"of type `{kind}`",
        hint="write the token into the post-processor of `tokenizer.json`, as a "
        "`TemplateProcessing`",
    )


def _bare_template() -> dict[str, Any]:
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first],
        "pair": [first, second],
        "special_tokens": {},
    }


def _longer_template(template: Mapping[str, Any], token: str, token_id: int) -> Mapping[str, Any]:
    end, second_end = ({"SpecialToken": {"id": token, "type_id": type_id}} for type_id in (0, 1))
    pair = list(template["pair"])
    place = next(i for i, piece in enumerate(pair) if piece.get("Sequence", {}).get("id") == "A")
    known = {"id": token, "ids": [token_id], "tokens": [token]}
    return {
        **template,
        "single": [*template["single"], end],
        "pair": [*pair[: place + 1], end, *pair[place + 1 :], second_end],
        "special_tokens": {**template["special_tokens"], token: known},
    }


def _compared_samples(spec: ModelSpec) -> list[Sample]:
    # A template has the text of a pair in a prompt, without special tokens.
    samples = REFERENCE_TEXTS if spec.rerank_template is not None else reference_samples(spec)
    if not spec.do_lower_case:
        return list(samples)
    return [
        sample.lower() if isinstance(sample, str) else (sample[0].lower(), sample[1].lower())
        for sample in samples
    ]


def _served_ids(served: tokenizers.Tokenizer, sample: Sample) -> list[int]:
    texts = (sample,) if isinstance(sample, str) else sample
    ids: list[int] = served.encode(*texts).ids
    return ids


def _transformers_ids(tokenizer: Any, sample: Sample) -> list[int]:
    texts = (sample,) if isinstance(sample, str) else sample
    ids: list[int] = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
    return ids


def _check_agreement(encodings: Sequence[tuple[Sample, list[int]]], reference: Any) -> None:
    """Refuse a tokenizer of which the files beside `tokenizer.json` make something else.

    encodings: samples with the ids that serving gives.
    """
    for sample, found in encodings:
        wanted = _transformers_ids(reference, sample)
        if found != wanted:
            raise BuildError(
                "transformers adds to `tokenizer.json`, by which an engine serves, what other "
                f"files of the checkpoint say, and disagrees with it on {excerpt(sample)!r}: "
                f"{_difference(wanted, found)}",
                hint=_SAVE_HINT,
            )


def _rebuilt_otherwise(
    served: tokenizers.Tokenizer,
    encodings: Sequence[tuple[Sample, list[int]]],
    rebuilt: PreTrainedTokenizerFast,
) -> str | None:
    """Tell of samples of which transformers 5 makes other tokens than `tokenizer.json` does.

    Raises BuildError where transformers 4 would, too.
    """
    others = [sample for sample, ids in encodings if _transformers_ids(rebuilt, sample) != ids]
    if not others:
        return None
    which = f"{len(others)} of {len(encodings)} reference texts, such as {excerpt(others[0])!r}"
    contradicted = _contradicted_settings(served, rebuilt.backend_tokenizer)
    if contradicted:
        raise BuildError(
            f"`tokenizer.json` has {contradicted}: other tokens of {which}",
            hint="transformers goes by `tokenizer_config.json` and its own defaults here; have it "
            "write the file, then build from the folder: "
            "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
        )
    return (
        f"transformers 5 makes other tokens of {which}; the engine follows `tokenizer.json`, as "
        "transformers 4 and text-embeddings-inference do"
    )


def _contradicted_settings(served: tokenizers.Tokenizer, rebuilt: tokenizers.Tokenizer) -> str:
    """Say which of `_SETTINGS` differ, such as "`lowercase` true, transformers false"."""
    found = []
    for part in ("normalizer", "pre_tokenizer"):
        ours, theirs = (_state(getattr(tokenizer, part)) for tokenizer in (served, rebuilt))
        if ours.get("type") == theirs.get("type"):
            names = _SETTINGS.get(ours.get("type", ""), ())
            found += [
                f"`{name}` {json.dumps(ours[name])}, transformers {json.dumps(theirs[name])}"
                for name in names
                if ours[name] != theirs[name]
            ]
    return "; ".join(found)


def _state(part: Any) -> dict[str, Any]:
    """Return a part of a tokenizer as `tokenizer.json` has it."""
    state: dict[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return state


def _difference(wanted: list[int], found: list[int]) -> str:
    """Say where two lists of ids part."""
    shorter = min(len(wanted), len(found))
    place = next((i for i in range(shorter) if wanted[i] != found[i]), shorter)
    first, second = (
        f"{ids[place]}" if place < len(ids) else "no more tokens" for ids in (wanted, found)
    )
    return f"at token {place}, transformers has {first} and the file {second}"


def _ignored_flags(served: tokenizers.Tokenizer, checkpoint: Path, spec: ModelSpec) -> str | None:
    """Tell of special tokens that `tokenizer_config.json` asks for and `tokenizer.json` lacks.

    transformers 4 added them for the tokenizers of Llama and others; transformers 5 leaves them
    out where there is a `tokenizer.json`. So does the engine, whose tokens are those of that file.
    """
    # A prompt has its special tokens written out.
    if spec.rerank_template is not None:
        return None
    config = CheckpointFile.read_optional(checkpoint, "tokenizer_config.json")
    ids = served.encode(_PROBE).ids
    places = {"bos": ids[:1], "eos": ids[-1:]}
    tokens = {key: token for key in places if (token := stated_token(config, f"{key}_token"))}
    asked = {key for key in tokens if config.values.get(f"add_{key}_token") is True}
    added = {key for key in tokens if [served.token_to_id(tokens[key])] == places[key]}
    missing = sorted(asked - added)
    if not missing:
        return None
    flags = " and ".join(f"`add_{key}_token: true`" for key in missing)
    names = " and ".join(f"`{tokens[key]}`" for key in missing)
    wanted = ", ".join(f"add_{key}_token={key in asked | added}" for key in places)
    return (
        f"`tokenizer_config.json` has {flags}, but `tokenizer.json` does not add {names} to a "
        "text; neither does this engine, like transformers 5. A model trained with transformers 4 "
        f"may need it: `PreTrainedTokenizerFast.from_pretrained(folder, {wanted})"
        ".save_pretrained(folder)` writes it into the file, to build from"
    )
