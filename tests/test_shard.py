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
from mbert.manifests.schema import ClipRow, FrameRow, LabelRow, PairRow
from mbert.manifests.store import read_rows, read_table, write_rows
from mbert.manifests.workspace import PAIRS_CLIPS, Workspace, twin_paths
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.shards.engine import Engine
from mbert.shards.integrity import verify_frames, verify_pairs
from mbert.shards.reader import list_shards
from mbert.shards.source import open_source

OPTIONS = PairOptions(pairs_per_shard=100)


def rows_of(folder):
    return pa.concat_tables([read_table(twin_paths(folder, name)[1], PairRow) for name in list_shards(folder)])


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.fixture
def copied(corpus, tmp_path):
    """A corpus of one's own, without shards."""
    shutil.copytree(corpus.corpus, tmp_path / "corpus")
    return Workspace(tmp_path)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # stock webdataset leaves its tars open
def test_stock_webdataset_reads_the_pairs_and_the_twins_agree(corpus):
    names = list_shards(corpus.pairs)
    tars = [str(twin_paths(corpus.pairs, name)[0]) for name in names]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    rows = rows_of(corpus.pairs).to_pylist()
    assert len(samples) == len(rows) == read_json(corpus.pairs / "pairs.json")["num_pairs"] > 200
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    assert {sample["t0.jpg"].shape for sample in samples} == {(224, 224, 3)} == {s["t1.jpg"].shape for s in samples}
    shared = {"key", "clip_id", "dataset", "t0", "t1", "delta_seconds", "kind"}
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
    rows = {row["key"]: row for row in rows_of(corpus.pairs).to_pylist()}
    num_compared = num_equal = 0
    for name in list_shards(corpus.pairs):
        with tarfile.open(twin_paths(corpus.pairs, name)[0]) as archive:
            for member in archive:
                key, kind = member.name.split(".", 1)
                if kind != "json":
                    frame = frames[rows[key]["clip_id"], rows[key][kind[:2]]]
                    num_compared += 1
                    num_equal += archive.extractfile(member).read() == frame
    assert num_compared == num_equal == 2 * len(rows)


def test_each_label_gives_its_onset_apex_pair_in_a_set_of_its_own(corpus):
    labels = read_rows(corpus.labels, LabelRow)
    rows = rows_of(corpus.expressions).to_pylist()
    assert len(rows) == len(labels) == 18
    assert {(row["clip_id"], row["t0"], row["t1"], row["subject"], row["sample"]) for row in rows} == {
        (label.clip_id, label.onset, label.apex, label.subject, label.sample) for label in labels
    }
    assert {(row["kind"], row["apex_source"]) for row in rows} == {("onset_apex", "annotated")}
    sampled = rows_of(corpus.pairs)
    assert set(sampled["kind"].to_pylist()) == {"sampled"}
    assert {name: sampled[name].null_count for name in ("subject", "sample", "apex_source")} == dict.fromkeys(
        ("subject", "sample", "apex_source"), len(sampled)
    )


def test_frames_between_onset_and_apex_make_pairs_of_their_own(copied):
    summary = run_shard(copied, dataclasses.replace(OPTIONS, frames_between=3))
    assert (summary.kinds["onset_apex"], summary.kinds["onset_between"]) == (18, 54)
    table = rows_of(copied.expressions).to_pylist()
    for label in read_rows(copied.labels, LabelRow):
        ends = [row["t1"] for row in table if row["sample"] == label.sample and row["kind"] == "onset_between"]
        starts = {row["t0"] for row in table if row["sample"] == label.sample and row["kind"] == "onset_between"}
        quarter = (label.apex - label.onset) / 4
        assert (starts, len(ends)) == ({label.onset}, 3)
        assert np.abs(np.sort(ends) - label.onset - quarter * np.arange(1, 4)).max() <= 0.5


@pytest.mark.parametrize("apex", ["annotated", "middle", "spotted"])
def test_a_missing_apex_is_left_out_or_filled_in_and_that_is_a_column(copied, apex):
    labels = read_rows(copied.labels, LabelRow)
    removed = {label.clip_id for label in labels[::2]}
    bare = [dataclasses.replace(label, apex=None) if label.clip_id in removed else label for label in labels]
    write_rows(copied.labels, LabelRow, bare)
    summary = run_shard(copied, dataclasses.replace(OPTIONS, apex=apex), overwrite=True)
    rows = {row["clip_id"]: row for row in rows_of(copied.expressions).to_pylist()}
    if apex == "annotated":
        assert set(rows) == {label.clip_id for label in labels} - removed
        assert (summary.labels_without_pair, summary.apexes_filled) == (9, 0)
        return
    assert (summary.labels_without_pair, summary.apexes_filled) == (0, 9)
    assert {name for name, row in rows.items() if row["apex_source"] == apex} == removed
    off = [abs(rows[label.clip_id]["t1"] - label.apex) for label in labels if label.clip_id in removed]
    middle = [abs((label.onset + label.offset) / 2 - label.apex) for label in labels if label.clip_id in removed]
    if apex == "middle":
        assert np.abs(np.array(off) - middle).max() <= 0.5
    else:
        assert np.median(off) <= 2  # frames of 33 ms


def test_labels_that_show_the_same_frames_give_a_pair_each(copied):
    labels = read_rows(copied.labels, LabelRow)
    twice = [*labels, dataclasses.replace(labels[0], sample="again", line=99, emotion="other")]
    write_rows(copied.labels, LabelRow, twice)
    run_shard(copied, dataclasses.replace(OPTIONS, frames_between=1))
    rows = rows_of(copied.expressions).to_pylist()
    assert len({row["key"] for row in rows}) == len(rows) == 38
    assert [row["key"][-2:] for row in rows if row["sample"] == "again"] == ["_1", "_1"]
    assert sum(verify_pairs(copied.expressions, name) for name in list_shards(copied.expressions)) == 3 * 38


