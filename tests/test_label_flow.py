"""Labels from their file into the corpus: they are what the file says now, in frames or in seconds."""

import csv
import json
import shutil
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from mbert import ConfigError
from mbert.manifests.labels.changes import LabelChanges
from mbert.manifests.labels.report import report_labels
from mbert.manifests.schema import ClipRow, FrameRow, LabelRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions

HEADER = "path,subject,onset,apex,offset,emotion"


class Lab:
    """A folder of inputs, a workspace, and a way to write labels and ingest. Its videos have no bytes: labels of inputs
    that cannot be decoded are rows like others."""

    def __init__(self, folder, names=("a.mp4", "b.mp4", "s1/c.mp4")):
        self.root, self.workspace = folder / "videos", Workspace(folder / "workspace")
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()

    def ingest(self, *lines, path=None, header=HEADER, **more):
        (self.root / "labels.csv").write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
        return self.again(path=path, **more)

    def again(self, *, path=None, **more):
        return run_ingest(self.root / path if path else self.root, self.workspace, IngestOptions(), **more)

    @property
    def labels(self):
        return [(row.path, row.sample, row.emotion) for row in read_rows(self.workspace.labels, LabelRow)]

    @property
    def statuses(self):
        return {row.path: row.status for row in read_rows(self.workspace.videos, VideoRow)}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def changes(added=0, removed=0, corrected=0):
    return LabelChanges(added=added, removed=removed, corrected=corrected)


def test_corrected_and_removed_lines_leave_no_ghost_and_are_counted(lab):
    first = lab.ingest("a.mp4,1,1,2,3,fear", "bb.mp4,s2,1,2,3,joy", "s1/c.mp4,01,1,2,3,fear", "zzzzz.mp4,1,1,2,3,x")
    assert first.label_changes == changes(added=4)
    assert lab.statuses == {
        "a.mp4": "empty", "b.mp4": "empty", "s1/c.mp4": "empty", "bb.mp4": "missing", "zzzzz.mp4": "missing",
    }  # fmt: skip
    assert first.failures["bb.mp4"] == (
        "label line 3 names it, but there is no such file or folder; the nearest is 'b.mp4', which differs in spelling"
    )
    assert lab.again().label_changes == changes()
    second = lab.ingest("a.mp4,01,1,2,3,fear", "b.mp4,s2,1,2,3,joy", "s1/c.mp4,01,1,2,4,fear", "s1/c.mp4,01,7,8,9,y")
    assert second.label_changes == changes(added=1, removed=1, corrected=3)
    assert str(second.label_changes) == "+1, -1, 3 corrected"
    assert set(lab.statuses.values()) == {"empty"}
    assert {row.subject for row in read_rows(lab.workspace.labels, LabelRow)} == {"videos/01", "videos/s2"}
    (lab.root / "labels.csv").unlink()
    assert lab.again().label_changes == changes(removed=4)
    assert (lab.labels, len(lab.statuses)) == ([], 3)


def test_a_removed_line_is_gone_also_in_a_run_on_another_input(lab):
    lab.ingest("a.mp4,1,1,2,3,fear", "b.mp4,01,1,2,3,joy", "bb.mp4,1,1,2,3,joy")
    summary = lab.ingest("b.mp4,01,1,2,3,joy", path="b.mp4")
    assert summary.label_changes == changes(removed=2)
    assert lab.labels == [("b.mp4", "b.mp4", "joy")]
    assert lab.statuses == {"a.mp4": "empty", "b.mp4": "empty", "s1/c.mp4": "empty"}


