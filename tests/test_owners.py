"""Results of several folders in one `--out`, and their forgetting."""

import re
import shutil

import pytest
from test_roots import cut

import mbert
from mbert.manifests.files import read_json


@pytest.fixture(scope="module")
def predicted(synthetic_videos, tmp_path_factory):
    """Two folders with a `clip.mp4` each, predicted into one `out` one after the other."""
    folder = tmp_path_factory.mktemp("owners")
    for name, person in (("a", "s01"), ("b", "s02")):
        cut(synthetic_videos / person / "disgust_1.mp4", folder / name / "clip.mp4", frames=16)
    for name in ("a", "b"):
        mbert.predict(folder / name, out=folder / "out", overlay=False)
    return folder


def test_neither_of_two_videos_of_one_name_is_lost_and_the_page_has_both(predicted):
    one, other = (read_json(predicted / "out" / name / "summary.json") for name in ("clip", "clip_2"))
    assert one["sha256"] != other["sha256"]
    again = [mbert.predict(predicted / name, out=predicted / "out", overlay=False) for name in ("b", "a", "b")]
    assert [run.num_new for run in again] == [0, 0, 0]
    assert again[-1].folders == {"clip.mp4": str(predicted / "out" / "clip_2")}
    links = set(re.findall(r'href="([^"]+/report\.html)"', (predicted / "out" / "index.html").read_text()))
    assert links == {"clip/report.html", "clip_2/report.html"}


def test_a_folder_that_moved_keeps_its_results(predicted, tmp_path):
    shutil.copytree(predicted / "b", tmp_path / "elsewhere")
    shutil.copytree(predicted / "out", tmp_path / "out")
    run = mbert.predict(tmp_path / "elsewhere", out=tmp_path / "out", overlay=False)
    assert run.folders == {"clip.mp4": str(tmp_path / "out" / "clip_2")}
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".") == [
        "clip", "clip_2", "index.html",
    ]  # fmt: skip


def test_predictions_are_forgotten_too(predicted, tmp_path):
    for name in ("a", "b", "out"):
        shutil.copytree(predicted / name, tmp_path / name)
    (tmp_path / "b" / "other.mp4").write_bytes((tmp_path / "b" / "clip.mp4").read_bytes())
    mbert.ingest(tmp_path / "b", workspace=tmp_path / "workspace")
    done = mbert.forget([tmp_path / "b"], workspace=tmp_path / "workspace", predictions=tmp_path / "out")
    assert done.predictions == (str(tmp_path / "out" / "clip_2"),)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".") == ["clip"]
    assert len(list((tmp_path / "out").glob(".crops/*/corpus/frames/*.tar"))) == 1
    assert list(read_json(tmp_path / "out" / ".folders.json")) == ["clip"]
    assert "/b" not in "".join(p.read_text() for p in (tmp_path / "out").glob(".crops/*/corpus/config.json"))
