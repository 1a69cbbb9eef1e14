"""`pip install mbert` alone: what needs no video works, and what does stops with one line."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mbert
from mbert import ConfigError
from mbert.extras import EXTRAS, require_video

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
IN_CORE = {"PIL", "fsspec"}  # torchvision and PyTorch bring them
# Python runs this first, in worker processes, too: importing one of these fails as where it is not installed.
ABSENT = """
import sys
for module in {modules}:
    sys.modules[module] = None
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Run Python as if no extra were installed: `core("-m", "mbert", "doctor")`."""
    folder = tmp_path_factory.mktemp("core")
    modules = {module for extra in EXTRAS.values() for module in extra.packages} - IN_CORE
    (folder / "sitecustomize.py").write_text(ABSENT.format(modules=sorted(modules)))
    paths = [str(folder), str(PYPROJECT.parent), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(*words):
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_extras_are_those_of_the_project():
    """`all` has each of them, and what the core installs is in none."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    named = {
        extra: {re.split(r"[><=]", package)[0] for package in packages}
        for extra, packages in project["optional-dependencies"].items()
    }
    assert {name: named[name] for name in EXTRAS} == {
        name: set(extra.packages.values()) for name, extra in EXTRAS.items()
    }
    assert project["optional-dependencies"]["all"] == [f"mbert[{','.join(EXTRAS)}]"]
    core = {re.split(r"[><=]", package)[0] for package in project["dependencies"]}
    assert core & set().union(*(named[name] for name in EXTRAS)) == set()


def test_the_core_loads_models_runs_them_on_arrays_and_reads_shards(core, corpus):
    code = (
        "import sys, numpy, mbert\n"
        "earlier = numpy.zeros((224, 224, 3), numpy.uint8); later = earlier.copy(); later[90:120, 90:120] = 90\n"
        "print(mbert.compare(earlier, later, mbert.load_model()).moved.shape)\n"
        "print(len(mbert.open_frames(sys.argv[1])), len(mbert.open_pairs(workspace=sys.argv[1])))\n"
        "try: mbert.ingest('videos')\n"
        "except mbert.ConfigError as exc: print(exc)\n"
    )
    done = core("-c", code, corpus.root)
    assert done.returncode == 0, done.stderr
    shape, counts, refused = done.stdout.splitlines()
    assert shape.startswith("(")
    assert all(int(count) > 0 for count in counts.split())
    assert "pip install 'mbert[video]'" in refused


def test_every_module_of_the_core_can_be_imported(core):
    """And the commands that look after a corpus: labels, shard, verify, forget."""
    code = (
        "import importlib, pkgutil, sys\n"
        "rooms = [importlib.import_module(f'mbert.{room}') for room in sys.argv[1:]]\n"
        "names = [m.name for room in rooms for m in pkgutil.walk_packages(room.__path__, room.__name__ + '.')]\n"
        "names += ['mbert.prediction.forget', 'mbert.pipeline.shard', 'mbert.pipeline.verify']\n"
        "names += ['mbert.pipeline.corpora.registry', 'mbert.pipeline.ingest_summary']\n"
        "for name in names: importlib.import_module(name)\n"
        "print(len(names))"
    )
    done = core("-c", code, "manifests", "shards", "model", "reports", "commands")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_doctor_says_which_extras_are_not_installed(core):
    done = core("-m", "mbert", "doctor", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["missing"]) == (0, {})
    assert report["not_installed"].keys() == EXTRAS.keys()
    assert "mediapipe" in report["not_installed"]["video"]
    assert "pip install 'mbert[video]'" in report["not_installed"]["video"]
    assert {"torch", "device"} <= report["found"].keys()


@pytest.mark.parametrize(
    "words", ["ingest .", "ingest . --dry-run", "predict .", "synthesize", "weights build out", "demo"]
)
def test_what_reads_video_stops_with_one_line(words, invoke, monkeypatch, tmp_path):
    for module in EXTRAS["video"].packages:
        if module not in IN_CORE:
            monkeypatch.setitem(sys.modules, module, None)
    done = invoke(*words.split(), cwd=tmp_path)
    *_, last = done.stderr.splitlines()
    name = re.match(r"[a-z]+( build)?", words)[0]
    assert done.returncode == 2
    assert last.startswith(f"error: mbert {name} decodes videos and finds faces, which needs packages that are not")
    assert "(av, face-alignment, " in last and last.endswith("pip install 'mbert[video]'")
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_missing_is_named(monkeypatch):
    require_video("mbert predict")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"not installed \(imageio-ffmpeg\): pip install 'mbert\[video\]'"):
        mbert.predict("a.mp4")
