import dataclasses
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mbert import ManifestError
from mbert.cli import app
from mbert.manifests.files import write_json
from mbert.manifests.labels.report import Counts, report_labels
from mbert.manifests.schema import LabelRow, VideoRow, video_key
from mbert.manifests.store import write_rows
from mbert.manifests.subject import Subject
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.shards.engine import Engine


@pytest.fixture(scope="module")
def ingested(casme2, tmp_path_factory):
    """The CASME II look-alike, ingested: six labels in rows 2 to 7 of the sheet. Read only."""
    workspace = Workspace(tmp_path_factory.mktemp("labels"))
    run_ingest(casme2, workspace, IngestOptions(), engine=Engine(workers=2))
    return workspace


class Corpus:
    """The manifests of a corpus, written row by row as ingest would."""

    def __init__(self, folder):
        self.workspace = Workspace(folder)
        self.labels, self.videos = [], {}

    def add(self, sample, *, dataset="videos", subject="s1", emotion="disgust", status="ok", reason=None, **more):
        """Add one label, and its input unless it is there; the input holds a clip unless told otherwise."""
        path = more.pop("path", f"{subject}/{sample}.mp4")
        key = video_key(dataset, path)
        self.videos[key] = VideoRow(
            video_id=key, dataset=dataset, path=path, kind="video", status=status, reason=reason
        )
        row = LabelRow(
            **{
                "dataset": dataset,
                "subject": subject and Subject(dataset, subject),
                "sample": sample,
                "path": path,
                "video_id": key,
                "clip_id": f"{key}_f00_c00000" if status == "ok" else None,
                "line": len(self.labels) + 2,
                "expression": "micro",
                "onset": 10,
                "apex": 15,
                "offset": 20,
                "emotion": emotion,
                "action_units": "4",
                "objective_class": None,
                "errata": None,
                "remark": reason if status != "ok" else None,
                **more,
            }
        )
        self.labels.append(row)
        return row

    def add_input(self, path, *, dataset="videos", status="ok"):
        """Add an input without a label."""
        key = video_key(dataset, path)
        self.videos[key] = VideoRow(video_id=key, dataset=dataset, path=path, kind="video", status=status)

    def report(self):
        self.write()
        return report_labels(self.workspace)

    def write(self):
        write_rows(self.workspace.labels, LabelRow, self.labels)
        write_rows(self.workspace.videos, VideoRow, self.videos.values())


@pytest.fixture
def rows(tmp_path):
    return Corpus(tmp_path)


def told(report):
    """Kind and text of each difference, by the sample."""
    found = {}
    for item in report.differences:
        found.setdefault(item.sample, []).append((item.kind, item.what))
    return found


def classes_of(report, class_map):
    (found,) = [item for item in report.classes if item.class_map == class_map]
    return found


def test_a_dataset_is_counted_beside_what_is_published(ingested):
    report = report_labels(ingested)
    (dataset,) = report.datasets
    # Of six rows one has no folder; that with the apex on its onset is used with another apex.
    assert dataset.samples == Counts(usable=5, annotated=6, published=(255, 256))
    assert dataset.subjects == Counts(usable=3, annotated=3, published=(26,))
    assert (dataset.num_in_clips, dataset.num_apexes_missing, dataset.num_unlabelled) == (5, 2, 1)
    assert dataset.emotions == {"disgust": 2, "happiness": 1, "surprise": 1, "Others": 1, "repression": 1}
    assert report.annotations[0].endswith("CASME2-coding-20140508.xlsx")
    assert [item.class_map for item in report.classes] == [
        *("megc2019-3", "casme2-3", "casme2-5", "casme2-7", "megc2018-5")
    ]
    five = classes_of(report, "casme2-5")
    assert five.classes["disgust"] == Counts(usable=1, annotated=2, published=(63,))
    assert five.classes["others"] == Counts(usable=1, annotated=1, published=(99,))
    assert (five.samples.usable, five.subjects.published, five.standing) == (5, (26,), "measured")
    three = classes_of(report, "megc2019-3")
    assert {name: counts.usable for name, counts in three.classes.items()} == {
        "negative": 2,
        "positive": 1,
        "surprise": 1,
    }
    assert three.num_left_out == 1  # others


