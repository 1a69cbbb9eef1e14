"""`mbert predict` end to end, the most dangerous first: results of another video, of other options, of half a run."""

import base64
import csv
import dataclasses
import hashlib
import html
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pandas as pd
import pympi
import pytest
import torch
import webvtt
from praatio import textgrid
from typer.testing import CliRunner

import mbert
from mbert import ConfigError, ManifestError, ModelError
from mbert.cli import app
from mbert.manifests.files import read_json
from mbert.manifests.predictions import RESEARCH_ONLY
from mbert.manifests.regions import PARTS, REGIONS
from mbert.manifests.schema import ClipRow, TruthRow, VideoRow
from mbert.manifests.store import read_rows, write_rows
from mbert.manifests.workspace import Workspace
from mbert.model.network.classifier import Classifier, ClassifierConfig
from mbert.model.network.config import PRESETS
from mbert.model.network.features import num_features
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.finetune import FinetuneConfig, run_finetune
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthetic.nuisance import Nuisance
from mbert.pipeline.synthetic.synthesize import TRUTH_NAME, SynthesisOptions, synthesize
from mbert.prediction.run import run_predict
from mbert.shards.engine import IN_PROCESS

EXPRESSIONS = SynthesisOptions(
    prototypes=True,
    subjects_per_photo=1,
    clips_per_emotion=1,
    neutral_clips=1,
    fps=60,
    min_seconds=0.9,
    max_seconds=0.9,
    min_phase_ms=150,
    max_phase_ms=200,
    min_amplitude_px=2.5,
    max_amplitude_px=3.0,
    nuisance=Nuisance(crf=12, tone=0, blinks=0),
)
TABLES = ("frames.csv", "frames.parquet", "events.csv", "events.parquet", "challenge.csv")
PROMISED = {*TABLES, "events.eaf", "events.TextGrid", "events.vtt", "overlay.mp4", "report.html", "summary.json"}


def ffmpeg(*words):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, words)], check=True)


def encode(path, frames, *, fps=30, **options):
    """Write RGB frames as a video of any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    options = {"pix_fmt": "yuv420p", "crf": 12, **options}
    words = ["-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
    words += ["-i", "pipe:", *(word for name, value in options.items() for word in (f"-{name}", str(value)))]
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, *words, f"file:{path}"], input=np.stack(frames).tobytes(), check=True)
    return path


def write_images(folder, frames, numbers=None):
    """A frame folder; `numbers` of its images, 0, 1, ... unless said otherwise."""
    folder.mkdir(parents=True)
    for number, frame in zip(numbers or range(len(frames)), frames, strict=True):
        cv2.imwrite(str(folder / f"{number:04d}.png"), frame[:, :, ::-1])
    return folder


def varied(data, number):
    """Another file of the same frames: MP4 allows free space at its end."""
    return data + (8 + number).to_bytes(4, "big") + b"free" + bytes(number)


def pictures(path):
    with av.open(str(path)) as file:
        return [picture.to_ndarray(format="rgb24") for picture in file.decode(video=0)]


def picture_times(path):
    with av.open(str(path)) as file:
        return [float(picture.pts * picture.time_base) for picture in file.decode(video=0)]


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder):
    """Path -> hash of every file, but for what people do not see."""
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {str(file): sha256(folder / file) for file in files if not any(part[0] == "." for part in file.parts)}


def times_of(folder):
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


class IndexPage(HTMLParser):
    """The rows of the page of a folder."""

    def __init__(self, text):
        super().__init__()
        self.rows, self._field = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "tr":
            self.rows.append({"class": found.get("class") or "", "name": "", "reason": "", "link": None})
        elif tag == "th" and found.get("scope") == "row":
            self._field = "name"
        elif tag == "a" and self._field == "name":
            self.rows[-1]["link"] = unquote(found["href"], errors="surrogateescape")
        elif tag == "small":
            self._field = "reason"

    def handle_endtag(self, tag):
        if tag in ("th", "small"):
            self._field = None

    def handle_data(self, data):
        if self._field:
            self.rows[-1][self._field] += data


def index_rows(path):
    return [row for row in IndexPage(path.read_text(encoding="utf-8")).rows if row["name"]]


def predict(path, out, **options):
    """`mbert predict` in this process, also of several videos."""
    options = {"overlay": False, **options}
    return run_predict(Path(path), Path(out), engine=IN_PROCESS, command="mbert predict", **options)


@pytest.fixture(scope="module")
def steady(face):
    """24 frames of 320 x 240, a face of 105 px in them that is carried to and fro."""
    portrait = np.ascontiguousarray(face[:240, 64:384])
    return [np.roll(portrait, index % 3, axis=1) for index in range(24)]


@pytest.fixture(scope="module")
def clips(steady, tmp_path_factory):
    """Tiny inputs. Read only."""
    folder = tmp_path_factory.mktemp("predict") / "clips"
    encode(folder / "plain.mp4", steady)
    encode(folder / "other.mp4", [np.roll(frame, 5, axis=0) for frame in steady[:17]])
    encode(folder / "two.mp4", [np.concatenate([frame, frame[:, ::-1]], axis=1) for frame in steady[:12]])
    encode(folder / "short.mp4", steady[:8])
    write_images(folder / "take", steady[:12])
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    return folder


@pytest.fixture(scope="module")
def acted(tmp_path_factory):
    """The folder of a person's clips, three with an expression and one without, and their truth by name. Read only."""
    folder = tmp_path_factory.mktemp("predict") / "acted"
    synthesize(folder, EXPRESSIONS)
    return folder, {Path(row.path).stem.split("_")[0]: row for row in read_rows(folder / TRUTH_NAME, TruthRow)}


@pytest.fixture(scope="module")
def surprise(acted):
    """The clip in which brows and lids go up, and its truth."""
    folder, truth = acted
    return folder / truth["surprise"].path, truth["surprise"]


# What must never happen: the results of another video, or of other options


@pytest.fixture
def named_alike(clips, tmp_path):
    """`clip.mp4` in the folders a, b (another video) and c (a text)."""
    for folder, name in (("a", "plain.mp4"), ("b", "other.mp4"), ("c", "text.mp4")):
        (tmp_path / folder).mkdir()
        shutil.copy(clips / name, tmp_path / folder / "clip.mp4")
    return tmp_path


def test_each_of_two_videos_of_one_name_keeps_its_results(named_alike, tmp_path):
    out = tmp_path / "out"
    for folder, name, num_frames, num_new in (("a", "clip", 24, 1), ("b", "clip_2", 17, 1), ("a", "clip", 24, 0)):
        video = tmp_path / folder / "clip.mp4"
        run = mbert.predict(video, out=out)
        assert (run.num_new, run.num_frames, run.failures) == (num_new, num_frames, {})
        summary = read_json(out / name / "summary.json")
        assert (summary["sha256"], summary["num_frames"]) == (sha256(video), num_frames)
        assert len(table(out / name / "frames.csv")) == len(pictures(out / name / "overlay.mp4")) == num_frames
        assert f"/{folder}/clip.mp4" in (out / name / "events.eaf").read_text()
        assert f"../../{folder}/clip.mp4" in (out / name / "report.html").read_text()