def test_labels_of_inputs_beside_the_one_that_is_ingested_are_not_missing(lab):
    lines = ["a.mp4,1,1,2,3,fear", "b,2,1,2,3,joy", "videos/s1/c.mp4,3,1,2,3,joy", "d.mp4,4,1,2,3,joy"]
    summary = lab.ingest(*lines, path="a.mp4")
    assert lab.statuses == {"a.mp4": "empty", "d.mp4": "missing"}
    assert summary.notes == ("labels.csv: 2 of its inputs are there, but not part of this run",)
    lab.again()
    assert lab.again(path="a.mp4").label_changes == changes()  # those of the others are still there
    assert lab.labels == [
        ("a.mp4", "a.mp4", "fear"), ("b.mp4", "b.mp4", "joy"), ("d.mp4", "d.mp4", "joy"),
        ("s1/c.mp4", "s1/c.mp4", "joy"),
    ]  # fmt: skip
    remarks = {row.path: row.remark for row in read_rows(lab.workspace.labels, LabelRow)}
    assert remarks["a.mp4"] == "the file has no bytes"


def test_labels_of_another_folder_of_the_workspace_stay(lab, tmp_path):
    other = Lab(tmp_path / "other", ("x.mp4",))
    other.workspace = lab.workspace
    choice = CorpusChoice(name="other")
    other.ingest("x.mp4,9,1,2,3,fear", "gone.mp4,9,1,2,3,fear", choice=choice)
    lab.ingest("a.mp4,1,1,2,3,fear", "nope.mp4,1,1,2,3,fear")
    assert lab.ingest("a.mp4,1,1,2,3,joy").label_changes == changes(removed=1, corrected=1)
    assert sorted(lab.labels) == [
        ("a.mp4", "a.mp4", "joy"), ("gone.mp4", "gone.mp4", "fear"), ("x.mp4", "x.mp4", "fear"),
    ]  # fmt: skip
    assert lab.statuses["gone.mp4"] == "missing"
    other.ingest(choice=choice)
    assert (lab.labels, "gone.mp4" in lab.statuses) == ([("a.mp4", "a.mp4", "joy")], False)


def test_a_template_is_filled_in_and_read_and_never_lost(lab, invoke):
    lab.root.joinpath("été.mp4").touch()
    lab.again()
    words = ("labels", "--template", "--workspace", str(lab.workspace.root))
    done = invoke(*words, cwd=lab.root)
    assert done.returncode == 0, done.stderr
    file = lab.root / "labels.csv"
    assert f"wrote {file}: 4 inputs, one line each" in done.stdout
    assert "next: the same mbert ingest again" in done.stdout.splitlines()[-1]
    rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
    assert rows == [
        ["path", "subject", "onset", "apex", "offset", "emotion", "action_units"],
        *([name, *[""] * 6] for name in ("a.mp4", "b.mp4", "s1/c.mp4", "été.mp4")),
    ]
    summary = lab.again()
    assert (summary.num_labels, summary.label_changes, len(lab.statuses)) == (0, changes(), 4)
    file.write_bytes(file.read_bytes().replace(b"b.mp4,,,,,,", b"b.mp4,s7,1,2,3,joy,"))
    assert lab.again().label_changes == changes(added=1)
    refused = invoke(*words, cwd=lab.root)
    assert (refused.returncode, "labels.csv is there: fill that in" in refused.stderr) == (2, True)
    assert lab.labels == [("b.mp4", "b.mp4", "joy")]
    done = invoke(*words, "--out", "new.csv", "--json", cwd=lab.root)
    assert json.loads(done.stdout)["files"] == {"new.csv": 4}
    assert invoke(*words, "--overwrite", cwd=lab.root).returncode == 0
    assert b"joy" not in file.read_bytes()
    assert invoke("labels", "--overwrite", cwd=lab.root).returncode == 2


