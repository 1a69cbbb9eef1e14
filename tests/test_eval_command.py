import json

import pytest
from typer.testing import CliRunner

from mbert.cli import app
from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import MicronBert

LOG = """casme2 sub01
EP01 0 0
EP02 1 1
EP03 2 0
samm 006
006_1 0 0
006_2 1 0
006_3 2 2
"""


def run(*words):
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(LOG)
    return path


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untrained")
    MicronBert(PRESETS["tiny"]).save_pretrained(folder)
    return folder


def test_anybodys_predictions_are_scored_as_json(log):
    code, out, _ = run("eval", "--predictions", str(log), "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) >= {"uf1", "uar", "accuracy", "weighted_f1", "confusion", "per_dataset", "per_class", "classes"}
    # By hand: class 0 TP 2 FP 2 FN 0, class 1 TP 1 FN 1, class 2 TP 1 FN 1.
    assert found["uf1"] == pytest.approx((4 / 6 + 2 / 3 + 2 / 3) / 3)
    assert found["uar"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert found["confusion"] == [[2, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert set(found["per_dataset"]) == {"casme2", "samm"}


def test_and_as_a_table(log):
    code, out, _ = run("eval", "--predictions", str(log))
    assert code == 0
    assert "6 predictions of 2 subjects" in out
    assert "0.667" in out
    assert "  samm" in out


def test_options_that_need_a_model_are_refused_beside_a_file(log):
    code, _, err = run("eval", "--predictions", str(log), "--mode", "finetune")
    assert code == 2
    assert "it takes no --mode" in err


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    code, _, err = run("eval", "--predictions", str(tmp_path / "x.csv"))
    assert code == 1
    assert err.startswith("error: ")
    assert "x.csv" in err


def test_the_table_of_a_model_has_its_baselines_and_what_to_know(corpus, untrained, tmp_path):
    words = ("--checkpoint", str(untrained), "--workspace", str(corpus.root), "--out", str(tmp_path / "out"))
    code, out, err = run("eval", *words)
    assert code == 0, err
    for name in (
        "μ-BERT",
        "random weights",
        "flow CNN",
        "optical flow",
        "frame difference",
        "majority class",
        "chance",
    ):
        assert f"\n{name:18}" in out
    assert "confusion (rows true, columns predicted)" in out
    assert "heads on mbert 3/3" in err
    code, out, _ = run("eval", *words, "--select", "oracle", "--baselines", "frame_difference,majority")
    assert "μ-BERT (oracle)  " in out
    assert "frame difference (oracle)  " in out
    assert "majority class  " in out  # it has nothing to choose
    assert "note: select is oracle" in out
    assert "1 other models or settings were scored on the same samples before" in out
    code, out, _ = run("eval", *words, "--classes", "action-units", "--baselines", "majority", "--json")
    assert code == 0
    assert json.loads(out)["methods"]["mbert"]["scores"]["per_unit"]["AU12"]["positives"] == 6


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--classes", "casme2-6"), "there is no class map 'casme2-6'; there are annotated"),
        (("--inputs", "change,dmaa"), "inputs has 'dmaa'; allowed are change"),
        (("--set", "finetune.epoch=3"), "did you mean finetune.epochs?"),
        (("--protocol", "holdout", "--test-subject", "videos/s99"), "no sample is of videos/s99"),
        (("--datasets", "casme2"), "no labelled expression is left: 18 of videos"),
        (("--protocol", "kfold", "--k", "9"), "k is 9; allowed are 2 to the number of subjects, 3"),
    ],
)
def test_wrong_options_are_told_with_what_is_allowed(corpus, untrained, words, told):
    code, _, err = run("eval", "--checkpoint", str(untrained), "--workspace", str(corpus.root), *words)
    assert code in (1, 2)
    assert told in err