def test_no_overlay_of_another_video_stays(named_alike, tmp_path):
    mbert.predict(tmp_path / "a" / "clip.mp4", out=tmp_path / "out")
    shutil.copy(tmp_path / "b" / "clip.mp4", tmp_path / "a" / "clip.mp4")
    mbert.predict(tmp_path / "a" / "clip.mp4", out=tmp_path / "out", overlay=False)
    assert (tmp_path / "out" / "clip" / "summary.json").exists()
    assert not (tmp_path / "out" / "clip" / "overlay.mp4").exists()


def test_a_video_that_cannot_be_read_has_no_results_of_another(named_alike, tmp_path):
    predict(tmp_path / "a" / "clip.mp4", tmp_path / "out")
    shutil.copy(tmp_path / "c" / "clip.mp4", tmp_path / "a" / "clip.mp4")
    run = predict(tmp_path / "a" / "clip.mp4", tmp_path / "out")
    assert (run.num_new, run.folders, run.page) == (0, {}, None)
    assert "cannot be opened as a video" in run.failures["clip.mp4"]
    assert not (tmp_path / "out" / "clip" / "report.html").exists()
    assert not (tmp_path / "out" / "clip" / "summary.json").exists()


@pytest.mark.parametrize(
    ("name", "option", "told"),
    [
        ("two.mp4", {"faces": 1}, lambda rows, summary: {row["face_id"] for row in rows} == {"0"}),
        ("take", {"fps": 60.0}, lambda rows, summary: rows[-1]["timestamp"] == "0.183333"),
        (
            "short.mp4",
            {"decoder": "ffmpeg"},
            lambda rows, summary: summary["settings"]["ingest"]["decoder"] == "ffmpeg",
        ),
    ],
    ids=["faces", "fps", "decoder"],
)
def test_another_option_is_not_answered_with_the_results_of_before(name, option, told, clips, tmp_path):
    before = mbert.predict(clips / name, out=tmp_path, overlay=False)
    after = mbert.predict(clips / name, out=tmp_path, overlay=False, **option)
    assert before.num_new == after.num_new == 1
    (folder,) = after.folders.values()
    assert told(table(Path(folder) / "frames.csv"), read_json(Path(folder) / "summary.json"))


