import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score, recall_score

from mbert import ManifestError, ModelError
from mbert.manifests.labels.prediction_files import Prediction, read_predictions
from mbert.model.scoring.predictions import score_predictions

ROWS = [
    Prediction(dataset="casme2", subject="casme2/sub01", clip="EP02_01f", label="1", prediction="0"),
    Prediction(dataset="casme2", subject="casme2/sub01", clip="EP19_05f", label="0", prediction="0"),
    Prediction(dataset="smic", subject="smic/20", clip="s20_ne_01", label="0", prediction="1"),
]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", "\t", ";", ", ", "  "])
def test_tables_with_and_without_header_and_logs_say_the_same(tmp_path, delimiter):
    bare = ["casme2 sub01 EP02_01f 1 0", "casme2 sub01 EP19_05f 0 0", "smic 20 s20_ne_01 0 1"]
    shuffled = ["pred note DB Filename GT subject"]
    shuffled += [f"{pred} x {db} {clip} {gt} {sub}" for db, sub, clip, gt, pred in map(str.split, bare)]
    log = ["casme2 sub01", "EP02_01f 1 0", "EP19_05f 0 0", "", "smic 20", "s20_ne_01 0 1", ""]
    for lines in (bare, ["dataset subject clip label prediction", *bare], shuffled, log):
        text = "\n".join(lines).replace(" ", delimiter)
        assert read_predictions(write(tmp_path / "p.csv", text)) == ROWS


def test_marks_of_windows_and_of_spreadsheets_do_not_matter(tmp_path):
    log = "casme2,sub01,\r\nEP02_01f,1,0\r\n\r\nEP19_05f,0,0\r\n,,\r\nsmic,20,\r\ns20_ne_01,0,1"
    assert read_predictions(write(tmp_path / "p.csv", log, "utf-8-sig")) == ROWS
    table = 'Subject,"Ground Truth",Prediction,"Notes; free",,\r\n"sub, one",Happy,HAPPY ,"a\r\nb",,\r\n,,,,,\r\n'
    assert read_predictions(write(tmp_path / "p.csv", table, "utf-8-sig")) == [
        Prediction(dataset=None, subject="sub, one", clip=None, label="happy", prediction="happy")
    ]


def test_without_a_dataset_subjects_stay_as_they_are(tmp_path):
    assert read_predictions(write(tmp_path / "p.csv", "7,a,0,1\n007,a,0.0,1\n")) == [
        Prediction(dataset=None, subject="7", clip="a", label="0", prediction="1"),
        Prediction(dataset=None, subject="007", clip="a", label="0.0", prediction="1"),
    ]


def test_equal_ids_of_two_datasets_stay_two_people_and_no_prefix_comes_twice(tmp_path):
    lines = ["CASME2,1,a,x,x", "casme2,casme2/1,b,x,x", "casme2,CASME2/1,c,x,x", "samm,1,a,x,x", "smic,1,a,x,x"]
    subjects = [row.subject for row in read_predictions(write(tmp_path / "p.csv", "\n".join(lines)))]
    assert subjects == ["casme2/1"] * 3 + ["samm/1", "smic/1"]


def test_parquet_of_ours_and_of_others_is_read(tmp_path):
    ours = {
        "key": ["k1", "k2"],
        "clip_id": ["c", "c"],
        "subject": ["videos/s01", "videos/s02"],
        "label": ["happy", "sad"],
        "prediction": ["sad", "sad"],
        "majority": ["sad", "happy"],
    }
    pq.write_table(pa.table(ours), tmp_path / "ours.parquet")
    assert [(row.subject, row.clip, row.label) for row in read_predictions(tmp_path / "ours.parquet")] == [
        ("videos/s01", "k1", "happy"),
        ("videos/s02", "k2", "sad"),
    ]
    pq.write_table(pa.table({"db": ["SAMM"], "subject": [6], "gt": [2], "pred": [0]}), tmp_path / "others")
    assert read_predictions(tmp_path / "others") == [
        Prediction(dataset="samm", subject="samm/6", clip=None, label="2", prediction="0")
    ]
    pq.write_table(pa.table({"subject": ["a", "b"], "gt": ["x", None], "pred": ["x", "x"]}), tmp_path / "holes")
    with pytest.raises(ManifestError, match="holes row 2: label is empty"):
        read_predictions(tmp_path / "holes")
    (tmp_path / "torn").write_bytes((tmp_path / "others").read_bytes()[:200])
    with pytest.raises(ManifestError, match="torn cannot be read as Parquet"):
        read_predictions(tmp_path / "torn")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no predictions; allowed are a table whose header"),
        ("\n \r\n", "holds no predictions"),
        ("subject,label,prediction\n", "holds no predictions"),
        ("subject,truth,guess\ns,a,a\n", "lacks the columns prediction; prediction may be called pred, predicted"),
        ("label,prediction\na,a\n", "lacks the columns subject"),
        ("subject,gt,emotion,pred\ns,a,b,a\n", "more than one column that may be the label: gt, emotion"),
        ("subject,label,label,pred\ns,a,b,a\n", "more than one column that may be the label"),
        ("s,a,a\n", r"line 1 has 3 cells and names no column: \['s', 'a', 'a'\]; allowed"),
        ("\nd,s,c,a,a\nd,s,c2,a,a,a\n", "line 3 has 6 cells, but line 2 has 5"),
        ("subject,label,prediction\ns,a,a\ns,,a\n", "line 3: label is empty"),
        ("subject,label,prediction\ns,a\n", "line 2: prediction is empty"),
        ("dataset,subject,label,prediction\n,s,a,a\n", "line 2: dataset is empty; .* leave out"),
        ("d,s,c,a,a\nd,s2,c,a,a\nd,s,c,a,b\n", "line 3: clip 'c' of subject d/s is already in line 1"),
        ("d s\nc a a\nd s2\nd s3\nc a a\n", "line 3 has two words, which name dataset and subject, but no sample"),
        ("d s\nc a a\nc2 a\n", "line 3 has two words"),
        ("d s,c\nc a a\n", "line 1 has 2 cells and names no column"),
        ("d s\nc a a a\n", "line 2 has 4 words: 'c a a a'"),
    ],
)
def test_a_file_that_cannot_be_believed_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ManifestError, match=message):
        read_predictions(write(tmp_path / "p.csv", text))


