import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.config.loading import Load

from beicli.config.load import load_config, to_dict, to_yaml
from beicli.config.schema import (
    BatchSchedulerPolicy,
    CheckpointSource,
)

TEXT = st.text(min_size=1, max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
COUNT = st.integers(1, 10**9)
CALIBRATION_SIZE = st.integers(1, 256).map(lambda tiles: 64 * tiles)


def _optional(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


CHECKPOINTS = st.fixed_dictionaries(
    {
        "source": st.sampled_from([str(source) for source in CheckpointSource if source != "HF"]),
        "repo": TEXT,
    },
    optional={"revision": st.none() | TEXT, "runtime_secret_name": TEXT},
)
# On these, Truss allows every precision.
BLACKWELL = ["B200", "B300", "GB300", "RTX_PRO_6000"]
BUILDS = st.fixed_dictionaries(
    {
        "checkpoint_repository": CHECKPOINTS,
        "base_model": st.sampled_from(["encoder", "encoder_bert"]),
    },
    optional={
        "max_num_tokens": st.integers(65, 1_048_576),
        "max_seq_len": st.none() | st.integers(1, 1_048_576),
        "max_batch_size": st.integers(1, 2048),
        "quantization_type": st.sampled_from(["no_quant", "fp8", "fp8_mlp_only", "fp4"]),
        "quantization_config": _optional(
            calib_size=CALIBRATION_SIZE, calib_max_seq_length=CALIBRATION_SIZE, calib_dataset=TEXT
        ),
        "plugin_configuration": _optional(use_paged_context_fmha=st.booleans()),
        "num_builder_gpus": st.none() | COUNT,
        "lora_adapters": st.none()
        | st.dictionaries(st.text("aZ9_-.:", min_size=1), CHECKPOINTS, max_size=2),
        "lora_configuration": st.none() | _optional(lora_target_modules=st.lists(TEXT, max_size=2)),
    },
)
CONFIGS = st.fixed_dictionaries(
    {
        "trt_llm": st.fixed_dictionaries(
            {"build": BUILDS},
            optional={
                "inference_stack": st.just("v1"),
                "runtime": _optional(
                    webserver_default_route=st.sampled_from([None, "/rerank", "/predict"]),
                    kv_cache_free_gpu_mem_fraction=st.floats(0, 1),
                    batch_scheduler_policy=st.sampled_from(list(map(str, BatchSchedulerPolicy))),
                    served_model_name=st.none() | TEXT,
                ),
                "version_overrides": _optional(bei_version=st.just("1.2")),
            },
        )
    },
    optional={
        "model_name": st.none() | TEXT,
        "model_metadata": st.dictionaries(TEXT, JSON, max_size=3),
        "resources": _optional(
            accelerator=st.none() | st.builds("{}:{}".format, st.sampled_from(BLACKWELL), COUNT),
            use_gpu=st.booleans(),
        ),
        "secrets": st.dictionaries(TEXT, st.none() | TEXT, max_size=2),
        "environment_variables": st.dictionaries(TEXT, TEXT | st.booleans() | COUNT, max_size=2),
        "runtime": st.dictionaries(TEXT, JSON, max_size=2),
        "weights": st.lists(JSON, max_size=2),
    },
)


@given(tree=CONFIGS)
def test_resolved_config_loads_again_as_an_equal_one(scratch: Path, tree: object) -> None:
    scratch.write_text(yaml.safe_dump(tree), encoding="utf-8")
    first = load_config(scratch)

    scratch.write_text(to_yaml(first.config), encoding="utf-8")
    second = load_config(scratch)

    assert second.config == first.config
    # The two files have their keys on other lines.
    said, said_again = (
        {replace(warning, line=None) for warning in loaded.warnings} for loaded in (first, second)
    )
    assert said_again == said
    assert json.loads(json.dumps(to_dict(first.config))) == to_dict(first.config)


def test_resolved_config_spells_values_as_the_file_does(load: Load) -> None:
    config = load("""\
resources: {accelerator: "H100:2"}
trt_llm:
  build:
    base_model: encoder
    checkpoint_repository: {source: HF, repo: org/model}
    lora_configuration: {lora_target_modules: [q_proj]}
""").config

    resolved = to_dict(config)

    assert resolved["resources"] == {
        "accelerator": "H100:2",
        "cpu": "1",
        "memory": "2Gi",
        "use_gpu": True,
    }
    build = resolved["trt_llm"]["build"]
    assert type(build["base_model"]) is str
    assert build["max_num_tokens"] == 16384
    assert build["checkpoint_repository"] == {
        "source": "HF",
        "repo": "org/model",
        "revision": None,
        "runtime_secret_name": "hf_access_token",
    }
    assert build["lora_configuration"]["lora_target_modules"] == ["q_proj"]
