"""The pages of `mbert report`: what they hold, and how they work in a real browser, opened from the disk."""

import dataclasses
import json
import os
import shutil

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from browser import Pages, chromium, pages  # noqa: F401

import mbert
from mbert import ConfigError, MbertError, ModelError
from mbert.manifests.files import read_json, write_json
from mbert.manifests.runs import REPORT
from mbert.manifests.schema import LabelRow
from mbert.manifests.store import read_rows, write_rows
from mbert.model.data.labelled import frames_of
from mbert.model.network.compare import compare_crops
from mbert.model.scoring.run_facts import read_evaluation
from mbert.model.training.places import find_place, place_of
from mbert.model.training.run_facts import read_training
from mbert.model.training.run_log import read_reports
from mbert.shards.image import decode_jpeg
from mbert.shards.source import open_source

HOSTILE = "</script><img src=x onerror=alert(2)>"
GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}
SMALL = {"preset": "tiny", "precision": "fp32", "batch_size": 4}


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """Two pretrainings, a finetuning and an evaluation on labels that are drawn by lot. Read only."""
    folder = tmp_path_factory.mktemp("reported") / "workspace" / "runs"
    how = {"shards": corpus.pairs, **SMALL}
    mbert.pretrain(**how, out=folder / "pretrain", steps=6, set={"picture_every": 2})
    mbert.pretrain(**how, out=folder / "other", steps=4, swap_ratio=0.3, lr=0.002)
    labels = folder.parent / "labels.parquet"
    rng = np.random.default_rng(0)
    rows = [
        dataclasses.replace(row, emotion=str(rng.choice(["a", "b", HOSTILE])))
        for row in read_rows(corpus.labels, LabelRow)
    ]
    write_rows(labels, LabelRow, rows)
    labelled = {"shards": corpus.expressions, "labels": labels, "checkpoint": folder / "pretrain"}
    mbert.finetune(**labelled, out=folder / "finetune", steps=3, batch_size=4, exclude_subject=["videos/s01"])
    result = mbert.evaluate(**labelled, out=folder / "loso", baselines=["majority", "frame_difference"])
    assert result.page == str(folder / "loso" / REPORT)
    mbert.report(folder)
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    """The same runs, for changing them."""
    shutil.copytree(runs, tmp_path / "workspace" / "runs", symlinks=True)
    return tmp_path / "workspace" / "runs"


def test_a_training_run_shows_every_step_it_has_noted(runs):
    facts, reports = read_training(runs / "pretrain"), read_reports(runs / "pretrain")
    assert (facts.state, facts.step, facts.steps, facts.num_seen) == ("finished", 6, 6, 24)
    assert facts.at_steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert facts.series["loss"].tolist() == [report.loss for report in reports]
    assert facts.series["loss_motion"].tolist() == [report.parts["loss_motion"] for report in reports]
    assert set(facts.series) >= {"lr", "grad_norm", "pairs_per_second", "data_wait_share", "loss_agent", "token_std"}
    assert facts.seconds == pytest.approx(sum(4 / report.pairs_per_second for report in reports))
    assert facts.subjects == ("videos/s01", "videos/s02", "videos/s03")
    assert facts.num_parameters == sum(
        tensor.numel() for tensor in mbert.load_model(runs / "pretrain").state_dict().values()
    )
    assert [picture.step for picture in facts.pictures] == [2, 4, 6]
    original = cv2.imread(str(runs / "pretrain" / "pictures" / "step-0000004.png"))[..., ::-1]
    assert np.abs(decode_jpeg(facts.pictures[1].jpeg).astype(int) - original).mean() < 4


