"""Several folders in one corpus: what is the same input, what is another one."""

import shutil
import subprocess

import imageio_ffmpeg
import pytest

from mbert import ConfigError
from mbert.manifests.files import read_json
from mbert.manifests.schema import ClipRow, LabelRow, VideoRow, video_key
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.shards.integrity import verify_frames

HEADER = "path,subject,onset,apex,offset,emotion\n"


def cut(source, target, *, frames=12, start=0.0):
    """Some frames of a video, as they are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", str(start), "-i", str(source)]
    subprocess.run([*command, "-frames:v", str(frames), "-crf", "18", str(target)], check=True)


@pytest.fixture(scope="module")
def two_people(synthetic_videos, tmp_path_factory):
    """Folders `a` and `b` of two people, with equal file names. Read only."""
    folder = tmp_path_factory.mktemp("people")
    for name, person in (("a", "s01"), ("b", "s02")):
        cut(synthetic_videos / person / "disgust_1.mp4", folder / name / "clip.mp4")
        cut(synthetic_videos / person / "surprise_1.mp4", folder / name / "day 2" / "clip.mp4")
    return folder


def rows_of(workspace):
    return read_rows(workspace.videos, VideoRow)


def test_equal_names_below_two_roots_are_two_inputs_whatever_the_order(two_people, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    first = run_ingest(two_people / "a", workspace, IngestOptions())
    keys = [row.video_id for row in rows_of(workspace)]
    second = run_ingest(two_people / "b", workspace, IngestOptions())
    again = [run_ingest(two_people / name, workspace, IngestOptions()) for name in ("a", "b")]
    rows = rows_of(workspace)
    assert [first.num_new, second.num_new, *(each.num_new for each in again)] == [2, 2, 0, 0]
    assert [each.changed + each.vanished for each in (first, second, *again)] == [(), (), (), ()]
    assert [(row.path, row.root, row.status) for row in rows] == [
        ("clip.mp4", 1, "ok"), ("clip.mp4", 2, "ok"), ("day 2/clip.mp4", 1, "ok"), ("day 2/clip.mp4", 2, "ok"),
    ]  # fmt: skip
    assert len({row.video_id for row in rows}) == len({row.sha256 for row in rows}) == 4
    assert [row.video_id for row in rows if row.root == 1] == keys
    assert keys[0] == video_key("videos", "clip.mp4") == "videos-clip-ffabf9ce"
    assert all(verify_frames(workspace.frames, row.shard) == row.num_crops for row in rows)
    assert second.notes == (
        f"{two_people / 'b'} is another source than {two_people / 'a'}: it has 2 of the same names with other content",
    )


def test_a_root_that_moved_or_was_copied_is_the_same_source(two_people, tmp_path):
    workspace, folder = Workspace(tmp_path / "workspace"), tmp_path / "here"
    shutil.copytree(two_people / "a", folder, copy_function=shutil.copy)
    run_ingest(folder, workspace, IngestOptions())
    folder.rename(tmp_path / "there")
    moved = run_ingest(tmp_path / "there", workspace, IngestOptions())
    copied = run_ingest(two_people / "a", workspace, IngestOptions())
    assert [(each.num_new, each.changed, each.vanished) for each in (moved, copied)] == [(0, (), ())] * 2
    assert {row.root for row in rows_of(workspace)} == {1}
    assert read_json(workspace.corpus_config)["datasets"]["videos"]["roots"] == [str(two_people / "a")]
    assert moved.notes == (f"{tmp_path / 'there'} holds what was ingested from {folder}: it is the same source",)


def test_a_changed_file_stays_one_input_and_the_advice_deletes_nothing_of_others(two_people, tmp_path, invoke):
    shutil.copytree(two_people / "a", tmp_path / "a")
    shutil.copytree(two_people / "b", tmp_path / "b")
    for name in ("a", "b"):
        assert invoke("ingest", name, cwd=tmp_path).returncode == 0
    with (tmp_path / "b" / "clip.mp4").open("ab") as file:
        file.write(b"\0" * 8)
    done = invoke("ingest", "b", cwd=tmp_path)
    assert "changed since they were ingested, the crops are of the earlier content:\n  clip.mp4\n" in done.stdout
    assert "--overwrite" not in done.stdout
    assert len(rows_of(Workspace(tmp_path / "workspace"))) == 4


def test_overwriting_one_root_leaves_the_other(two_people, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    for name in ("a", "b"):
        run_ingest(two_people / name, workspace, IngestOptions())
    before = {row.video_id: row for row in rows_of(workspace)}
    summary = run_ingest(two_people / "b", workspace, IngestOptions(), overwrite=True)
    after = {row.video_id: row for row in rows_of(workspace)}
    assert (summary.num_new, summary.statuses) == (2, {"ok": 4})
    assert {key: after[key] == row for key, row in before.items()} == {k: r.root == 1 for k, r in before.items()}
    assert {file.stem for file in workspace.frames.glob("*.tar")} == {row.shard for row in after.values()}
    with pytest.raises(ConfigError, match=r"size: corpus 224, requested 96.*it holds inputs of .*/a, too"):
        run_ingest(two_people / "b", workspace, IngestOptions(size=96), overwrite=True)
    assert {row.video_id: row for row in rows_of(workspace)} == after


def test_a_folder_inside_or_above_a_root_reads_nothing_twice(two_people, tmp_path):
    workspace, folder = Workspace(tmp_path / "workspace"), tmp_path / "videos"
    shutil.copytree(two_people / "a", folder)
    (folder / "day 2" / "labels.csv").write_text(f"{HEADER}clip.mp4,1,2,5,9,fear\n")
    inner = run_ingest(folder / "day 2", workspace, IngestOptions())
    whole = run_ingest(folder, workspace, IngestOptions())
    again = run_ingest(folder / "day 2", workspace, IngestOptions())
    assert [each.num_new for each in (inner, whole, again)] == [1, 1, 0]
    assert [(row.path, row.root) for row in rows_of(workspace)] == [("clip.mp4", 1), ("clip.mp4", 2)]
    other = Workspace(tmp_path / "other")
    run_ingest(folder, other, IngestOptions())
    inner = run_ingest(folder / "day 2", other, IngestOptions())
    assert (inner.num_new, inner.vanished, inner.num_labels_in_clips) == (0, (), 1)
    assert [label.path for label in read_rows(other.labels, LabelRow)] == ["day 2/clip.mp4"]


def test_subjects_of_the_same_name_in_two_roots_are_said_and_their_samples_kept_apart(two_people, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    for name in ("a", "b"):
        shutil.copytree(two_people / name, tmp_path / name)
        (tmp_path / name / "labels.csv").write_text(f"{HEADER}clip.mp4,1,2,5,9,fear\n")
        summary = run_ingest(tmp_path / name, workspace, IngestOptions())
    assert summary.notes[1:] == (
        f"videos/1 of {tmp_path / 'b'}: these names were given in {tmp_path / 'a'}, too, and are taken as the same "
        "people; if they are others, give them other names in its labels and run the same command again, which decodes "
        "nothing",
    )
    labels = read_rows(workspace.labels, LabelRow)
    assert [(label.subject, label.sample) for label in labels] == [("videos/1", "clip.mp4"), ("videos/1", "clip.mp4_2")]
    clips = {clip.clip_id: clip.video_id for clip in read_rows(workspace.clips, ClipRow)}
    assert [clips[label.clip_id] for label in labels] == [row.video_id for row in rows_of(workspace)[:2]]
