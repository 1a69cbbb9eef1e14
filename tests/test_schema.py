import re

import pyarrow as pa
import pytest

from mbert import ManifestError
from mbert.manifests.files import write_json
from mbert.manifests.schema import (
    STATUSES,
    ClipRow,
    FrameRow,
    LabelRow,
    PairRow,
    VideoRow,
    arrow_schema,
    clip_key,
    pair_key,
    video_key,
)
from mbert.manifests.store import read_extra, read_rows, read_table, write_rows


def test_columns_of_the_data_contract_are_in_the_schemas():
    frame = {"clip_id", "video_id", "frame_index", "pts_seconds", "shard", "offset", "size", "transform", "landmarks"}
    frame |= {"landmarks_measured", "face_px", "yaw", "pitch", "roll", "sharpness", "brightness", "score"}
    clip = {"clip_id", "video_id", "dataset", "subject", "first_frame", "last_frame", "num_frames", "fps", "align"}
    clip |= {"jitter_px"}
    label = {"dataset", "subject", "sample", "clip_id", "onset", "apex", "offset", "emotion", "action_units"}
    pair = {"key", "shard", "clip_id", "subject", "sample", "t0", "t1", "delta_seconds", "kind"}
    video = {"status", "reason", "codec", "fps", "num_frames", "rotation", "sha256", "seconds"}
    assert set(arrow_schema(FrameRow).names) >= frame
    assert set(arrow_schema(ClipRow).names) >= clip
    assert set(arrow_schema(LabelRow).names) >= label
    assert set(arrow_schema(PairRow).names) >= pair
    annotated = label - {"dataset", "subject", "sample", "clip_id"}
    assert not annotated & {*arrow_schema(ClipRow).names, *arrow_schema(PairRow).names}
    assert set(arrow_schema(VideoRow).names) >= video
    assert arrow_schema(FrameRow).field("transform").type == pa.list_(pa.float64(), 6)


def test_optional_columns_are_nullable_and_others_are_not():
    schema = arrow_schema(VideoRow)
    assert schema.field("reason").nullable
    assert not schema.field("video_id").nullable


def test_keys_are_safe_short_and_in_reading_order():
    name = "Größe Ä/très long " + "x" * 200 + "/naïve clip (final) №5.mp4"
    clip = clip_key(video_key("videos", name), 3, 12)
    key = pair_key(clip, 5, 123)
    assert re.fullmatch(r"[a-z0-9_-]+", key)
    assert len(key + ".t0.jpg") <= 100  # the longest name in a tar header
    keys = [pair_key(clip, *pair) for pair in [(2, 9), (2, 10), (10, 11), (100, 101)]]
    assert keys == sorted(keys)


def test_names_that_read_the_same_get_different_keys():
    names = ["a b.mp4", "a_b.mp4", "A b.mp4", "a/b.mp4", "a b.avi", "日本.mp4", "中国.mp4"]
    assert len({video_key("videos", name) for name in names}) == len(names)


def test_rows_survive_a_round_trip(tmp_path):
    rows = [
        VideoRow(video_id="v-1", dataset="videos", path="a.mp4", kind="video", status="ok", fps=29.97, num_frames=3),
        VideoRow(video_id="v-2", dataset="videos", path="b", kind="frames", status="empty", reason="no bytes"),
    ]
    write_rows(tmp_path / "videos.parquet", VideoRow, rows, extra={"note": "x"})
    assert read_rows(tmp_path / "videos.parquet", VideoRow) == rows
    assert read_extra(tmp_path / "videos.parquet", VideoRow, "note") == "x"
    assert [file.name for file in tmp_path.iterdir()] == ["videos.parquet"]


def test_status_values_are_the_documented_ones():
    assert STATUSES == (
        "pending",
        "ok",
        "missing",
        "empty",
        "unreadable",
        "no_video",
        "too_short",
        "no_face",
        "timeout",
        "crashed",
        "error",
    )


def test_another_schema_is_refused_with_a_way_out(tmp_path):
    write_rows(tmp_path / "x.parquet", VideoRow, [])
    with pytest.raises(ManifestError, match=r"schema 'VideoRow/5'.*reads 'ClipRow/5'.*--overwrite"):
        read_table(tmp_path / "x.parquet", ClipRow)


def test_a_missing_or_damaged_manifest_is_named(tmp_path):
    with pytest.raises(ManifestError, match="does not exist"):
        read_table(tmp_path / "none.parquet", VideoRow)
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(ManifestError, match=r"text\.parquet cannot be read as Parquet"):
        read_table(tmp_path / "text.parquet", VideoRow)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