def test_differences_name_the_sample_the_input_and_the_line(ingested):
    missing, changed = sorted(report_labels(ingested).differences, key=lambda item: item.kind != "missing")
    assert (missing.subject, missing.sample, missing.line) == ("casme2/sub03", "EP06_02_01", 7)
    assert missing.what == "there is no file or folder CASME2_RAW_selected/sub03/EP06_02_01"
    assert (changed.sample, changed.line, changed.kind) == ("EP08_1", 6, "changed")
    assert changed.what.startswith("apex 10 does not lie between onset 10 and offset 20: taken as missing")


def test_each_published_figure_that_is_not_reached_is_one_line(ingested):
    lines = report_labels(ingested).count_differences
    assert "casme2: micro-expressions 5 of 255 or 256 published (measured), 6 annotated" in lines
    assert "casme2 / casme2-5: disgust 1 of 63 published (measured), 2 annotated" in lines
    # The look-alike's sheet has no objective class, as that of CASME II.
    assert [line for line in lines if "megc2018-5" in line] == [
        "casme2 / megc2018-5: no label has the objective class of a class, 185 are published"
    ]


@pytest.mark.parametrize(
    ("label", "kind", "what"),
    [
        ({"status": "missing", "reason": "label line 2 names it"}, "missing", "there is no file or folder s1/a.mp4"),
        ({"status": "pending"}, "pending", "s1/a.mp4 is not ingested yet"),
        ({"status": "no_face", "reason": "no face track in 90 frames"}, "no face", "no face track in 90 frames"),
        ({"status": "unreadable", "reason": "bad header"}, "failed", "s1/a.mp4: bad header (unreadable)"),
        ({"status": "timeout"}, "failed", "s1/a.mp4: timeout (timeout)"),
        (
            {"clip_id": None, "remark": "label line 2: no clip holds frames 10-20"},
            "unusable",
            "no clip holds frames 10-20",
        ),
        ({"clip_id": None, "remark": "label line 2: onset is missing", "onset": None}, "unusable", "onset is missing"),
        (
            {"apex": None, "remark": "label line 2: apex 30 is outside of the clip (0-25): taken as apex missing"},
            "changed",
            "apex 30 is outside of the clip",
        ),
        ({"reason": "2 images cannot be decoded, the first is img7.jpg"}, "frames", "the first is img7.jpg"),
        ({"apex": None, "offset": None}, "no apex", "no apex or offset lies after it"),
        ({"onset": 15}, "no apex", "it gives no onset-apex pair"),
        ({"subject": None, "path": "a.mp4"}, "left out", "subject is missing"),
        ({"emotion": None}, "left out", "emotion is missing"),
        ({"action_units": "4 & x"}, "action units", "cannot be read from '& X' on"),
    ],
)
def test_every_kind_of_difference_is_named(rows, label, kind, what):
    row = rows.add("a", **label)
    rows.add("b")
    report = rows.report()
    assert report.errors == ()  # what no fold takes disturbs none
    (difference,) = report.differences
    assert (difference.sample, difference.path, difference.line, difference.kind) == ("a", row.path, row.line, kind)
    assert what in difference.what
    counts_as_sample = kind in ("changed", "frames", "action units") or "emotion" in label
    assert report.datasets[0].samples.usable == 1 + counts_as_sample


def test_what_the_annotation_says_is_no_difference(rows):
    rows.add("a", apex=None)  # filled in when sharded
    rows.add("b", apex=20)  # on the offset
    rows.add("c", offset=None)
    rows.add("d", expression="macro", apex=None, offset=None)
    rows.add("e", action_units=None)
    rows.add("f", emotion=None, objective_class="III")
    report = rows.report()
    assert report.differences == ()
    dataset = report.datasets[0]
    assert (dataset.samples, dataset.num_macro) == (Counts(usable=5, annotated=5), 1)
    assert dataset.num_apexes_missing == 1


