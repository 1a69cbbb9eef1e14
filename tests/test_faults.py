"""Killed processes, full disks, stuck inputs: a run goes on, and ends with the bytes of an undisturbed one."""

import contextlib
import errno
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mbert import ManifestError, MbertError
from mbert.manifests.files import exclusive, is_locked
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import estimate_ingest, run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.shards.engine import Engine

NAMES = ("s01/disgust_1.mp4", "s01/surprise_2.mp4", "s02/happiness_1.mp4", "s03/disgust_2.mp4")


def digests(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def videos(synthetic_videos, tmp_path_factory):
    """Four videos, one of them bad."""
    folder = tmp_path_factory.mktemp("faults") / "videos"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(synthetic_videos / name, folder / name)
    (folder / "s02" / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos, tmp_path_factory):
    """What a run gives that nothing happens to."""
    workspace = Workspace(tmp_path_factory.mktemp("faults") / "undisturbed")
    run_ingest(videos, workspace, IngestOptions())
    run_shard(workspace, PairOptions(pairs_per_shard=40))
    return workspace


def ingest_command(videos, workspace, *more):
    return [sys.executable, "-m", "mbert.cli", "ingest", str(videos), "-w", str(workspace.root), "--no-page", *more]


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.many)])
def test_kills_at_random_moments_change_no_byte(videos, undisturbed, tmp_path, kills):
    began = time.monotonic()
    subprocess.run(ingest_command(videos, Workspace(tmp_path / "timed"), "--workers", "2"), check=True)
    whole = time.monotonic() - began  # on a busy machine it takes longer, and has to come to its end now and then
    moments = random.Random(0)
    num_kills = num_completed = 0
    workspace = Workspace(tmp_path / "0")
    while num_kills < kills or not num_completed:
        process = subprocess.Popen(
            ingest_command(videos, workspace, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(moments.uniform(0.15, 1.15) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            num_kills += 1
        if process.wait() == 0:
            num_completed += 1
            assert digests(workspace.corpus) == digests(undisturbed.corpus)
            workspace = Workspace(tmp_path / str(num_completed))
    subprocess.run(ingest_command(videos, workspace), check=True, capture_output=True)
    assert digests(workspace.corpus) == digests(undisturbed.corpus)


KILLED_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from mbert.manifests.workspace import Workspace

rename, left = Path.replace, int(sys.argv[1])

def replace(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.replace = replace
workspace = Workspace(Path(sys.argv[2]))
if sys.argv[3] == "shard":
    from mbert.pipeline.pairs.plan import PairOptions
    from mbert.pipeline.shard import run_shard
    run_shard(workspace, PairOptions(pairs_per_shard=40))
else:
    from mbert.pipeline.ingest import run_ingest
    from mbert.pipeline.ingest_options import IngestOptions
    run_ingest(Path(sys.argv[3]), workspace, IngestOptions())
"""


def killed_at_rename(number, workspace, what):
    """Run a command that is killed just before it gives the `number`-th file its name; False: it ended before."""
    done = subprocess.run([sys.executable, "-c", KILLED_AT_RENAME, str(number), str(workspace.root), str(what)])
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


def test_a_kill_inside_each_commit_step_of_ingest(videos, tmp_path):
    """Config, plan (clips, labels, videos), the tar, its twin, the result (clips, labels, videos)."""
    one = videos / NAMES[0]
    whole = Workspace(tmp_path / "whole")
    run_ingest(one, whole, IngestOptions())
    number = 0
    while killed_at_rename(number, workspace := Workspace(tmp_path / str(number)), one):
        unfinished = {file.name for file in workspace.corpus.rglob("*") if file.name.endswith(".tmp")}
        assert len(unfinished) == 1 + (number == 4)  # while the tar is renamed, the twin is being written
        run_ingest(one, workspace, IngestOptions())
        assert digests(workspace.corpus) == digests(whole.corpus)
        number += 1
    assert number == 9


def test_a_kill_inside_each_commit_step_of_sharding(undisturbed, tmp_path):
    """Clips and labels of both plans, then a tar and a twin for each shard, then clips and index of both sets."""
    folders = ("pairs", "expressions")
    num_tars = sum(len(list((undisturbed.root / "shards" / name).glob("*.tar"))) for name in folders)
    number = 0
    while True:
        workspace = Workspace(tmp_path / str(number))
        shutil.copytree(undisturbed.corpus, workspace.corpus)
        if not killed_at_rename(number, workspace, "shard"):
            break
        assert not (workspace.expressions / "pairs.json").exists()  # it is written last
        run_shard(workspace, PairOptions(pairs_per_shard=40))
        assert digests(workspace.pairs) == digests(undisturbed.pairs)
        assert digests(workspace.expressions) == digests(undisturbed.expressions)
        number += 1
    assert number == 4 + 2 * num_tars + 4


@pytest.mark.parametrize("limit", [500, 4_000, 12_000, 200_000])
def test_a_write_error_is_one_line_and_the_run_goes_on_afterwards(limit, videos, undisturbed, tmp_path):
    workspace = Workspace(tmp_path)
    done = subprocess.run(
        ingest_command(videos, workspace),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "File too large; fix that, then run the same command to resume" in done.stderr
    written = {file.stem for file in workspace.frames.glob("*.parquet")} if workspace.frames.exists() else set()
    assert written == set()
    subprocess.run(ingest_command(videos, workspace), check=True, capture_output=True)
    assert digests(workspace.corpus) == digests(undisturbed.corpus)


@pytest.mark.parametrize("limit", [500, 12_000, 200_000])
def test_a_write_error_while_sharding_is_one_line_too(limit, undisturbed, tmp_path):
    workspace = Workspace(tmp_path)
    shutil.copytree(undisturbed.corpus, workspace.corpus)
    done = subprocess.run(
        [sys.executable, "-m", "mbert.cli", "shard", "--pairs", "-w", str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "File too large; fix that, then run the same command to resume" in done.stderr
    assert [file.name for file in workspace.pairs.glob("*") if file.suffix in (".tar", ".json")] == []
    run_shard(workspace, PairOptions(pairs_per_shard=40))
    assert digests(workspace.pairs) == digests(undisturbed.pairs)


@pytest.fixture
def at_workers():
    """Send a signal to the first `times` worker processes of this process: `at_workers(signal, times)`."""
    threads, is_over = [], threading.Event()

    def start(number, times):
        def work():
            sent = set()
            while len(sent) < times and not is_over.wait(0.02):
                for worker in sorted(worker_processes() - sent)[: times - len(sent)]:
                    time.sleep(0.3)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker, number)
                        sent.add(worker)

        threads.append(threading.Thread(target=work, daemon=True))
        threads[0].start()

    yield start
    is_over.set()
    for thread in threads:
        thread.join()


def worker_processes():
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and b"spawn_main" in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def test_an_input_whose_worker_dies_twice_is_a_row_and_can_be_tried_again(videos, tmp_path, at_workers):
    workspace = Workspace(tmp_path)
    at_workers(signal.SIGKILL, 2)
    summary = run_ingest(videos / NAMES[0], workspace, IngestOptions(), engine=Engine(workers=1))
    assert summary.statuses == {"crashed": 1}
    assert "died twice" in summary.failures["disgust_1.mp4"]
    assert run_ingest(videos / NAMES[0], workspace, IngestOptions()).num_new == 0
    again = run_ingest(videos / NAMES[0], workspace, IngestOptions(), retry_failed=True)
    assert (again.num_new, again.statuses) == (1, {"ok": 1})


def test_a_worker_that_dies_once_costs_nothing(videos, undisturbed, tmp_path, at_workers):
    at_workers(signal.SIGKILL, 1)
    run_ingest(videos, Workspace(tmp_path), IngestOptions(), engine=Engine(workers=2))
    assert digests(Workspace(tmp_path).corpus) == digests(undisturbed.corpus)


def test_a_stuck_input_is_given_up_and_the_rest_goes_on(videos, tmp_path, at_workers):
    at_workers(signal.SIGSTOP, 1)
    engine = Engine(workers=2, timeout_seconds=15)
    summary = run_ingest(videos, Workspace(tmp_path), IngestOptions(), engine=engine)
    assert summary.statuses == {"ok": 3, "unreadable": 1, "timeout": 1}
    (row,) = [row for row in read_rows(Workspace(tmp_path).videos, VideoRow) if row.status == "timeout"]
    assert "--retry-failed --timeout" in row.reason


def test_two_runs_in_one_workspace_do_not_meet(videos, tmp_path):
    workspace = Workspace(tmp_path)
    with exclusive(workspace.corpus), pytest.raises(ManifestError, match="another mbert command is at work"):
        run_ingest(videos, workspace, IngestOptions())


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(MbertError, match="cannot be locked: No locks available; use a folder on another"),
        exclusive(tmp_path),
    ):
        pass
    assert not is_locked(tmp_path)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which nobody may write")
def test_a_folder_that_may_not_be_written_is_named():
    with pytest.raises(MbertError, match="cannot write /sys/kernel/mbert"), exclusive(Path("/sys/kernel/mbert")):
        pass


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(videos, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    estimate = estimate_ingest(videos, workspace, IngestOptions(), engine=Engine(workers=2))
    assert (estimate.num_inputs, estimate.num_to_do) == (5, 5)
    assert estimate.num_bytes == sum(file.stat().st_size for file in videos.rglob("*.mp4"))
    assert estimate.seconds > 0
    assert len(estimate.tried) == 3
    assert not workspace.root.exists()
    run_ingest(videos, workspace, IngestOptions(), limit=2)
    before = digests(workspace.root)
    assert estimate_ingest(videos, workspace, IngestOptions(), limit=1).num_to_do == 1
    assert estimate_ingest(videos, workspace, IngestOptions(size=96), overwrite=True).num_to_do == 5
    assert digests(workspace.root) == before
