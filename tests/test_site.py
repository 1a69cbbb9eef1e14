"""The documentation site: what is made from the code is complete, and it builds without a dead link or a network."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml
from browser import chromium, pages  # noqa: F401

import mbert
from mbert.cli import app

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_option_of_every_command(hooks):
    text = hooks.command_reference()
    commands = dict(hooks.commands(typer.main.get_command(app), "mbert"))
    assert {"mbert ingest", "mbert train pretrain", "mbert weights", "mbert weights build"} <= set(commands)
    for name, command in commands.items():
        part = text.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        assert command.help in part
        assert [word for param in command.params for word in param.opts if f"{word}" not in part] == []


def test_the_reference_has_every_column(hooks):
    text = hooks.column_reference()
    for row in hooks.ROWS:
        part = text.partition(f"## `{row.__name__}`\n")[2].partition("\n## ")[0]
        assert [field.name for field in dataclasses.fields(row) if f"| `{field.name}` |" not in part] == []


def test_every_page_is_in_the_navigation():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}\n" not in site] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="needs mkdocs: uv pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("width", [390, 1280])
def test_the_site_opens_from_the_disk_and_is_no_wider_than_the_screen(site, pages, width):  # noqa: F811
    for name in ("index.html", "commands.html", "reference.html", "evaluation.html", "examples/torchrun.html"):
        page = pages.open(site / name, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_the_search_finds_what_is_on_another_page(site, pages):  # noqa: F811
    page = pages.open(site / "examples" / "torchrun.html")
    page.locator("input.md-search__input").click()
    page.locator("input.md-search__input").press_sequentially("jitter_px")
    page.locator(".md-search-result__item a", has_text="Columns").first.wait_for()


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == mbert.__version__
    assert f"## [{cited['version']}] - {cited['date-released']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    [paper] = cited["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Nguyen", "Duong", "Li", "Gauch", "Seo", "Luu"]