def test_a_training_run_names_what_it_began_from_and_what_it_learned(runs):
    facts = read_training(runs / "finetune")
    assert facts.start.run == str((runs / "pretrain").resolve())
    assert facts.subjects == ("videos/s02", "videos/s03")
    assert facts.excluded == ("videos/s01",)
    assert sum(facts.classes.values()) == 12
    assert 'href="../pretrain/report.html"' in (runs / "finetune" / REPORT).read_text(encoding="utf-8")
    page = (runs / "pretrain" / REPORT).read_text(encoding="utf-8")
    assert '<a href="../loso/report.html">loso</a>' in page


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        ("running", "", "The run ended without a word"),
        ("failed", "the loss is nan at step 3", "the loss is nan at step 3."),
        ("stopped", "the time limit", "the time limit."),
    ],
)
def test_a_run_that_did_not_finish_says_so(copied, state, reason, told):
    write_json(copied / "other" / "status.json", {"state": state, "reason": reason, "at": ""})
    summary = mbert.report(copied / "other")
    assert [run.state for run in summary.runs] == ["killed" if state == "running" else state]
    assert told in (copied / "other" / REPORT).read_text(encoding="utf-8")


def test_a_run_without_a_step_has_a_page_too(copied):
    shutil.rmtree(copied / "other" / "checkpoints")
    (copied / "other" / "metrics.jsonl").write_text("")
    mbert.report(copied / "other")
    page = (copied / "other" / REPORT).read_text(encoding="utf-8")
    assert "No step has been finished yet." in page
    assert "nobody said whose faces these are" in page


def test_an_evaluation_shows_the_scores_that_it_has_written(runs):
    facts, results = read_evaluation(runs / "loso"), read_json(runs / "loso" / "results.json")
    assert [row.method for row in facts.methods] == ["mbert", "frame_difference", "majority"]  # JSON has them by name
    ours = results["methods"]["mbert"]["scores"]
    found = facts.methods[0].scores["UF1"]
    assert (found.value, found.low, found.high) == (ours["uf1"], *ours["uf1_interval"])
    accuracy = facts.methods[0].scores["Accuracy"]
    assert accuracy.low <= accuracy.value <= accuracy.high
    difference = results["methods"]["majority"]["difference"]
    assert facts.methods[2].differences["UAR"].value == difference["uar"]
    assert [each.name for each in facts.per_class] == ours["classes"]
    assert facts.confusion == ours["confusion"]
    rows = pq.read_table(runs / "loso" / "predictions.parquet").to_pylist()
    assert {group.name: (group.num_right, group.num_samples) for group in facts.per_subject} == {
        name: (round(each["accuracy"] * each["num_samples"]), each["num_samples"])
        for name, each in ours["per_subject"].items()
    }
    assert sum(group.num_samples for group in facts.per_fold) == len(rows)


def test_the_worst_pairs_are_those_of_which_it_was_surest(runs, corpus):
    facts = read_evaluation(runs / "loso")
    rows = pq.read_table(runs / "loso" / "predictions.parquet").to_pylist()
    assert all(1 / 3 <= row["confidence"] <= 1 for row in rows)
    wrong = sorted((row for row in rows if row["label"] != row["prediction"]), key=lambda row: -row["confidence"])
    assert facts.num_wrong == len(wrong) > 2  # the labels were drawn by lot
    assert [pair.confidence for pair in facts.wrong] == [row["confidence"] for row in wrong[:10]]
    worst = facts.wrong[0]
    pair = frames_of(open_source(corpus.expressions))[worst.key]
    assert (worst.onset, worst.apex) == (bytes(pair.t0_jpeg), bytes(pair.t1_jpeg))
    moved = compare_crops(*pair.images(), mbert.load_model(runs / "pretrain")).moved[0]
    assert worst.moved == pytest.approx(moved, abs=1e-5)


def test_maps_are_those_of_the_scored_model_or_of_none(runs, copied):
    results = read_json(copied / "loso" / "results.json")
    results["places"] = {
        name: str(runs / "loso" / place) for name, place in read_json(runs / "loso" / "results.json")["places"].items()
    }
    write_json(copied / "loso" / "results.json", results)
    assert read_evaluation(copied / "loso").without_pictures == ""
    results["places"]["checkpoint"] = str(runs / "other")
    write_json(copied / "loso" / "results.json", results)
    facts = read_evaluation(copied / "loso")
    assert "have changed since this evaluation" in facts.without_pictures
    assert all(pair.moved is None and pair.onset is not None for pair in facts.wrong)
    results["places"]["shards"] = "../nowhere"
    write_json(copied / "loso" / "results.json", results)
    facts = read_evaluation(copied / "loso")
    assert facts.without_pictures == "The pairs are not on this disk: ../nowhere."
    assert all(pair.onset is None for pair in facts.wrong)
    assert facts.num_wrong == read_evaluation(runs / "loso").num_wrong


