"""`mbert info` and what `mbert preview` is made from: numbers over manifests, and the choice of pictures."""

import itertools
import json
import shutil
from collections import Counter

import numpy as np
import pytest

import mbert
from mbert import ConfigError, ManifestError
from mbert.manifests.corpus_tables import OTHERS, CorpusTables
from mbert.manifests.distributions import (
    FRAME_GRIDS,
    Distribution,
    Grid,
    clip_distributions,
    frame_distributions,
    video_distributions,
)
from mbert.manifests.files import read_json, write_json
from mbert.manifests.funnel import funnel
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, FrameRow, LabelRow, VideoRow
from mbert.manifests.selection import choose_crops, choose_rejected, rejected_reasons
from mbert.manifests.store import read_rows, write_rows
from mbert.manifests.subject import Subject
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.prediction.info import run_info

VIDEOS_CSV = """path,license,consent,source,retention_until,subject
.,CC BY 4.0,signed,own,2999-12-31,
smile.mp4,CC BY 4.0,,own,2001-01-31,
"""
LABELS_CSV = """path,subject,onset,apex,offset,emotion
smile.mp4,s01,5,10,20,happiness
gone.mp4,s02,1,2,3,disgust
"""


@pytest.fixture(scope="module")
def mixed(synthetic_videos, tmp_path_factory):
    """A workspace of two faces and four inputs that cannot be used; its folder has signs that are patterns. Read only.

    `grey.mp4` shows no face; its source, as all others, lies beside the workspace.
    """
    folder = tmp_path_factory.mktemp("mixed [a] b*")
    videos = folder / "videos"
    videos.mkdir()
    for name, source in (("smile.mp4", "s01/happiness_1.mp4"), ("other.mp4", "s02/disgust_1.mp4")):
        shutil.copy(synthetic_videos / source, videos / name)
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("this is no video")
    (videos / "words.mp4").write_text("nor is this one")
    (videos / "videos.csv").write_text(VIDEOS_CSV)
    (videos / "labels.csv").write_text(LABELS_CSV)
    workspace = Workspace(folder / "workspace")
    run_ingest(videos, workspace, IngestOptions(), choice=CorpusChoice())
    run_shard(workspace, PairOptions())
    return workspace


def all_frames(workspace):
    shards = [row.shard for row in read_rows(workspace.videos, VideoRow) if row.status == "ok"]
    return [row for shard in shards for row in read_rows(twin_paths(workspace.frames, shard)[1], FrameRow)]


def video(key, **values):
    whole = {"video_id": key, "dataset": "videos", "path": f"{key}.mp4", "kind": "video", "status": "ok", **values}
    return VideoRow(**whole)


def clip(key, video_id, first, last, **values):
    return ClipRow(
        clip_id=key, video_id=video_id, dataset="videos", shard="000000", first_frame=first, last_frame=last,
        **{"track": 0, "num_frames": last - first + 1, "fps": 25.0, "align": "clip", "face_px": 90.0, "jitter_px": 0.1}
        | values,
    )  # fmt: skip


def write_corpus(folder, videos=(), clips=(), labels=()):
    """A corpus of manifests alone."""
    workspace = Workspace(folder)
    write_rows(workspace.videos, VideoRow, videos)
    write_rows(workspace.clips, ClipRow, clips)
    write_rows(workspace.labels, LabelRow, labels)
    write_json(workspace.corpus_config, {"schema": SCHEMA_VERSION, "options": {}, "datasets": {}})
    return workspace


def test_info_counts_what_is_there(mixed):
    found = mbert.info(mixed.root)
    overview, frames = found.overview, all_frames(mixed)
    clips = read_rows(mixed.clips, ClipRow)
    assert overview.statuses == {"ok": 2, "unreadable": 2, "empty": 1, "missing": 1}
    assert overview.datasets == {"videos": 6}
    assert (overview.num_clips, overview.num_crops, overview.crop_size) == (len(clips), len(frames), 224)
    assert (overview.people, overview.clips_without_person) == (1, 1)
    assert (overview.fps, overview.codecs) == ({"30.00": 2}, {"h264": 2})
    assert overview.seconds == pytest.approx(
        sum(row.seconds for row in read_rows(mixed.videos, VideoRow) if row.seconds)
    )
    assert overview.licenses == {"CC BY 4.0": 5, "not given": 1}
    assert overview.consents == {"signed": 4, "not given": 2}
    assert (overview.num_expired, overview.first_expiry) == (1, "2999-12-31")
    assert {name: (each.annotated, each.usable, each.classes) for name, each in overview.labels.items()} == {
        "videos": (2, 1, {"happiness": 1, "disgust": 1})
    }
    assert overview.pairs.num_pairs == read_json(mixed.pairs / "pairs.json")["num_pairs"] > 0
    assert overview.expressions.kinds == {"onset_apex": 1}
    assert overview.num_bytes["corpus"] == sum(
        file.stat().st_size for file in mixed.corpus.rglob("*") if file.is_file()
    )
    assert overview.versions[0]["mbert"] == mbert.__version__
    assert found.runs == ()
    assert found.next.startswith("mbert train pretrain --workspace '")


