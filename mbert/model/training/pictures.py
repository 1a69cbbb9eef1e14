"""Pictures of a model's output for pairs: one row per pair."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mbert.manifests.files import replacing
from mbert.model.data.draws import Draws
from mbert.model.data.pixels import denormalize, normalize, resize, stack_images
from mbert.model.network.micron_bert import MicronBert, swap_patches, unpatchify
from mbert.model.training.objective import ObjectiveConfig, random_swap_mask
from mbert.shards.image import Image
from mbert.shards.optical_flow import Flow, optical_flow

_LINE = 16  # px of a line of text
_GAP = 8  # px below a row's text
_BORDER = 2
_MAP_SIDE = 112  # px of a picture of `picture_maps`, regardless of the size of frames and maps


@torch.no_grad()
def picture_pairs(model: MicronBert, t0: Tensor, t1: Tensor, config: ObjectiveConfig) -> Image:
    """(H, W, 3) RGB: for each pair of normalised frames (B, C, H, W) a row of t0, t1, the swapped frame, what is
    restored of t0, the diagonal of t0 against t1 (bright: it changed) and the Patch of Interest, scaled row by row.
    """
    was_training = model.training
    model.eval()
    mask = random_swap_mask(model.config.grid, config, Draws(0, range(len(t0))), device=t0.device)
    restored = model.forward(t0, t1, mask).reconstruction  # calling the model would compile it for this batch size
    columns: dict[str, Iterable[Image]] = {
        "t0": denormalize(t0),
        "t1": denormalize(t1),
        "swapped": denormalize(swap_patches(t0, t1, mask, model.config.patch_size)),
        "restored": denormalize(unpatchify(restored, model.config.patch_size, model.config.in_chans)),
        "DMA": _heat(-model.attention_map(t0, t1), t0.shape[-1]),
        "PoI": _heat(model.interest_map(t1), t0.shape[-1]),
    }
    model.train(was_training)
    return _table(columns)


@torch.no_grad()
def picture_maps(
    model: MicronBert, pairs: Sequence[tuple[Image, Image]], motion: Sequence[Flow], texts: Sequence[str]
) -> Image:
    """(H, W, 3) RGB: for each pair of frames (S, S, 3) a row of t0, t1, how far the skin really moved at each pixel of
    t0 (S, S), the model's map of change, the frame difference and the length of optical flow; a text under each row.
    """
    was_training = model.training
    model.eval()
    t0, t1 = (
        normalize(stack_images([resize(image, model.config.image_size) for image in images]), model.config.in_chans)
        for images in zip(*pairs, strict=True)
    )
    change = model.change_map(t0, t1)
    model.train(was_training)
    difference = [cv2.absdiff(earlier, later).mean(axis=-1) for earlier, later in pairs]
    flow = [np.linalg.norm(optical_flow(earlier, later), axis=-1) for earlier, later in pairs]
    columns = {
        "t0": [resize(earlier, _MAP_SIDE) for earlier, _ in pairs],
        "t1": [resize(later, _MAP_SIDE) for _, later in pairs],
        "true motion": _heat(torch.from_numpy(np.stack(motion)), _MAP_SIDE),
        "model's map": _heat(change, _MAP_SIDE),
        "frame difference": _heat(torch.from_numpy(np.stack(difference)), _MAP_SIDE),
        "optical flow": _heat(torch.from_numpy(np.stack(flow)), _MAP_SIDE),
    }
    table = _table(columns, texts)
    scale = _line("each map is scaled by itself: black is its lowest value, yellow its highest", table.shape[1])
    return np.concatenate([scale, table])


def write_png(path: Path, image: Image) -> None:
    """Write (H, W, 3) RGB, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def _table(columns: Mapping[str, Iterable[Image]], texts: Sequence[str] = ()) -> Image:
    """Columns of pictures of one size, with names above and, if there are `texts`, a text below each row."""
    rows = [np.concatenate([_framed(image) for image in row], axis=1) for row in zip(*columns.values(), strict=True)]
    width = rows[0].shape[1]
    parts = [np.concatenate([_line(name, width // len(columns)) for name in columns], axis=1)]
    gap = np.full((_GAP, width, 3), 255, np.uint8)  # keeps a text closer to its own row than to the next
    for row, text in itertools.zip_longest(rows, texts):
        parts += [row] if text is None else [row, _line(text, width), gap]
    return np.concatenate(parts)


def _heat(maps: Tensor, size: int) -> list[Image]:
    """(B, h, w) -> B pictures (size, size, 3) in false colours, dark to bright, scaled per map."""
    maps = F.interpolate(maps[:, None].float(), (size, size), mode="area")[:, 0]
    low, high = maps.flatten(1).amin(1)[:, None, None], maps.flatten(1).amax(1)[:, None, None]
    scaled = (maps - low) / (high - low).clamp(min=1e-12)
    grey = (255 * scaled).byte().cpu().numpy()
    return [cv2.applyColorMap(image, cv2.COLORMAP_INFERNO)[..., ::-1] for image in grey]


def _line(text: str, width: int) -> Image:
    """(_LINE, width, 3): black on white; cut off if too long."""
    line = np.full((_LINE, width, 3), 255, np.uint8)
    cv2.putText(line, text, (4, _LINE - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return line


def _framed(image: Image) -> Image:
    framed: Image = cv2.copyMakeBorder(
        np.ascontiguousarray(image), _BORDER, _BORDER, _BORDER, _BORDER, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    return framed
