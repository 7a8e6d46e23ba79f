import subprocess
import sys
from pathlib import Path

import pytest
from tests.config.loading import Load, Refuse

from beicli.config.load import load_config
from beicli.config.schema import (
    Accelerator,
    AcceleratorSpec,
    BaseModel,
    CheckpointSource,
    InferenceStack,
    QuantizationType,
)
from beicli.errors import ConfigError

MINIMAL = """\
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository: {source: HF, repo: org/model}
"""


def test_minimal_embedder_of_the_overview_page(load: Load) -> None:
    config = load("""\
trt_llm:
  inference_stack: v1
  build:
    base_model: encoder
    checkpoint_repository: {source: HF, repo: "BAAI/bge-large-en-v1.5"}
    quantization_type: fp8
  runtime: {webserver_default_route: /v1/embeddings}
""").config

    assert config.trt_llm.inference_stack is InferenceStack.V1
    assert config.trt_llm.build.base_model is BaseModel.ENCODER
    assert config.trt_llm.build.checkpoint_repository.source is CheckpointSource.HF
    assert config.trt_llm.build.checkpoint_repository.repo == "BAAI/bge-large-en-v1.5"
    assert config.trt_llm.build.quantization_type is QuantizationType.FP8
    assert config.trt_llm.runtime.webserver_default_route == "/v1/embeddings"


def test_reranker_of_the_overview_page(load: Load) -> None:
    config = load("""\
trt_llm:
  inference_stack: v1
  build:
    base_model: encoder
    checkpoint_repository: {source: HF, repo: "BAAI/bge-reranker-v2-m3"}
    max_num_tokens: 16384
  runtime: {webserver_default_route: /rerank}
""").config

    assert config.trt_llm.build.max_num_tokens == 16384
    assert config.trt_llm.runtime.webserver_default_route == "/rerank"


def test_entity_model_of_the_examples(load: Load) -> None:
    loaded = load("""\
model_metadata:
  example_model_input: {aggregation_strategy: max, inputs: ["Apple, $1 billion"], truncate: true}
model_name: BEI-Bert-babelscape-wikineural-multilingual-ner-truss-example
python_version: py39
resources: {accelerator: L4, cpu: '1', memory: 10Gi, use_gpu: true}
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository:
      repo: Babelscape/wikineural-multilingual-ner
      revision: main
      source: HF
    max_num_tokens: 16384
  runtime: {webserver_default_route: /predict_tokens}
""")

    assert loaded.warnings == ()
    assert loaded.config.python_version == "py39"
    assert loaded.config.resources.accelerator == AcceleratorSpec(accelerator=Accelerator.L4)
    assert loaded.config.resources.use_gpu
    assert loaded.config.model_metadata["example_model_input"] == {
        "aggregation_strategy": "max",
        "inputs": ["Apple, $1 billion"],
        "truncate": True,
    }


def test_calibrated_embedder_of_the_reference_page(load: Load) -> None:
    config = load("""\
resources: {accelerator: H100}
trt_llm:
  build:
    base_model: encoder
    checkpoint_repository: {source: HF, repo: Qwen/Qwen3-Embedding-8B}
    max_num_tokens: 16384
    quantization_type: fp8
    quantization_config:
      calib_size: 1536
      calib_dataset: "abisee/cnn_dailymail"
      calib_max_seq_length: 1536
""").config

    assert config.trt_llm.build.quantization_config.calib_size == 1536
    assert config.trt_llm.build.quantization_config.calib_dataset == "abisee/cnn_dailymail"


@pytest.mark.parametrize(
    ("base_model", "max_num_tokens"), [("encoder", 16384), ("encoder_bert", 8192)]
)
def test_token_budget_left_out_depends_on_the_base_model(
    load: Load, base_model: str, max_num_tokens: int
) -> None:
    config = load(MINIMAL.replace("encoder_bert", base_model)).config

    assert config.trt_llm.build.max_num_tokens == max_num_tokens


def test_token_budget_of_an_encoder_below_its_default_is_honoured(load: Load) -> None:
    config = load(MINIMAL.replace("encoder_bert", "encoder") + "    max_num_tokens: 512\n").config

    assert config.trt_llm.build.max_num_tokens == 512


def test_defaults_are_those_of_truss(load: Load) -> None:
    trt_llm = load(MINIMAL).config.trt_llm

    assert trt_llm.build.quantization_type is QuantizationType.NO_QUANT
    assert trt_llm.build.max_batch_size == 256
    assert trt_llm.build.max_seq_len is None
    assert trt_llm.build.num_builder_gpus is None
    assert trt_llm.build.checkpoint_repository.runtime_secret_name == "hf_access_token"
    assert trt_llm.build.quantization_config.calib_size == 1024
    assert trt_llm.build.quantization_config.calib_max_seq_length == 1536
    assert trt_llm.runtime.webserver_default_route is None
    assert trt_llm.runtime.total_token_limit == 500_000