@pytest.mark.parametrize("name", ["face_px", "yaw", "pitch", "brightness", "sharpness", "score"])
def test_quantiles_of_a_column_are_those_of_its_rows(mixed, name):
    found = frame_distributions(CorpusTables(mixed), [name])[name]
    values = [getattr(row, name) for row in all_frames(mixed)]
    assert found.num_values == len(values)
    for share in (0.05, 0.5, 0.95):
        around = np.quantile(values, [max(0, share - 0.02), min(1, share + 0.02)])
        assert around[0] - found.grid.step <= found.quantile(share) <= around[1] + found.grid.step


def test_values_beyond_a_grid_are_in_its_outer_bins_and_unknown_ones_in_none(tmp_path):
    rows = [clip(f"c{n}", "v", 0, 9, jitter_px=value) for n, value in enumerate([None, float("nan"), -1.0, 0.5, 9e9])]
    found = clip_distributions(CorpusTables(write_corpus(tmp_path, [video("v")], rows)))["jitter_px"]
    assert found.num_values == 3
    assert (found.counts[0], found.counts[-1], found.counts[250]) == (1, 1, 1)


def test_a_distribution_without_values_has_no_quantile():
    empty = Distribution(grid=Grid(column="x", lowest=0, step=1, num_bins=3), counts=(0, 0, 0))
    assert np.isnan(empty.quantile(0.5))


def test_the_worst_crops_are_the_worst_rows(mixed):
    frames, clips = all_frames(mixed), {row.clip_id: row for row in read_rows(mixed.clips, ClipRow)}
    chosen = choose_crops(CorpusTables(mixed), 5, seed=0)
    assert [len(chosen[kind]) for kind in ("random", "jitter", "score", "pose")] == [5, 2, 2, 2]
    assert [crop.value for crop in chosen["jitter"]] == sorted((row.jitter_px for row in clips.values()), reverse=True)
    worst = min(frames, key=lambda row: row.score)
    assert (chosen["score"][0].clip_id, chosen["score"][0].value) == (worst.clip_id, worst.score)
    assert {crop.clip_id for crop in chosen["score"]} == set(clips)
    largest = max(frames, key=lambda row: max(map(abs, (row.yaw, row.pitch, row.roll))))
    assert (chosen["pose"][0].frame_index, chosen["pose"][0].offset) == (largest.frame_index, largest.offset)
    for crop in itertools.chain.from_iterable(chosen.values()):
        [row] = [row for row in frames if (row.clip_id, row.frame_index) == (crop.clip_id, crop.frame_index)]
        assert (row.offset, row.size, row.pts_seconds) == (crop.offset, crop.size, crop.pts_seconds)


def test_random_crops_are_by_their_seed_and_all_different(mixed):
    def drawn(seed):
        return [(crop.clip_id, crop.frame_index) for crop in choose_crops(CorpusTables(mixed), 9, seed)["random"]]

    assert drawn(3) == drawn(3) != drawn(4)
    assert len(set(drawn(3))) == 9


def test_each_reason_gets_a_picture_before_any_second_one(tmp_path):
    rows = [video(f"n{n}", status="no_face", reason=f"no face track in {n} frames") for n in range(9)]
    rows += [video(f"t{n}", status="unreadable", reason=f"holds no track; the header says {n}") for n in range(3)]
    rows += [video("ok"), video("late", status="pending")]
    tables = CorpusTables(write_corpus(tmp_path, rows))
    assert [(each.status, each.reason, each.count) for each in rejected_reasons(tables, 9)] == [
        ("no_face", "no face track in … frames", 9),
        ("unreadable", "holds no track", 3),
    ]
    assert [row.video_id for row in choose_rejected(tables, 5)] == ["n0", "t0", "n1", "t1", "n2"]
    assert len(choose_rejected(tables, 99)) == 12


