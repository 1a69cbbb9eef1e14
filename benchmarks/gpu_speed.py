"""Stages `speed` and `encode` of gpu.py: pairs per second, share of the peak, memory, and what a step is made of."""

import collections
import concurrent.futures
import functools
import multiprocessing
import time

import numpy as np
import torch
from gpu_stage import device_name, synchronize
from step import Stepper, alternating, encoding_rate, make_steppers, peak_flops
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mbert.model.device import pick_compute
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.cost import step_cost
from mbert.model.training.objective import ObjectiveConfig

VARIANTS = ("paper", "motion", "released")
BATCHES, REHEARSED_BATCHES = (32, 64, 128, 256, 512), (2, 4)
COMPARED = 64  # pairs of a step that is compared with the plain one
COMPILING = {"paper": 35, "motion": 120, "released": 35}  # seconds, on an H100, with all that is then measured
SPEEDUP_GOAL, MFU_GOAL = 3.0, 0.35
TOP = 40  # kernels listed of a profile


def speed(stage):
    """Batches until memory ends, uncompiled; then compiled, at the best one; then against the plain step; profiles."""
    compute = pick_compute()
    batches = REHEARSED_BATCHES if stage.rehearse else BATCHES
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1 if stage.rehearse else len(VARIANTS), mp_context=context) as pool:
        costs = {name: pool.submit(count, stage.config("small", name), compute.precision) for name in VARIANTS}
        for name in VARIANTS:
            best = sweep(stage, name, batches, compute, costs[name])
            work = functools.partial(measure_compiled, stage, name, best.get("batch", batches[0]), compute, costs[name])
            compiled = stage.row(f"{name} compiled", work, needs=COMPILING[name])
            if name == "paper":
                found = max((best, compiled), key=lambda row: row.get("pairs_per_s", 0))
                stage.add("best", **{**found, "compiled": found is compiled, "goal": MFU_GOAL})
                stage.row("same work", functools.partial(same_work, stage, compute), needs=10)


def count(config, precision):
    """(FLOP of a pair, bytes of one pair, bytes of each further pair), in a process beside the card's."""
    one, two = (step_cost(config, ObjectiveConfig(), batch_size=size, precision=precision) for size in (1, 2))
    return one.flops_per_pair, one.memory_bytes, two.memory_bytes - one.memory_bytes


def sweep(stage, variant, batches, compute, cost):
    """A row for each batch; returns the best one."""
    stepper, rows = new_stepper(stage, variant, compute), []
    for batch in batches:
        row = stage.row(f"{variant} {batch}", functools.partial(measure, stepper, batch, compute, cost), needs=2)
        rows += [row] if "pairs_per_s" in row else []
        if row.get("out_of_memory"):
            break
    found = max(rows, key=lambda row: row["pairs_per_s"], default={})
    stage.row(
        f"{variant} profile", functools.partial(write_profile, stage, variant, stepper, found.get("batch", 2)), needs=3
    )
    return found


def new_stepper(stage, variant, compute, compiled=False):
    torch.manual_seed(0)
    return Stepper(MicronBert(stage.config("small", variant)), compute, variant, compiled)


def measure_compiled(stage, variant, batch, compute, cost):
    if not compute.is_gpu:
        return {"skipped": "compiling takes minutes on a CPU"}
    torch._dynamo.reset()
    began = time.perf_counter()
    stepper = new_stepper(stage, variant, compute, compiled=True)
    stepper.step(*images_of(stepper, batch), 0)
    synchronize()
    first = time.perf_counter() - began
    found = {"first_step_s": round(first, 1), **measure(stepper, batch, compute, cost)}
    return {**found, **write_profile(stage, f"{variant} compiled", stepper, batch)}


def images_of(stepper, batch):
    size = stepper.model.config.image_size
    return torch.randn(2, batch, 3, size, size, device=stepper.compute.device)


