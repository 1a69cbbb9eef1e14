"""Idle threads of OpenMP sleep at once where training is on the CPU, unless the user has said otherwise."""

import os
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


def test_a_command_that_trains_has_it():
    """The runtime itself says which settings it has taken."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    code = "import mbert.cli, torch; torch.ones(9).sum()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_DISPLAY_ENV": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