def test_a_remark_on_an_input_is_told_once(rows):
    for sample in "ab":
        rows.add(sample, path="long.mp4", reason="3 frames are damaged, the first is frame 8")
    assert told(rows.report()) == {"a": [("frames", "3 frames are damaged, the first is frame 8")]}


def test_a_label_whose_input_has_no_row_yet_is_pending(rows):
    row = rows.add("a")
    rows.add("b")
    del rows.videos[row.video_id]  # an ingest that was killed between two manifests
    assert [kind for kind, _ in told(rows.report())["a"]] == ["pending"]


def test_samples_that_a_class_map_excludes_by_design_are_no_difference(rows):
    for subject, sample in (("sub04", "EP12_01f"), ("sub05", "EP09_05f"), ("sub05", "EP01_01")):
        rows.add(sample, dataset="casme2", subject=subject)
    report = rows.report()
    assert report.differences == ()
    two_left_out, all_three = classes_of(report, "megc2019-3"), classes_of(report, "casme2-3")
    assert two_left_out.classes["negative"] == Counts(usable=1, annotated=1, published=(88,))
    assert two_left_out.num_left_out == 2
    assert all_three.classes["negative"] == Counts(usable=3, annotated=3, published=(90,))


def test_two_datasets_are_told_apart_and_own_videos_have_their_own_emotions(rows):
    rows.add("a", dataset="samm", subject="006", emotion="Anger")
    rows.add("b", dataset="samm", subject="007", emotion="Other", errata="e1 e2")
    rows.add("c", dataset="samm", subject="007", emotion="Fear", errata="e2")
    rows.add("a", subject="006", emotion="Glad")
    rows.add("b", subject="006", emotion="sad", status="empty", reason="no bytes")
    rows.add_input("more.mp4")
    rows.add_input("more.avi", status="no_face")
    report = rows.report()
    samm, videos = report.datasets
    assert (samm.dataset, samm.subjects, samm.errata) == (
        "samm",
        Counts(usable=2, annotated=2, published=(29,)),
        {"e1": 1, "e2": 2},
    )
    assert (videos.samples, videos.subjects) == (Counts(usable=1, annotated=2), Counts(usable=1, annotated=1))
    assert (samm.num_unlabelled, videos.num_unlabelled, videos.standing) == (0, 2, None)
    five = classes_of(report, "samm-5")
    assert [name for name, counts in five.classes.items() if counts.usable] == ["anger", "others"]
    assert five.num_left_out == 1  # fear
    own = classes_of(report, "annotated")
    assert own.dataset == "videos"
    assert own.classes == {"glad": Counts(usable=1, annotated=1), "sadness": Counts(usable=0, annotated=1)}
    assert not any(line.startswith("videos") for line in report.count_differences)


def test_a_person_of_two_spellings_is_one(rows):
    rows.add("a", subject="S1")
    rows.add("b", subject="s01")
    report = rows.report()
    assert report.datasets[0].subjects.annotated == 1
    (error,) = report.errors
    assert "may be one person under two spellings" in error


def test_a_sample_that_is_there_twice_is_an_error_line(rows):
    rows.add("EP01", dataset="casme2", subject="sub01", path="raw/EP01")
    rows.add("EP01", dataset="casme2", subject="sub01", path="cropped/EP01")
    rows.write()
    assert "EP01 of casme2/sub01 is there twice" in report_labels(rows.workspace).errors[0]
    done = CliRunner().invoke(app, ["labels", "--workspace", str(rows.workspace.root)])
    assert done.exit_code == 0
    assert "error: sample EP01 of casme2/sub01 is there twice" in done.stdout
    assert "next: fix" in done.stdout


