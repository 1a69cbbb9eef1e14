"""Idle threads of OpenMP sleep at once where training is on the CPU, unless the user has said otherwise."""

import os
import re
import subprocess
import sys

import pytest

CODE = """
import os, sys
import mbert
assert "torch" not in sys.modules
import torch
print(os.environ.get("OMP_WAIT_POLICY"), *(os.environ.get(name) for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")))
"""


def settings_of(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    env = {**kept, "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_it_is_set_before_torch_is_loaded():
    assert settings_of() == ["passive", "None", "None"]


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "300000"), ("KMP_BLOCKTIME", "1")]
)
def test_what_the_user_has_set_stays(name, value):
    found = dict(zip(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"), settings_of(**{name: value}), strict=True))
    assert found == dict.fromkeys(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"), "None") | {name: value}


@pytest.mark.parametrize(
    ("environment", "spins"), [({}, "0"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"KMP_BLOCKTIME": "1"}, "300000")]
)
def test_the_runtime_of_a_command_that_trains_has_taken_it(corpus, environment, spins):
    """OpenMP's library itself says what it has read when torch loads it; 300000 is what it takes where nobody asks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mbert",
            "train",
            "pretrain",
            "--shards",
            str(corpus.pairs),
            "--steps",
            "2",
            "--dry-run",
        ],
        env={**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_DISPLAY_ENV": "verbose", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not found:
        pytest.skip("torch brings another OpenMP than GNU's here, which does not tell")
    assert set(found) == {spins}
