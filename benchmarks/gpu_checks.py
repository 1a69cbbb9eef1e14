"""Stages `sanity` and `equality` of gpu.py: does it run, and does it learn what a CPU learns?"""

import concurrent.futures
import functools
import importlib.metadata
import itertools
import json
import math
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch
from gpu_stage import REHEARSED, fp32_products, seconds_on_card

from mbert.model.data.draws import Draws
from mbert.model.device import Compute, pick_compute
from mbert.model.network.config import VARIANTS
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.loop import step_seed
from mbert.model.training.objective import ObjectiveConfig, pretraining_losses
from mbert.model.training.optim import adamw, set_learning_rate
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.model.training.run_log import read_reports
from mbert.model.training.warp import WarpConfig

STEPS = 5
SEED = 7
PACKAGES = ("torch", "timm", "numpy", "triton", "webdataset", "simplejpeg", "pyarrow")
# What `sanity` compiles, in order of worth, of variant `paper`: on an H100 its first step takes 14 to 22 s, that of
# `motion` 107 s, so `speed` compiles that one where there is time.
COMPILED = (
    ("bf16", "small"),
    ("fp32", "tiny"),
    ("fp16", "small"),
    ("bf16", "tiny"),
    ("fp32", "small"),
    ("fp16", "tiny"),
)
AT_ONCE = 2
COMPILING = 25  # seconds that one may take


def sanity(stage):
    """The machine, what `doctor` says of it, and training steps in every precision, uncompiled and compiled."""
    stage.row("machine", machine)
    stage.row("doctor", doctor)
    precisions = ("bf16", "fp32", "fp16") if torch.cuda.is_available() else ("bf16", "fp32")
    if not torch.cuda.is_available():
        stage.add("fp16", skipped="fp16 needs a GPU")
    train = functools.partial(train_briefly, stage.bundle.pairs, stage.rehearse)
    compare = functools.partial(train_compiled, stage.bundle.pairs, stage.rehearse)
    waiting = [case for case in COMPILED if case[0] in precisions]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(AT_ONCE, mp_context=context) as pool:
        running = {pool.submit(compare, *case): case for case in waiting[:AT_ONCE]}
        for precision, preset in itertools.product(precisions, ("small", "tiny")):
            stage.row(f"{preset} {precision}", functools.partial(train, precision, preset))
        del waiting[:AT_ONCE]
        while running:
            done = next(concurrent.futures.as_completed(running))
            precision, preset = running.pop(done)
            stage.row(f"{preset} {precision} compiled", done.result)
            if waiting and stage.seconds_left >= COMPILING:
                case = waiting.pop(0)
                running[pool.submit(compare, *case)] = case
    for precision, preset in waiting:
        stage.add(f"{preset} {precision} compiled", skipped=f"{stage.seconds_left:.0f} s were left")