def test_the_composite_is_summed_once_its_three_datasets_are_there(rows):
    rows.add("a", dataset="casme2", subject="sub01", emotion="disgust")
    rows.add("b", dataset="samm", subject="006", emotion="Happiness")
    rows.add("c", dataset="samm", subject="006", emotion="Other")
    (cde,) = [item for item in rows.report().protocols if item.protocol == "cde"]
    assert (cde.missing, cde.samples) == (("smic",), Counts(usable=2, annotated=2))
    rows.add("d", dataset="smic", subject="s1", emotion="positive")
    rows.add("e", dataset="smic", subject="s2", emotion="positive", status="missing")
    (cde,) = [item for item in rows.report().protocols if item.protocol == "cde"]
    assert (cde.missing, cde.samples) == ((), Counts(usable=3, annotated=4, published=(442,)))
    assert cde.subjects == Counts(usable=3, annotated=4, published=(68,))
    assert cde.datasets["smic"] == Counts(usable=1, annotated=2, published=(164,))


def test_samples_with_action_units_are_counted_for_their_protocol(rows):
    rows.add("a", dataset="casme2", subject="sub01", action_units="4+L10")
    rows.add("b", dataset="casme2", subject="sub01", action_units="?")
    rows.add("c", dataset="casme2", subject="sub01", action_units=None)
    rows.add("d", dataset="casme2", subject="sub01", action_units="four")
    rows.add("e", dataset="mmew", subject="S01", action_units="12", status="missing")
    (units,) = [item for item in rows.report().protocols if item.protocol == "cd6me"]
    assert units.datasets == {"casme2": Counts(usable=2, annotated=2), "mmew": Counts(usable=0, annotated=1)}
    assert units.missing == ("casme", "samm", "4dme", "casme3")


def test_without_a_corpus_or_a_label_it_says_what_to_do(rows):
    with pytest.raises(ManifestError, match=r"there is no corpus in .*: run `mbert ingest FOLDER` first"):
        report_labels(rows.workspace)
    rows.add_input("a.mp4")
    rows.write()
    write_json(rows.workspace.corpus_config, {"root": "/data/mine"})
    with pytest.raises(ManifestError, match=r"write labels.csv into /data/mine, .*path, subject, onset, .*--dataset"):
        report_labels(rows.workspace)


def test_the_command_prints_counts_and_some_differences_then_the_next_step(ingested):
    words = ["labels", "--workspace", str(ingested.root)]
    some, everything = (CliRunner().invoke(app, [*words, *more]) for more in ([], ["--all"]))
    assert (some.exit_code, everything.exit_code) == (0, 0)
    lines = [line.split() for line in some.stdout.splitlines()]
    assert ["disgust", "1", "2", "63"] in lines
    assert ["casme2", "/", "casme2-5", "5", "6", "246", "measured"] in lines
    assert "casme2/sub03 EP06_02_01 (line 7): missing: there is no file or folder" in some.stdout
    assert "2 differences from the annotation" in some.stdout
    assert "1 input unlabelled" in some.stdout
    assert "more: mbert labels --all" in some.stdout
    assert "more: mbert labels --all" not in everything.stdout
    assert sum(" published (" in line for line in everything.stdout.splitlines()) > 18
    assert "next: mbert shard --pairs" in some.stdout.splitlines()[-1]


def test_json_is_the_whole_report(ingested):
    done = CliRunner().invoke(app, ["labels", "--workspace", str(ingested.root), "--json"])
    value = json.loads(done.stdout)
    assert value == json.loads(json.dumps(dataclasses.asdict(report_labels(ingested))))
    assert value["classes"][2]["classes"]["disgust"] == {"usable": 1, "annotated": 2, "published": [63]}


def test_the_command_loads_no_heavy_library(ingested):
    code = (
        "import sys, mbert.cli\n"
        f"try:\n    mbert.cli.app(['labels', '--workspace', {str(ingested.root)!r}])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'mediapipe', 'cv2', 'av', 'sklearn', 'duckdb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usable" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