def measure(stepper, batch, compute, cost):
    """Pairs per second of steps that nobody waits for, and the highest memory."""
    t0, t1 = images_of(stepper, batch)
    if compute.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    for seed in range(2):
        stepper.step(t0, t1, seed)
    synchronize()
    began, steps = time.perf_counter(), 0
    while steps < 4 or (compute.is_gpu and steps * batch < 600):
        stepper.step(t0, t1, steps)
        steps += 1
    synchronize()
    rate = steps * batch / (time.perf_counter() - began)
    flops, one, more = cost.result()
    found = {"batch": batch, "pairs_per_s": round(rate, 1), "steps": steps}
    if compute.is_gpu:
        estimate = one + (batch - 1) * more
        peak = torch.cuda.max_memory_allocated()
        found |= {"memory_gib": round(peak / 2**30, 2), "memory_over_estimate": round(peak / estimate, 3)}
        if (peak_rate := peak_flops(device_name())) is not None:
            found["mfu"] = round(flops * rate / peak_rate, 4)
    return found


def same_work(stage, compute):
    """Against the plain step, alternating."""
    batch, size = 2 if stage.rehearse else COMPARED, stage.config("small", "paper")
    steppers = make_steppers(size, compute, compiled=False)
    seconds = alternating(steppers, *images_of(steppers["paper"], batch), rounds=2 if stage.rehearse else 5)
    ratios = {
        f"{name}_speedup": round(float(np.median(seconds["plain"] / seconds[name])), 2)
        for name in ("released", "paper")
    }
    return {"batch": batch, **ratios, "goal": SPEEDUP_GOAL, "plain_s": round(float(np.median(seconds["plain"])), 4)}


def write_profile(stage, title, stepper, batch):
    """The kernels that take longest, and the share of the time in which the card does nothing, into profiles.txt."""
    compute, (t0, t1) = stepper.compute, images_of(stepper, batch)
    for seed in range(3):
        stepper.step(t0, t1, seed)
    synchronize()
    activity = ProfilerActivity.CUDA if compute.is_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        for seed in range(3):
            stepper.step(t0, t1, seed)
        synchronize()
    wanted = DeviceType.CUDA if compute.is_gpu else DeviceType.CPU
    events = [event for event in profiled.events() if event.device_type == wanted]
    spans = [(event.time_range.start, event.time_range.end) for event in events]
    wall = max(end for _, end in spans) - min(start for start, _ in spans)
    idle = 1 - covered(spans) / wall
    totals, times = collections.Counter(), collections.Counter()
    for event in events:
        totals[event.name] += event.time_range.end - event.time_range.start
        times[event.name] += 1
    lines = [f"{title}, {batch} pairs: 3 steps in {wall / 1e6:.4f} s, idle {idle:.1%}"]
    lines += [f"{total / wall:7.2%} {times[name]:6} x {name[:160]}" for name, total in totals.most_common(TOP)]
    with (stage.out / "profiles.txt").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n\n")
    return {"idle_share": round(idle, 4), "kernels": sum(times.values()) // 3}


def covered(spans):
    """The length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def encode(stage):
    """The encoder alone, and maps of motion."""
    compute = pick_compute()
    for precision in ("bf16", "fp32") if compute.is_gpu else ("fp32",):
        stage.row(f"encoder {precision}", functools.partial(encode_images, stage, pick_compute(precision)))
        stage.row(f"maps {precision}", functools.partial(make_maps, stage, pick_compute(precision)))


def encode_images(stage, compute):
    model = MicronBert(stage.config("small", "paper")).to(compute.device).eval()
    size = model.config.image_size
    images = torch.randn(4 if stage.rehearse else 512, 3, size, size, device=compute.device)
    return {"images_per_s": round(encoding_rate(model, images, compute), 1)}


def make_maps(stage, compute):
    model = MicronBert(stage.config("small", "motion")).to(compute.device).eval()
    size, batch = model.config.image_size, 4 if stage.rehearse else 128
    t0, t1 = torch.randn(2, batch, 3, size, size, device=compute.device)
    with torch.inference_mode(), compute.autocast():
        model.motion_of(t0, t1)
        synchronize()
        began = time.perf_counter()
        for _ in range(5):
            model.motion_of(t0, t1)
        synchronize()
    return {"pairs_per_s": round(5 * batch / (time.perf_counter() - began), 1)}
