"""`/docs`: the document as one page of HTML that loads nothing and runs nothing.

Everything shown comes from the document and goes through an escaping template, so neither a
model's name nor a label can become markup.
"""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup, escape

from beicli.server.openapi.fields import Field, list_fields
from beicli.server.openapi.operation import JSON, JsonSchema

_STYLE = """
:root { color-scheme: light dark; --edge: #8884; --soft: #8881; --dim: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; } h3 { font-size: 1rem; }
h2 { border-bottom: 1px solid var(--edge); margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid var(--edge); padding: .25rem .6rem; text-align: left;
         vertical-align: top; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
code { background: var(--soft); padding: 0 .2em; border-radius: .2em; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .6rem; border-radius: .4rem; overflow-x: auto;
      white-space: pre-wrap; overflow-wrap: anywhere; }
pre.curl { user-select: all; }
section { margin: 2rem 0; } section h3 { margin-bottom: .3rem; }
section.unavailable > * { opacity: .65; }
.dim { color: var(--dim); }
summary { cursor: pointer; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ info.title }}</title>
<style>{{ style }}</style>
</head>
<body>
<h1>{{ info.title }}</h1>
<p>{{ info.summary | prose }}</p>
<p>{{ info.description | prose }}</p>
<p class="dim">bei {{ info.version }} · <a href="openapi.json">openapi.json</a> ·
a click on a command selects all of it</p>
<table>
<tr><th>route</th><th>what it does</th></tr>
{% for route in routes -%}
<tr><td><a href="#{{ route.anchor }}"><code>{{ route.method }} {{ route.path }}</code></a></td>
<td>{{ route.summary | prose }}{% if not route.is_available %} <span class="dim">(not this model)
</span>{% endif %}</td></tr>
{% endfor -%}
</table>
{% for tag, group in routes | groupby("tag_index") -%}
<h2>{{ group[0].tag }}</h2>
{% for route in group -%}
<section id="{{ route.anchor }}"{% if not route.is_available %} class="unavailable"{% endif %}>
<h3><code>{{ route.method }} {{ route.path }}</code></h3>
<p>{{ route.description | prose }}</p>
{% if route.fields -%}
<table>
<tr><th>field</th><th>type</th><th>default</th><th>meaning</th></tr>
{% for field in route.fields -%}
<tr><td><code>{{ field.name }}</code></td><td>{{ field.kind | prose }}</td>
<td>{{ "required" if field.is_required else field.default or "" }}</td>
<td>{{ field.meaning | prose }}</td></tr>
{% endfor -%}
</table>
{% endif -%}
{% for example in route.examples -%}
<p>{{ example.summary }}:</p>
<pre class="curl">{{ example.command }}</pre>
{% if example.answer -%}
<details><summary>answer, with other numbers</summary>
<pre>{{ example.answer }}</pre>
</details>
{% endif -%}
{% endfor -%}
</section>
{% endfor -%}
{% endfor -%}
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class _ShownExample:
    """An example as a command; answer: as JSON, None if there is none to show."""

    summary: str
    command: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class _ShownRoute:
    """What the page says of one route; tag_index: the place of its group."""

    method: str
    path: str
    anchor: str
    tag: str
    tag_index: int
    summary: str
    description: str
    is_available: bool
    fields: list[Field]
    examples: list[_ShownExample]


def render_page(document: JsonSchema, *, base_url: str) -> str:
    """Return the page of a document; base_url: where the commands shown on it ask."""
    return _TEMPLATE.render(
        info=document["info"],
        style=Markup(_STYLE),  # noqa: S704 - the constant above
        routes=list(_routes(document, base_url)),
    )


def _routes(document: JsonSchema, base_url: str) -> Iterator[_ShownRoute]:
    tags = [tag["name"] for tag in document["tags"]]
    components = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            schema = _request(operation).get("schema", {})
            yield _ShownRoute(
                method=method.upper(),
                path=path,
                anchor=operation["operationId"],
                tag=operation["tags"][0],
                tag_index=tags.index(operation["tags"][0]),
                summary=operation["summary"],
                description=operation["description"],
                is_available=operation["x-bei-available"],
                fields=list_fields(schema, components),
                examples=list(_examples(operation, f"{base_url}{_example_path(path, operation)}")),
            )


def _examples(operation: JsonSchema, url: str) -> Iterator[_ShownExample]:
    answers = operation["responses"]["200"].get("content", {}).get(JSON, {}).get("examples", {})
    shown = _request(operation).get("examples")
    if shown is None:
        answer = answers.get("plain", {}).get("value")
        yield _ShownExample("Ask", _curl(url), _indented(answer))
        return
    for name, example in shown.items():
        answer = answers.get(name, {}).get("value")
        command = _curl(url, json.dumps(example["value"], ensure_ascii=False))
        yield _ShownExample(example["summary"], command, _indented(answer))


def _curl(url: str, body: str | None = None) -> str:
    command = f"curl --silent {shlex.quote(url)}"
    if body is None:
        return command
    header = "--header 'content-type: application/json'"
    return f"{command} \\\n  {header} \\\n  --data {shlex.quote(body)}"


def _request(operation: JsonSchema) -> JsonSchema:
    content: JsonSchema = operation.get("requestBody", {}).get("content", {}).get(JSON, {})
    return content


def _example_path(path: str, operation: JsonSchema) -> str:
    """Fill the parameters of a path with their first examples."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            first = next(iter(parameter["examples"].values()))
            path = path.replace(f"{{{parameter['name']}}}", first["value"])
    return path


def _indented(answer: Any) -> str | None:
    return None if answer is None else json.dumps(answer, ensure_ascii=False, indent=1)


def _prose(text: str) -> Markup:
    """Escape a sentence, and show what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def _make_template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False
    )
    environment.filters["prose"] = _prose
    return environment.from_string(_PAGE)


_TEMPLATE = _make_template()
