"""`mbert convert`: the authors' released checkpoint as a checkpoint folder of ours."""

import dataclasses
from pathlib import Path

from mbert.model.network.micron_bert import tensor_shapes
from mbert.model.network.released import read_released, write_aside
from mbert.model.network.weights import write_model


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConvertSummary:
    """The content of a released checkpoint, and its new location."""

    num_tensors: int
    num_parameters: int
    epoch: int | None
    dataset: str | None  # as named in its training
    attention: str
    warning: str
    folder: str


def convert_released(path: Path, out: Path) -> ConvertSummary:
    """Turn the authors' file into a checkpoint folder of ours.

    Raises ModelError as `read_released` does.
    """
    released = read_released(path, tensor_shapes)
    write_model(out, released.tensors, released.config, released.state)
    write_aside(out, released)
    return ConvertSummary(
        num_tensors=released.num_tensors,
        num_parameters=released.num_parameters,
        epoch=released.epoch,
        dataset=released.dataset,
        attention=released.config.attention,
        warning=(
            f"these weights were trained on {released.dataset}: scores on its subjects leak"
            if released.dataset
            else "training data unknown"
        ),
        folder=str(out),
    )