def machine():
    found = {name: version(name) for name in PACKAGES} | {"python": platform.python_version(), "cores": os.cpu_count()}
    if not torch.cuda.is_available():
        return {**found, "device": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {
        **found,
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver(),
        "copy_gb_per_s": round(copy_rate()),
        "bf16_tflops": round(product_rate()),
    }


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def driver():
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def copy_rate():
    """GB read and written per second."""
    here, there = torch.randn(2, 2**28, device="cuda")
    return 2 * 4 * 2**28 / seconds_on_card(lambda: there.copy_(here), 10) / 1e9


def product_rate():
    """TFLOP per second of a large product in bf16, of random numbers."""
    one, two = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / seconds_on_card(lambda: one @ two, 20) / 1e12


def doctor():
    command = [sys.executable, "-m", "mbert", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    found = json.loads(done.stdout.splitlines()[-1])
    return {"device": found["found"]["device"], "missing": sorted(found["missing"])}


def environment():
    """So that `python -m mbert` finds this checkout wherever it is started."""
    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}


def train_compiled(pairs, rehearse, precision, preset):
    """Two steps of `paper`, compiled, beside the loss of the same ones uncompiled."""
    torch._dynamo.reset()  # a process compiles the same code for a limited number of models
    plain = train_briefly(pairs, rehearse, precision, preset, variant="paper")
    compiled = train_briefly(pairs, rehearse, precision, preset, variant="paper", compiled=True)
    return {**compiled, "uncompiled_loss": plain["loss"]}


def train_briefly(pairs, rehearse, precision, preset, variant="motion", compiled=False):
    """Two steps by the real command's function; what they ended with."""
    began = time.monotonic()
    if rehearse and compiled:  # the compiler's own code takes minutes on a CPU
        MicronBert.compile = functools.partialmethod(MicronBert.compile, backend="aot_eager")
    config = PretrainConfig(
        preset="tiny" if rehearse else preset,
        variant=variant,
        precision=precision,
        compile=compiled,
        steps=2,
        batch_size=4 if rehearse else 8,
        workers=0,
        picture_every=0,
        model=REHEARSED if rehearse else {},
    )
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        run_pretrain(pairs, Path(folder) / "run", config, on_step=reports.append)
    found = {"loss": round(reports[-1].loss, 5), "grad_norm": round(reports[-1].grad_norm, 4)}
    return {**found, "took_s": round(time.monotonic() - began, 1)}


def equality(stage):
    """The card against the CPU, 16 bits against 32, a resumed run against an unbroken one, nccl against one process."""
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(1) as beside:
        runs = Runs(Path(folder), stage)
        try:
            killed = beside.submit(runs.killed_and_resumed)  # while losses are compared here
            for variant in VARIANTS:
                stage.row(variant, functools.partial(compare_devices, stage, variant))
            stage.row("killed and resumed", killed.result)
            stage.row("one process by torchrun", runs.by_torchrun)
        finally:
            runs.end()


def compare_devices(stage, variant):
    """Losses of STEPS steps on both devices, as the largest relative difference."""
    torch.set_num_threads(max(1, os.cpu_count() // 2))  # the runs beside have the others
    torch.manual_seed(SEED)
    model = MicronBert(stage.config("small", variant))
    exact = losses(model, Compute(torch.device("cpu"), "fp32"))
    compute = pick_compute("fp32")
    if not compute.is_gpu:  # a rehearsal: the same again
        return {"fp32": difference(exact, losses(model, compute)), "loss": exact[-1]}
    found = {"loss": round(exact[-1], 6)}
    for kind in ("exact", "default", "tf32"):
        with fp32_products(kind):
            on_card = losses(model, compute)
        found["fp32" if kind == "exact" else f"fp32_{kind}"] = difference(exact, on_card)
    for precision in ("bf16", "fp16"):
        found[precision] = difference(exact, losses(model, pick_compute(precision)))
    if not found["fp32"] <= 1e-3:  # NaN neither
        found["error"] = f"losses on the card differ by {found['fp32']:.1e} from the CPU's; 1e-3 is allowed"
    return found


def losses(model, compute, batch=2):
    """Of STEPS steps from the weights of `model`, which stays as it is, on numbers that every device has alike."""
    torch.manual_seed(SEED)
    own = MicronBert(model.config)
    own.load_state_dict(model.state_dict())
    own.to(compute.device).train()
    optimizer = adamw(own, weight_decay=0.05)
    set_learning_rate(optimizer, 1e-4)
    size = model.config.image_size
    images = torch.randn(2, batch, 3, size, size, generator=torch.Generator().manual_seed(SEED)).to(compute.device)
    # Each device makes its own noise of a sensor.
    objective = ObjectiveConfig(warp=WarpConfig(noise=0))
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16", init_scale=1024)
    found = []
    for step in range(STEPS):
        with compute.autocast():
            loss = pretraining_losses(own, *images, objective, Draws(step_seed(SEED, step), range(batch))).total
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if own.agent is not None:
            own.agent.follow(own.encoder, momentum=0.997)
        found.append(loss.item())
    return found


def difference(expected, found):
    """The largest relative one; infinite where a number is not finite."""
    if not all(math.isfinite(value) for value in (*expected, *found)):
        return math.inf
    return max(abs(one - two) / abs(one) for one, two in zip(expected, found, strict=True))


class Runs:
    """Runs of the real command, at work beside each other while the losses are compared."""

    def __init__(self, folder, stage):
        self._folder, self._stage = folder, stage
        self._repeats = () if stage.rehearse else ("repeated",)  # how far two unbroken runs are apart on a card
        self._steps, self._save_every = (30, 10) if stage.rehearse else (200, 50)
        self._running = {name: self._start(name) for name in ("unbroken", *self._repeats)}
        self._running["torchrun"] = self._start("torchrun", torchrun=True)
        self._running["killed"] = self._start("killed")

    def killed_and_resumed(self):
        """SIGKILL after the first checkpoint, then the same command again."""
        checkpoint, process = self._folder / "killed" / "checkpoints" / "last", self._running["killed"]
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        self._wait("killed", expected=-signal.SIGKILL)
        killed_at = read_reports(self._folder / "killed")[-1].step
        self._running["killed"] = self._start("killed")
        for name in ("unbroken", *self._repeats, "killed"):
            self._wait(name)
        repeats = {name: self._against_unbroken(name) for name in self._repeats}
        return {"killed_at": killed_at, **self._against_unbroken("killed"), **repeats}

    def by_torchrun(self):
        for name in ("unbroken", "torchrun"):
            self._wait(name)
        return self._against_unbroken("torchrun")

    def end(self):
        """Whatever is still at work."""
        for process in self._running.values():
            process.kill()
            process.wait()

    def _start(self, name, torchrun=False):
        by = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"] if torchrun else []
        words = ["-m", "mbert", "train", "pretrain", "--shards", str(self._stage.bundle.pairs)]
        words += ["--out", str(self._folder / name), "--preset", "tiny", "--steps", str(self._steps), "--json"]
        words += ["--batch-size", "8", "--workers", "0", "--set", f"save_every={self._save_every}"]
        words += ["--set", "picture_every=0", "--variant", "paper"]
        if self._stage.rehearse:
            words += [word for field, value in REHEARSED.items() for word in ("--set", f"model.{field}={value}")]
        with (self._folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, *by, *words], stdout=log, stderr=log, env=environment() | {"OMP_NUM_THREADS": "2"}
            )

    def _wait(self, name, expected=0):
        if self._running[name].wait() != expected:
            log = (self._folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{name} ended with {self._running[name].returncode}: {' / '.join(log[-3:])}")

    def _against_unbroken(self, name):
        """How far losses and weights are from those of the unbroken run."""
        one, two = (read_reports(self._folder / run) for run in ("unbroken", name))
        weights = [
            safetensors.torch.load_file(self._folder / run / "checkpoints" / "last" / "model.safetensors")
            for run in ("unbroken", name)
        ]
        apart = [(weights[0][key] - weights[1][key]).abs().max().item() for key in weights[0]]
        losses = [[report.loss for report in reports] for reports in (one, two)]
        near = self._save_every + 10  # a little beyond where the killed run went on
        found = {
            "loss_first_checkpoint_on": difference(*(values[self._save_every : near] for values in losses)),
            "loss_all": difference(*losses),
            "weights": max(apart),
        }
        if not difference(*(values[:near] for values in losses)) <= 1e-2:
            found["error"] = f"losses of {name} and of the unbroken run differ: {found}"
        return found
