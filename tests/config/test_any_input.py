"""Whatever is in the file, reading it ends with a config or with a ConfigError."""

from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from beicli.config.load import load_config
from beicli.errors import ConfigError

KNOWN_WORDS = [
    "",
    "trt_llm",
    "build",
    "runtime",
    "resources",
    "accelerator",
    "source",
    "repo",
    "base_model",
    "checkpoint_repository",
    "lora_adapters",
    "inference_stack",
    "version_overrides",
    "x",
    "encoder",
    "HF",
    "v1",
    "v2",
    "H100:2",
    "quantization_config",
    "weights",
    "secrets",
]
WORDS = st.sampled_from(KNOWN_WORDS)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)


def _refusal(path: Path) -> ConfigError | None:
    try:
        load_config(path)
    except ConfigError as error:
        return error
    return None


def _loads_or_refuses(path: Path) -> None:
    refusal = _refusal(path)
    assert refusal is None or (refusal.message and refusal.problems)


@given(tree=TREES)
def test_any_tree_loads_or_is_refused(scratch: Path, tree: object) -> None:
    scratch.write_text(yaml.safe_dump(tree), encoding="utf-8")

    _loads_or_refuses(scratch)


@given(tree=st.dictionaries(WORDS, TREES, max_size=4))
def test_any_engine_section_loads_or_is_refused(scratch: Path, tree: object) -> None:
    scratch.write_text(
        yaml.safe_dump({"trt_llm": {"build": tree, "runtime": tree}}), encoding="utf-8"
    )

    _loads_or_refuses(scratch)


@given(content=st.binary(max_size=200))
def test_any_bytes_load_or_are_refused(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)

    _loads_or_refuses(scratch)


@given(content=st.text(alphabet="ab:-[]{}&*!<>|'\"\\\n\t #?,%@=~.01xU", max_size=60))
def test_any_yaml_like_text_loads_or_is_refused(scratch: Path, content: str) -> None:
    scratch.write_text(content, encoding="utf-8")

    _loads_or_refuses(scratch)
