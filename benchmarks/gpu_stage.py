"""What a stage of gpu.py is given, and where it leaves what it finds."""

import contextlib
import dataclasses
import json
import math
import time
from pathlib import Path

import torch

from mbert.model.network.config import PRESETS, VARIANTS

# Of a rehearsal on a CPU: everything runs, nothing is measured.
REHEARSED = {"image_size": 32, "dim": 16, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_depth": 1}
REHEARSED |= {"decoder_heads": 2, "motion_dim": 8, "motion_heads": 2, "motion_convs": 1}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """What gpu_bundle.py made: training pairs as shards, test pairs with their truth."""

    folder: Path

    @property
    def pairs(self):
        return self.folder / "pairs"

    @property
    def test(self):
        return self.folder / "test.npz"


class Stage:
    """One stage at work. Each `row` is on disk before the next one begins: a stage may be ended at any time."""

    def __init__(self, name, arguments, seconds, earlier):
        self.name, self.out, self._earlier = name, arguments.out, earlier
        self.rehearse, self.learn = arguments.rehearse, arguments.learn
        self.bundle = Bundle(arguments.bundle)
        self.scratch = arguments.scratch
        self._ends = time.monotonic() + seconds
        self._rows = []
        self._file = self.scratch / f"{name}.json"
        self._write()

    @property
    def seconds_left(self):
        return self._ends - time.monotonic()

    def rows_of(self, stage):
        """Of a stage that came before; none where it did not."""
        return self._earlier.get(stage, {}).get("rows", [])

    def row(self, name, work, *, needs=0.0):
        """Add what `work` returns, a dict, or why it failed; skipped where fewer than `needs` seconds are left."""
        began = time.monotonic()
        if self.seconds_left < needs:
            return self.add(name, skipped=f"{self.seconds_left:.0f} s were left")
        try:
            found = work()
        except torch.cuda.OutOfMemoryError:
            found = {"out_of_memory": True}
        except Exception as exc:
            found = {"error": told(exc)}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.add(name, **found, seconds=round(time.monotonic() - began, 2))

    def add(self, title, **found):
        row = {**found, "name": title}
        self._rows.append(row)
        self._write()
        print(f"{self.name}: {json.dumps(finite(row))}", flush=True)
        return row

    def config(self, preset, variant):
        """The model that is asked for, or a tiny one where this is a rehearsal."""
        changes = {**VARIANTS[variant], **(REHEARSED if self.rehearse else {})}
        return dataclasses.replace(PRESETS[preset], **changes)

    def _write(self):
        write_json(self._file, {"device": device_name(), "rows": self._rows})


def device_name():
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def write_json(path, value):
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(finite(value), indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def finite(value):
    """What JSON can hold: numbers that are not finite become words."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def told(exc):
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:600]


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_on_card(work, times):
    """Of one of many calls, by the card's own clock."""
    work()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(times):
        work()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1000 / times


@contextlib.contextmanager
def fp32_products(kind):
    """How 32-bit products are made: `exact`, `default` (convolutions in TF32, as torch has it) or `tf32`."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = kind != "exact"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