def test_base_model_left_out_is_the_generative_default_of_truss(refuse: Refuse) -> None:
    error = refuse(MINIMAL.replace("    base_model: encoder_bert\n", ""))

    assert "it is not set, and the default, `decoder`, generates text" in error.message


def test_gpu_count_is_read_from_the_accelerator(load: Load) -> None:
    resources = load(MINIMAL + "resources: {accelerator: 'H100:2'}\n").config.resources

    assert resources.accelerator == AcceleratorSpec(accelerator=Accelerator.H100, count=2)


def test_use_gpu_follows_from_the_accelerator(load: Load) -> None:
    without = load(MINIMAL + "resources: {use_gpu: true}\n").config.resources
    named = load(MINIMAL + "resources: {accelerator: T4, use_gpu: false}\n").config.resources

    assert not without.use_gpu
    assert named.use_gpu


def test_environment_values_become_text_as_in_truss(load: Load) -> None:
    text = MINIMAL + "environment_variables: {PORT: 80, RATIO: 0.5, POOLED: yes, NAME: a}\n"

    assert load(text).config.environment_variables == {
        "PORT": "80",
        "RATIO": "0.5",
        "POOLED": "true",
        "NAME": "a",
    }


def test_yaml_1_1_booleans_are_booleans(load: Load) -> None:
    config = load(MINIMAL + "    strongly_typed: on\n").config

    assert config.trt_llm.build.strongly_typed is True


def test_other_truss_keys_are_ignored_without_a_word(load: Load) -> None:
    loaded = load(
        MINIMAL
        + "requirements: [numpy]\nbuild: {arguments: {}}\nmodel_type: Model\n"
        + "model_class_name: Model\nresources: {node_count: 1}\n"
    )

    assert loaded.warnings == ()


def test_truss_directory_stands_for_its_config_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(MINIMAL)

    loaded = load_config(tmp_path)

    assert loaded.path == tmp_path / "config.yaml"


def test_file_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "bge.yml"
    path.write_text(MINIMAL)

    assert load_config(path).path == path


def test_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())

    assert load_config(path).config.trt_llm.build.base_model is BaseModel.ENCODER_BERT


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file `.*nowhere\.yaml`"):
        load_config(tmp_path / "nowhere.yaml")


def test_directory_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no `config\.yaml`"):
        load_config(tmp_path)


def test_yml_in_a_directory_gets_the_text_of_truss(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(MINIMAL)

    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path)

    assert raised.value.message == (
        "No truss configuration file ending in .yaml but found one ending in .yml."
        " Did you mean to rename it?"
    )


def test_yml_beside_a_missing_yaml_gets_the_text_of_truss(tmp_path: Path) -> None:
    (tmp_path / "bge.yml").write_text(MINIMAL)

    with pytest.raises(ConfigError, match="Did you mean to rename it"):
        load_config(tmp_path / "bge.yaml")


def test_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    (path / "config.yaml").mkdir(parents=True)

    with pytest.raises(ConfigError, match=r"cannot read `.*`: Is a directory"):
        load_config(path)


def test_path_the_system_refuses_says_why() -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        load_config(Path("a" * 5000))


def test_weights_named_by_mistake_are_not_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(50_000_000_000)

    with pytest.raises(ConfigError, match="longer than 262,144 bytes, so it is no config"):
        load_config(path)


def test_text_that_is_not_utf_8_names_byte_and_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"model_name: a\ndescription: caf\xe9\n")

    with pytest.raises(ConfigError) as raised:
        load_config(path)

    assert raised.value.message == f"`{path}` is not UTF-8: byte 0xe9 (line 2)"


@pytest.mark.parametrize("text", ["", "# nothing but words\n", "---\n", "null\n"])
def test_empty_file_is_told_the_least_it_needs(refuse: Refuse, text: str) -> None:
    error = refuse(text)

    assert error.message.endswith("is empty")
    assert "checkpoint_repository: {source: HF" in error.hint


@pytest.mark.parametrize(
    ("text", "found"), [("- a\n", "a list"), ("just words\n", "text"), ("3\n", "a number")]
)
def test_file_that_is_no_mapping_says_what_it_is(refuse: Refuse, text: str, found: str) -> None:
    assert refuse(text).message.endswith(f"should be a mapping of keys, found {found}")


@pytest.mark.parametrize("text", ["model_name: a\n", "trt_llm:\n"])
def test_config_without_engine_section_is_shown_one_that_loads(
    refuse: Refuse, load: Load, text: str
) -> None:
    error = refuse(text)

    assert "`trt_llm`" in error.message
    assert load(error.hint.partition("\n\n")[2]).warnings == ()


def test_importing_the_loader_is_light() -> None:
    code = (
        "import sys, beicli.config.load\n"
        "print({'torch', 'numpy', 'huggingface_hub', 'httpx2', 'starlette'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
