"""What a route refuses, as a page to be compared with the one in a test."""

import textwrap
from collections.abc import Iterator, Mapping

from tests.server.fakes import FakeEngine, ask_all


def refusals(path: str, bodies: Mapping[str, object], *, engine: FakeEngine | None = None) -> str:
    """Send bodies to one route of one application; a page with the status and fields of each."""
    requests = [("POST", path, {"json": body}) for body in bodies.values()]
    lines = []
    for name, answer in zip(bodies, ask_all(requests, engine=engine), strict=True):
        lines.append(f"{name}: {answer.status_code}")
        for field_name, value in _flat(answer.json()):
            text = f"{field_name}: {value}"
            lines += textwrap.wrap(text, 92, initial_indent="  ", subsequent_indent="    ")
    return "\n".join([*lines, ""])


def _flat(body: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in body.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", item) for inner, item in _flat(value))
        else:
            yield name, value