def test_many_reasons_are_counted_together(tmp_path):
    rows = [video(f"v{n:02d}", status="error", reason=f"fault {chr(97 + n)}") for n in range(9)]
    found = rejected_reasons(CorpusTables(write_corpus(tmp_path, rows)), 3)
    assert [each.count for each in found] == [1, 1, 1, 6]
    assert (found[-1].status, found[-1].reason) == (OTHERS, "6 more reasons")


def test_the_funnel_counts_a_frame_with_two_faces_once(tmp_path):
    videos = [
        video("a", num_frames=100), video("b", num_frames=50), video("c", status="no_face"),
        video("d", status="unreadable"), video("e", status="pending"), video("f", status="too_short"),
    ]  # fmt: skip
    clips = [
        clip("a0", "a", 0, 39), clip("a1", "a", 20, 59, track=1), clip("a2", "a", 30, 35, track=2),
        clip("a3", "a", 80, 89), clip("b0", "b", 100, 400, num_frames=50),
    ]  # fmt: skip
    stages = {stage.step: stage for stage in funnel(CorpusTables(write_corpus(tmp_path, videos, clips)))}
    assert {step: stage.count for step, stage in stages.items()} == {
        "inputs": 6, "read": 4, "with_face": 2, "frames": 150, "frames_with_face": 120, "clips": 5, "crops": 0,
        "clips_with_pairs": 0, "pairs": 0,
    }  # fmt: skip
    assert stages["read"].losses == {"unreadable": 1, "pending": 1}
    assert stages["with_face"].losses == {"no_face": 1, "too_short": 1}
    assert stages["frames_with_face"].losses == {"no_face_in_frame": 30}
    assert stages["with_face"].share == pytest.approx(1 / 3)


def test_the_funnel_of_a_corpus_ends_with_its_pairs(mixed):
    stages = {stage.step: stage for stage in funnel(CorpusTables(mixed))}
    frames = all_frames(mixed)
    assert stages["crops"].count == len(frames)
    assert stages["crops"].losses.get("repeated", 0) == sum(row.repeated for row in frames)
    assert stages["frames_with_face"].count == len({(row.video_id, row.frame_index) for row in frames})
    assert stages["clips_with_pairs"].count == 2
    assert stages["pairs"].count == read_json(mixed.pairs / "pairs.json")["num_pairs"]


def test_people_are_counted_once_under_all_their_spellings(tmp_path):
    names = ["smic/s1", "smic/s01", "smic_e/s01", "casme2/s01", None]
    clips = [clip(f"c{n}", "v", n, n, subject=name and Subject.parse(name)) for n, name in enumerate(names)]
    found = run_info(write_corpus(tmp_path, [video("v")], clips)).overview
    assert (found.people, found.clips_without_person) == (2, 1)


