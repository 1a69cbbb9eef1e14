"""Help, messages and documents are in plain English, and quote the program as it is."""

import ast
import re
from pathlib import Path

import pytest
import typer.main

from mbert.cli import app

ROOT = Path(__file__).parents[1]
TEXTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").iterdir()),
    *sorted((ROOT / "mbert").rglob("*.j2")),
]
# What a native writer would not write: fixed, reported, again, requested, resumes, next to.
UGLY = re.compile(
    r"\b(mend|mends|mended|mending|told|anew|asked|asks|beside|besides|(goes|go|going|went) on|(says?|said) so|"
    r"aught|thereof|hitherto|at hand)\b",
    re.IGNORECASE,
)


def strings_of(path):
    """(line, text) of each string of a module but docstrings; what an f-string puts in is a gap."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            skipped |= {id(part) for part in node.values}
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


MESSAGES = [
    (f"{path.relative_to(ROOT)}:{line}", text)
    for path in sorted((ROOT / "mbert").rglob("*.py"))
    for line, text in strings_of(path)
]


def commands(command, name):
    yield name, command
    for word, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, f"{name} {word}")


HELPS = {
    f"{name} {where}": text
    for name, command in commands(typer.main.get_command(app), "mbert")
    for where, text in [("", command.help), *((param.name, param.help) for param in command.params)]
    if text
}


def test_help_begins_as_a_sentence_does_and_ends_as_one():
    assert len(HELPS) > 150
    wrong = [
        where for where, text in HELPS.items() if re.match(r"(Of|That|Those|What is)\b", text) or text[-1] not in ".?"
    ]
    assert wrong == []
    own_words = ("three: ", "motion: ", "labels.csv", "face-alignment")  # an option's values, a name
    assert [text for text in HELPS.values() if not (text[0].isupper() or text.startswith(own_words))] == []


@pytest.mark.parametrize("texts", [[*HELPS.items()], MESSAGES], ids=["help", "messages"])
def test_help_and_messages_use_plain_words(texts):
    assert [(where, text) for where, text in texts if UGLY.search(text)] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_documents_use_plain_words(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{number}: {line}" for number, line in enumerate(lines, 1) if UGLY.search(line)] == []


def test_the_words_that_are_looked_for_are_found():
    assert [word for word in ("is told here", "Asked for", "it goes on", "lies beside") if not UGLY.search(word)] == []
    assert not UGLY.search("a recommended category goes online")


def test_troubleshooting_quotes_messages_of_the_program():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"```text\n(.*)\n```", page)
    quoted += re.findall(r"^\| `\w+` \| `(.*?)` \|", page, re.MULTILINE)
    assert len(quoted) > 20
    everything = "\n".join(text for _, text in MESSAGES)
    parts = [part.strip(" ():;,") for message in quoted for part in message.split("...")]
    assert [part for part in parts if part not in everything] == []


def test_the_readme_is_short_and_shows_a_picture_first():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert any("docs/predict.png" in line for line in lines[:10])
    assert any(line.startswith("git clone ") for line in lines)
