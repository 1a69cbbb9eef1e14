"""Forgetting: nothing of a person is left in a workspace, nothing of the others has changed, nobody comes back."""

import json
import shutil
import tarfile

import pyarrow.parquet as pq
import pytest
from test_roots import cut

import mbert
from mbert import ConfigError, ManifestError
from mbert.manifests.files import read_json
from mbert.manifests.schema import ClipRow, LabelRow, PairRow, VideoRow
from mbert.manifests.scrub import Scrubber
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.verify import run_verify
from mbert.shards import forget as shard_forget
from mbert.shards.frames import CorpusFrames
from mbert.shards.source import open_source

PEOPLE = {"anna": "s01", "bo": "s02", "kim": "s03"}
NAMES = {name: [f"{name} x/{emotion}.mp4" for emotion in ("disgust", "surprise")] for name in PEOPLE}


@pytest.fixture(scope="module")
def recorded(synthetic_videos, tmp_path_factory):
    """A folder `videos` of three people, ingested, sharded, with two pretrainings and an evaluation. Read only."""
    root = tmp_path_factory.mktemp("recorded")
    lines = ["path,subject,onset,apex,offset,emotion"]
    for name, person in PEOPLE.items():
        for path in NAMES[name]:
            emotion = path.split("/")[1].removesuffix(".mp4")
            cut(synthetic_videos / person / f"{emotion}_1.mp4", root / "videos" / path, frames=24)
            lines.append(f"{path},{name},2,10,20,{emotion}")
    (root / "videos" / "labels.csv").write_text("\n".join(lines) + "\n")
    workspace = Workspace(root / "workspace")
    run_ingest(root / "videos", workspace, IngestOptions(size=112))
    run_shard(workspace, PairOptions(pairs_per_shard=20))
    how = {"preset": "tiny", "steps": 2, "batch_size": 8, "precision": "fp32"}
    mbert.pretrain(workspace=workspace.root, **how)
    mbert.pretrain(workspace=workspace.root, **how, exclude_subjects_of=["videos/anna"], out=workspace.runs / "clean")
    mbert.evaluate(workspace=workspace.root, baselines=["majority"])
    return root


@pytest.fixture
def at(recorded, tmp_path):
    """A copy of it, in `tmp_path`."""
    shutil.copytree(recorded, tmp_path / "at", symlinks=True)
    return tmp_path / "at"


def jpegs_of(workspace, name):
    """The crops of a person, as they lie in the tars."""
    found = []
    for clip in CorpusFrames(workspace):
        if clip.clip.subject == f"videos/{name}":
            data = clip.tar.read_bytes()
            found += [data[row.offset : row.offset + row.size] for row in clip.rows]
    return found


def pairs_of(workspace):
    """Key, kind and the bytes of all members of each pair, in the order of the shards."""
    found = {}
    for folder in (workspace.pairs, workspace.expressions):
        for tar in sorted(folder.glob("*.tar")):
            with tarfile.open(tar) as archive:
                for member in archive:
                    found[folder.name, member.name] = archive.extractfile(member).read()
    return found