def test_what_a_replaced_ingest_left_behind_does_not_count(mixed, tmp_path):
    shutil.copytree(mixed.root, tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    before = run_info(workspace).overview
    [*_, row] = [row for row in read_rows(workspace.videos, VideoRow) if row.status == "ok"]
    shutil.copy(twin_paths(workspace.frames, row.shard)[1], workspace.frames / "000099.parquet")
    after = run_info(workspace).overview
    assert (after.faces, after.num_crops) == (before.faces, before.num_crops)
    twin_paths(workspace.frames, row.shard)[1].unlink()
    lost = run_info(workspace)
    assert (lost.overview.missing_tars, lost.next.split(" --")[0]) == (1, "mbert verify")


def test_a_damaged_manifest_is_an_error_that_says_what_to_do(mixed, tmp_path):
    shutil.copytree(mixed.root, tmp_path / "w")
    twin = next((tmp_path / "w").glob("corpus/frames/*.parquet"))
    twin.write_bytes(twin.read_bytes()[:200])
    with pytest.raises(ManifestError, match="run `mbert verify`, it names the file"):
        mbert.info(tmp_path / "w")
    config = read_json(tmp_path / "w/corpus/config.json")
    write_json(tmp_path / "w/corpus/config.json", config | {"schema": 1})
    with pytest.raises(ManifestError, match="has schema 1, this version of mbert reads"):
        mbert.info(tmp_path / "w")


def test_a_row_of_a_column_is_named_in_at_most_six_and_the_rest_counted(tmp_path):
    rows = [video(f"v{n}", codec=f"codec{n}") for n in range(9)]
    found = run_info(write_corpus(tmp_path, rows)).overview
    assert found.codecs == {**{f"codec{n}": 1 for n in range(6)}, OTHERS: 3}


def test_a_manifest_without_rows_has_no_figures(tmp_path):
    tables = CorpusTables(write_corpus(tmp_path))
    every = {**frame_distributions(tables), **clip_distributions(tables), **video_distributions(tables)}
    assert set(FRAME_GRIDS) < set(every)
    assert {each.num_values for each in every.values()} == {0}
    assert Counter(stage.count for stage in funnel(tables)) == {0: 9}
    assert {kind: len(crops) for kind, crops in choose_crops(tables, 3, 0).items()} == dict.fromkeys(
        ("random", "jitter", "score", "pose"), 0
    )


@pytest.mark.parametrize(
    ("there", "lines"),
    [
        ([], ["inputs      none yet", "next: mbert ingest FOLDER --workspace w"]),
        ([video("a", status="pending")], ["0 of 1 have faces: 1 pending", "run the same `mbert ingest` again"]),
        (
            [video("a", status="no_face", reason="no face track in 9 frames")],
            ["rejected    1 no_face: no face track in 9 frames", "with --retry-failed; `mbert preview` shows them"],
        ),
    ],
)
def test_info_of_a_half_made_workspace_says_what_is_next(tmp_path, invoke, there, lines):
    (tmp_path / "w").mkdir()
    if there:
        write_corpus(tmp_path / "w", there)
    done = invoke("info", "w", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if line not in done.stdout] == []
    assert json.loads(invoke("info", "w", "--json", cwd=tmp_path).stdout)["overview"]["num_clips"] == 0


def test_info_fits_a_screen_and_names_everything(mixed, invoke, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    done = invoke("info", str(mixed.root), cwd=mixed.root)
    lines = done.stdout.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    assert len(lines) <= 30
    text = " ".join(done.stdout.split())
    for part in (
        "2 of 6 have faces: 2 unreadable, 1 empty, 1 missing", "2 unreadable: cannot be opened as a video",
        "people 1; 1 clip without a subject", "fps 30 codec h264", "crops of 224 px", "jitter 0.",
        "videos: 2 micro, 1 of them usable: 1 disgust, 1 happiness", "licence 5 CC BY 4.0, 1 not given",
        "1 input past retention_until: mbert forget --expired", "1 onset-apex in 1 shard", "runs none yet",
        f"mbert {mbert.__version__}; ingested with",
    ):  # fmt: skip
        assert part in text


def test_info_lists_runs_and_evaluations(mixed, tmp_path):
    shutil.copytree(mixed.root, tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    write_json(workspace.runs / "loso" / "results.json", {"methods": {"mbert": {"scores": {"uf1": 0.61}}}})
    write_json(workspace.runs / "odd" / "results.json", {"mine": 1})
    write_json(workspace.runs / "pretrain" / "config.json", {"kind": "pretrain", "identity": {"steps": 9}})
    write_json(workspace.runs / "pretrain" / "status.json", {"state": "running", "reason": ""})
    found = run_info(workspace)
    assert [(run.name, run.kind, run.state, run.steps, run.uf1) for run in found.runs] == [
        ("pretrain", "pretrain", "killed", 9, None),
        ("loso", "eval", "finished", None, 0.61),
    ]
    assert found.next == "run the same `mbert train pretrain` again: pretrain is not finished, it resumes"


def test_a_workspace_that_is_not_there_is_an_error(tmp_path, invoke):
    done = invoke("info", "nowhere", cwd=tmp_path)
    assert (done.returncode, "there is no workspace in nowhere" in done.stderr) == (1, True)
    done = invoke("preview", "nowhere", cwd=tmp_path)
    assert (done.returncode, "run `mbert ingest FOLDER` first" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"), [({"pictures": 101}, "allowed are 0 to 100"), ({"out": "."}, "is a folder")]
)
def test_an_option_of_preview_that_cannot_be_used_stops_at_once(mixed, options, message):
    with pytest.raises(ConfigError, match=message):
        mbert.preview(mixed.root, **options)


def test_rows_are_not_changed_by_a_look(mixed):
    before = {file: file.stat().st_mtime_ns for file in mixed.root.rglob("*")}
    run_info(mixed)
    assert {file: file.stat().st_mtime_ns for file in mixed.root.rglob("*")} == before
