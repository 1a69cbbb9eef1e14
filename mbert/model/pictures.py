"""Pictures of what a model makes of pairs: one row for each pair."""

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mbert.model.data import denormalize
from mbert.model.micron_bert import MicronBert, swap_patches, unpatchify
from mbert.model.objective import Draws, ObjectiveConfig, random_swap_mask

_COLUMNS = ("t0", "t1", "swapped", "restored", "DMA", "PoI")
_CAPTION = 16  # px above the columns
_BORDER = 2


@torch.no_grad()
def picture_pairs(model: MicronBert, t0: Tensor, t1: Tensor, config: ObjectiveConfig) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB: for each pair of normalised frames (B, C, H, W) a row of t0, t1, the swapped frame, what is
    restored of t0, the diagonal of t0 against t1 (bright: it changed) and the Patch of Interest, scaled row by row.
    """
    was_training = model.training
    model.eval()
    mask = random_swap_mask(model.config.grid, config, Draws(0, range(len(t0))), device=t0.device)
    restored = model.forward(t0, t1, mask).reconstruction  # not by a call: that would compile for this batch size
    rows = [
        denormalize(t0),
        denormalize(t1),
        denormalize(swap_patches(t0, t1, mask, model.config.patch_size)),
        denormalize(unpatchify(restored, model.config.patch_size, model.config.in_chans)),
        _heat(-model.attention_map(t0, t1), t0.shape[-1]),
        _heat(model.interest_map(t1), t0.shape[-1]),
    ]
    model.train(was_training)
    columns = [np.concatenate([_framed(image) for image in images]) for images in rows]
    caption = np.full((_CAPTION, columns[0].shape[1] * len(columns), 3), 255, np.uint8)
    for number, name in enumerate(_COLUMNS):
        where = (number * columns[0].shape[1] + 4, _CAPTION - 4)
        cv2.putText(caption, name, where, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([caption, np.concatenate(columns, axis=1)])


def _heat(maps: Tensor, size: int) -> npt.NDArray[np.uint8]:
    """(B, h, w) -> (B, size, size, 3) in false colours, dark to bright between each map's own ends."""
    low, high = maps.flatten(1).amin(1)[:, None, None], maps.flatten(1).amax(1)[:, None, None]
    scaled = (maps - low) / (high - low).clamp(min=1e-12)
    grey = (255 * F.interpolate(scaled[:, None].float(), (size, size))).byte()[:, 0].cpu().numpy()
    return np.stack([cv2.applyColorMap(image, cv2.COLORMAP_INFERNO)[..., ::-1] for image in grey])


def _framed(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    framed: npt.NDArray[np.uint8] = cv2.copyMakeBorder(
        np.ascontiguousarray(image), _BORDER, _BORDER, _BORDER, _BORDER, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    return framed
