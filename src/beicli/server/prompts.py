"""How a request asks for one of the checkpoint's prompts: by its name, or by what it is for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beicli.errors import RequestError
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server import fields


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """At most one of a prompt's name and the purpose of the inputs."""

    prompt_name: str | None = None
    input_type: str | None = None

    def find(self, pipeline: InferencePipeline) -> str | None:
        """Return the prompt's text, None for the checkpoint's default."""
        if self.prompt_name is None and self.input_type is None:
            return None
        return pipeline.find_prompt(prompt_name=self.prompt_name, input_type=self.input_type)


def parse_prompt_choice(body: Mapping[str, Any]) -> PromptChoice:
    """Read `prompt_name` and `input_type`."""
    prompt_name = fields.optional(body, "prompt_name", str, "a string")
    input_type = fields.optional(body, "input_type", str, "a string")
    if prompt_name is not None and input_type is not None:
        raise RequestError(
            "`prompt_name` and `input_type` are both given; one of them is wanted",
            hint="`prompt_name` is a name of the model's own prompts, `input_type` picks one of "
            "them by purpose",
            param="input_type",
        )
    return PromptChoice(prompt_name, input_type)
