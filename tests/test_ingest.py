import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from mbert import ConfigError, ManifestError
from mbert.manifests.files import read_json, write_json
from mbert.manifests.schema import ClipRow, FrameRow, LabelRow, VideoRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.shards.engine import Engine
from mbert.shards.image import decode_jpeg
from mbert.shards.integrity import verify_frames


def digests(folder):
    """SHA-256 of every file below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def videos_of(workspace):
    return {row.path: row for row in read_rows(workspace.videos, VideoRow)}


@pytest.fixture(scope="module")
def few_videos(synthetic_videos, tmp_path_factory):
    """Four of the synthetic videos, with all labels."""
    folder = tmp_path_factory.mktemp("few") / "videos"
    for name in ("s01/disgust_1.mp4", "s01/surprise_2.mp4", "s02/happiness_1.mp4", "s03/disgust_2.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(synthetic_videos / name, folder / name)
    return folder


def test_every_frame_of_every_video_is_a_crop_with_a_row(corpus, synthetic_videos):
    videos = videos_of(corpus)
    assert len(videos) == 18
    assert {row.status for row in videos.values()} == {"ok"}
    for row in videos.values():
        frames = read_table(twin_paths(corpus.frames, row.shard)[1], FrameRow)
        assert frames["frame_index"].to_pylist() == list(range(row.num_frames))
        assert row.num_crops == row.num_frames == row.num_frames_from_header
        assert (row.codec, row.width, row.height, row.rotation) == ("h264", 320, 320, 0)
        assert row.sha256 == hashlib.sha256((synthetic_videos / row.path).read_bytes()).hexdigest()


def test_tars_agree_with_their_twins(corpus):
    counts = [verify_frames(corpus.frames, row.shard) for row in videos_of(corpus).values()]
    assert sum(counts) == sum(row.num_crops for row in videos_of(corpus).values()) > 700


def test_any_frame_is_one_ranged_read_of_a_444_jpeg(corpus):
    row = next(iter(videos_of(corpus).values()))
    tar, twin = twin_paths(corpus.frames, row.shard)
    frame = read_table(twin, FrameRow).to_pylist()[7]
    with tar.open("rb") as file:
        file.seek(frame["offset"])
        data = file.read(frame["size"])
    assert decode_jpeg(data).shape == (224, 224, 3)
    with Image.open(io.BytesIO(data)) as image:
        assert image.layer[0][1:3] == image.layer[1][1:3] == (1, 1)  # sampling of luma and chroma


def test_labels_are_joined_to_the_clips(corpus):
    clips = read_rows(corpus.clips, ClipRow)
    assert len(clips) == 18
    assert {clip.subject for clip in clips} == {"videos/s01", "videos/s02", "videos/s03"}
    labels = {label.clip_id: label for label in read_rows(corpus.labels, LabelRow)}
    assert sorted({label.emotion for label in labels.values()}) == ["disgust", "happiness", "surprise"]
    for clip in clips:
        label = labels[clip.clip_id]
        assert clip.first_frame <= label.onset < label.apex < label.offset <= clip.last_frame
    assert max(clip.jitter_px for clip in clips) < 0.5


def test_the_transform_takes_the_face_to_the_template(corpus):
    row = next(iter(videos_of(corpus).values()))
    frames = read_table(twin_paths(corpus.frames, row.shard)[1], FrameRow).to_pylist()
    points = np.array([frame["landmarks"] for frame in frames]).reshape(-1, 5, 2) / 224
    assert np.abs(points[:, :2].mean(axis=(0, 1)) - [0.5, 0.4]).max() < 0.03  # the middle between the eyes
    assert abs((points[:, 1, 0] - points[:, 0, 0]).mean() - 0.30) < 0.03  # their distance
    assert any(frame["landmarks_measured"] for frame in frames)
    assert not all(frame["landmarks_measured"] for frame in frames)


def test_one_and_two_workers_give_the_same_bytes(few_videos, tmp_path):
    for workers in (1, 2):
        run_ingest(few_videos, Workspace(tmp_path / str(workers)), IngestOptions(), engine=Engine(workers=workers))
    one, two = (digests(tmp_path / str(workers)) for workers in (1, 2))
    assert len([name for name in one if name.endswith(".tar")]) == 4
    assert one == two


def test_running_again_does_nothing_and_a_new_video_adds_only_itself(few_videos, synthetic_videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(few_videos, folder)
    workspace = Workspace(tmp_path / "workspace")
    first = run_ingest(folder, workspace, IngestOptions())
    before = digests(workspace.root)
    again = run_ingest(folder, workspace, IngestOptions())
    assert (first.num_new, again.num_new) == (4, 0)
    assert digests(workspace.root) == before
    shutil.copy2(synthetic_videos / "s02" / "surprise_1.mp4", folder / "a_new_one.mp4")
    more = run_ingest(folder, workspace, IngestOptions())
    after = digests(workspace.root)
    assert (more.num_new, more.statuses) == (1, {"ok": 5})
    assert {name: after[name] for name in before if "frames/" in name} == {
        name: digest for name, digest in before.items() if "frames/" in name
    }


def test_labels_that_come_later_are_joined_without_decoding_again(few_videos, synthetic_videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(few_videos, folder)
    workspace = Workspace(tmp_path / "workspace")
    run_ingest(folder, workspace, IngestOptions())
    assert read_rows(workspace.labels, LabelRow) == []
    lines = (synthetic_videos / "labels.csv").read_text().splitlines()
    kept = [line for line in lines[1:] if (folder / line.split(",")[0]).exists()]
    (folder / "labels.csv").write_text("\n".join([lines[0], *kept, "not/there.mp4,s9,1,2,3,fear,"]) + "\n")
    summary = run_ingest(folder, workspace, IngestOptions())
    assert (summary.num_new, summary.num_labels_in_clips, summary.redone) == (0, 4, ())
    assert summary.failures == {
        "not/there.mp4": "label line 6 names it, but there is no such file or folder",
    }


@pytest.fixture
def cut_corpus(few_videos, tmp_path):
    """Videos without labels whose clips are cut every half second, and a way to label one of them later."""
    folder, workspace = tmp_path / "videos", Workspace(tmp_path / "workspace")
    shutil.copytree(few_videos, folder)
    options = IngestOptions(max_clip_seconds=0.5)
    run_ingest(folder, workspace, options)
    first, second = read_rows(workspace.clips, ClipRow)[:2]
    assert (first.track, first.last_frame + 1) == (second.track, second.first_frame)
    path = next(row.path for row in videos_of(workspace).values() if row.video_id == first.video_id)

    def label(*spans, redo=True):
        lines = [f"{path},s1,{start},{start + 3},{stop},fear" for start, stop in spans]
        (folder / "labels.csv").write_text("\n".join(["path,subject,onset,apex,offset,emotion", *lines]) + "\n")
        notes = []
        summary = run_ingest(folder, workspace, options, redo=redo, on_plan=notes.append)
        assert notes[0].redone == summary.redone
        return summary, read_rows(workspace.labels, LabelRow)

    return workspace, first, path, label


def test_a_label_that_the_clips_cut_through_makes_its_input_be_ingested_again(cut_corpus):
    workspace, first, path, label = cut_corpus
    others = {clip.clip_id for clip in read_rows(workspace.clips, ClipRow) if clip.video_id != first.video_id}
    start, stop = first.last_frame - 4, first.last_frame + 5
    summary, rows = label((start, stop))
    assert (summary.redone, summary.num_new, summary.statuses) == ((path,), 1, {"ok": 4})
    (row,) = rows
    assert (row.onset, row.apex, row.offset, row.remark) == (start, start + 3, stop, None)
    clips = {clip.clip_id: clip for clip in read_rows(workspace.clips, ClipRow)}
    assert clips[row.clip_id].first_frame <= start
    assert stop <= clips[row.clip_id].last_frame
    assert others <= clips.keys()
    video = videos_of(workspace)[path]
    assert (video.kept_whole, video.shard) == (f"{start}-{stop}", "000004")
    assert {file.stem for file in workspace.frames.iterdir()} == {"000001", "000002", "000003", "000004"}
    assert sum(verify_frames(workspace.frames, name) for name in sorted(c.shard for c in clips.values())) > 0
    again, _ = label((start, stop))
    assert (again.redone, again.num_new) == ((), 0)


def test_with_no_redo_such_a_label_stands_as_a_row_with_a_reason(cut_corpus):
    workspace, first, _, label = cut_corpus
    before = digests(workspace.frames)
    start, stop = first.last_frame - 4, first.last_frame + 5
    summary, (row,) = label((start, stop), redo=False)
    assert (summary.redone, summary.num_new, summary.num_labels_in_clips) == ((), 0, 0)
    assert (row.clip_id, row.onset, row.offset) == (None, start, stop)
    assert f"the clips are cut inside of frames {start}-{stop}" in row.remark
    assert digests(workspace.frames) == before


def test_several_labels_in_one_clip_decode_nothing_again(cut_corpus):
    _, first, _, label = cut_corpus
    summary, rows = label((0, 4), (5, 9), (first.last_frame + 1, first.last_frame + 6))
    assert (summary.redone, summary.num_new, summary.num_labels_in_clips) == ((), 0, 3)
    assert [row.clip_id == first.clip_id for row in rows] == [True, True, False]
    _, rows = label((5, 9))  # the others were removed from the file
    assert [(row.onset, row.offset) for row in rows] == [(5, 9)]


def test_what_cannot_be_used_is_a_row_with_a_reason_and_the_rest_goes_on(few_videos, tmp_path, write_video):
    folder = tmp_path / "videos"
    folder.mkdir()
    good = few_videos / "s01" / "disgust_1.mp4"
    shutil.copy(good, folder / "good clip (1) ü.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video\n" * 100)
    (folder / "folder.mp4").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (30, 96, 128, 3), np.uint8)
    write_video(folder / "noface.mp4", list(noise))
    write_video(folder / "one.mp4", list(noise[:1]))
    (folder / "secret.mp4").symlink_to(tmp_path / "gone.mp4")
    summary = run_ingest(folder, Workspace(tmp_path / "workspace"), IngestOptions(), engine=Engine(workers=2))
    rows = videos_of(Workspace(tmp_path / "workspace"))
    assert {path: row.status for path, row in rows.items()} == {
        "good clip (1) ü.mp4": "ok",
        "empty.mp4": "empty",
        "text.mp4": "unreadable",
        "folder.mp4": "empty",
        "noface.mp4": "no_face",
        "one.mp4": "too_short",
        "secret.mp4": "unreadable",
    }
    assert summary.statuses == {"ok": 1, "empty": 2, "unreadable": 2, "no_face": 1, "too_short": 1}
    assert len(summary.failures) == 6
    assert all(summary.failures.values())
    assert sorted(file.name for file in Workspace(tmp_path / "workspace").frames.iterdir()) == [
        "000002.parquet",
        "000002.tar",
    ]


def test_a_frame_folder_is_ingested_like_the_video_it_shows(few_videos, tmp_path):
    folder = tmp_path / "videos" / "s01" / "EP01"
    folder.mkdir(parents=True)
    with av.open(str(few_videos / "s01" / "disgust_1.mp4")) as container:
        for index, picture in enumerate(container.decode(video=0)):
            cv2.imwrite(str(folder / f"img{index + 46}.png"), picture.to_ndarray(format="bgr24"))
    workspace = Workspace(tmp_path / "workspace")
    run_ingest(tmp_path / "videos", workspace, IngestOptions(folder_fps=200))
    (row,) = read_rows(workspace.videos, VideoRow)
    (clip,) = read_rows(workspace.clips, ClipRow)
    assert (row.path, row.kind, row.status, row.codec) == ("s01/EP01", "frames", "ok", "png")
    assert (clip.first_frame, clip.last_frame) == (46, 46 + row.num_frames - 1)
    assert clip.fps == pytest.approx(200)


def test_other_options_are_refused_with_the_difference_and_overwrite_begins_anew(few_videos, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    run_ingest(few_videos, workspace, IngestOptions(), limit=1)
    with pytest.raises(ConfigError, match="size: corpus 224, requested 96"):
        run_ingest(few_videos, workspace, IngestOptions(size=96))
    summary = run_ingest(few_videos, workspace, IngestOptions(size=96), limit=2, overwrite=True)
    assert (summary.statuses, len(list(workspace.frames.glob("*.tar")))) == ({"ok": 2}, 2)
    assert read_json(workspace.corpus_config)["options"]["size"] == 96


def test_the_quality_of_the_crops_is_chosen_and_a_corpus_older_than_the_option_has_its_default(few_videos, tmp_path):
    sizes = {}
    for quality in (75, 95):
        workspace = Workspace(tmp_path / str(quality))
        run_ingest(few_videos, workspace, IngestOptions(jpeg_quality=quality), limit=1)
        rows = [row for twin in workspace.frames.glob("*.parquet") for row in read_rows(twin, FrameRow)]
        sizes[quality] = sum(row.size for row in rows)
    assert 0.2 < sizes[75] / sizes[95] < 0.6
    config = read_json(workspace.corpus_config)
    del config["options"]["jpeg_quality"]
    write_json(workspace.corpus_config, config)
    with pytest.raises(ConfigError, match="jpeg_quality: corpus 95, requested 75"):
        run_ingest(few_videos, workspace, IngestOptions(jpeg_quality=75))
    assert run_ingest(few_videos, workspace, IngestOptions(), limit=1).statuses == {"ok": 2}
    assert read_json(workspace.corpus_config)["options"] == config["options"]  # shards and runs know it by these


def test_impossible_options_stop_at_once():
    with pytest.raises(ConfigError, match="jpeg_quality is 0; allowed are 1 to 100"):
        IngestOptions(jpeg_quality=0)
    with pytest.raises(ConfigError, match="crop size is 8; allowed are 32 to 1024"):
        IngestOptions(size=8)
    with pytest.raises(ConfigError, match="landmark_hz is 0"):
        IngestOptions(landmark_hz=0)


def test_a_label_file_without_its_columns_stops_before_any_work(few_videos, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("path,subject\n")
    with pytest.raises(ManifestError, match="lacks the columns onset, apex, offset, emotion"):
        run_ingest(
            few_videos, Workspace(tmp_path / "workspace"), IngestOptions(), choice=CorpusChoice(labels_path=labels)
        )
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(few_videos, tmp_path, stop):
    workspace, undisturbed = (Workspace(tmp_path / name) for name in ("stopped", "undisturbed"))
    command = [sys.executable, "-m", "mbert.cli", "ingest", str(few_videos), "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--workspace", str(workspace.root)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while not list(workspace.frames.glob("*.parquet")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(stop)
    _, errors = process.communicate()
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert ("run the same command again" in errors) == (stop == signal.SIGINT)
    assert 1 <= len(list(workspace.frames.glob("*.parquet"))) < 4
    for space in (workspace, undisturbed):
        subprocess.run([*command, "--workspace", str(space.root)], check=True, capture_output=True)
    assert digests(workspace.root) == digests(undisturbed.root)
    assert len(videos_of(workspace)) == 4


def test_a_changed_input_is_reported(few_videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(few_videos, folder)
    workspace = Workspace(tmp_path / "workspace")
    run_ingest(folder, workspace, IngestOptions(), limit=1)
    first = folder / "s01" / "disgust_1.mp4"
    os.utime(first, ns=(1, 1))
    assert run_ingest(folder, workspace, IngestOptions(), limit=1).changed == ()
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    (folder / "s01" / "surprise_2.mp4").unlink()
    summary = run_ingest(folder, workspace, IngestOptions(), limit=1)
    assert (summary.changed, summary.vanished) == (("s01/disgust_1.mp4",), ("s01/surprise_2.mp4",))


def test_auto_is_steadier_than_frame_on_a_noisy_still_face(media, tmp_path, write_video):
    photo = cv2.cvtColor(cv2.imread(str(media / "photos" / "still_pyfeat_single_face.jpg")), cv2.COLOR_BGR2RGB)
    rng = np.random.default_rng(0)
    noisy = [np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8) for _ in range(60)]
    write_video(tmp_path / "videos" / "still.mp4", noisy, crf=18)
    jitter = {}
    for mode in ("auto", "frame"):
        workspace = Workspace(tmp_path / mode)
        run_ingest(tmp_path / "videos", workspace, IngestOptions(align=mode))
        (clip,) = read_rows(workspace.clips, ClipRow)
        jitter[mode] = clip.jitter_px
    assert jitter["auto"] < 0.05
    assert jitter["frame"] > 3 * jitter["auto"]


def test_every_real_clip_gets_a_row(media, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    summary = run_ingest(media / "videos", workspace, IngestOptions(), engine=Engine(workers=2))
    files = [file for file in (media / "videos").iterdir() if file.is_file()]
    rows = videos_of(workspace)
    assert len(rows) == len(files) == 45
    assert summary.statuses == {"ok": 36, "no_face": 5, "unreadable": 2, "empty": 1, "no_video": 1}
    assert all(row.reason for row in rows.values() if row.status != "ok")
    faceless = ("mpsamples_hand_noface.mp4", "pyfeat_no_face.mp4", "facenet_crowd.mp4")
    assert {rows[name].status for name in faceless} == {"no_face"}
    assert 60 <= rows["pyfeat_face_noface.mov"].num_crops <= 75  # the face is there for about 72 of 169 frames
    assert rows["derived_leaves_frame.mp4"].num_clips == 2
