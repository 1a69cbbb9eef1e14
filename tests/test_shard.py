import dataclasses
import gc
import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pytest
import webdataset

from mbert import ConfigError, ManifestError, ShardError
from mbert.manifests.files import read_json
from mbert.manifests.schema import ClipRow, FrameRow, PairRow
from mbert.manifests.store import read_rows, read_table, write_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.shards.engine import Engine
from mbert.shards.integrity import verify_frames, verify_pairs

OPTIONS = PairOptions(pairs_per_shard=100)


def shard_names(workspace):
    return read_json(workspace.pairs / "pairs.json")["shards"]


def rows_of(workspace):
    return pa.concat_tables([read_table(twin_paths(workspace.pairs, n)[1], PairRow) for n in shard_names(workspace)])


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.fixture
def copied(corpus, tmp_path):
    """A corpus of one's own, without shards."""
    shutil.copytree(corpus.corpus, tmp_path / "corpus")
    return Workspace(tmp_path)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # stock webdataset leaves its tars open
def test_stock_webdataset_reads_the_pairs_and_the_twins_agree(corpus):
    names = shard_names(corpus)
    tars = [str(twin_paths(corpus.pairs, name)[0]) for name in names]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    rows = rows_of(corpus).to_pylist()
    assert len(samples) == len(rows) == read_json(corpus.pairs / "pairs.json")["num_pairs"] > 200
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    assert {sample["t0.jpg"].shape for sample in samples} == {(224, 224, 3)} == {s["t1.jpg"].shape for s in samples}
    shared = {"key", "clip_id", "dataset", "subject", "t0", "t1", "delta_seconds", "kind", "sample", "apex_source"}
    shared |= {"emotion", "action_units", "objective_class"}
    assert [sample["json"] for sample in samples] == [{name: row[name] for name in shared} for row in rows]
    assert sum(verify_pairs(corpus.pairs, name) for name in names) == 3 * len(rows)
    gc.collect()  # here, where the warning is expected


def test_frame_bytes_are_copied_not_encoded_again(corpus):
    frames = {}
    for clip in read_rows(corpus.clips, ClipRow):
        tar, twin = twin_paths(corpus.frames, clip.shard)
        data = tar.read_bytes()
        for row in read_table(twin, FrameRow).to_pylist():
            frames[row["clip_id"], row["frame_index"]] = data[row["offset"] : row["offset"] + row["size"]]
    rows = {row["key"]: row for row in rows_of(corpus).to_pylist()}
    num_compared = num_equal = 0
    for name in shard_names(corpus):
        with tarfile.open(twin_paths(corpus.pairs, name)[0]) as archive:
            for member in archive:
                key, kind = member.name.split(".", 1)
                if kind != "json":
                    frame = frames[rows[key]["clip_id"], rows[key][kind[:2]]]
                    num_compared += 1
                    num_equal += archive.extractfile(member).read() == frame
    assert num_compared == num_equal == 2 * len(rows)


def test_each_labelled_clip_gives_its_onset_apex_pair(corpus):
    expected = {(c.clip_id, c.onset, c.apex, c.emotion, c.subject) for c in read_rows(corpus.clips, ClipRow)}
    rows = [row for row in rows_of(corpus).to_pylist() if row["kind"] == "onset_apex"]
    assert {(r["clip_id"], r["t0"], r["t1"], r["emotion"], r["subject"]) for r in rows} == expected
    assert len(rows) == 18
    assert {(row["apex_source"], row["sample"] is None, row["action_units"] is None) for row in rows} == {
        ("annotated", False, False)
    }


def test_frames_between_onset_and_apex_make_pairs_of_their_own(copied):
    summary = run_shard(copied, dataclasses.replace(OPTIONS, frames_between=3))
    assert (summary.kinds["onset_apex"], summary.kinds["onset_between"]) == (18, 54)
    table = rows_of(copied).to_pylist()
    for clip in read_rows(copied.clips, ClipRow):
        ends = [row["t1"] for row in table if row["clip_id"] == clip.clip_id and row["kind"] == "onset_between"]
        starts = {row["t0"] for row in table if row["clip_id"] == clip.clip_id and row["kind"] == "onset_between"}
        quarter = (clip.apex - clip.onset) / 4
        assert (starts, len(ends)) == ({clip.onset}, 3)
        assert np.abs(np.sort(ends) - clip.onset - quarter * np.arange(1, 4)).max() <= 0.5
    assert all(row["emotion"] is None and row["sample"] is None for row in table if row["kind"] == "sampled")


@pytest.mark.parametrize("apex", ["annotated", "middle", "spotted"])
def test_a_missing_apex_is_left_out_or_filled_in_and_that_is_a_column(copied, apex):
    clips = read_rows(copied.clips, ClipRow)
    removed = {clip.clip_id for clip in clips[::2]}
    bare = [dataclasses.replace(clip, apex=None) if clip.clip_id in removed else clip for clip in clips]
    write_rows(copied.clips, ClipRow, bare)
    summary = run_shard(copied, dataclasses.replace(OPTIONS, apex=apex), overwrite=True)
    rows = {row["clip_id"]: row for row in rows_of(copied).to_pylist() if row["kind"] == "onset_apex"}
    if apex == "annotated":
        assert set(rows) == {clip.clip_id for clip in clips} - removed
        assert (summary.labels_without_apex, summary.apexes_filled) == (9, 0)
        return
    assert (summary.labels_without_apex, summary.apexes_filled) == (0, 9)
    assert {name for name, row in rows.items() if row["apex_source"] == apex} == removed
    off = [abs(rows[clip.clip_id]["t1"] - clip.apex) for clip in clips if clip.clip_id in removed]
    middle = [abs((clip.onset + clip.offset) / 2 - clip.apex) for clip in clips if clip.clip_id in removed]
    if apex == "middle":
        assert np.abs(np.array(off) - middle).max() <= 0.5
    else:
        assert np.median(off) <= 2  # frames of 33 ms


