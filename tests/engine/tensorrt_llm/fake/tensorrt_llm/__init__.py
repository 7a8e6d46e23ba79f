"""A stand-in for TensorRT-LLM 1.3 that refuses whatever the real one refuses.

Its signatures and its refusals are those of `tensorrt_llm/llmapi/llm.py` and `llm_args.py`, read in
NVIDIA/TensorRT-LLM after pull request 12801. It computes with a table of the checkpoint's folder,
or with transformers if there is none; `behaviour.json` there says how it is to fail.
"""

import os

from tensorrt_llm.llmapi.llm import LLM, EncoderOutput

__all__ = ["LLM", "EncoderOutput", "__version__"]
__version__ = "1.3.0"

if os.environ.get("FAKE_TENSORRT_LLM") == "1.2.1":
    __version__ = "1.2.1"
    del LLM.encode
if os.environ.get("FAKE_TENSORRT_LLM") == "broken":
    raise OSError("libcuda.so.1: cannot open shared object file")
# Libraries print when they are imported.
print(f"[TensorRT-LLM] TensorRT LLM version: {__version__}")