def test_a_changed_video_is_predicted_again_and_the_others_are_not(clips, tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for name in ("x", "y"):
        (videos / f"{name}.mp4").write_bytes(varied((clips / "short.mp4").read_bytes(), ord(name)))
    original = (videos / "y.mp4").read_bytes()
    assert predict(videos, out).num_new == 2
    before = times_of(out / "x")
    for content, num_frames, reason in (
        ((clips / "other.mp4").read_bytes(), 17, None),
        (b"no video" * 100, None, "cannot be opened"),
        (original, 8, None),
    ):
        (videos / "y.mp4").write_bytes(content)
        run = predict(videos, out)
        assert (run.num_new, list(run.failures)) == ((0, ["y.mp4"]) if reason else (1, []))
        if num_frames:
            assert len(table(out / "y" / "frames.csv")) == num_frames
            assert read_json(out / "y" / "summary.json")["sha256"] == sha256(videos / "y.mp4")
        else:
            assert reason in run.failures["y.mp4"] and "y.mp4" not in run.folders
        (row,) = [row for row in index_rows(out / "index.html") if row["name"] == "y.mp4"]
        assert (row["link"] is None, "failed" in row["class"]) == (bool(reason), bool(reason))
        assert times_of(out / "x") == before
    assert predict(videos, out).num_new == 0


def test_no_two_videos_share_a_folder(clips, tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    names = ["x.mp4", "x.mkv", "x_mp4.mov", "a.b.mp4", "a.b.mov", "a_b.mp4", "a_b.mov", "index.html.mp4"]
    videos.mkdir()
    for number, name in enumerate(names):
        (videos / name).write_bytes(varied((clips / "short.mp4").read_bytes(), number))
    run = predict(videos, out)
    assert sorted(run.folders) == sorted(names)
    assert len(set(run.folders.values())) == len(names)
    told = {name: read_json(Path(folder) / "summary.json") for name, folder in run.folders.items()}
    assert {name: (value["video"], value["sha256"]) for name, value in told.items()} == {
        name: (name, sha256(videos / name)) for name in names
    }
    assert {row["name"]: row["link"] is not None for row in index_rows(out / "index.html")} == dict.fromkeys(
        names, True
    )


def test_two_frame_folders_have_a_folder_each(clips, steady, tmp_path):
    write_images(tmp_path / "second", steady[:9])
    runs = [predict(folder, tmp_path / "out") for folder in (clips / "take", tmp_path / "second")]
    assert [list(run.folders.values()) for run in runs] == [
        [str(tmp_path / "out" / "take")],
        [str(tmp_path / "out" / "second")],
    ]
    for name, num_frames in (("take", 12), ("second", 9)):
        assert len(table(tmp_path / "out" / name / "frames.csv")) == num_frames
        assert name in (tmp_path / "out" / name / "report.html").read_text()


@pytest.mark.parametrize("name", ["..mp4", "...mp4", ".hidden.mp4", ".mp4"])
def test_a_name_of_dots_stays_within_the_folder_of_results(name, clips, tmp_path):
    shutil.copy(clips / "short.mp4", tmp_path / name)
    run = predict(tmp_path / name, tmp_path / "out" / "results")
    (folder,) = run.folders.values()
    assert Path(folder).resolve().parent == tmp_path / "out" / "results"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["results"]


def test_results_within_the_videos_are_no_videos(clips, tmp_path):
    for name in ("plain", "short"):
        shutil.copy(clips / f"{name}.mp4", tmp_path / f"{name}.mp4")
    first = predict(tmp_path, tmp_path / "predictions", overlay=True)
    second = predict(tmp_path, tmp_path / "predictions", overlay=True)
    assert (first.num_videos, first.num_new) == (2, 2)
    assert (second.num_videos, second.num_new) == (2, 0)


def test_two_runs_do_not_write_into_one_folder(named_alike, tmp_path):
    met = []

    def meet(num_videos, num_frames):
        with pytest.raises(ManifestError, match="another mbert command is at work") as found:
            mbert.predict(tmp_path / "b" / "clip.mp4", out=tmp_path / "out", overlay=False)
        met.append(found)

    mbert.predict(tmp_path / "a" / "clip.mp4", out=tmp_path / "out", overlay=False, on_plan=meet)
    assert len(met) == 1
    assert read_json(tmp_path / "out" / "clip" / "summary.json")["num_frames"] == 24


def write_motion_model(folder, seed):
    torch.manual_seed(seed)
    config = PretrainConfig().model_config("tiny")
    MicronBert(config).save_pretrained(folder)
    return folder


def write_classifier(folder, emotion):
    """A classifier that says the same of everything."""
    torch.manual_seed(0)
    backbone = MicronBert(PRESETS["tiny"])
    config = ClassifierConfig(
        classes=("joy", "fear"), num_features=num_features(backbone.config, ("change",)), image_size=112
    )
    model = Classifier(backbone, config)
    with torch.no_grad():
        model.head[-1].bias[config.classes.index(emotion)] = 9.0
    model.save(folder, None)
    return folder


def test_a_model_that_has_changed_since_gives_new_results(clips, tmp_path):
    told = []
    for seed in (0, 1):
        model = write_motion_model(tmp_path / "model", seed)
        run = mbert.predict(clips / "short.mp4", out=tmp_path / "out", overlay=False, model=model)
        told.append((run.num_new, read_json(tmp_path / "out" / "short" / "summary.json")["model"]["sha256"]))
    assert [new for new, _ in told] == [1, 1]
    assert told[0] != told[1]


def test_a_classifier_that_has_changed_since_names_other_emotions(surprise, tmp_path):
    told = []
    for emotion in ("joy", "fear"):
        classifier = write_classifier(tmp_path / "classifier", emotion)
        run = mbert.predict(surprise[0], out=tmp_path / "out", overlay=False, classifier=classifier)
        (folder,) = run.folders.values()
        told.append({row["emotion"] for row in table(Path(folder) / "events.csv") if row["type"] != "blink"})
    assert told == [{"joy"}, {"fear"}]


def test_an_input_whose_process_died_is_tried_again_with_overwrite(clips, tmp_path):
    predict(clips / "short.mp4", tmp_path)
    (folder,) = (tmp_path / ".crops").iterdir()
    workspace = Workspace(folder)
    (row,) = read_rows(workspace.videos, VideoRow)
    lost = dataclasses.replace(row, status="crashed", reason="the process died twice", sha256=None, num_crops=0)
    write_rows(workspace.videos, VideoRow, [lost])
    write_rows(workspace.clips, ClipRow, [])
    assert predict(clips / "short.mp4", tmp_path).failures == {"short.mp4": "the process died twice"}
    run = predict(clips / "short.mp4", tmp_path, overwrite=True)
    assert (run.num_new, run.failures) == (1, {})


# What was seen is what is written: faces, times, cuts


def test_two_faces_keep_their_own_curves(surprise, known, acted, tmp_path):
    """At the left somebody shows surprise, at the right somebody does nothing."""
    folder, truth = acted
    still = pictures(folder / truth["neutral"].path)
    both = [np.concatenate([a, b[:, ::-1]], axis=1) for a, b in zip(pictures(surprise[0]), still, strict=True)]
    run = predict(encode(tmp_path / "both.mp4", both, fps=60), tmp_path / "out")
    rows = table(tmp_path / "out" / "both" / "frames.csv")
    assert [(row["frame"], row["face_id"]) for row in rows] == [(str(i), face) for i in range(54) for face in "01"]
    at_left = {row["face_id"] for row in rows if float(row["x"]) + float(row["w"]) < 320}
    at_right = {row["face_id"] for row in rows if float(row["x"]) > 320}
    assert len(at_left) == len(at_right) == 1 and at_left != at_right
    (left,), (right,) = at_left, at_right
    curves = {face: np.array([float(row["brow_inner_l"]) for row in rows if row["face_id"] == face]) for face in "01"}
    alone = np.array([float(row["brow_inner_l"]) for row in table(known / "frames.csv")])
    assert np.corrcoef(curves[left], alone)[0, 1] > 0.95
    assert curves[right].max() < 0.2 * curves[left].max()
    events = table(tmp_path / "out" / "both" / "events.csv")
    assert {row["face_id"] for row in events} == {left}
    assert {row["part"] for row in events} == {row["part"] for row in table(known / "events.csv")}
    summary = read_json(tmp_path / "out" / "both" / "summary.json")
    assert [face["num_frames"] for face in summary["faces"]] == [54, 54]
    assert run.counts == summary["counts"]


def test_a_face_that_leaves_and_comes_back_leaves_a_gap_of_rows(steady, tmp_path):
    blank = [np.full_like(steady[0], 90)] * 30
    encode(tmp_path / "leaves.mp4", [*steady[:20], *blank, *steady[:20]])
    predict(tmp_path / "leaves.mp4", tmp_path / "out")
    rows = table(tmp_path / "out" / "leaves" / "frames.csv")
    assert [int(row["frame"]) for row in rows] == list(range(70))
    assert [float(row["timestamp"]) for row in rows] == pytest.approx([i / 30 for i in range(70)], abs=1e-6)
    away = [int(row["frame"]) for row in rows if row["success"] == "0"]
    assert away == list(range(away[0], away[-1] + 1))
    assert 14 <= away[0] <= 20 and 49 <= away[-1] <= 56  # landmarks are looked for some times a second
    for row in rows:
        if row["success"] == "0":
            assert row["face_id"] == "-1"
            told = {name for name, value in row.items() if value}
            assert told == {"frame", "timestamp", "face_id", "success"}
        else:
            assert row["face_id"] != "-1" and row["movement"]


def test_no_event_lies_across_a_cut(surprise, acted, tmp_path):
    """Before the cut brows go up and stay there, after it another picture of a face stays as it is."""
    folder, truth = acted
    up = pictures(surprise[0])[: surprise[1].apex]
    still = [np.ascontiguousarray(frame[:, ::-1]) for frame in pictures(folder / truth["neutral"].path)]
    encode(tmp_path / "cut.mp4", [*up, *still], fps=60)
    predict(tmp_path / "cut.mp4", tmp_path / "out")
    rows = table(tmp_path / "out" / "cut" / "frames.csv")
    assert [int(row["frame"]) for row in rows] == list(range(len(up) + len(still)))
    cut = len(up)
    faces = {row["face_id"]: [int(each["frame"]) for each in rows if each["face_id"] == row["face_id"]] for row in rows}
    assert not [face for face, frames in faces.items() if face != "-1" and frames[0] < cut <= frames[-1]]
    for event in table(tmp_path / "out" / "cut" / "events.csv"):
        assert not int(event["onset_frame"]) <= cut <= int(event["offset_frame"])


# Every promised file, of a video in which a known expression was drawn


@pytest.fixture(scope="module")
def printed(surprise, tmp_path_factory):
    """What the command line prints with --json, and its folder."""
    out = tmp_path_factory.mktemp("predict") / "known"
    done = CliRunner().invoke(app, ["predict", str(surprise[0]), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def known(printed):
    """The results of the surprise. Read only."""
    (folder,) = json.loads(printed)["folders"].values()
    return Path(folder)


def test_one_object_is_printed(printed, surprise):
    run = json.loads(printed)
    assert (run["num_videos"], run["num_new"], run["num_frames"], run["failures"]) == (1, 1, 54, {})
    assert list(run["folders"]) == [surprise[0].name]
    assert Path(run["page"]).is_file()


def test_every_promised_file_is_there_and_no_other(known):
    assert {file.name for file in known.iterdir()} == PROMISED
    assert set(read_json(known / "summary.json")["outputs"]) == PROMISED - {"summary.json"}
    assert len(pictures(known / "overlay.mp4")) == 54


def test_every_frame_has_a_row_with_its_time(known, surprise):
    rows = table(known / "frames.csv")
    assert [int(row["frame"]) for row in rows] == list(range(54))
    assert [float(row["timestamp"]) for row in rows] == pytest.approx(picture_times(surprise[0]), abs=1e-6)
    assert all(row["face_id"] == "0" and row["success"] == "1" and row["movement"] for row in rows)


def test_pandas_reads_the_tables_and_parquet_says_the_same(known):
    for name in ("frames", "events"):
        found = pd.read_csv(known / f"{name}.csv")
        exact = pd.read_parquet(known / f"{name}.parquet")
        assert list(found.columns) == list(exact.columns)
        assert len(found) == len(exact) > 0
        for column in exact.columns:
            if exact[column].isna().all():
                assert found[column].isna().all()
            elif pd.api.types.is_float_dtype(exact[column]):
                np.testing.assert_allclose(found[column], exact[column], rtol=1e-5, atol=1e-6)
            else:
                assert found[column].tolist() == exact[column].tolist()
    frames = pd.read_csv(known / "frames.csv")
    np.testing.assert_allclose(frames["movement"], frames[list(REGIONS)].max(axis=1), rtol=1e-5)


def test_the_expression_is_found_where_it_was_drawn(known, surprise):
    truth = surprise[1]
    events = table(known / "events.csv")
    assert [int(event["event"]) for event in events] == list(range(1, len(events) + 1))
    (brows,) = [event for event in events if event["part"] == "brows"]
    assert (brows["type"], brows["direction"], brows["flags"]) == ("micro", "up", "")
    assert set(brows["regions"].split()) <= set(PARTS["brows"])
    for name in ("onset", "apex", "offset"):
        frame = int(brows[f"{name}_frame"])
        assert abs(frame - getattr(truth, name)) <= 4  # 67 ms
        assert float(brows[f"{name}_s"]) == pytest.approx(frame / 60, abs=1e-6)
    spent = 1000 * (float(brows["offset_s"]) - float(brows["onset_s"]))
    assert float(brows["duration_ms"]) == pytest.approx(spent, abs=1e-2)
    assert float(brows["score"]) >= 1
    assert {like.split(":")[0] for like in brows["like"].split()} & {"1", "2"}
    assert not [event for event in events if event["part"] == "mouth"]


def test_the_summary_says_what_was_made_of_what_with_what(known, surprise):
    summary = read_json(known / "summary.json")
    video, _ = surprise
    assert (summary["video"], summary["sha256"]) == (video.name, sha256(video))
    assert (summary["width"], summary["height"], summary["num_frames"]) == (320, 320, 54)
    assert summary["fps"] == pytest.approx(60) and summary["fps_nominal"] == pytest.approx(60)
    assert summary["seconds"] == pytest.approx(53 / 60)
    assert summary["is_vfr"] is False
    assert summary["note"] == RESEARCH_ONLY
    assert {"mbert", "torch", "numpy", "av", "mediapipe"} <= summary["versions"].keys()
    assert re.fullmatch("[0-9a-f]{64}", summary["model"]["sha256"])
    assert summary["settings"]["per_minute"] == 1.0
    assert set(summary["settings"]["thresholds_px_per_100_ms"]) == set(PARTS)
    events = table(known / "events.csv")
    kinds = [event["type"] for event in events]
    assert {kind: summary["counts"][kind] for kind in ("micro", "macro", "blink", "speech")} == {
        kind: kinds.count(kind) for kind in ("micro", "macro", "blink", "speech")
    }
    assert "fps" not in {warning["kind"] for warning in summary["warnings"]}


def test_all_formats_carry_the_same_events(known):
    expected = sorted(
        (round(1000 * float(event["onset_s"])), round(1000 * float(event["offset_s"])), title(event))
        for event in table(known / "events.csv")
    )
    assert expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pympi knows versions up to 2.8 and 3.0, and says so
        elan = pympi.Eaf(str(known / "events.eaf"))
    tiers = [name for name in elan.get_tier_names() if re.fullmatch(r"face 0 (events|blinks|speech)( \d+)?", name)]
    assert sorted(each for tier in tiers for each in elan.get_annotation_data_for_tier(tier)) == expected
    grid = textgrid.openTextgrid(str(known / "events.TextGrid"), includeEmptyIntervals=False, reportingMode="error")
    found = [entry for tier in tiers for entry in grid.getTier(tier).entries if entry.label]
    assert sorted((round(1000 * each.start), round(1000 * each.end), each.label) for each in found) == expected
    cues = webvtt.read(known / "events.vtt").captions
    in_ms = [tuple(round(1000 * seconds) for seconds in (cue.start_in_seconds, cue.end_in_seconds)) for cue in cues]
    texts = [html.unescape(cue.text).removeprefix("face 0: ") for cue in cues]
    assert [text for *_, text in expected] == texts
    assert [(a // 1000, b // 1000) for a, b, _ in expected] == [(a // 1000, b // 1000) for a, b in in_ms]
    challenge = table(known / "challenge.csv")
    assert {row["type"] for row in challenge} == {"me"} and {row["vid"] for row in challenge} == {"surprise_1"}


def title(event):
    return f"{event['type']} {event['part']}" if event["type"] in ("micro", "macro") else event["type"]


def test_the_page_needs_no_server_and_names_the_video(known, surprise):
    text = (known / "report.html").read_text(encoding="utf-8")
    assert surprise[0].name in text
    assert not re.search(r"https?:", text)
    assert 'src="overlay.mp4"' in text


# Every kind of video


@pytest.fixture(scope="module")
def kinds(clips, steady, tmp_path_factory):
    """The results of a folder with a video of each kind, and that folder. Read only."""
    folder = tmp_path_factory.mktemp("predict") / "kinds"
    folder.mkdir()
    steady = steady[:15]
    plain = encode(folder.parent / "fifteen.mp4", steady)
    ffmpeg("-i", plain, "-c", "copy", "-output_ts_offset", "5.25", folder / "late.mkv")
    uneven = "select='not(mod(n,2))+gt(n,8)',setpts='PTS+gt(N,3)*0.2/TB'"
    ffmpeg("-i", plain, "-vf", uneven, "-fps_mode", "vfr", "-crf", "12", folder / "uneven.mp4")
    lying = encode(folder / "lying.mp4", [np.ascontiguousarray(np.rot90(frame, -1)) for frame in steady])
    ffmpeg("-display_rotation", "90", "-i", lying, "-c", "copy", folder / "rotated.mp4")
    lying.unlink()
    ffmpeg("-i", plain, folder / "moving.gif")
    encode(folder / "fast.mp4", [*steady, *steady], fps=200)
    large = [cv2.resize(frame, (3840, 2160)) for frame in steady[:4]]
    encode(folder / "4k.mp4", large, preset="ultrafast")
    encode(folder / "small.mp4", [cv2.resize(frame, (256, 192), interpolation=cv2.INTER_AREA) for frame in steady])
    (folder / "truncated.ts").write_bytes(_stream_of(plain)[:-3000])
    write_images(folder / "take", steady[:12], [*range(6), *range(10, 16)])
    run = predict(folder, folder.parent / "results", overlay=True, embed_video=True)
    return run, folder


def _stream_of(video):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", video, "-c", "copy", "-f", "mpegts", "pipe:"]
    return subprocess.run(command, check=True, capture_output=True).stdout


KINDS = ["late.mkv", "uneven.mp4", "rotated.mp4", "moving.gif", "fast.mp4", "4k.mp4", "small.mp4", "truncated.ts"]


def results(kinds, name):
    folder = Path(kinds[0].folders[name])
    return folder, table(folder / "frames.csv"), read_json(folder / "summary.json")


def test_every_kind_has_its_results(kinds):
    run, _ = kinds
    assert (run.failures, sorted(run.folders)) == ({}, sorted([*KINDS, "take"]))
    for folder in run.folders.values():
        assert {file.name for file in Path(folder).iterdir()} == PROMISED


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_every_frame_at_its_time(name, kinds):
    folder, rows, summary = results(kinds, name)
    expected = picture_times(kinds[1] / name)
    assert [int(row["frame"]) for row in rows] == list(range(len(expected)))
    assert [float(row["timestamp"]) for row in rows] == pytest.approx(expected, abs=1e-6)
    assert {row["face_id"] for row in rows} == {"0"}
    assert summary["num_frames"] == len(expected) == len(pictures(folder / "overlay.mp4"))
    assert picture_times(folder / "overlay.mp4") == pytest.approx(expected, abs=1e-3)


def test_the_first_time_need_not_be_zero(kinds):
    folder, rows, summary = results(kinds, "late.mkv")
    assert float(rows[0]["timestamp"]) == 5.25
    assert summary["faces"][0]["first_s"] == 5.25
    grid = textgrid.openTextgrid(str(folder / "events.TextGrid"), includeEmptyIntervals=True, reportingMode="error")
    assert grid.maxTimestamp >= float(rows[-1]["timestamp"])


def test_an_uneven_rate_is_told(kinds):
    told = {name: results(kinds, name)[2] for name in KINDS}
    even = {"late.mkv", "rotated.mp4", "fast.mp4", "4k.mp4", "small.mp4"}
    assert [told["uneven.mp4"]["is_vfr"], *(told[name]["is_vfr"] for name in even)] == [True] + 5 * [False]
    assert told["fast.mp4"]["fps"] == pytest.approx(200)


def test_warnings_name_slow_videos_and_small_faces(kinds):
    told = {name: {warning["kind"] for warning in results(kinds, name)[2]["warnings"]} for name in KINDS}
    assert {name for name in KINDS if "fps" in told[name]} == set(KINDS) - {"fast.mp4"}
    assert {name for name in KINDS if "face_size" in told[name]} == {"small.mp4"}


def test_boxes_lie_in_the_upright_video(kinds, face):
    for name, scale in (("rotated.mp4", 1.0), ("fast.mp4", 1.0), ("4k.mp4", 10.4), ("small.mp4", 0.8)):
        _, rows, summary = results(kinds, name)
        assert (summary["width"] > summary["height"]) is True
        box = [float(rows[0][side]) / scale for side in "xywh"]
        tolerance = 30 if name == "4k.mp4" else 6  # it is stretched to 16:9
        assert box == pytest.approx([107, 64, 105, 105], abs=tolerance)


def test_a_frame_folder_keeps_its_numbers_and_its_gap(kinds):
    _, rows, summary = results(kinds, "take")
    numbers = [*range(6), *range(10, 16)]
    assert [int(row["frame"]) for row in rows] == numbers
    assert [float(row["timestamp"]) for row in rows] == pytest.approx([number / 30 for number in numbers], abs=1e-6)
    assert summary["num_frames"] == 12


def test_a_page_can_carry_its_video(kinds, tmp_path):
    for name in (*KINDS, "take"):
        folder, rows, _ = results(kinds, name)
        (found,) = re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", (folder / "report.html").read_text())
        (tmp_path / "embedded.mp4").write_bytes(base64.b64decode(found))
        frames = pictures(tmp_path / "embedded.mp4")
        assert len(frames) == len(rows)
        assert max(frames[0].shape[:2]) <= 480


@pytest.mark.parametrize("name", ["plain.mp4", "take"])
def test_without_an_overlay_the_page_carries_the_original(name, clips, tmp_path):
    run = mbert.predict(clips / name, out=tmp_path, overlay=False, embed_video=True)
    (folder,) = run.folders.values()
    assert {file.name for file in Path(folder).iterdir() if not file.name.startswith(".")} >= PROMISED - {"overlay.mp4"}
    assert not (Path(folder) / "overlay.mp4").exists()
    assert "data:video/mp4;base64," in (Path(folder) / "report.html").read_text()


@pytest.mark.parametrize(
    ("numbers", "fps"),
    [(range(6), 1.0), ([*range(8), 100], 30.0), ([0, *range(60, 68)], 30.0)],
    ids=["one-frame-a-second", "last-frame-alone", "first-frame-alone"],
)
def test_a_frame_without_neighbours_has_a_row_and_no_movement(numbers, fps, steady, tmp_path):
    write_images(tmp_path / "take", steady[: len(numbers)], numbers)
    run = mbert.predict(tmp_path / "take", out=tmp_path / "out", overlay=False, fps=fps)
    (folder,) = run.folders.values()
    rows = table(Path(folder) / "frames.csv")
    assert [int(row["frame"]) for row in rows] == list(numbers)
    assert [float(row["timestamp"]) for row in rows] == pytest.approx([number / fps for number in numbers], abs=1e-6)


REAL = {
    "pyfeat_single_face.mp4": 72,
    "media3_sample_rotate_and_reflect.mp4": 30,
    "intel_headpose_female.gif": 23,
    "media3_sample_audio_only.mp4": "no video stream",
    "derived_truncated_no_moov.mp4": "cannot be opened",
}


def test_real_clips_give_every_frame_and_a_blink_that_is_annotated(media, tmp_path):
    (tmp_path / "clips").mkdir()
    for name in REAL:
        (tmp_path / "clips" / name).symlink_to(media / "videos" / name)
    run = predict(tmp_path / "clips", tmp_path / "out")
    assert sorted(run.folders) == sorted(name for name, told in REAL.items() if isinstance(told, int))
    for name, told in REAL.items():
        if isinstance(told, str):
            assert told in run.failures[name]
        else:
            rows = table(Path(run.folders[name]) / "frames.csv")
            assert sorted({int(row["frame"]) for row in rows}) == list(range(told))
            assert sum(row["success"] == "1" for row in rows) > 0.8 * told
    events = table(tmp_path / "out" / "pyfeat_single_face" / "events.csv")
    assert [int(event["apex_frame"]) for event in events if event["type"] == "blink"] == [pytest.approx(27, abs=2)]


# Whatever lies in a folder


BAD = {
    "bad/empty.mp4": "no bytes",
    "bad/text.mp4": "cannot be opened as a video",
    "bad/truncated.mp4": "cannot be opened as a video",
    "bad/sound.mp4": "no video stream",
    "bad/no_face.mp4": "no face track",
    "bad/one_frame.mp4": "one frame",
    "bad/nothing": "no numbered image",
    "bad/pipe.mp4": "not a regular file",
    "bad/circle.mp4": "symbolic links",
}
AWKWARD = [
    "a b.mp4", "日本語 ü.mp4", 'it\'s "quoted".mp4', "new\nline.mp4", "-rf.mp4", "50%d.mp4", "=1+1.mp4", "&amp;.mp4",
    "<script>alert(1)<", "a#b?c.mp4", f"{'long' * 50}.mp4", "x.mp4", "x.avi", "one/same.mp4", "two/same.mp4",
]  # fmt: skip
SCRIPT = "<script>alert(1)</script>.mp4"  # a video `script>.mp4` in a folder `<script>alert(1)<`
NUM_GOOD = 36


@pytest.fixture(scope="module")
def mixed(clips, steady, tmp_path_factory):
    """A folder of 36 good videos, some with awkward names, and 9 bad ones. Read only."""
    folder = tmp_path_factory.mktemp("predict") / "mixed"
    data = encode(folder.parent / "five.mp4", steady[:5]).read_bytes()
    names = [SCRIPT if name.startswith("<script>") else name for name in AWKWARD]
    names += [f"take{number:02d}.mp4" for number in range(NUM_GOOD - len(names))]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(varied(data, number))
    bad = folder / "bad"
    (bad / "nothing").mkdir(parents=True)
    (bad / "empty.mp4").touch()
    (bad / "text.mp4").write_text("this is no video\n" * 100)
    (bad / "truncated.mp4").write_bytes(data[: len(data) * 6 // 10])
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", bad / "sound.mp4")
    encode(bad / "no_face.mp4", [np.full_like(steady[0], 90)] * 6)
    encode(bad / "one_frame.mp4", steady[:1])
    os.mkfifo(bad / "pipe.mp4")
    (bad / "circle.mp4").symlink_to(bad / "circle.mp4")
    return folder


@pytest.fixture(scope="module")
def predicted(mixed):
    """What became of them, and the folder of results. Read only."""
    out = mixed.parent / "mixed out"
    return predict(mixed, out), out


def test_a_folder_gives_results_or_a_reason_for_each_input(predicted):
    run, _ = predicted
    assert (run.num_videos, run.num_new, len(run.folders)) == (45, NUM_GOOD, NUM_GOOD)
    assert run.failures.keys() == BAD.keys()
    assert [name for name, reason in run.failures.items() if BAD[name] not in reason] == []
    assert len(set(run.folders.values())) == NUM_GOOD
    for folder in run.folders.values():
        found = {file.name for file in Path(folder).iterdir() if file.is_file()}
        assert found == PROMISED - {"overlay.mp4"}


def test_the_page_of_a_folder_has_a_row_for_each_input(predicted, mixed):
    rows = {row["name"]: row for row in index_rows(predicted[1] / "index.html")}
    assert len(rows) == 45
    assert {name for name, row in rows.items() if row["reason"]} == BAD.keys()
    assert [name for name, reason in BAD.items() if reason not in rows[name]["reason"]] == []
    assert {name for name, row in rows.items() if row["link"] is None} == BAD.keys()
    pages = [(predicted[1] / row["link"]).resolve() for row in rows.values() if row["link"]]
    assert len(set(pages)) == NUM_GOOD
    assert all(page.is_file() and page.is_relative_to(predicted[1].resolve()) for page in pages)
    assert "<script>alert" not in (predicted[1] / "index.html").read_text()


def test_each_row_leads_to_its_own_video(predicted, mixed):
    for row in index_rows(predicted[1] / "index.html"):
        if row["link"]:
            summary = read_json((predicted[1] / row["link"]).parent / "summary.json")
            assert (summary["video"], summary["sha256"]) == (row["name"], sha256(mixed / row["name"]))
            assert summary["num_frames"] == 5


def test_a_video_gives_the_same_bytes_alone_and_among_others(predicted, mixed, tmp_path):
    predict(mixed / "take20.mp4", tmp_path)
    for name in (*TABLES, "events.TextGrid", "events.vtt"):
        assert sha256(tmp_path / "take20" / name) == sha256(predicted[1] / "take20" / name)


def test_the_same_command_again_makes_nothing_new(predicted, mixed):
    out = predicted[1]
    before = {name: time for name, time in times_of(out).items() if ".lock" not in name and name != "index.html"}
    run = predict(mixed, out)
    assert (run.num_videos, run.num_new, len(run.folders), len(run.failures)) == (45, 0, NUM_GOOD, 9)
    after = times_of(out)
    kept = {name: after.get(name) for name in before if not re.search(r"corpus/[a-z]+\.(json|parquet)$", name)}
    assert kept == {name: before[name] for name in kept}
    assert len(index_rows(out / "index.html")) == 45


def test_somebody_elses_labels_are_left_alone(clips, tmp_path):
    (tmp_path / "videos").mkdir()
    shutil.copy(clips / "short.mp4", tmp_path / "videos")
    (tmp_path / "videos" / "labels.csv").write_text("name;mood\nshort;good\n")
    assert predict(tmp_path / "videos", tmp_path / "out").failures == {}


def test_a_name_in_another_encoding_is_no_fault(clips, invoke, tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    try:
        shutil.copy(clips / "short.mp4", tmp_path / name)
    except OSError:
        pytest.skip("this file system holds UTF-8 alone")
    done = invoke("predict", name, "--out", "out", "--embed-video", "--json", cwd=tmp_path)
    assert (done.returncode, list(json.loads(done.stdout)["folders"])) == (0, ["caf%E9.mp4"])
    assert "caf" in read_json(tmp_path / "out" / "caf%E9" / "summary.json")["command"]


def test_a_video_alone_that_shows_no_face_is_a_failure(mixed, invoke, tmp_path):
    done = invoke("predict", str(mixed / "bad" / "no_face.mp4"), "--out", "out", cwd=tmp_path)
    assert "no_face.mp4: no face track in 6 frames" in done.stdout
    assert done.returncode == 1


def test_a_folder_without_any_face_has_a_page_with_reasons(mixed, tmp_path):
    for name in ("no_face.mp4", "one_frame.mp4"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        shutil.copy(mixed / "bad" / name, tmp_path / "videos")
    run = predict(tmp_path / "videos", tmp_path / "out")
    assert (run.num_videos, run.num_new, run.folders, len(run.failures)) == (2, 0, {}, 2)
    assert [bool(row["reason"]) for row in index_rows(Path(run.page))] == [True, True]


def test_a_folder_with_one_video_that_fails_has_a_page_too(mixed, tmp_path):
    (tmp_path / "videos").mkdir()
    shutil.copy(mixed / "bad" / "no_face.mp4", tmp_path / "videos")
    predict(tmp_path / "videos", tmp_path / "out")
    assert ["no face track" in row["reason"] for row in index_rows(tmp_path / "out" / "index.html")] == [True]


def test_a_video_that_vanishes_in_the_middle_costs_itself_alone(clips, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number, name in enumerate(("gone", "stays")):
        (videos / f"{name}.mp4").write_bytes(varied((clips / "short.mp4").read_bytes(), number))

    def take_away(num_videos, num_frames):
        (videos / "gone.mp4").unlink()

    run = predict(videos, tmp_path / "out", overlay=True, on_plan=take_away)
    assert (run.num_new, list(run.folders), list(run.failures)) == (1, ["stays.mp4"], ["gone.mp4"])
    assert "No such file" in run.failures["gone.mp4"]
    rows = {row["name"]: row for row in index_rows(tmp_path / "out" / "index.html")}
    assert (rows["gone.mp4"]["link"], rows["stays.mp4"]["reason"]) == (None, "")
    assert "No such file" in rows["gone.mp4"]["reason"]


# Again, with other options


def test_overwrite_makes_the_same_bytes_again(surprise, tmp_path):
    first = mbert.predict(surprise[0], out=tmp_path, overlay=False)
    before, times = digests(tmp_path), times_of(tmp_path / "surprise_1")
    again = mbert.predict(surprise[0], out=tmp_path, overlay=False, overwrite=True)
    assert first.num_new == again.num_new == 1
    assert digests(tmp_path) == before
    after = times_of(tmp_path / "surprise_1")
    assert after.keys() == times.keys()
    assert not [name for name in times if after[name] == times[name]]


def test_another_sensitivity_gives_other_events_without_decoding_again(surprise, tmp_path):
    decoded = []
    options = {"out": tmp_path, "overlay": False, "on_ingested": decoded.append}
    mbert.predict(surprise[0], **options)
    folder = tmp_path / "surprise_1"
    frames = sha256(folder / "frames.csv")
    crops = {name: each for name, each in times_of(tmp_path / ".crops").items() if "/frames/" in name}
    num_events = len(table(folder / "events.csv"))
    strict = mbert.predict(surprise[0], **options, per_minute=1e-9)
    assert (strict.num_new, len(decoded)) == (1, 1)
    assert {name: each for name, each in times_of(tmp_path / ".crops").items() if "/frames/" in name} == crops
    assert sha256(folder / "frames.csv") == frames
    assert len(table(folder / "events.csv")) < num_events
    assert read_json(folder / "summary.json")["settings"]["per_minute"] == 1e-9


def test_the_number_of_workers_changes_no_byte_of_one_video(surprise, tmp_path, monkeypatch):
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        monkeypatch.chdir(tmp_path / str(workers))  # the summary names the folder of results as it was given
        mbert.predict(surprise[0], out="out", embed_video=True, workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


# Ends that nobody wants


SEVERAL = 6


@pytest.fixture(scope="module")
def several(clips, tmp_path_factory):
    """Videos that take some seconds. Read only."""
    folder = tmp_path_factory.mktemp("predict") / "several"
    folder.mkdir()
    for number in range(SEVERAL):  # enough that some are left when the first is done, on a busy machine too
        (folder / f"take{number}.mp4").write_bytes(varied((clips / "short.mp4").read_bytes(), number))
    return folder


@pytest.fixture(scope="module")
def undisturbed(several):
    """What a run gives that nothing happens to."""
    predict(several, several.parent / "undisturbed", overlay=True)
    return several.parent / "undisturbed"


IN_ONE_PROCESS = """
import sys
from pathlib import Path
from mbert.prediction.run import run_predict
from mbert.shards.engine import IN_PROCESS
run_predict(Path(sys.argv[1]), Path(sys.argv[2]), engine=IN_PROCESS)
"""


def begin(several, *words):
    """Start Python with such arguments, in a session of its own as a terminal does it."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=several.parent,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def wait_for(process, out, name):
    """Until a file of that name is there: some video is being predicted then."""
    while not any(out.glob(f"*/{name}")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def without_command(folder):
    """Digests of tables and events: pages and summaries say by which command they were made."""
    found = {}
    for name, digest in digests(folder).items():
        if name.endswith("summary.json"):
            found[name] = {key: value for key, value in read_json(folder / name).items() if key != "command"}
        elif not name.endswith(".html"):
            found[name] = digest
    return found


def check_whole_or_unnamed(out):
    """A folder whose summary is there is whole; what has a final name can be read."""
    for summary in out.glob("*/summary.json"):
        assert {file.name for file in summary.parent.iterdir() if not file.name.startswith(".")} == PROMISED
    for file in out.glob("*/*"):
        if file.suffix == ".parquet":
            pd.read_parquet(file)
        elif file.name == "frames.csv":
            assert len(table(file)) == 8
        elif file.name == "overlay.mp4":
            assert len(pictures(file)) == 8


def test_a_kill_and_ctrl_c_leave_nothing_half_and_the_same_command_finishes(several, undisturbed):
    out = several.parent / "disturbed"
    process = begin(several, "-c", IN_ONE_PROCESS, several.name, out.name)
    wait_for(process, out, ".tracks-*")
    process.kill()
    process.communicate()
    check_whole_or_unnamed(out)
    process = begin(several, "-m", "mbert.cli", "predict", several.name, "--out", out.name, "--workers", "2")
    wait_for(process, out, "summary.json")
    os.killpg(process.pid, signal.SIGSTOP)  # or the other videos may be done before they are looked at
    assert all(map(is_deaf_to_ctrl_c, workers_of(process.pid)))  # the command tells of it, and once
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGCONT)
    _, told = process.communicate()
    assert process.returncode == 130, told
    assert "interrupted: run the same command again to resume" in told
    assert "Traceback" not in told, told
    check_whole_or_unnamed(out)
    done = {summary.parent.name: summary.stat().st_mtime_ns for summary in out.glob("*/summary.json")}
    assert done
    for name in done:
        assert read_json(out / name / "summary.json")["command"] == "mbert predict several --out disturbed"
    run = predict(several, out, overlay=True)
    assert run.num_new == SEVERAL - len(done)
    assert {name: (out / name / "summary.json").stat().st_mtime_ns for name in done} == done
    assert without_command(out) == without_command(undisturbed)
    assert [str(file) for file in out.rglob(".tracks-*")] == []


def workers_of(session):
    """The status of each worker process of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(words[3]) == session and words[0] != "Z" and b"spawn_main" in (folder / "cmdline").read_bytes():
                    found.append((folder / "status").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
    assert found
    return found


def is_deaf_to_ctrl_c(status):
    (blocked,) = re.findall(r"^SigBlk:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(int(blocked, 16) & 1 << (signal.SIGINT - 1))


def test_an_interrupt_at_any_commit_leaves_nothing_half(clips, tmp_path, monkeypatch):
    """Just before each file of a video gets its name; the options change each time, so that old files lie about."""
    rename = Path.replace
    left = 0

    def replace(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return rename(self, target)

    video, out = clips / "short.mp4", Path("out")
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        mbert.predict(video, out=out, per_minute=2.0 if folder == "whole" else 1.0)
    monkeypatch.setattr(Path, "replace", replace)
    number = of_ingest = 8  # files that are renamed before
    while True:
        left = number
        try:
            mbert.predict(video, out=out, per_minute=2.0)
            break
        except KeyboardInterrupt:
            number += 1
        assert not (out / "short" / "summary.json").exists()
        assert [file.name for file in (out / "short").iterdir() if file.name.startswith(".")] == []
    assert number >= of_ingest + len(PROMISED)
    assert digests(tmp_path / "broken") == digests(tmp_path / "whole")


@pytest.fixture
def full_disk():
    """No file of this process can grow beyond a limit, until the end of the test: `full_disk(num_bytes)`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_bytes", [300, 9_000, 60_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(num_bytes, clips, full_disk, invoke, tmp_path):
    words = ["predict", str(clips / "plain.mp4"), "--out", "out", "--embed-video"]
    full_disk(num_bytes)
    done = invoke(*words, cwd=tmp_path)
    full_disk(resource.RLIM_INFINITY)
    assert done.returncode == 1
    assert "File too large; fix that, then run the same command to resume" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == done.stderr.splitlines()[-1:]
    assert not (tmp_path / "out" / "plain" / "summary.json").exists()
    assert invoke(*words, cwd=tmp_path).returncode == 0
    assert {file.name for file in (tmp_path / "out" / "plain").iterdir()} == PROMISED


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which nobody may write")
def test_a_folder_that_may_not_be_written_is_one_line(clips, invoke, tmp_path):
    done = invoke("predict", str(clips / "short.mp4"), "--out", "/sys/kernel/mbert", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: cannot write /sys/kernel/mbert" in done.stderr


def test_a_file_in_the_place_of_the_folder_is_one_line(clips, invoke, tmp_path):
    (tmp_path / "out").write_text("a file")
    done = invoke("predict", str(clips / "short.mp4"), "--out", "out", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ") and "out" in line]


# Options and models


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--per-minute", "0"], "per_minute is 0; it must be above 0"),
        (["--per-minute", "-1"], "per_minute is -1; it must be above 0"),
        (["--per-minute", "nan"], "per_minute is nan"),
        (["--per-minute", "inf"], "per_minute is inf"),
        (["--per-minute", "much"], "--per-minute"),
        (["--faces", "0"], "0 faces are to be followed; it must be at least 1"),
        (["--faces", "-1"], "--faces is '-1'; allowed are all, largest, or a number"),
        (["--faces", "some"], "--faces is 'some'"),
        (["--fps", "0"], "must be above 0"),
        (["--workers", "0"], "--workers"),
        (["--decoder", "vlc"], "--decoder"),
        (["--model", "nowhere"], "--model"),
        (["--classifier", "nowhere"], "--classifier"),
        (["--sensitivity", "3"], "--sensitivity"),
    ],
)
def test_a_wrong_option_stops_at_once(words, told, clips, invoke, tmp_path):
    done = invoke("predict", str(clips / "short.mp4"), "--out", "out", *words, cwd=tmp_path)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_or_holds_no_video_is_told(invoke, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "notes.txt").write_text("no video")
    for name, told in (("missing.mp4", "does not exist"), ("nothing", "holds no video file")):
        done = invoke("predict", name, "--out", "out", "--json", cwd=tmp_path)
        assert (done.returncode, told in done.stderr + done.stdout) == (2, True)
        assert json.loads(done.stdout)["error"]["exit_code"] == 2
        assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def runs(acted, tmp_path_factory):
    """The folders of a short pretraining and of a short finetuning on the three expressions. Read only."""
    folder = tmp_path_factory.mktemp("predict") / "runs"
    workspace = Workspace(folder / "workspace")
    run_ingest(acted[0], workspace, IngestOptions())
    run_shard(workspace, PairOptions())
    settings = PretrainConfig(preset="tiny", steps=2, batch_size=2, picture_every=0)
    run_pretrain(workspace.pairs, folder / "pretrain", settings)
    settings = FinetuneConfig(steps=2, batch_size=3, picture_every=0)
    run_finetune(workspace.expressions, workspace.labels, folder / "pretrain", folder / "finetune", settings)
    return folder / "pretrain", folder / "finetune"


def test_another_model_is_used_and_its_lack_of_calibration_told(runs, clips, known, tmp_path):
    mbert.predict(clips / "plain.mp4", out=tmp_path, overlay=False, model=runs[0])
    summary, built_in = (read_json(folder / "summary.json") for folder in (tmp_path / "plain", known))
    assert summary["model"]["name"] == str(runs[0])
    assert summary["model"]["sha256"] != built_in["model"]["sha256"]
    told = [warning["text"] for warning in summary["warnings"] if warning["kind"] == "input"]
    assert ["no calibration of its own" in text for text in told] == [True]
    assert "no calibration" not in json.dumps(built_in["warnings"])


def test_a_classifier_names_emotions(runs, surprise, tmp_path):
    mbert.predict(surprise[0], out=tmp_path, overlay=False, classifier=runs[1])
    events = [row for row in table(tmp_path / "surprise_1" / "events.csv") if row["type"] in ("micro", "macro")]
    assert events
    for event in events:
        assert event["emotion"] in ("disgust", "happiness", "surprise")
        assert 1 / 3 <= float(event["emotion_probability"]) <= 1
    challenge = table(tmp_path / "surprise_1" / "challenge.csv")
    assert [row["emotion"] for row in challenge] == [event["emotion"] for event in events if event["type"] == "micro"]
    assert read_json(tmp_path / "surprise_1" / "summary.json")["settings"]["classifier"] == str(runs[1])


def test_a_model_that_cannot_be_used_is_told_before_any_work(runs, clips, tmp_path):
    MicronBert(PRESETS["tiny"]).save_pretrained(tmp_path / "diagonal")
    (tmp_path / "empty").mkdir()
    for options, kind, told in (
        ({"model": tmp_path / "diagonal"}, ConfigError, "attention='diagonal'; movement needs"),
        ({"model": tmp_path / "empty"}, ModelError, "empty"),
        ({"classifier": runs[0]}, ModelError, "holds no classifier"),
    ):
        with pytest.raises(kind, match=told):
            mbert.predict(clips / "short.mp4", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_script_without_a_main_guard_predicts_a_video(clips, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import mbert\n"
        f"run = mbert.predict({str(clips / 'short.mp4')!r}, out='out', overlay=False)\n"
        "print(run.num_new, run.page)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 out/short/report.html\n"), done.stderr
