"""What examples and documents tell people to type exists."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from mbert.cli import app

ROOT = Path(__file__).parents[1]
TEXTS = [*sorted((ROOT / "examples").iterdir()), ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BENCHMARK = r"python benchmarks/(\w+)\.py((?:[^`\n]|\\\n)*)"
HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
told = {}
for path in sys.argv[1:]:
    sys.argv, sys.path[0] = [path, "--help"], path.rpartition("/")[0]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        runpy.run_path(path, run_name="__main__")
    told[path] = text.getvalue()
print(json.dumps(told))
"""
WORDS = r"mbert ((?:train |weights (?=build))?[a-z]+)((?:[^`\n]|\\\n)*)"


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


def test_benchmarks_start_and_have_the_options_that_are_written_about():
    programs = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "parse_args" in path.read_text()]
    command = [sys.executable, "-c", HELP_OF_ALL, *map(str, programs)]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    helps = {Path(path).stem: text for path, text in told.items()}
    assert [name for name, text in helps.items() if not text.startswith("usage: ")] == []
    asked = [
        (name, option)
        for path in [*TEXTS, *programs]
        for name, rest in re.findall(BENCHMARK, path.read_text(encoding="utf-8"))
        for option in re.findall(r"(?<![\w-])--[a-z-]+", rest)
    ]
    assert len(asked) > 10
    assert [(name, option) for name, option in asked if option not in helps[name]] == []


def test_the_slurm_script_is_a_script():
    done = subprocess.run(["bash", "-n", str(ROOT / "examples" / "slurm.sh")], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
