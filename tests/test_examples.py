"""What examples and documents tell people to type exists."""

import re
import subprocess
from pathlib import Path

import pytest
import typer.main

from mbert.cli import app

ROOT = Path(__file__).parents[1]
TEXTS = [*sorted((ROOT / "examples").iterdir()), ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORDS = r"mbert ((?:train )?[a-z]+)((?:[^`\n]|\\\n)*)"


def command_of(words):
    found = typer.main.get_command(app)
    for word in words.split():
        found = found.commands.get(word) if hasattr(found, "commands") else None
    return found


def commands_in(text):
    """(words, options) of each command that is written out."""
    for words, rest in re.findall(WORDS, text):
        if command_of(words) is not None:
            yield words, re.findall(r"(?<![\w-])--[a-z-]+", rest)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_option_that_is_written_about_exists(path):
    wrong = []
    for words, options in commands_in(path.read_text(encoding="utf-8")):
        known = {name for param in command_of(words).params for name in (*param.opts, *param.secondary_opts)}
        wrong += [f"{words} {option}" for option in options if option not in known]
    assert wrong == []


def test_commands_are_found_in_the_texts():
    found = [words for path in TEXTS for words, _ in commands_in(path.read_text(encoding="utf-8"))]
    assert found.count("train pretrain") > 10
    assert {"ingest", "shard", "eval", "convert"} <= set(found)


def test_the_slurm_script_is_a_script():
    done = subprocess.run(["bash", "-n", str(ROOT / "examples" / "slurm.sh")], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
