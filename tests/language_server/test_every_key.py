"""Every mapping and every key of the schema in a real editor's language server: marked, completed, explained.

The cases are made by walking the schema, so that a new key has them at once.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML
from schema_walk import SCHEMA, Mapping, Raw, Text, document, kinds, mappings, samples, snippets, words
from test_language_server import ROOT, Server

MAPPINGS = mappings()
KINDS = kinds(SCHEMA["$defs"]["StageSpec"])


@pytest.fixture(scope="module", name="server")
def started_server() -> Any:
    server = Server()
    # It answers with nothing until it has looked at a file.
    server.diagnose("first.yaml", "version: 1\n")
    yield server
    server.close()


def bare(markdown: str) -> str:
    """Text without what marks it up, and with single spaces."""
    return " ".join(re.sub(r"\\(.)", r"\1", markdown).split())


def examples_in(hover: str) -> list[Any]:
    return [YAML(typ="safe").load(block) for block in re.findall(r"```yaml\n(.*?)```", hover, re.DOTALL)]


def marked(server: Server, documents: dict[str, Text]) -> dict[str, dict[int, str]]:
    """What is marked in each, by 0-based line."""
    found = server.diagnose_all({name: document.text for name, document in documents.items()})
    return {name: {line - 1: message for line, message in marks} for name, marks in found.items()}


def test_the_walk_meets_every_definition_with_keys() -> None:
    known = [mapping.schema for mapping in MAPPINGS]
    assert all(it in known for it in SCHEMA["$defs"].values() if "properties" in it)
    assert len(MAPPINGS) > 20


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_keys_are_explained_with_default_and_examples(server: Server, mapping: Mapping) -> None:
    for key, schema in mapping.keys().items():
        values = samples(schema)
        assert values, f"{mapping}.{key} has no example"
        for number, value in enumerate(values):
            hover = server.hover(f"hover-{mapping}-{key}-{number}.yaml", document(mapping, key, value).at_key())
            where = f"{mapping}.{key}: {value!r}\n{hover}"
            assert bare(schema["description"].split("\n\n")[0]) in bare(hover), where
            if "default" in schema:
                default = schema["default"]
                said = default if isinstance(default, str) else str(default).replace("'", '"')
                assert (said if isinstance(default, (str, list)) else said.lower()) in bare(hover), where
            shown = examples_in(hover)
            assert [it for it in schema.get("examples", []) if it not in shown] == [], where
            offered = [*snippets(schema).values()]
            assert offered == [] or any(it in shown for it in offered), where
            assert "millpond pipeline" not in hover, where
            described = [word for word in words(schema) if f"`{word}`" not in hover]
            assert described == [] or value not in words(schema), where


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_mistakes_are_marked(server: Server, mapping: Mapping) -> None:
    first = next(iter(mapping.keys()))
    beside = {first: samples(mapping.keys()[first])[0], **mapping.beside(first)}
    unknown = document(mapping, "no_such_key", 1, beside)
    wrong = {f"wrong-{mapping}-{key}.yaml": document(mapping, key, [[None]]) for key in mapping.keys()}
    found = marked(server, {f"unknown-{mapping}.yaml": unknown, **wrong})
    # Where a value may be written in several ways, it is not always the line of the key that is marked.
    messages = found.pop(f"unknown-{mapping}.yaml").values()
    assert any("no_such_key" in message for message in messages), (unknown.text, messages)
    for name, marks in found.items():
        assert wrong[name].line in marks, (wrong[name].text, marks)


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_what_the_schema_names_is_not_marked(server: Server, mapping: Mapping) -> None:
    right = {
        f"right-{mapping}-{key}-{number}.yaml": document(mapping, key, value)
        for key, schema in mapping.keys().items()
        for number, value in enumerate(samples(schema))
    }
    for name, marks in marked(server, right).items():
        assert right[name].line not in marks, (right[name].text, marks)


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_keys_and_words_are_completed(server: Server, mapping: Mapping) -> None:
    keys = mapping.keys()
    lines = [] if mapping.place == () else ["version: 1"]
    lines += [f"{'  ' * depth}{part}:" for depth, part in enumerate(mapping.place)]
    text = "\n".join([*lines, f"{'  ' * len(mapping.place)}|"]) + "\n"
    offered = server.complete(f"keys-{mapping}.yaml", text)
    assert set(keys) <= offered.keys(), (text, sorted(offered))
    for key, schema in keys.items():
        expected = set(words(schema))
        if expected:
            text = document(mapping, key, Raw("|")).text
            offered = server.complete(f"words-{mapping}-{key}.yaml", text)
            assert expected <= offered.keys(), (text, sorted(offered))


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_values_are_offered_as_they_would_be_written(server: Server, mapping: Mapping) -> None:
    for key, schema in mapping.keys().items():
        place = document(mapping, key, Raw("|"))
        offered = server.complete(f"values-{mapping}-{key}.yaml", place.text)
        assert not any("[object" in label for label in offered), (place.text, sorted(offered))
        for label, value in snippets(schema).items():
            assert label in offered, (place.text, label, sorted(offered))
            # As the editor puts it in, with the indentation of the line.
            text = re.sub(r"\\(.)", r"\1", offered[label]).replace("\n", "\n" + " " * place.character)
            assert YAML(typ="safe").load(f"{' ' * place.character}{key}: {text}\n") == {key: value}, text


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_stage_is_completed_from_its_kind(server: Server, kind: str) -> None:
    offered = server.complete(f"stage-{kind}.yaml", "version: 1\nstages:\n  a:\n    |\n")
    assert f"{kind} stage" in offered, sorted(offered)
    # As it is when its fields have been left as they are.
    body = offered[f"{kind} stage"]
    while "${" in body:
        body = re.sub(r"\$\{\d+(?::([^${}]*)|\|([^,|]*)[^}]*)\}", lambda it: it[1] or it[2] or "", body)
    body = re.sub(r"\n *", lambda it: "\n    " + it[0][1:], body)
    assert f"{kind}:" in body
    assert (
        server.diagnose(f"whole-{kind}.yaml", f"version: 1\nstages:\n  stage: {{ read: x.csv }}\n  a:\n    {body}\n")
        == []
    )


def test_no_pipeline_of_this_repository_is_marked(server: Server) -> None:
    folders = ["pipelines", "examples", "tests/stress"]
    all_files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.yaml"))]
    files = [file for file in all_files if not file.name.endswith(".test.yaml")]
    files.append(ROOT / "tests/diagnostics/sound.yaml")
    found = server.diagnose_all({str(file): file.read_text(encoding="utf-8") for file in files})
    assert len(files) > 10 and {file: marks for file, marks in found.items() if marks} == {}
