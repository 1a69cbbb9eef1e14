import dataclasses

import numpy as np
import pytest

from mbert import ConfigError
from mbert.manifests.query import FrameCondition
from mbert.manifests.schema import ClipRow, FrameRow, VideoRow
from mbert.manifests.store import read_rows, read_table, to_table
from mbert.manifests.subject import Subject
from mbert.manifests.workspace import twin_paths
from mbert.pipeline.pairs.plan import RECORD, PairOptions, pair_condition, plan_sampled, shuffled


def frame(clip, video, index, **more):
    row = FrameRow(
        clip_id=clip, video_id=video, frame_index=index, pts_seconds=index / 30, shard="000000", offset=0, size=1,
        transform=(1.0,) * 6, landmarks=(1.0,) * 10, landmarks_measured=False, face_px=100.0 + index, yaw=0.0,
        pitch=0.0, roll=0.0, sharpness=100.0, brightness=128.0, clipped=0.0, eye_open=0.3, mouth_open=0.0, score=None,
    )  # fmt: skip
    return dataclasses.replace(row, **more)


def clip(key, video, **more):
    row = ClipRow(
        clip_id=key, video_id=video, dataset="videos", shard="000000", track=0, first_frame=0, last_frame=9,
        num_frames=10, fps=30.0, align="smooth", face_px=999.0, jitter_px=0.1,
    )  # fmt: skip
    return dataclasses.replace(row, **more)


@pytest.fixture
def condition():
    clips = to_table(
        ClipRow,
        [clip("a_c0", "a"), clip("a_c1", "a", jitter_px=0.5), clip("b_c0", "b", subject=Subject("videos", "s1"))],
    )
    videos = to_table(
        VideoRow,
        [
            VideoRow(video_id=key, dataset="videos", path=f"{key}.mp4", kind="video", status="ok", codec=codec)
            for key, codec in (("a", "h264"), ("b", "vp9"))
        ],
    )
    return lambda expression: FrameCondition(expression, clips, videos)


FRAMES = to_table(
    FrameRow,
    [frame(c, c[0], index, score=0.9 if index else None) for c in ("a_c0", "a_c1", "b_c0") for index in range(3)],
)
ASKED = {
    "face_px > 101": [2, 5, 8],  # the frame's, not the clip's
    "jitter_px < 0.2 and face_px > 120": [],
    "jitter_px < 0.2": [0, 1, 2, 6, 7, 8],
    "codec = 'vp9'": [6, 7, 8],
    "subject IS NOT NULL AND frame_index BETWEEN 1 AND 2": [7, 8],
    "score > 0.5": [1, 2, 4, 5, 7, 8],  # unknown is no
    "path LIKE 'a%' -- and so on": [0, 1, 2, 3, 4, 5],
}


@pytest.mark.parametrize("expression", ASKED)
def test_a_condition_sees_frames_clips_and_videos(expression, condition):
    assert np.flatnonzero(condition(expression).mask(FRAMES)).tolist() == ASKED[expression]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("jiter_px < 0.2", "jiter_px"),
        ("jitter_px <", "syntax error"),
        (" ", "it is empty"),
        ("avg(face_px) > 1", "aggregate"),
        ("face_px > 1) or (select count(*) from read_csv('/etc/passwd')) > (0", "disabled"),
        ("(select count(*) from '/etc/passwd') > 0", "/etc/passwd"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_columns(expression, reason, condition):
    with pytest.raises(ConfigError) as caught:
        condition(expression)
    assert reason in str(caught.value)
    assert "The columns are clip_id, video_id, frame_index" in str(caught.value)
    assert "jitter_px" in str(caught.value)


def test_settings_cannot_be_opened_again(condition):
    ready = condition("true")
    with pytest.raises(ready._duckdb.Error, match="locked"):
        ready._connection.execute("SET enable_external_access = true")


@pytest.mark.parametrize("total", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_every_item_has_one_place_in_the_shuffled_order(total):
    order = shuffled(np.arange(total), total, seed=3)
    assert np.array_equal(np.sort(order), np.arange(total))
    assert np.array_equal(order[total // 2 :], shuffled(np.arange(total // 2, total), total, seed=3))


def test_the_shuffled_order_is_random_and_the_seeds():
    total = 100_000
    one, other = (shuffled(np.arange(total), total, seed=seed) for seed in (0, 1))
    assert (one == other).mean() < 0.001
    for order in (one, other):
        assert abs(np.corrcoef(order, np.arange(total))[0, 1]) < 0.01
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.01
        # Neighbours in reading order end up in different shards.
        assert (np.abs(np.diff(order)) < 100).mean() < 0.005
        counts, _ = np.histogram(order[: total // 10], bins=20)
        assert counts.min() > 0.8 * total / 200


def test_a_condition_only_takes_pairs_away_and_only_those(corpus, tmp_path):
    clips = read_rows(corpus.clips, ClipRow)
    everything = plan_sampled(corpus, clips, PairOptions(), None, tmp_path / "all")
    options = PairOptions(where="brightness > 100 and frame_index % 3 > 0")
    some = plan_sampled(corpus, clips, options, pair_condition(corpus, options), tmp_path / "some")
    assert some.num_pairs + some.pairs_left_out == everything.num_pairs
    assert 0 < some.num_pairs < everything.num_pairs
    good = set()
    for row in clips:
        table = read_table(twin_paths(corpus.frames, row.shard)[1], FrameRow)
        good |= {
            (row.clip_id, index)
            for index, brightness in zip(table["frame_index"].to_pylist(), table["brightness"].to_pylist(), strict=True)
            if brightness > 100 and index % 3 > 0
        }
    records = np.fromfile(tmp_path / "some" / "pairs.bin", RECORD)
    kept = {(clips[number].clip_id, t0, t1) for number, t0, t1 in records[["clip", "t0", "t1"]].tolist()}
    records = np.fromfile(tmp_path / "all" / "pairs.bin", RECORD)
    possible = {(clips[number].clip_id, t0, t1) for number, t0, t1 in records[["clip", "t0", "t1"]].tolist()}
    assert kept == {(key, t0, t1) for key, t0, t1 in possible if {(key, t0), (key, t1)} <= good}