def test_results_of_an_earlier_version_have_a_page_without_what_they_lack(copied):
    results = read_json(copied / "loso" / "results.json")
    del results["places"], results["weights"]
    for method in results["methods"].values():
        del method["scores"]["accuracy_interval"]
    write_json(copied / "loso" / "results.json", results)
    table = pq.read_table(copied / "loso" / "predictions.parquet").drop_columns(["confidence"])
    pq.write_table(table, copied / "loso" / "predictions.parquet")
    mbert.report(copied / "loso")
    page = (copied / "loso" / REPORT).read_text(encoding="utf-8")
    assert "This evaluation does not say where its pairs are" in page
    assert "has recorded no confidence" in page


def test_places_stay_right_where_a_workspace_is_moved(tmp_path):
    checkpoint = tmp_path / "a" / "workspace" / "runs" / "pretrain"
    checkpoint.mkdir(parents=True)
    run = tmp_path / "a" / "workspace" / "runs" / "loso"
    place = place_of(checkpoint, run)
    assert place == "../pretrain"
    (tmp_path / "a").rename(tmp_path / "b")
    moved = tmp_path / "b" / "workspace" / "runs"
    assert find_place(place, moved / "loso") == moved / "pretrain"
    assert find_place(place, run) is None
    assert find_place(place_of("https://example.org/{000..009}.tar", run), run) is None


def test_several_runs_have_a_table_of_what_differs(runs):
    page = (runs / REPORT).read_text(encoding="utf-8")
    for name in ("pretrain", "other", "finetune", "loso"):
        assert f'<a href="{name}/report.html">{name}</a>' in page
    assert 'data-label="objective.swap_ratio">0.3<' in page
    assert 'data-label="lr">0.002<' in page
    assert 'data-label="batch_size"' not in page  # the same in both
    assert 'data-label="classes"' not in page  # there is one finetuning


def test_a_run_that_cannot_be_read_is_a_row_with_a_reason(copied, invoke):
    (copied / "other" / "metrics.jsonl").write_text('{"step": 1}\n')
    (copied / "loso" / "results.json").write_text('{"protocol": "loso"}')
    (copied / "begun" / "features").mkdir(parents=True)
    (copied / "notes").mkdir()
    with pytest.raises(ModelError, match=r"other/metrics.jsonl, line 1, is damaged"):
        mbert.report(copied / "other")
    done = invoke("report", cwd=copied.parents[1])
    assert done.returncode == 0
    assert "2 runs in " in done.stdout
    assert done.stdout.splitlines()[-1] == "open workspace/runs/report.html"
    page = (copied / REPORT).read_text(encoding="utf-8")
    for told in ("line 1, is damaged", "is not a result of this version of mbert", "has not finished"):
        assert told in done.stdout
        assert told in page
    assert "notes" not in page