def everything(folder):
    """The bytes of every file; of tables also the texts of all cells, which are compressed, and metadata."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = file.read_bytes() + str(file.relative_to(folder)).encode()
        if file.suffix == ".parquet":
            table = pq.read_table(file)
            data += json.dumps(table.to_pylist(), default=str).encode() + str(table.schema.metadata).encode()
        found[str(file.relative_to(folder))] = data
    return found


def test_nothing_of_a_person_is_left_in_any_file_and_all_of_the_others_is(at, invoke):
    workspace = Workspace(at / "workspace")
    frames, others = jpegs_of(workspace, "anna"), {name: jpegs_of(workspace, name) for name in ("bo", "kim")}
    ids = [row.video_id for row in read_rows(workspace.videos, VideoRow) if row.path in NAMES["anna"]]
    before = pairs_of(workspace)
    told = [b"videos/anna", b"anna x", *(name.encode() for name in ids)]
    held = {name for name, data in everything(workspace.root).items() if any(text in data for text in told)}
    assert {"runs/loso/results.json", "runs/loso/predictions.parquet", "corpus/labels.parquet"} <= held
    listed = json.loads(invoke("forget", "--subject", "anna", "--dry-run", "--json", cwd=at).stdout)
    assert {name for name, data in everything(workspace.root).items() if any(text in data for text in told)} == held
    done = json.loads(invoke("forget", "--subject", "anna", "--json", cwd=at).stdout)
    assert [done[name] for name in ("inputs", "num_crops", "num_labels")] == [NAMES["anna"], len(frames), 2]
    assert {name: value for name, value in done.items() if name not in ("dry_run", "changed_files")} == {
        name: value for name, value in listed.items() if name not in ("dry_run", "changed_files")
    }
    left = everything(workspace.root)
    assert [name for name, data in left.items() if any(text in data for text in told)] == []
    assert [name for name, data in left.items() if any(frame in data for frame in frames)] == []
    assert {name: jpegs_of(workspace, name) for name in others} == others
    after = pairs_of(workspace)
    assert done["num_pairs"] == (len(before) - len(after)) / 3 > 0
    assert after == {name: data for name, data in before.items() if not name[1].startswith(tuple(ids))}
    assert list(after) == [name for name in before if name in after]


def test_shards_manifests_and_training_agree_afterwards(at):
    workspace = Workspace(at / "workspace")
    mbert.forget(workspace=workspace.root, subjects=["videos/anna"])
    assert run_verify(workspace).num_frame_tars == 4
    source = open_source(workspace.pairs)
    rows = [row for twin in sorted(workspace.pairs.glob("0*.parquet")) for row in read_rows(twin, PairRow)]
    assert (sum(source.counts), source.subjects) == (len(rows), ("videos/bo", "videos/kim"))
    assert len(list(mbert.open_pairs(workspace=workspace.root))) == len(rows)
    summary = mbert.pretrain(
        workspace=workspace.root, preset="tiny", steps=2, batch_size=8, precision="fp32", out=workspace.runs / "next"
    )
    assert summary.steps_done == 2
    result = mbert.evaluate(workspace=workspace.root, checkpoint=workspace.runs / "next", baselines=["majority"])
    assert (result.num_samples, result.num_subjects) == (4, 2)
    assert run_shard(workspace, PairOptions(pairs_per_shard=20)).num_pairs == len(rows) + 4
    assert run_verify(workspace).num_pair_shards > 1


def test_runs_that_have_seen_a_person_say_so_and_the_others_do_not(at):
    workspace = Workspace(at / "workspace")
    done = mbert.forget(workspace=workspace.root, subjects=["anna"])
    runs = workspace.runs
    assert (done.runs_seen, done.runs_unsure) == ((str(runs / "loso"), str(runs / "pretrain")), ())
    (one, other) = read_json(workspace.forgotten)["forgotten"]
    state = read_json(runs / "pretrain" / "checkpoints" / "last" / "state.json")
    assert (state["forgotten"], state["subjects"]) == ([one, other], ["videos/bo", "videos/kim"])
    assert mbert.load_model(runs / "pretrain").state.forgotten == (one, other)
    assert read_json(runs / "loso" / "results.json")["forgotten"] == [one, other]
    assert "forgotten" not in read_json(runs / "clean" / "checkpoints" / "last" / "state.json") or (
        read_json(runs / "clean" / "checkpoints" / "last" / "state.json")["forgotten"] == []
    )
    assert not (runs / "pretrain" / "pictures").exists()
    assert [(runs / name / "report.html").exists() for name in ("pretrain", "loso", "clean")] == [False, False, True]
    assert pq.read_table(runs / "loso" / "predictions.parquet")["subject"].unique().to_pylist() == [
        "videos/bo",
        "videos/kim",
    ]


def test_a_forgotten_input_does_not_come_back_until_that_is_lifted(at, invoke):
    workspace = Workspace(at / "workspace")
    path = at / "videos" / NAMES["bo"][0]
    assert invoke("forget", str(path), cwd=at).returncode == 0
    path.rename(path.with_name("renamed.mp4"))
    shutil.copy(path.with_name("renamed.mp4"), at / "videos" / "copy.mp4")
    done = invoke("ingest", "videos", "--size", "112", cwd=at)
    assert "2 inputs are not ingested: they were forgotten" in done.stdout
    assert not {"copy.mp4", "bo x/renamed.mp4"} & {row.path for row in read_rows(workspace.videos, VideoRow)}
    text = workspace.forgotten.read_text()
    assert not any(word in text for word in ("bo x", "disgust", "videos/", "mp4"))
    (at / "videos" / "copy.mp4").unlink()
    assert "1 input is not ingested: it was forgotten" in invoke("ingest", "videos", "--size", "112", cwd=at).stdout
    assert invoke("forget", "--lift", "videos/bo x", cwd=at).stdout.startswith("1 input may be ingested again")
    assert "this run: 1 input" in invoke("ingest", "videos", "--size", "112", cwd=at).stdout


@pytest.mark.parametrize("after", range(2, 60, 7))
def test_a_stopped_run_is_finished_by_the_same_command(at, after, monkeypatch):
    """Stopped after so many changes of the disk."""
    workspace = Workspace(at / "workspace")
    count = 0
    for owner in (shard_forget.Path,):
        for name in ("replace", "unlink"):
            real = getattr(owner, name)

            def counted(self, *args, real=real, **kwargs):
                nonlocal count
                count += 1
                if count == after:
                    raise KeyboardInterrupt
                return real(self, *args, **kwargs)

            monkeypatch.setattr(owner, name, counted)
    stopped = False
    try:
        mbert.forget(workspace=workspace.root, subjects=["anna"])
    except KeyboardInterrupt:
        stopped = True
    monkeypatch.undo()
    if stopped and workspace.forgetting.exists():
        with pytest.raises(ManifestError, match="`mbert forget` was stopped"):
            run_verify(workspace)
        mbert.forget(workspace=workspace.root, subjects=["anna"])
    assert not workspace.forgetting.exists()
    data = everything(workspace.root)
    assert [name for name, each in data.items() if b"anna" in each] == []
    run_verify(workspace)
    assert open_source(workspace.pairs).num_pairs == sum(
        len(read_rows(twin, PairRow)) for twin in workspace.pairs.glob("0*.parquet")
    )


def test_what_is_meant_is_found_by_path_folder_id_and_content(at, tmp_path):
    workspace = Workspace(at / "workspace")

    def found(**which):
        return mbert.forget(workspace=workspace.root, dry_run=True, **which)

    assert found(paths=[at / "videos" / "anna x"]).inputs == tuple(NAMES["anna"])
    assert found(paths=[NAMES["bo"][0]]).inputs == (NAMES["bo"][0],)
    key = read_rows(workspace.videos, VideoRow)[0].video_id
    assert found(videos=[key]).num_clips == 1
    with pytest.raises(ConfigError, match="annna is nobody in the corpus; the nearest are anna"):
        found(subjects=["annna"])
    with pytest.raises(ConfigError, match="give exactly one of paths, --subject, --video and --expired"):
        found(subjects=["anna"], videos=[key])
    with pytest.raises(ConfigError, match="nothing is given"):
        found()
    with pytest.raises(
        ConfigError, match="is neither an input of the corpus nor a folder of inputs; the nearest are anna x/"
    ):
        found(paths=["anna x/disgus.mp4"])
    with pytest.raises(ManifestError, match="there is no corpus in"):
        mbert.forget([NAMES["bo"][0]], workspace=tmp_path / "nowhere")


def test_forgetting_everybody_leaves_no_shard_and_no_crop(at):
    workspace = Workspace(at / "workspace")
    mbert.forget([at / "videos"], workspace=workspace.root)
    assert [file.name for folder in (workspace.frames, workspace.pairs, workspace.expressions)
            for file in folder.iterdir()] == []  # fmt: skip
    assert [len(read_rows(file, kind)) for file, kind in (
        (workspace.videos, VideoRow), (workspace.clips, ClipRow), (workspace.labels, LabelRow),
    )] == [0, 0, 0]  # fmt: skip
    assert str(at / "videos") not in workspace.corpus_config.read_text()


def test_names_leave_files_and_longer_names_stay(tmp_path):
    scrubber = Scrubber(ids=["videos-a-12345678"], names=["videos/1", "a.mp4"])
    value = {"videos/1": 3, "videos/10": [1, "videos/1", "videos/12"], "key": "videos-a-12345678_f00_c00000",
             "said": "see /data/a.mp4, not ba.mp4"}  # fmt: skip
    assert scrubber.value(value) == {
        "videos/10": [1, "videos/12"],
        "key": "(forgotten)",
        "said": "see /data/(forgotten), not ba.mp4",
    }
    (tmp_path / "rows.csv").write_text("path,score\na.mp4,1\nba.mp4,2\n")
    assert scrubber.file(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == "path,score\nba.mp4,2\n"
    assert not scrubber.file(tmp_path / "rows.csv")