def test_what_exists_but_is_not_read_is_said_so_by_ingest_and_labels(lab, invoke):
    (lab.root / "clip.rawvideo").touch()
    lab.ingest("clip.rawvideo,1,1,2,3,fear", "A.MP4,1,1,2,3,fear", "videos/b.mp4,1,1,2,3,fear")
    done = invoke("ingest", str(lab.root), "--workspace", str(lab.workspace.root), cwd=lab.root)
    assert "clip.rawvideo: label line 2 names it: it exists, but its suffix '.rawvideo' is not read" in done.stdout
    told = {difference.path: difference.what for difference in report_labels(lab.workspace).differences}
    assert told["clip.rawvideo"] == "clip.rawvideo: it exists, but its suffix '.rawvideo' is not read"
    assert told["A.MP4"] == "there is no file or folder A.MP4; the nearest is 'a.mp4', which differs in case"
    assert set(told) == {"clip.rawvideo", "A.MP4", "b.mp4"}


def test_two_label_files_stop_before_any_work_and_an_option_chooses(lab):
    lab.ingest("a.mp4,1,1,2,3,fear")
    shutil.copy(lab.root / "labels.csv", lab.root / "LABELS.csv")
    with pytest.raises(ConfigError, match=r"LABELS\.csv and labels\.csv: keep one"):
        lab.again()
    summary = lab.again(choice=CorpusChoice(labels_path=lab.root / "LABELS.csv"))
    assert (summary.num_labels, summary.ignored) == (1, ())


def test_the_case_of_a_decomposed_folder_name_keeps_its_label(cases, tmp_path):
    shutil.copytree(cases / "nfd", tmp_path / "nfd")
    workspace = Workspace(tmp_path / "workspace")
    run_ingest(tmp_path / "nfd", workspace, IngestOptions())
    (label,) = read_rows(workspace.labels, LabelRow)
    (video,) = read_rows(workspace.videos, VideoRow)
    assert (video.status, label.video_id, label.emotion) == ("ok", video.video_id, "happiness")
    assert (label.clip_id is not None, label.remark) == (True, None)


def test_the_case_of_unread_suffixes_never_says_that_nothing_is_there(cases, tmp_path):
    shutil.copytree(cases / "heic", tmp_path / "heic")
    workspace = Workspace(tmp_path / "workspace")
    run_ingest(tmp_path / "heic", workspace, IngestOptions())
    rows = {row.path: row for row in read_rows(workspace.videos, VideoRow)}
    assert {"s1", "raw.h264"} <= rows.keys()
    assert {path for path, row in rows.items() if "no such file" in (row.reason or "")} == set()
    assert all(row.status != "missing" or "names it: it exists, but" in row.reason for row in rows.values())


@pytest.fixture(scope="module")
def timed(synthetic_videos, tmp_path_factory):
    """The same pictures at a constant and at a variable rate, the latter from 1.4 s on; with their frame times."""
    lab = Lab(tmp_path_factory.mktemp("timed"), ())
    source = synthetic_videos / "s01" / "disgust_1.mp4"
    lab.root.mkdir()
    shutil.copy(source, lab.root / "cfr.mp4")
    # Every third frame is held three times as long.
    times = "setpts='(N+2*floor(N/3))/30/TB'"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", source, "-vf", times, "-fps_mode", "passthrough",
         "-output_ts_offset", "1.4", "-crf", "12", lab.root / "vfr.mkv"], check=True,
    )  # fmt: skip
    lab.again()
    videos = {row.path: row for row in read_rows(lab.workspace.videos, VideoRow)}
    twins = {path: twin_paths(lab.workspace.frames, row.shard)[1] for path, row in videos.items()}
    frames = {
        path: {frame.frame_index: frame.pts_seconds for frame in read_rows(twin, FrameRow)}
        for path, twin in twins.items()
    }
    return lab, frames