def test_the_command_tells_json_and_refuses_what_is_no_run(runs, tmp_path, invoke):
    out = tmp_path / "page.html"
    done = invoke("report", str(runs / "loso"), "--out", str(out), "--json", cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert summary["page"] == str(out)
    assert [(run["kind"], run["state"]) for run in summary["runs"]] == [("eval", "finished")]
    target = os.path.relpath(runs / "pretrain" / REPORT, tmp_path)
    assert f'href="{target}"' in out.read_text(encoding="utf-8")
    by_name = invoke("report", "pretrain", "--workspace", str(runs.parent), "--out", "x", "--json", cwd=tmp_path)
    assert json.loads(by_name.stdout)["page"] == "x/report.html"
    with pytest.raises(
        ConfigError, match=r"nope is not a run or a folder of runs: runs in .* are finetune, loso, other"
    ):
        mbert.report("nope", workspace=runs.parent)
    empty = invoke("report", cwd=tmp_path)
    assert empty.returncode == 2
    assert "there are no runs in workspace/runs: `mbert train pretrain` or `mbert eval` makes one" in empty.stderr


def test_a_page_that_cannot_be_written_takes_nothing_from_the_run(corpus, tmp_path):
    (tmp_path / "run" / REPORT).mkdir(parents=True)
    summary = mbert.pretrain(shards=corpus.pairs, out=tmp_path / "run", steps=1, **SMALL)
    assert (summary.page, summary.steps_done) == (None, 1)
    with pytest.raises(MbertError, match=r"cannot write .*report.html"):
        mbert.report(tmp_path / "run")


def names_of(folder):
    return [folder, *(folder / name for name in ("pretrain", "finetune", "loso"))]


@pytest.mark.parametrize("scheme", GROUNDS)
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_pages_fit_every_width_in_light_and_dark(pages, runs, width, scheme):  # noqa: F811
    for folder in names_of(runs):
        page = pages.open(folder / REPORT, width=width, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]
        assert page.locator("img").evaluate_all("images => images.every((image) => image.naturalWidth > 0)")
    assert pages.files() == {str(folder / REPORT) for folder in names_of(runs)}


def test_pages_are_complete_on_paper_and_without_scripts(pages, runs):  # noqa: F811
    page = pages.open(runs / "pretrain" / REPORT, java_script_enabled=False)
    assert page.locator(".stages figure:visible").count() == 3
    assert page.locator("#step").is_visible() is False
    for folder in names_of(runs):
        page = pages.open(folder / REPORT)
        page.emulate_media(media="print")
        assert page.locator("h1").is_visible()
        assert page.locator("button.sort:visible").count() == page.locator("thead button.sort").count()


def test_a_pointer_reads_all_charts_at_one_step(pages, runs):  # noqa: F811
    page = pages.open(runs / "pretrain" / REPORT)
    calm = page.locator(".readout").all_inner_texts()
    area = page.locator('[data-chart="loss"] .curves')
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 20)
    reports = read_reports(runs / "pretrain")
    assert page.locator('[data-chart="loss"] .readout').inner_text() == f"{reports[-1].loss:#.3g} at step 6"
    assert page.locator('[data-chart="lr"] .readout').inner_text().endswith(" at step 6")
    page.mouse.move(box["x"] + 1, box["y"] + 20)
    assert page.locator('[data-chart="loss"] .readout').inner_text() == f"{reports[0].loss:#.3g} at step 1"
    page.mouse.move(0, 0)
    assert page.locator(".readout").all_inner_texts() == calm


def test_a_slider_goes_through_the_pictures(pages, runs):  # noqa: F811
    page = pages.open(runs / "pretrain" / REPORT)
    shown = page.locator(".stages figure:visible figcaption")
    assert shown.all_inner_texts() == ["after step 6"]
    page.locator("#step").focus()
    page.keyboard.press("Home")
    assert shown.all_inner_texts() == ["after step 2"]
    assert page.locator("#step-shown").inner_text() == "2"


def test_columns_sort_as_numbers_and_maps_can_be_hidden(pages, runs):  # noqa: F811
    page = pages.open(runs / "loso" / REPORT)
    table = page.locator("table.methods").first
    table.get_by_role("button", name="UF1", exact=True).click()
    facts = read_evaluation(runs / "loso")
    expected = sorted(row.scores["UF1"].value for row in facts.methods)
    assert [
        float(text)
        for text in table.locator('td[data-label="UF1"]').evaluate_all("all => all.map((td) => td.dataset.value)")
    ] == expected
    assert page.locator(".wrong .map").first.is_visible()
    page.get_by_label("show where it moved").uncheck()
    assert page.locator(".wrong .map:visible").count() == 0
    assert page.locator(".confusion th", has_text=HOSTILE).count() == 2  # told, not run
