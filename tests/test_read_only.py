"""Places that may not be written or read, full disks: one clear error each, never a traceback."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys

import pytest

_DROP_BOUND, _PASS_PERMISSIONS = 24, (1, 2)  # prctl, and the capabilities by which root writes and reads everything


def as_owner():
    """In a child: what the modes of files and folders say holds for root, too."""
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None).prctl
        assert [prctl(_DROP_BOUND, capability, 0, 0, 0) for capability in _PASS_PERMISSIONS] == [0, 0]


def small_files():
    """In a child: no file grows beyond some bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


def mbert(*words, cwd, before=as_owner):
    command = [sys.executable, "-m", "mbert.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, preexec_fn=before, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def place(corpus, synthetic_videos, tmp_path_factory):
    """A folder with a workspace that is ingested and sharded, and two of its videos."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(corpus.root, place / "workspace")
    for name in ("s01/disgust_1.mp4", "s02/happiness_1.mp4"):
        (place / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(synthetic_videos / name, place / "videos" / name)
    return place


@pytest.fixture
def locked():
    """Take the right to write (or all rights) from folders, and give it back."""
    folders = []

    def lock(folder, mode=0o555):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        folders.append(folder)

    yield lock
    for folder in folders:
        folder.chmod(0o755)


WRITING = {
    "ingest": ("workspace/corpus", ["ingest", "videos"]),
    "ingest elsewhere": ("room", ["ingest", "videos", "-w", "room/workspace"]),
    "shard": ("workspace/shards/pairs", ["shard", "--pairs", "--seed", "5", "--overwrite"]),
    "train": ("workspace/runs", ["train", "pretrain", "--preset", "tiny", "--steps", "1"]),
    "eval": ("workspace/runs", ["eval", "--mode", "probe", "--baselines", "majority"]),
    "predict": ("predictions", ["predict", "videos"]),
}


def the_error(done):
    """The one line that says what is wrong."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return error


@pytest.mark.parametrize("command", WRITING)
def test_a_place_that_may_not_be_written_is_one_error_that_names_it(command, place, locked):
    folder, words = WRITING[command]
    locked(place / folder)
    error = the_error(mbert(*words, cwd=place))
    assert folder.rpartition("/")[2] in error
    assert "Permission denied; fix that, then run the same command" in error


def test_what_may_not_be_deleted_is_one_error_that_names_it(place, locked, tmp_path):
    shutil.copytree(place / "workspace" / "corpus", tmp_path / "workspace" / "corpus")
    locked(tmp_path / "workspace" / "corpus" / "frames")
    error = the_error(mbert("ingest", place / "videos", "--overwrite", cwd=tmp_path))
    assert "workspace/corpus/frames/" in error
    assert "Permission denied; fix that, then run the same command" in error


def test_a_full_disk_while_training_is_one_error_that_names_the_file(place, tmp_path):
    words = [*WRITING["train"][1], "--shards", place / "workspace" / "shards" / "pairs"]
    error = the_error(mbert(*words, cwd=tmp_path, before=small_files))
    assert "workspace/runs/pretrain/" in error
    assert "File too large" in error


def test_a_folder_that_may_not_be_read_is_a_row_and_a_given_one_an_error(place, locked, tmp_path):
    shutil.copytree(place / "videos", tmp_path / "videos")
    header = "path,subject,onset,apex,offset,emotion\n"
    (tmp_path / "videos" / "labels.csv").write_text(f"{header}s01/disgust_1.mp4,1,1,2,3,disgust\n")
    locked(tmp_path / "videos" / "s01", 0o000)
    done = mbert("ingest", "videos", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "s01: the folder cannot be read: Permission denied" in done.stdout
    assert "names it: it cannot be read (Permission denied)" in done.stdout
    locked(tmp_path / "videos", 0o000)
    done = mbert("ingest", "videos", "-w", "other", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not readable" in done.stderr
    assert "Traceback" not in done.stderr