def test_seconds_become_the_nearest_frames_of_the_decoded_video(timed):
    lab, frames = timed
    assert min(frames["vfr.mkv"].values()) == pytest.approx(1.4, abs=0.01)
    assert len(np.unique(np.diff(list(frames["vfr.mkv"].values())).round(2))) > 1
    lines, expected = [], {}
    for path, (onset, apex, offset), shift in (("cfr.mp4", (7, 12, 20), 0.012), ("vfr.mkv", (5, 11, 19), -0.013)):
        times = [frames[path][frame] + shift for frame in (onset, apex, offset)]
        lines.append(f"{path},s1,{','.join(f'{time:.4f}' for time in times)},fear")
        expected[path] = (onset, apex, offset)
    lines.append("cfr.mp4,s1,99,,99.5,late")
    summary = lab.ingest(*lines, header="path,subject,Onset Seconds,apex_s,offset_sec,emotion")
    rows = {(row.path, row.emotion): row for row in read_rows(lab.workspace.labels, LabelRow)}
    assert {
        path: (rows[path, "fear"].onset, rows[path, "fear"].apex, rows[path, "fear"].offset) for path in expected
    } == (expected)
    assert rows["cfr.mp4", "fear"].remark is None
    assert "the video's own clock, on which the first frame is at 1.400 s" in rows["vfr.mkv", "fear"].remark
    assert rows["vfr.mkv", "fear"].clip_id is not None
    late = rows["cfr.mp4", "late"]
    assert (late.clip_id, late.onset) == (None, None)
    assert late.remark.startswith("label line 4: onset_seconds 99 is outside of the video, whose frames are shown from")
    assert "labels.csv: the column 'apex_s' is taken as apex_seconds" in summary.notes
    assert (summary.num_new, summary.redone) == (0, ())


def test_frames_and_seconds_must_agree_or_the_label_says_so(timed):
    lab, frames = timed
    at = frames["vfr.mkv"]
    header = "path,subject,onset,onset_seconds,apex,offset,offset_seconds,emotion"
    lab.ingest(
        f"vfr.mkv,s1,5,{at[5]:.2f},,20,,same",
        f"vfr.mkv,s1,22,{at[22] - at[0]:.2f},,,{at[30]:.2f},from the first frame",
        f"vfr.mkv,s1,5,{at[15]:.2f},,20,,other",
        header=header,
    )
    rows = {row.emotion: row for row in read_rows(lab.workspace.labels, LabelRow)}
    assert (rows["same"].onset, rows["same"].offset, rows["same"].clip_id is None) == (5, 20, False)
    assert (rows["from the first frame"].onset, rows["from the first frame"].offset) == (22, 30)
    assert rows["other"].clip_id is None
    assert rows["other"].remark == (
        f"label line 4: onset 5 and onset_seconds {float(f'{at[15]:.2f}'):g}, which is frame 15, do not agree"
    )


def test_labels_in_seconds_are_kept_whole_whether_they_come_first_or_late(timed, tmp_path):
    lab, frames = timed
    options = IngestOptions(max_clip_seconds=0.5)
    labels = "path,subject,onset_seconds,apex_seconds,offset_seconds,emotion\ncfr.mp4,s1,{:.3f},{:.3f},{:.3f},fear\n"
    text = labels.format(*(frames["cfr.mp4"][frame] for frame in (11, 14, 19)))
    for when in ("first", "late"):
        folder, workspace = tmp_path / when, Workspace(tmp_path / when / "workspace")
        folder.mkdir()
        shutil.copy(lab.root / "cfr.mp4", folder)
        if when == "late":
            run_ingest(folder, workspace, options)
            ends = [clip.last_frame for clip in read_rows(workspace.clips, ClipRow)]
            assert any(11 <= end < 19 for end in ends)
        (folder / "labels.csv").write_text(text)
        summary = run_ingest(folder, workspace, options)
        assert (summary.num_new, summary.redone) == (1, ("cfr.mp4",) if when == "late" else ())
        (row,) = read_rows(workspace.labels, LabelRow)
        assert (row.onset, row.apex, row.offset, row.remark, row.clip_id is None) == (11, 14, 19, None, False)
        again = run_ingest(folder, workspace, options)
        assert (again.num_new, again.label_changes) == (0, changes())
