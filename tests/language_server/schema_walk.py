"""The mappings of the schema whose keys are the language's, and documents that have one of them."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
SCHEMA: dict[str, Any] = json.loads((ROOT / "schema" / "pipeline.schema.json").read_text(encoding="utf-8"))
NAME_PATTERN = "^[a-z][a-z0-9_]*$"
# Stands for a name that a user chooses.
CHOSEN = "chosen"


@dataclass(frozen=True)
class Mapping:
    place: tuple[str, ...]
    schema: dict[str, Any]

    def __str__(self) -> str:
        return ".".join(self.place) or "file"

    def keys(self) -> dict[str, Any]:
        return self.schema["properties"]

    def beside(self, key: str) -> dict[str, Any]:
        """What else has to be there for the mapping to be one with this key."""
        keys = self.keys()
        either = kinds(self.schema)
        needed = [name for name in self.schema.get("required", []) if name != key]
        if either and key not in either:
            needed.append(either[0])
        return {name: samples(keys[name])[0] for name in needed}


@dataclass(frozen=True)
class Text:
    """A document, and where in it a key is: 0-based."""

    text: str
    line: int
    character: int

    def at_key(self) -> str:
        """With a mark behind the first letter of the key."""
        lines = self.text.splitlines()
        line = lines[self.line]
        lines[self.line] = line[: self.character + 1] + "|" + line[self.character + 1 :]
        return "\n".join(lines) + "\n"


def kinds(schema: dict[str, Any]) -> list[str]:
    """The keys of which a mapping has exactly one."""
    return list(schema.get("dependentSchemas", {}))


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to."""
    if "$ref" not in schema:
        return schema
    found: Any = SCHEMA
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def mappings() -> list[Mapping]:
    """All of them, once each, where they are met first."""
    found: list[Mapping] = []
    next_ones: deque[tuple[tuple[str, ...], dict[str, Any]]] = deque([((), SCHEMA)])
    while next_ones:
        place, schema = next_ones.popleft()
        schema = resolved(schema)
        if "properties" in schema:
            if any(known.schema is schema for known in found):
                continue
            found.append(Mapping(place, schema))
            next_ones.extend(((*place, key), value) for key, value in schema["properties"].items())
        if NAME_PATTERN in schema.get("patternProperties", {}):
            next_ones.append(((*place, CHOSEN), schema["patternProperties"][NAME_PATTERN]))
        next_ones.extend((place, choice) for choice in schema.get("anyOf", []))
    return found


def meant(body: Any) -> Any:
    """The value that a snippet stands for."""
    if isinstance(body, dict):
        return {meant(key): meant(value) for key, value in body.items()}
    if isinstance(body, list):
        return [meant(item) for item in body]
    return YAML(typ="safe").load(re.sub(r"\\(.)", r"\1", body)) if isinstance(body, str) else body


def snippets(schema: dict[str, Any]) -> dict[str, Any]:
    """The mappings that are offered for a value, by what they are offered as."""
    return {it["label"]: meant(it["body"]) for it in resolved(schema).get("defaultSnippets", [])}


def samples(schema: dict[str, Any]) -> list[Any]:
    """Values that the schema itself names."""
    found = [*schema.get("examples", []), *snippets(schema).values()]
    found += [schema["default"]] if "default" in schema else []
    return found or [schema["const"]] if "const" in schema else found or list(words(schema))[:1]


def words(schema: dict[str, Any]) -> Iterator[str]:
    """The words that a value may be."""
    schema = resolved(schema)
    yield from schema.get("enum", [])
    for choice in schema.get("anyOf", []):
        yield from words(choice)


def document(mapping: Mapping, key: str, value: Any, others: dict[str, Any] | None = None) -> Text:
    """A document with the key in the mapping, on a line of its own. JSON is YAML, so values are written as JSON."""
    lines, indent = ([] if mapping.place == () else ["version: 1"]), ""
    for part in mapping.place:
        lines.append(f"{indent}{part}:")
        indent += "  "
    for name, other in (mapping.beside(key) if others is None else others).items():
        lines.append(f"{indent}{name}: {json.dumps(other)}")
    lines.append(f"{indent}{key}: {value if isinstance(value, Raw) else json.dumps(value)}")
    return Text("\n".join(lines) + "\n", len(lines) - 1, len(indent))


class Raw(str):
    """A value as it stands in the text."""
