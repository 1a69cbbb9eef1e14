"""`videos.csv`: licence, consent, source, retention and subject of inputs."""

import datetime
import shutil

import pytest
from test_roots import HEADER, cut

from mbert import ManifestError
from mbert.manifests.labels.provenance import expired, read_provenance
from mbert.manifests.schema import ClipRow, LabelRow, PairRow, VideoRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard


@pytest.fixture(scope="module")
def videos(synthetic_videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("provenance") / "videos"
    for name in ("s01/disgust_1.mp4", "s02/disgust_1.mp4"):
        cut(synthetic_videos / name, folder / name, frames=14)
    return folder


def test_a_table_beside_the_videos_becomes_columns_and_a_changed_one_decodes_nothing(videos, tmp_path, invoke):
    folder, workspace = tmp_path / "videos", Workspace(tmp_path / "workspace")
    shutil.copytree(videos, folder)
    (folder / "labels.csv").write_text(f"{HEADER}s01/disgust_1.mp4,,2,5,9,fear\ns02/disgust_1.mp4,kim,2,5,9,fear\n")
    table = folder / "Videos.CSV"
    table.write_text(
        "Path, License ,consent,source,retention_until,subject\n"
        ".,CC-BY-4.0,,lab,,\n\n"
        "s01,private,2024/17,\"clinic, room 2\",2024-02-29,anna\n"
        "s02/disgust_1.mp4,CC0,,,2999-12-31,bo\n"
        "gone.mp4,,,,,\n"
    )  # fmt: skip
    done = invoke("ingest", "videos", cwd=tmp_path)
    assert done.returncode == 0
    assert "line 6: there is no gone.mp4 next to it" in done.stderr
    assert "says that s02/disgust_1.mp4 shows bo, label line 3 says videos/kim: the label is taken" in done.stderr
    assert "neither video nor image" not in done.stdout
    first, second = read_rows(workspace.videos, VideoRow)
    assert (first.license, first.consent, first.source) == ("private", "2024/17", "clinic, room 2")
    assert (first.retention_until, first.subject, second.retention_until) == ("2024-02-29", "videos/anna", "2999-12-31")
    assert [clip.subject for clip in read_rows(workspace.clips, ClipRow)] == ["videos/anna", "videos/kim"]
    assert [label.subject for label in read_rows(workspace.labels, LabelRow)] == ["videos/anna", "videos/kim"]
    told = "retention_until has passed for 1 input (2024-02-29 is the first): mbert forget --video " + first.video_id
    assert told in done.stderr.splitlines()
    assert told in invoke("labels", cwd=tmp_path).stderr
    run_shard(workspace, PairOptions(where="license = 'CC0' and subject = 'videos/kim'"))
    assert {row.subject for row in read_rows(workspace.expressions / "000000.parquet", PairRow)} == {"videos/kim"}
    table.write_text("path,license\n.,CC-BY-4.0\n")
    again = run_ingest(folder, workspace, IngestOptions())
    assert again.num_new == 0
    rows = read_table(workspace.videos, VideoRow).select(["license", "consent", "retention_until", "subject"])
    assert rows.to_pylist() == [{"license": "CC-BY-4.0", "consent": None, "retention_until": None, "subject": None}] * 2
    table.unlink()
    run_ingest(folder, workspace, IngestOptions())
    assert [row.license for row in read_rows(workspace.videos, VideoRow)] == [None, None]
    assert "retention_until" not in invoke("labels", cwd=tmp_path).stderr


def test_the_last_day_is_still_allowed(videos, tmp_path):
    folder, workspace = tmp_path / "videos", Workspace(tmp_path / "workspace")
    shutil.copytree(videos, folder)
    (folder / "videos.csv").write_text("path,retention_until\n.,2030-06-30\n")
    run_ingest(folder, workspace, IngestOptions(), limit=1)
    days = [datetime.date(2030, 6, 30), datetime.date(2030, 7, 1)]
    assert [len(expired(workspace.videos, day)) for day in days] == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,retention_until\na.mp4,31.12.2027\n", r"videos.csv line 2: retention_until is '31.12.2027'.*YYYY-MM-DD"),
        ("path,retention_until\na.mp4,2027-02-30\n", r"videos.csv line 2: retention_until is '2027-02-30'"),
        ("name,license\na.mp4,CC0\n", r"lacks the columns path; it has 'name', 'license'"),
        ("license\nCC0\n", r"lacks the columns path; it has 'license'; it needs path"),
        ("path,licence\na.mp4,CC0\n", r"has the columns licence; allowed are path, license, consent"),
        ("path,license\n ,CC0\n", r"line 2: path is empty"),
        ("path,license\na.mp4,CC0\n./a.mp4,MIT\n", r"line 3: line 2 names a.mp4 too: keep one"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(text, message, tmp_path):
    (tmp_path / "videos.csv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_provenance(tmp_path / "videos.csv")
