import dataclasses

import pytest

from mbert import ConfigError
from mbert.manifests.files import read_json
from mbert.model.training.pretrain import PretrainConfig
from mbert.model.training.settings import read_settings, with_settings


def test_words_win_over_the_file_and_both_over_the_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("lr: 0.01\nmodel: {poi: false, depth: 3}\nobjective:\n  swap_ratio: 0.3\n")
    settings = read_settings(file, ["model.depth=5", "objective.swap_block=2", "weight_decay=0"])
    config = with_settings(PretrainConfig(), settings)
    assert (config.lr, config.weight_decay, config.seed) == (0.01, 0.0, 0)
    assert config.objective == dataclasses.replace(PretrainConfig().objective, swap_ratio=0.3, swap_block=2)
    model = config.model_config("small")
    assert (model.poi, model.depth, model.dim) == (False, 5, 512)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modle.poi=false"], "there is no setting modle; did you mean model"),
        (["model.pio=false"], r"there is no setting model\.pio; did you mean model\.poi"),
        (["objective.zzz=1"], r"there is no setting objective\.zzz; known are swap_ratio, swap_block"),
        (["objective.swap_block=half"], r"objective\.swap_block is 'half'; int is expected"),
        (["model.poi=3"], r"model\.poi is 3; bool is expected"),
        (["steps=many"], "steps is 'many'; int or nothing is expected"),
        (["model.agent=both"], r"model\.agent is 'both'; allowed are mse, mse_ema, dino, none"),
        (["model=3"], "model is 3; dict is expected"),
        (["objective=3"], r"objective is a group of settings; give objective\.NAME=VALUE"),
        (["lr.x=3"], "lr is {'x': 3}; float or nothing is expected"),
        (["lr"], "--set takes name=value"),
        (["lr=[1"], r"--set lr=\[1: the value is not understood"),
        (["model.attention=full"], "poi=True with attention='full' is not supported"),
        (["lr=1", "lr.x=2"], r"lr\.x: lr is a value, not a group"),
        (["lr=1e"], "lr is '1e'; float or nothing is expected"),
        (["warmup_ratio=7"], r"warmup_ratio is 7\.0; it must be at least 0 and below 1"),
        (["weight_decay=-1"], r"weight_decay is -1\.0; it must not be negative"),
        (["max_minutes=-1"], r"max_minutes is -1\.0; it must be above 0"),
        (["max_bad=2"], r"max_bad is 2\.0; it must lie between 0 and 1"),
        (["ema_momentum=3"], r"ema_momentum is 3\.0; it must lie between 0 and 1"),
        (["workers=-1"], "workers is -1; it must not be negative"),
    ],
)
def test_wrong_settings_are_named(words, message):
    with pytest.raises(ConfigError, match=message):
        with_settings(PretrainConfig(), read_settings(None, words))


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", ".1e-3", "0.0001"])
def test_numbers_with_an_exponent_are_numbers_in_words_and_in_a_file(tmp_path, text):
    (tmp_path / "run.yaml").write_text(f"lr: {text}\n")
    for settings in (read_settings(None, [f"lr={text}"]), read_settings(tmp_path / "run.yaml", [])):
        assert with_settings(PretrainConfig(), settings).lr == pytest.approx(1e-4)


@pytest.mark.parametrize(("text", "message"), [("- 1", "holds a list"), ("a: [", "cannot be read as YAML")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_settings(tmp_path / "x.yaml", [])


def test_python_objects_in_yaml_are_not_made(tmp_path):
    (tmp_path / "x.yaml").write_text("lr: !!python/object/apply:os.system ['touch made']")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_settings(tmp_path / "x.yaml", [])
    assert not (tmp_path / "made").exists()


def test_the_command_line_takes_file_words_and_options(corpus, tmp_path, run_mbert):
    (tmp_path / "run.yaml").write_text("preset: tiny\nsteps: 9\nobjective: {swap_ratio: 0.3}\n")
    done = run_mbert(
        "train", "pretrain", "--workspace", str(corpus.root), "--out", "run", "--config", "run.yaml",
        "--set", "model.agent=none", "--steps", "2", "--batch-size", "2", "--swap-block", "2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saved = read_json(tmp_path / "run" / "config.json")
    assert saved["identity"]["objective"] == {
        **dataclasses.asdict(PretrainConfig().objective),
        "swap_ratio": 0.3,
        "swap_block": 2,
    }
    assert (saved["identity"]["steps"], saved["model"]["agent"]) == (2, "none")
    wrong = run_mbert("train", "pretrain", "--set", "stpes=3", cwd=tmp_path)
    assert (wrong.returncode, "did you mean steps?" in wrong.stderr) == (2, True)
