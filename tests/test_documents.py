"""What people read: every block of code runs, every message that is quoted exists, and the words are plain."""

import csv
import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
import yaml
from PIL import Image
from typer.testing import CliRunner

from mbert.cli import app
from mbert.model.training.pretrain import PretrainConfig
from mbert.model.training.settings import with_settings

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.md")),
]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.*) -->\n)?```(?P<language>.*)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE
)
REASONS = {"installs packages", "needs a GPU", "needs several GPUs", "needs a Ray cluster", "needs licensed datasets"}
# What keeps a command short in a test. What it does is the same.
SHORTER = {
    "train pretrain": ["--steps", "2", "--batch-size", "4"],
    "eval --protocol": ["--baselines", "majority"],
    "synthesize": ["--subjects-per-photo", "1", "--clips-per-emotion", "1", "--neutral-clips", "0", "--fps", "30"],
}


def blocks_of(path):
    return [match.groupdict() for match in BLOCK.finditer(path.read_text(encoding="utf-8"))]


def is_benchmark(code):
    """These take minutes to hours; test_examples.py starts each and knows its options."""
    return "benchmarks/" in code


def runs(block):
    return block["reason"] is None and block["language"] in ("sh", "python") and not is_benchmark(block["code"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_block_says_what_it_is_and_why_it_does_not_run(path):
    blocks = blocks_of(path)
    assert len(blocks) == path.read_text(encoding="utf-8").count("\n```") / 2
    assert {block["language"] for block in blocks} <= {"sh", "python", "csv", "yaml", "text"}
    assert {block["reason"] for block in blocks if block["reason"] is not None} <= REASONS
    for block in blocks:
        if block["language"] == "sh":
            subprocess.run(["bash", "-n"], input=block["code"], text=True, check=True)
        elif block["language"] == "csv":
            assert len({len(row) for row in csv.reader(io.StringIO(block["code"]))}) == 1
        elif block["language"] == "yaml":
            with_settings(PretrainConfig(), yaml.safe_load(block["code"]))


