import itertools
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer.main

import mbert
from mbert.cli import app
from mbert.commands.demo import draw_maps
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.model.data.pixels import resize
from mbert.model.scoring.config import BASELINES
from mbert.pipeline.synthetic.truth import true_pairs

ROOT = Path(__file__).parents[1]
FOUR_COMMANDS = ["mbert ingest videos/", "mbert shard --pairs", "mbert train pretrain", "mbert eval --protocol loso"]


@pytest.fixture(scope="module")
def four_commands(synthetic_videos, tmp_path_factory, run_mbert):
    """The four commands, run one after another in a folder that holds `videos/`; training is kept short."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(synthetic_videos, folder / "videos")
    results = {}
    for line in FOUR_COMMANDS:
        words = line.split()[1:]
        results[line] = run_mbert(*words, *(["--steps", "20"] if "pretrain" in words else []), cwd=folder)
    return folder, results


def test_the_four_commands_run_one_after_another(four_commands):
    folder, results = four_commands
    assert {line: done.returncode for line, done in results.items()} == dict.fromkeys(FOUR_COMMANDS, 0), results
    assert sorted(path.name for path in (folder / "workspace").iterdir()) == ["corpus", "runs", "shards"]
    out = {line: done.stdout for line, done in results.items()}
    assert "18 of 18 inputs have faces: 18 clips" in out[FOUR_COMMANDS[0]]
    assert re.search(r"\d+ pairs \(18 onset-apex, \d+ sampled\) in 2 shards", out[FOUR_COMMANDS[1]])
    assert re.search(r"loss \d\.\d+ -> \d\.\d+ after 20 steps", out[FOUR_COMMANDS[2]])
    assert "18 expressions, 3 subjects" in out[FOUR_COMMANDS[3]]
    assert "chance" in out[FOUR_COMMANDS[3]]
    assert "frame difference" in out[FOUR_COMMANDS[3]]


def test_each_summary_names_the_next_command(four_commands):
    _, results = four_commands
    for line, following in itertools.pairwise(FOUR_COMMANDS):
        assert f"next: {following}" in results[line].stdout


def test_progress_tells_rate_and_time_left_on_stderr(four_commands):
    _, results = four_commands
    errors = [results[line].stderr for line in FOUR_COMMANDS]
    assert re.search(r"ingest: 18/18 inputs, 0 failed, \d+ frames/s, 0 s left", errors[0])
    assert re.search(r"shard: \d+ pairs, \d+ pairs/s, 0 s left", errors[1])
    assert re.search(
        r"pretrain: step 20, loss \d\.\d+ \(reconstruction .*\), \d+ pairs/s, \d+% waiting for data, 0 s left",
        errors[2],
    )
    assert "eval: heads on mbert 3/3, 0 s left" in errors[3]
    assert not re.search(r"W0000|TensorFlow|Traceback", "".join(errors))


def test_running_them_again_does_nothing_twice(four_commands, run_mbert):
    folder, _ = four_commands
    assert "nothing new to ingest" in run_mbert("ingest", "videos/", cwd=folder).stdout
    assert "this run wrote 0 shards" in run_mbert("shard", "--pairs", cwd=folder).stdout
    assert "already finished" in run_mbert("train", "pretrain", "--steps", "20", cwd=folder).stdout


def test_json_goes_to_stdout_alone(four_commands, run_mbert):
    folder, _ = four_commands
    ingested = json.loads(run_mbert("ingest", "videos/", "--json", cwd=folder).stdout)
    scored = json.loads(run_mbert("eval", "--json", cwd=folder).stdout)
    assert (ingested["statuses"], ingested["num_new"]) == ({"ok": 18}, 0)
    assert set(scored) >= {"methods", "num_samples", "encoder_saw_test_subjects", "warnings"}
    assert set(scored["methods"]) == {"mbert", *BASELINES}
    assert scored["methods"]["mbert"]["scores"].keys() >= {
        "uf1",
        "uar",
        "accuracy",
        "confusion",
        "uf1_interval",
        "chance_uf1",
    }


def test_a_dry_run_tells_the_time_and_writes_nothing(synthetic_videos, tmp_path, invoke):
    done = invoke("ingest", str(synthetic_videos), "--dry-run", "--limit", "6", cwd=tmp_path)
    assert done.returncode == 0
    assert "6 of 18 inputs to do" in done.stdout
    assert re.search(r"about \d+ s with \d+ workers?", done.stdout)
    assert "the same command without --dry-run" in done.stdout
    assert list(tmp_path.iterdir()) == []
    estimate = json.loads(invoke("ingest", str(synthetic_videos), "--dry-run", "--json", cwd=tmp_path).stdout)
    assert (estimate["num_inputs"], estimate["num_to_do"]) == (18, 18)


def test_verify_finds_nothing_and_then_the_first_bad_member(four_commands, tmp_path, invoke):
    folder, _ = four_commands
    shutil.copytree(folder / "workspace", tmp_path / "workspace")
    done = invoke("verify", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"18 tars of crops and 2 pair shards are as their manifests say: \d+ members", done.stdout)
    tar = sorted((tmp_path / "workspace" / "corpus" / "frames").glob("*.tar"))[3]
    data = bytearray(tar.read_bytes())
    second = data.index(b"\xff\xd8", data.index(b"\xff\xd9"))
    data[second : second + 4] = b"junk"
    tar.write_bytes(data)
    done = invoke("verify", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(rf"error: .*{tar.name}: member \S+\.0000001\.jpg does not decode", done.stderr)


def test_pairs_can_be_chosen_by_the_columns_of_the_manifests(four_commands, tmp_path, invoke):
    folder, _ = four_commands
    shutil.copytree(folder / "workspace" / "corpus", tmp_path / "workspace" / "corpus")
    refused = invoke("shard", "--pairs", "--where", "jiter_px < 0.2", cwd=tmp_path)
    assert refused.returncode == 2
    assert "jiter_px" in refused.stderr
    assert "jitter_px" in refused.stderr
    assert not (tmp_path / "workspace" / "shards").exists()
    nothing = invoke("shard", "--pairs", "--where", "face_px > 9999", cwd=tmp_path)
    assert (nothing.returncode, "rules out all" in nothing.stderr) == (2, True)
    done = invoke("shard", "--pairs", "--where", "path LIKE 's01/%' AND eye_open > 0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ pairs left out by --where", done.stdout)
    assert "(6 onset-apex" in done.stdout


def test_the_ffmpeg_program_gives_the_same_rows(four_commands, tmp_path, invoke):
    folder, _ = four_commands
    video = folder / "videos" / "s01" / "disgust_1.mp4"
    done = invoke("ingest", str(video), "--decoder", "ffmpeg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = read_rows(Workspace(tmp_path / "workspace").videos, VideoRow)
    (expected,) = [
        row for row in read_rows(Workspace(folder / "workspace").videos, VideoRow) if row.path == "s01/disgust_1.mp4"
    ]
    names = ("status", "codec", "width", "height", "fps", "num_frames", "num_crops", "seconds", "sha256")
    assert [getattr(row, name) for name in names] == [getattr(expected, name) for name in names]


def test_without_labels_eval_names_the_file_and_its_columns(synthetic_videos, tmp_path, invoke):
    shutil.copytree(synthetic_videos / "s01", tmp_path / "videos")
    assert invoke("ingest", "videos/", cwd=tmp_path).returncode == 0
    assert invoke("shard", "--pairs", cwd=tmp_path).returncode == 0
    done = invoke("eval", "--protocol", "loso", cwd=tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path}/videos/labels.csv is missing" in done.stderr
    assert "path, subject, onset, apex, offset, emotion" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ingest", "nowhere"], 2, "does not exist"),
        (["ingest", "empty"], 2, "holds no video file"),
        (["ingest", "empty", "--size", "7"], 2, "32"),
        (["ingest", "empty", "--align", "best"], 2, "auto"),
        (["ingest", "empty", "--workers", "0"], 2, "1"),
        (["ingest", "empty", "--faces", "few"], 2, "allowed are all, largest, or a number"),
        (["ingest", "empty", "--faces", "0"], 2, "must be at least 1"),
        (["ingest", "empty", "--filter", "hqdn3d"], 2, "need --decoder ffmpeg"),
        (["ingest", "empty", "--timeout", "0"], 2, "must be above 0"),
        (["ingest", "empty", "--address", "auto"], 2, "belongs to --engine ray"),
        (["ingest", "empty", "--landmarker-model", "x.task"], 2, "x.task"),
        (["verify"], 1, "run `mbert ingest FOLDER` first"),
        (["shard"], 1, "run `mbert ingest FOLDER` first"),
        (["pretrain"], 2, "did you mean `mbert train pretrain`?"),
        (["help"], 2, "did you mean `mbert --help`?"),
        (["-v"], 2, "did you mean `mbert --version`?"),
        (["runs"], 1, "there is no workspace in workspace"),
        (["shard", "--pairs"], 1, "run `mbert ingest FOLDER` first"),
        (["shard", "--pairs", "--min-delta-ms", "500"], 2, "0 < min <= max"),
        (["train", "pretrain"], 1, "run `mbert shard --pairs` first"),
        (["train", "pretrain", "--steps", "3", "--epochs", "2"], 2, "not both"),
        (["train", "pretrain", "--preset", "huge"], 2, "tiny"),
        (["eval", "--protocol", "none"], 2, "loso"),
        (["eval"], 1, "run `mbert shard --pairs` first"),
        (["no-such-command"], 2, "No such command"),
    ],
)
def test_wrong_use_stops_at_once_with_what_is_allowed(tmp_path, invoke, words, code, message):
    (tmp_path / "empty").mkdir()
    done = invoke(*words, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ingest", "nowhere"], 2, "nowhere"),
        (["train", "pretrain"], 1, "run `mbert shard --pairs` first"),
        (["no-such-command"], 2, "No such command"),
    ],
)
def test_so_it_does_in_a_process_of_its_own(tmp_path, run_mbert, words, code, message):
    done = run_mbert(*words, cwd=tmp_path)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["shard"], "ManifestError", "run `mbert ingest FOLDER` first"),
        (["train", "pretrain", "--preset", "huge"], "UsageError", "tiny"),
        (["train", "pretrain", "--set", "warmup_ratio=7"], "ConfigError", "warmup_ratio is 7"),
        (["pretrain"], "ConfigError", "did you mean `mbert train pretrain`?"),
    ],
)
def test_errors_are_json_too(tmp_path, invoke, words, kind, message):
    done = invoke(*words, "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, done.returncode)
    assert message in error["message"]


def test_the_workspace_can_be_set_by_the_environment(tmp_path, run_mbert):
    done = run_mbert("shard", "--pairs", cwd=tmp_path, MBERT_WORKSPACE="elsewhere")
    assert "elsewhere/corpus" in done.stderr


def test_version_and_help(tmp_path, run_mbert):
    assert run_mbert("--version", cwd=tmp_path).stdout == f"mbert {mbert.__version__}\n"
    done = run_mbert("-h", cwd=tmp_path)
    assert [name for name in ("ingest", "shard", "train", "eval", "demo", "doctor") if name not in done.stdout] == []


def test_every_option_has_a_help_text():
    def commands(group):
        for command in group.commands.values():
            yield from commands(command) if hasattr(command, "commands") else [command]

    options = [(command.name, option) for command in commands(typer.main.get_command(app)) for option in command.params]
    assert len(options) > 40
    assert [(name, option.name) for name, option in options if not getattr(option, "help", None)] == []


def test_doctor_names_what_will_be_used(tmp_path, invoke):
    done = invoke("doctor", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["missing"] == {}
    assert set(report["found"]) >= {"torch", "mbert[video]", "landmarker", "decoder", "device"}
    assert "mediapipe" in report["found"]["landmarker"]


def test_the_demo_runs_the_four_commands_and_ends_with_a_table(tmp_path, run_mbert):
    done = run_mbert("demo", "--quick", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^\$ (.*)$", done.stderr, flags=re.MULTILINE)
    *before, last = (line.replace(" --steps 30", "") for line in shown)
    assert before == [*FOUR_COMMANDS, "mbert preview"]
    assert re.fullmatch(r"mbert predict videos/\S+\.mp4", last)
    [page] = (tmp_path / "mbert-demo" / "predictions").glob("*/report.html")
    assert f"open {page.relative_to(tmp_path)}" in done.stdout
    for word in ("frames/s", "pairs", "pretraining loss", "LOSO UF1", "LOSO UAR", "chance", "checkpoint"):
        assert word in done.stdout
    assert (tmp_path / "mbert-demo" / "workspace" / "runs" / "loso" / "results.json").exists()
    assert f"look at {Path('mbert-demo', 'maps.png')}: a good map is bright where the true motion is" in done.stdout
    _check_the_maps(tmp_path / "mbert-demo")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    assert "is not empty" in run_mbert("demo", "--out", "other", cwd=tmp_path).stderr


def _check_the_maps(demo):
    """The picture shows 8 pairs of many kinds, the truth bright where pixels move, and is the same each time."""
    path = demo / "maps.png"
    written = path.read_bytes()
    assert written.startswith(b"\x89PNG")
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert picture.shape == (2 * 16 + 8 * (116 + 16 + 8), 6 * 116, 3)
    pairs = list(true_pairs(demo / "videos", Workspace(demo / "workspace")))
    shown = []
    for top in range(2 * 16 + 2, len(picture), 116 + 16 + 8):
        t0, t1, truth, model, difference, flow = (picture[top : top + 112, x : x + 112] for x in range(2, 696, 116))
        (pair,) = [pair for pair in pairs if np.array_equal(resize(pair.t0, 112), t0)]
        shown.append(pair.row)
        assert np.array_equal(resize(pair.t1, 112), t1)
        length = resize(np.linalg.norm(pair.expression, axis=-1), 112)
        moving, still = length > 0.5 * length.max(), length < 0.05 * length.max()
        assert truth[moving].sum(axis=-1).min() > truth[still].sum(axis=-1).max()
        assert flow[moving].mean() > 2 * flow[still].mean()
        assert difference[moving].mean() > 2 * difference[still].mean()
        assert model.std() > 5
    assert len({(row.subject, row.emotion) for row in shown}) == 8
    assert sorted(Counter(row.subject for row in shown).values()) == [2, 2, 2, 2]
    assert sorted(Counter(row.emotion for row in shown).values()) == [2, 3, 3]
    first = draw_maps(demo).read_bytes()
    assert draw_maps(demo).read_bytes() == first
    assert sorted(path.name for path in demo.iterdir()) == ["maps.png", "predictions", "videos", "workspace"]


def test_a_terminal_sees_one_progress_line(synthetic_videos, tmp_path):
    command = [sys.executable, "-m", "mbert.cli", "ingest", str(synthetic_videos / "s01"), "--workspace", str(tmp_path)]
    ours, theirs = pty.openpty()
    chunks = []

    def drain():
        try:
            while chunk := os.read(ours, 4096):
                chunks.append(chunk)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    done = subprocess.run(
        command, stderr=theirs, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}, check=True
    )
    os.close(theirs)
    reader.join()
    os.close(ours)
    shown = b"".join(chunks).decode()
    assert "6/6 inputs, 0 failed" in shown
    assert "━" in shown
    assert b"6 clips" in done.stdout


def test_readme_and_changelog_match_the_program():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [line for line in ["make demo", "make test", *FOUR_COMMANDS] if line not in readme] == []
    assert f"## [{mbert.__version__}]" in changelog