def test_a_file_that_is_absent_or_not_text_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"absent\.csv cannot be read: No such file"):
        read_predictions(tmp_path / "absent.csv")
    (tmp_path / "p.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4)
    with pytest.raises(ManifestError, match=r"p\.csv is neither a text nor a spreadsheet: save it as CSV in UTF-8"):
        read_predictions(tmp_path / "p.csv")


@pytest.fixture(scope="module")
def composite(tmp_path_factory):
    """A log of three datasets whose subjects share their numbers; the third lacks a class."""
    rng = np.random.default_rng(0)
    lines, samples = [], []
    for dataset, num_subjects, classes in (("casme2", 24, 3), ("smic", 16, 3), ("samm", 28, 2)):
        for subject in range(1, num_subjects + 1):
            lines.append(f"{dataset} {subject}")
            for clip in range(6):
                label = int(rng.integers(classes))
                prediction = label if rng.random() < 0.6 else int(rng.integers(classes))
                lines.append(f"clip{clip} {label} {prediction}")
                samples.append((dataset, str(label), str(prediction)))
    return write(tmp_path_factory.mktemp("log") / "log.csv", "\n".join(lines)), samples


def test_a_log_of_three_datasets_is_scored_as_one_pool_and_by_dataset(composite):
    path, samples = composite
    result = score_predictions(path)
    truth, predicted = [row[1] for row in samples], [row[2] for row in samples]
    assert result.uf1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert result.uar == pytest.approx(recall_score(truth, predicted, average="macro"))
    assert (result.num_samples, result.num_subjects) == (408, 68)
    assert {name: scores.num_subjects for name, scores in result.per_dataset.items()} == {
        "casme2": 24,
        "smic": 16,
        "samm": 28,
    }
    smic = [row for row in samples if row[0] == "smic"]
    assert result.per_dataset["smic"].uf1 == pytest.approx(
        f1_score([row[1] for row in smic], [row[2] for row in smic], average="macro")
    )
    samm = result.per_dataset["samm"]
    assert (samm.uf1, samm.uar, samm.classes) == (None, None, ["0", "1", "2"])
    assert samm.accuracy == pytest.approx(np.mean([row[1] == row[2] for row in samples if row[0] == "samm"]))
    assert np.sum([scores.confusion for scores in result.per_dataset.values()], axis=0).tolist() == result.confusion
    assert result.warnings == []
    json.dumps(asdict(result), allow_nan=False)


def test_scoring_a_log_loads_no_heavy_library(composite):
    code = (
        "import sys\nfrom pathlib import Path\nfrom mbert.model.scoring.predictions import score_predictions\n"
        "print(score_predictions(Path(sys.argv[1])).num_subjects)\n"
        "print(sorted({'torch', 'sklearn', 'pyarrow', 'scipy', 'cv2', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, composite[0]], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["68", "[]"]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("s,a,x,x\ns,b,y,y\n", "only one subject, s: nothing can be said about other people"),
        ("s1,a,x,x\ns2,b,y,y\n", "every subject has one sample"),
        ("d s1\nc x x\nd s2\nc y y\nc2 x\nc3 y y\n", "dataset c2 has one subject, c2/x"),
        ("s1,a,x,x\ns1,b,x,y\ns2,b,y,y\n", "resamples of the subjects lost a class"),
        ("s1,a,x,x\ns1,b,x,x\ns2,b,x,x\n", "there is one class, x"),
    ],
)
def test_what_makes_a_score_weak_is_told(tmp_path, text, warning):
    assert warning in "; ".join(score_predictions(write(tmp_path / "p.csv", text)).warnings)


def test_a_class_of_the_protocol_without_samples_is_asked_for_and_told(tmp_path):
    path = write(tmp_path / "p.csv", "s1,a,x,x\ns2,a,y,Fear\ns2,b,y,y\n")
    with pytest.raises(ModelError, match=r"predicted classes \['fear'\] do not occur among the labels \['x', 'y'\]"):
        score_predictions(path)
    result = score_predictions(path, classes=["X", "Y", "Fear"])
    assert (result.uf1, result.uar, result.accuracy) == (None, None, pytest.approx(2 / 3))
    assert "no sample is labelled fear: UF1 and UAR are not defined" in result.warnings