@pytest.fixture(scope="module")
def reader(synthetic_videos, casme2, tmp_path_factory):
    """A folder such as readers have: some labelled videos, ingested, paired and trained on for a moment."""
    folder = tmp_path_factory.mktemp("reader")
    for subject in ("s01", "s02"):
        for take in sorted((synthetic_videos / subject).glob("*_1.mp4")):
            (folder / "videos" / subject).mkdir(parents=True, exist_ok=True)
            shutil.copy2(take, folder / "videos" / subject)
    lines = (synthetic_videos / "labels.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if (folder / "videos" / line.split(",")[0]).is_file()]
    (folder / "videos" / "labels.csv").write_text("".join([lines[0], *kept]))
    shutil.copy2(folder / "videos" / "s01" / "surprise_1.mp4", folder / "clip.mp4")
    shutil.copytree(casme2, folder / "CASME2")
    (folder / "PHOTOS").mkdir()
    (folder / "PHOTOS" / "astronaut.jpg").write_bytes(portrait_for_testing())
    (folder / "theirs.csv").write_text(
        "subject,label,prediction\ns01,negative,positive\ns01,positive,positive\ns02,surprise,surprise\n"
    )
    for line in ("mbert ingest videos/", "mbert shard", "mbert train pretrain", "mbert eval --protocol loso"):
        run_line(line, folder)
    return folder


def portrait_for_testing():
    """JPEG bytes that the fixed split puts into its part `test`, as docs/synthetic.md says how it does."""
    for quality in range(80, 100):
        Image.fromarray(skimage.data.astronaut()).save(file := io.BytesIO(), "JPEG", quality=quality)
        digest = hashlib.sha256(file.getvalue()).hexdigest()
        if hashlib.sha256(f"mbert-synth-v1{digest}".encode()).digest()[0] % 4 == 3:
            return file.getvalue()
    raise AssertionError("no quality gives a photo of the part")


def run_line(line, folder):
    """One command of a block, in this process."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    assert words[0] == "mbert", f"only commands of mbert run here; say why not above the block: {line}"
    words = words[1:]
    more = [word for start, extra in SHORTER.items() if " ".join(words).startswith(start) for word in extra]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, [*words, *more])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


def run_script(code, folder):
    """As a script: code that starts processes must be importable by them."""
    indented = "".join(f"    {line}\n" for line in code.splitlines())
    (folder / "script.py").write_text(f"if __name__ == '__main__':\n{indented}", encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


MADE_BY_THE_PAGE = {"python.md": ["workspace"], "synthetic.md": ["workspace", "videos"]}
RUN_APART = {"privacy.md": "its commands delete what others need"}


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if path.name not in RUN_APART and any(map(runs, blocks_of(path)))],
    ids=lambda path: path.name,
)
def test_the_code_of_a_page_runs(path, reader, tmp_path):
    """Block after block, in a copy of the reader's folder; Python blocks that follow each other are one script."""
    made = shutil.ignore_patterns(*MADE_BY_THE_PAGE.get(path.name, ()))
    shutil.copytree(reader, tmp_path, dirs_exist_ok=True, ignore=made)
    script = []
    for block in [*filter(runs, blocks_of(path)), None]:
        if block is not None and block["language"] == "python":
            script.append(block["code"])
            continue
        if script:
            run_script("\n".join(script), tmp_path)
            script = []
        for line in block["code"].replace("\\\n", " ").splitlines() if block else ():
            run_line(line, tmp_path)


def test_pages_with_code_are_found():
    found = {path.name for path in PAGES if any(map(runs, blocks_of(path)))}
    assert {"README.md", "index.md", "corpus.md", "python.md", "model.md", "predict.md", "spotting.md"} <= found


def test_the_code_about_forgetting_runs(synthetic_videos, tmp_path):
    """With the page's own videos.csv, in which the last day of one input has passed."""
    page = ROOT / "docs" / "privacy.md"
    table, commands = (next(b["code"] for b in blocks_of(page) if b["language"] == kind) for kind in ("csv", "sh"))
    videos = tmp_path / "videos"
    takes = sorted(synthetic_videos.glob("*/*_1.mp4"))
    for place, take in zip(("s01/clip.mp4", "s01/other.mp4", "s02/clip.mp4", "clip.mp4"), takes, strict=False):
        (videos / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(take, videos / place)
    (videos / "videos.csv").write_text(table.replace("2027-12-31,bo", "2020-12-31,bo"))
    run_line("mbert ingest videos/", tmp_path)
    for line in commands.splitlines():
        run_line(line, tmp_path)
    assert (tmp_path / "workspace" / "corpus" / "forgotten.json").exists()
    run_line("mbert ingest videos/", tmp_path)


SMALLER = {"subjects_per_photo=6, clips_per_emotion=2": "subjects_per_photo=3, clips_per_emotion=1"}
NOTEBOOKS = {  # what makes it short in a test, the file that it writes and that file's least size
    "first_maps.ipynb": ({"steps=150": "steps=2"}, "moved.png", 20_000),
    "honest_score.ipynb": (SMALLER, "confusion.png", 5_000),
    "custom_head.ipynb": (SMALLER, "predictions.csv", 300),
}


def test_every_notebook_has_a_test():
    assert {path.name for path in (ROOT / "examples").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, synthetic_videos, tmp_path):
    shutil.copy2(synthetic_videos / "s01" / "surprise_1.mp4", tmp_path / "clip.mp4")
    cells = json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    shorter, result, num_bytes = NOTEBOOKS[name]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 40
    for before, after in shorter.items():
        assert before in code
        code = code.replace(before, after)
    run_script("import matplotlib; matplotlib.use('Agg')\n" + code, tmp_path)
    assert (tmp_path / result).stat().st_size > num_bytes