def test_labels_change_the_pairs_of_expressions_alone(copied):
    """Adding, correcting and removing labels leaves every byte of the sampled pairs as it was."""
    labels = read_rows(copied.labels, LabelRow)
    write_rows(copied.labels, LabelRow, labels[2:])
    first = run_shard(copied, OPTIONS)
    before, of_labels = digests(copied.pairs), digests(copied.expressions)
    assert first.kinds["onset_apex"] == 16
    write_rows(copied.labels, LabelRow, labels)  # two more
    assert run_shard(copied, OPTIONS).num_new_shards == 1
    assert digests(copied.pairs) == before
    assert len(rows_of(copied.expressions)) == 18
    corrected = [dataclasses.replace(label, onset=(label.onset or 0) + 1) for label in labels[:1]]
    write_rows(copied.labels, LabelRow, [*corrected, *labels[1:]])
    assert run_shard(copied, OPTIONS).num_new_shards == 1
    assert digests(copied.pairs) == before
    write_rows(copied.labels, LabelRow, labels[2:])
    run_shard(copied, OPTIONS)
    assert digests(copied.pairs) == before
    assert digests(copied.expressions) == of_labels
    renamed = [dataclasses.replace(label, emotion="anger", action_units="4") for label in labels[2:]]
    write_rows(copied.labels, LabelRow, renamed)  # a class is in no shard
    assert run_shard(copied, OPTIONS).num_new_shards == 0
    assert digests(copied.expressions) == of_labels


def test_a_corrected_subject_is_in_the_manifest_of_clips_and_no_shard_is_written(copied):
    run_shard(copied, OPTIONS)
    tars = {name: digest for name, digest in digests(copied.pairs).items() if name[:6].isdecimal()}
    clips = [dataclasses.replace(clip, subject="videos/new") for clip in read_rows(copied.clips, ClipRow)]
    write_rows(copied.clips, ClipRow, clips)
    assert run_shard(copied, OPTIONS).num_new_shards == 0
    assert {name: digest for name, digest in digests(copied.pairs).items() if name[:6].isdecimal()} == tars
    assert {clip.subject for clip in read_rows(copied.pairs / PAIRS_CLIPS, ClipRow)} == {"videos/new"}
    assert read_json(copied.pairs / "pairs.json")["subjects"] == ["videos/new"]
    assert open_source(copied.pairs).read_clips() == clips


def test_other_frames_between_make_the_pairs_of_expressions_alone(copied):
    run_shard(copied, OPTIONS)
    before = digests(copied.pairs)
    more = dataclasses.replace(OPTIONS, frames_between=2)
    with pytest.raises(ConfigError, match=r"expressions were made with other options \(frames_between: shards 0"):
        run_shard(copied, more)
    run_shard(copied, more, overwrite=True)
    assert digests(copied.pairs) == before
    assert len(rows_of(copied.expressions)) == 54


def test_clips_too_short_for_sampled_pairs_still_give_those_of_their_labels(copied):
    summary = run_shard(copied, dataclasses.replace(OPTIONS, min_delta_ms=9000, max_delta_ms=9001))
    assert (summary.kinds, summary.clips_without_pairs) == ({"onset_apex": 18}, 18)


def test_pairs_are_apart_by_time_and_in_order(corpus):
    rows = rows_of(corpus.pairs).to_pylist()
    sampled = np.array([row["delta_seconds"] for row in rows if row["kind"] == "sampled"])
    assert sampled.min() >= 0.1665
    assert sampled.max() <= 0.3675
    assert all(row["t0"] < row["t1"] for row in rows)
    assert len({row["key"] for row in rows}) == len(rows)


def test_pairs_of_one_video_are_spread_over_the_shards(corpus):
    names = list_shards(corpus.pairs)
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
    keys = rows_of(copied.pairs)["key"].to_pylist()
    other = PairOptions(pairs_per_shard=100, seed=1)
    with pytest.raises(ConfigError, match="seed: shards 0, requested 1"):
        run_shard(copied, other)
    run_shard(copied, other, overwrite=True)
    assert rows_of(copied.pairs)["key"].to_pylist() != keys


def test_a_corpus_that_changed_is_seen_by_the_same_process(copied):
    run_shard(copied, OPTIONS)
    fewer = read_rows(copied.clips, ClipRow)[::-2]
    write_rows(copied.clips, ClipRow, fewer)
    write_rows(copied.labels, LabelRow, [])
    run_shard(copied, OPTIONS)
    assert set(rows_of(copied.pairs)["clip_id"].to_pylist()) == {clip.clip_id for clip in fewer}
    assert list_shards(copied.expressions) == []


def test_larger_shards_leave_no_old_ones_behind(copied):
    run_shard(copied, OPTIONS)
    run_shard(copied, PairOptions(pairs_per_shard=100_000), overwrite=True)
    assert sorted(file.name for file in copied.pairs.iterdir()) == [
        "000000.parquet",
        "000000.tar",
        "clips.parquet",
        "pairs.json",
    ]


def test_what_is_missing_is_named(corpus, copied, tmp_path):
    with pytest.raises(ManifestError, match="run `mbert ingest FOLDER` first"):
        run_shard(Workspace(tmp_path / "nowhere"), OPTIONS)
    labels = read_rows(copied.labels, LabelRow)
    write_rows(copied.labels, LabelRow, [])
    with pytest.raises(ConfigError, match=r"no pair fits: 18 clips"):
        run_shard(copied, PairOptions(min_delta_ms=9000, max_delta_ms=9001))
    write_rows(copied.labels, LabelRow, labels)
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
