"""From two aligned face crops to what moved between them: the model's output as arrays."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mbert import ConfigError, ModelError
from mbert.model.data.pixels import normalize, resize, stack_images
from mbert.model.device import pick_compute
from mbert.model.network.classifier import Classifier
from mbert.model.network.micron_bert import MicronBert

_BATCH = 32
_EXPECTED = "uint8 RGB of square face crops is expected, (H, W, 3) or (B, H, W, 3) with values 0 to 255"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What moved between the frames of B pairs, on a grid of h x w patches."""

    moved: npt.NDArray[np.float32]  # (B, h, w) in [0, 1]: the probability that a patch moved, head removed
    attention: str  # the model's; without `motion`, `moved` is how much a patch changed, scaled per pair
    motion: npt.NDArray[np.float32] | None = None  # (B, h, w, 2), see `displacement`

    @property
    def displacement(self) -> npt.NDArray[np.float32]:
        """(B, h, w, 2): x, y displacement of each patch from t0 to t1 relative to the head, in pixels of a 224 px crop.

        Raises ModelError for a model without attention `motion`.
        """
        if self.motion is None:
            raise ModelError(f"this model has attention={self.attention!r}; displacement needs attention='motion'")
        return self.motion


def compare_crops(t0: Any, t1: Any, model: MicronBert) -> Comparison:
    """Find what moved from the crops t0 to the crops t1, arrays (H, W, 3) or (B, H, W, 3) of uint8 RGB.

    Raises ConfigError for an unsuitable array; the message says what is expected.
    """
    first, second = _crops(t0, "t0"), _crops(t1, "t1")
    if first.shape != second.shape:
        raise ConfigError(f"t0 has shape {np.shape(t0)} and t1 {np.shape(t1)}; both must be the same")
    compute, was_training = pick_compute(), model.training
    model.to(compute.device).eval()
    is_motion = model.config.attention == "motion"
    moved, displacements = [], []
    with torch.inference_mode():
        for start in range(0, len(first), _BATCH):
            earlier, later = (
                normalize(
                    stack_images([resize(crop, model.config.image_size) for crop in crops[start : start + _BATCH]]).to(
                        compute.device
                    ),
                    model.config.in_chans,
                )
                for crops in (first, second)
            )
            with compute.autocast():
                if is_motion:
                    found = model.motion_of(earlier, later)
                    moved.append(found.moved.float().cpu().numpy())
                    displacements.append(found.displacement.float().cpu().numpy())
                else:
                    moved.append(model.change_map(earlier, later).float().cpu().numpy())
    model.train(was_training)
    grid = model.config.grid
    return Comparison(
        moved=np.concatenate(moved).reshape(-1, grid, grid),
        attention=model.config.attention,
        motion=np.concatenate(displacements).reshape(-1, grid, grid, 2) if is_motion else None,
    )


@torch.inference_mode()
def name_emotions(t0: Any, t1: Any, classifier: Classifier) -> list[tuple[str, float]]:
    """The most likely class of each pair of onset and apex crops, and its probability; arrays as in `compare_crops`.

    The probability is the classifier's own, only as reliable as the data it was finetuned on.
    """
    compute = pick_compute()
    classifier.to(compute.device).eval()
    size, channels = classifier.config.image_size, classifier.backbone.config.in_chans
    earlier, later = (
        normalize(stack_images([resize(crop, size) for crop in _crops(crops, name)]).to(compute.device), channels)
        for crops, name in ((t0, "t0"), (t1, "t1"))
    )
    with compute.autocast():
        shares = classifier(earlier, later).float().softmax(dim=1).cpu()
    best = shares.max(dim=1)
    return [
        (classifier.config.classes[place], float(share))
        for place, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _crops(value: Any, name: str) -> npt.NDArray[np.uint8]:
    """Check and batch crops: (B, H, W, 3)."""
    array = np.asarray(value)
    if array.dtype != np.uint8:
        ends = f" from {array.min():g} to {array.max():g}" if array.size and array.dtype.kind in "fiu" else ""
        raise ConfigError(f"{name} has dtype {array.dtype}{ends}; {_EXPECTED}")
    crops = array[None] if array.ndim == 3 else array
    if crops.ndim != 4 or crops.shape[3] != 3 or crops.shape[1] != crops.shape[2] or 0 in crops.shape:
        raise ConfigError(f"{name} has shape {array.shape}; {_EXPECTED}")
    return np.ascontiguousarray(crops)
