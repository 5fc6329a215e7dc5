"""Renders the description of the HTTP door (OpenAPI 3.1) as tables of a page; nothing is fetched for it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

MARK = "<!-- openapi -->"
"""Put the reference here."""
SOURCE = Path(__file__).with_name("openapi.json")
PROBLEM = "application/problem+json"
Schema = dict[str, Any]


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _kind(schema: Schema) -> str:
    """The type of a value in words, with its limits."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#schema-{name.lower()})"
    if "anyOf" in schema:
        words = " or ".join(_kind(each) for each in schema["anyOf"])
    elif schema.get("type") == "array":
        words = f"array of {_kind(schema['items'])}"
    elif "allOf" in schema:
        words = _kind(schema["allOf"][0])
    else:
        words = " or ".join(f"`{each}`" for each in schema["enum"]) if "enum" in schema else str(schema.get("type", ""))
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ):
        if high in schema:
            words += f", {schema.get(low, 0):,} to {schema[high]:,}{unit}"
    return words


def _fields(schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    yield "| field | type | required | meaning |"
    yield "|---|---|---|---|"
    for name, each in schema["properties"].items():
        needed = "yes" if name in required else ""
        yield f"| `{name}` | {_cell(_kind(each))} | {needed} | {_cell(each.get('description', ''))} |"


def _operation(path: str, method: str, said: Schema) -> Iterator[str]:
    yield f"### {method.upper()} `{path}` {{: #{said['operationId'].lower()}-reference }}\n"
    yield f"{said['summary']}. {said.get('description', '')}\n"
    if "x-scope" in said:
        yield f"A key needs the scope `{said['x-scope']}`.\n"
    if said.get("parameters"):
        yield "| parameter | in | type | meaning |"
        yield "|---|---|---|---|"
        for each in said["parameters"]:
            meaning = each.get("description", each["schema"].get("description", ""))
            yield f"| `{each['name']}` | {each['in']} | {_cell(_kind(each['schema']))} | {_cell(meaning)} |"
        yield ""
    if "requestBody" in said:
        (content,) = said["requestBody"]["content"].values()
        yield f"Body: {_kind(content['schema'])}\n"
    answers, problems = [], []
    for status, answer in sorted(said["responses"].items()):
        ((kind, content),) = answer["content"].items()
        shown = _kind(content["schema"]) if "$ref" in content["schema"] else kind
        if kind == PROBLEM:
            problems.append(status)
        else:
            answers.append(f"{status} {answer['description']}: {shown}")
    yield "; ".join(answers) + ".\n"
    if problems:
        yield f"{_kind({'$ref': '/Problem'})}: {', '.join(problems)}.\n"


def reference(document: Schema) -> str:
    """The whole description as Markdown."""
    lines: list[str] = []
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            lines += _operation(path, method, said)
    for name, schema in document["components"]["schemas"].items():
        lines.append(f"### {name} {{: #schema-{name.lower()} }}\n")
        lines += [f"{schema['description']}\n"] if "description" in schema else []
        lines += _fields(schema) if "properties" in schema else [f"{_kind(schema)}\n"]
        lines.append("")
    return "\n".join(lines)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs for each page."""
    return markdown.replace(MARK, reference(json.loads(SOURCE.read_text()))) if MARK in markdown else markdown
