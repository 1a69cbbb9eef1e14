"""The log of a training run: metrics.jsonl, pictures, TensorBoard, Weights & Biases if requested, its state."""

import contextlib
import dataclasses
import datetime
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mbert import ConfigError, ModelError
from mbert.manifests.files import naming_write_faults, write_json
from mbert.model.training.pictures import write_png

Reporter = Literal["none", "wandb"]
STATUS = "status.json"
_METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One line of metrics.jsonl; losses are means over all processes."""

    step: int  # steps done
    epoch: float  # passes over the pairs
    loss: float
    parts: dict[str, float]  # the parts of the loss, and other monitored values
    grad_norm: float  # before clipping
    lr: float
    pairs_per_second: float
    data_wait_share: float  # share of the time spent waiting for pairs while the device was idle
    memory_mb: float | None  # highest so far on this GPU

    def to_line(self) -> dict[str, float | None]:
        """As a flat dict, without unknown values."""
        plain = dataclasses.asdict(self)
        return {name: value for name, value in {**plain.pop("parts"), **plain}.items() if value is not None}

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> "StepReport":
        """Read the output of `to_line`."""
        own = {field.name for field in dataclasses.fields(cls)}
        parts = {name: value for name, value in line.items() if name not in own}
        return cls(**{"memory_mb": None, **{name: value for name, value in line.items() if name in own}}, parts=parts)


def read_reports(run: Path) -> list[StepReport]:
    """The lines of a run's metrics; a killed run may have left half a line.

    Raises ModelError naming any other damaged line.
    """
    path = run / _METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        if line.endswith("}"):
            try:
                found.append(StepReport.from_line(json.loads(line)))
            except (ValueError, TypeError, AttributeError) as exc:
                raise ModelError(f"{path}, line {number}, is damaged: {exc}; take that line out") from exc
    return found


class RunLog:
    """Writes the log of a run. Only the first process has one."""

    def __init__(self, run: Path, metrics: Any, board: Any, online: Any) -> None:
        self._run, self._metrics, self._board, self._online = run, metrics, board, online

    def step(self, report: StepReport) -> None:
        """Note one step."""
        line = report.to_line()
        with naming_write_faults(self._run / _METRICS):
            self._metrics.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if self._board is not None and name != "step":
                self._board.add_scalar(name, value, report.step)
        if self._online is not None:
            self._online.log({name: value for name, value in line.items() if name != "step"}, step=report.step)

    def picture(self, step: int, image: npt.NDArray[np.uint8]) -> None:
        """Keep a picture, (H, W, 3) RGB, in `pictures/` and on TensorBoard."""
        write_png(self._run / "pictures" / f"step-{step:07d}.png", image)
        if self._board is not None:
            self._board.add_image("pairs", image, step, dataformats="HWC")

    def flush(self) -> None:
        """Flush before a checkpoint, so that the log up to it is on disk too."""
        self._metrics.flush()
        if self._board is not None:
            self._board.flush()


@contextlib.contextmanager
def logging_run(run: Path, *, done: int, report_to: Reporter, config: dict[str, Any]) -> Iterator[RunLog]:
    """Open the log of a run after `done` steps: lines that a killed run wrote after its checkpoint are removed.

    Raises ConfigError if Weights & Biases is requested and not installed.
    """
    if report_to == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ConfigError("--report-to wandb needs the package wandb: pip install wandb")
    kept = [report for report in read_reports(run) if report.step <= done]
    (run / _METRICS).write_text("".join(json.dumps(r.to_line()) + "\n" for r in kept), encoding="utf-8")
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context((run / _METRICS).open("a", buffering=1, encoding="utf-8"))
        board = online = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)
            stack.callback(board.close)
        if report_to == "wandb":
            import wandb

            online = wandb.init(project="mbert", name=run.name, id=run.name, resume="allow", config=config)
            stack.callback(online.finish)
        yield RunLog(run, metrics, board, online)


def write_status(run: Path, state: Literal["running", "finished", "stopped", "failed"], reason: str = "") -> None:
    """Record a run's state in its folder, for `mbert runs`."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_json(run / STATUS, {"state": state, "reason": reason, "at": now})