def test_pairs_are_apart_by_time_and_in_order(corpus):
    rows = rows_of(corpus).to_pylist()
    sampled = np.array([row["delta_seconds"] for row in rows if row["kind"] == "sampled"])
    assert sampled.min() >= 0.1665
    assert sampled.max() <= 0.3675
    assert all(row["t0"] < row["t1"] for row in rows)
    assert len({row["key"] for row in rows}) == len(rows)


def test_pairs_of_one_video_are_spread_over_the_shards(corpus):
    names = shard_names(corpus)
    assert len(names) >= 3
    tables = [read_table(twin_paths(corpus.pairs, name)[1], PairRow)["clip_id"].to_pylist() for name in names]
    clips = {clip for table in tables for clip in table}
    assert all(len(set(table)) >= 0.8 * len(clips) for table in tables[:-1])
    neighbours = np.mean([one == other for one, other in zip(tables[0], tables[0][1:], strict=False)])
    assert neighbours < 0.25  # 1 / 18 by chance


def test_workers_and_repetition_do_not_change_a_byte(copied):
    first = run_shard(copied, OPTIONS, engine=Engine(workers=1))
    before = digests(copied.pairs)
    again = run_shard(copied, OPTIONS, engine=Engine(workers=1))
    assert (first.num_new_shards, again.num_new_shards) == (first.num_shards, 0)
    assert digests(copied.pairs) == before
    shutil.rmtree(copied.pairs)
    run_shard(copied, OPTIONS, engine=Engine(workers=2))
    assert digests(copied.pairs) == before


def test_a_killed_run_is_completed_with_the_same_bytes(copied):
    run_shard(copied, OPTIONS)
    before = digests(copied.pairs)
    (copied.pairs / "pairs.json").unlink()  # it is written last
    twin_paths(copied.pairs, "000001")[1].unlink()
    tar = twin_paths(copied.pairs, "000001")[0]
    tar.write_bytes(tar.read_bytes()[:1000])
    assert run_shard(copied, OPTIONS).num_new_shards == 1
    assert digests(copied.pairs) == before


def test_another_seed_is_refused_until_overwrite_and_gives_other_pairs(copied):
    run_shard(copied, OPTIONS)
    keys = rows_of(copied)["key"].to_pylist()
    other = PairOptions(pairs_per_shard=100, seed=1)
    with pytest.raises(ConfigError, match="seed: shards 0, asked 1"):
        run_shard(copied, other)
    run_shard(copied, other, overwrite=True)
    assert rows_of(copied)["key"].to_pylist() != keys


def test_a_corpus_that_changed_is_seen_by_the_same_process(copied):
    run_shard(copied, OPTIONS)
    changed = [dataclasses.replace(clip, subject="videos/new") for clip in reversed(read_rows(copied.clips, ClipRow))]
    write_rows(copied.clips, ClipRow, changed)
    run_shard(copied, OPTIONS)
    rows = rows_of(copied).to_pylist()
    assert {row["subject"] for row in rows} == {"videos/new"}
    assert {row["clip_id"] for row in rows} == {clip.clip_id for clip in changed}


def test_larger_shards_leave_no_old_ones_behind(copied):
    run_shard(copied, OPTIONS)
    run_shard(copied, PairOptions(pairs_per_shard=100_000), overwrite=True)
    assert sorted(file.name for file in copied.pairs.iterdir()) == ["000000.parquet", "000000.tar", "pairs.json"]


def test_what_is_missing_is_named(corpus, copied, tmp_path):
    with pytest.raises(ManifestError, match="run `mbert ingest FOLDER` first"):
        run_shard(Workspace(tmp_path / "nowhere"), OPTIONS)
    bare = [dataclasses.replace(clip, sample=None) for clip in read_rows(copied.clips, ClipRow)]
    write_rows(copied.clips, ClipRow, bare)
    with pytest.raises(ConfigError, match=r"no pair fits: 18 clips"):
        run_shard(copied, PairOptions(min_delta_ms=9000, max_delta_ms=9001))
    shard = read_rows(copied.clips, ClipRow)[0].shard
    tar = twin_paths(copied.frames, shard)[0]
    tar.unlink()
    with pytest.raises(ShardError, match=r"\.tar cannot be opened: No such file.*--overwrite"):
        run_shard(copied, OPTIONS)
    assert not (copied.pairs / "pairs.json").exists()


def test_verify_names_the_first_member_that_disagrees(copied):
    run_shard(copied, OPTIONS)
    tar = twin_paths(copied.pairs, "000000")[0]
    with tarfile.open(tar) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    members[4] = (members[4][0], b"x")
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(ShardError, match=f"member {members[4][0]} lies at"):
        verify_pairs(copied.pairs, "000000")
    tar.write_bytes(b"junk")
    with pytest.raises(ShardError, match="cannot be read"):
        verify_pairs(copied.pairs, "000000")
    frames = twin_paths(copied.frames, read_rows(copied.clips, ClipRow)[0].shard)
    assert verify_frames(copied.frames, frames[0].stem) > 0


def test_pairs_json_holds_what_the_trainer_needs(corpus):
    index = json.loads((corpus.pairs / "pairs.json").read_text())
    assert set(index) >= {"num_pairs", "options", "seed", "corpus", "shards", "subjects", "kinds", "schema"}
    assert index["subjects"] == ["videos/s01", "videos/s02", "videos/s03"]
