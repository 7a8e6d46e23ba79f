"""Says what Truss's own parser makes of configurations. Runs where `truss` is installed.

One JSON object a line in: `text`, the YAML, and `architecture`, what the checkpoint's config.json
would name, or null. One a line out: `errors` and `logged`, lists of messages.
"""

import json
import logging
import os
import pathlib
import sys
import tempfile
import types

# Only what is logged while a configuration is read is of interest.
os.environ["HF_HUB_OFFLINE"] = "1"

import pydantic
from truss.base import trt_llm_config, truss_config


class _Recorder(logging.Handler):
    """Keeps the messages since it was last emptied."""

    def __init__(self) -> None:
        super().__init__(level=logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _errors(path: pathlib.Path) -> list[str]:
    try:
        truss_config.TrussConfig.from_yaml(path)
    except pydantic.ValidationError as error:
        return [str(entry["msg"]).removeprefix("Value error, ") for entry in error.errors()]
    except Exception as error:  # noqa: BLE001 - whatever Truss dies of is its verdict
        return [f"{type(error).__name__}: {error}"]
    return []


def main() -> None:
    """Answer until the input ends."""
    recorder = _Recorder()
    logger = trt_llm_config.logger
    logger.handlers, logger.propagate, logger.level = [recorder], False, logging.INFO
    folder = pathlib.Path(tempfile.mkdtemp())
    path = folder / "config.yaml"
    for line in sys.stdin:
        asked = json.loads(line)
        architecture = asked["architecture"]
        seen = types.SimpleNamespace(architectures=[architecture]) if architecture else None
        trt_llm_config.get_hf_config = lambda repo, revision, seen=seen: seen
        path.write_text(asked["text"], encoding="utf-8")
        recorder.messages.clear()
        errors = _errors(path)
        print(json.dumps({"errors": errors, "logged": recorder.messages}), flush=True)
    path.unlink(missing_ok=True)
    folder.rmdir()


if __name__ == "__main__":
    main()
