"""Maps of change, one for each method that the benchmarks compare: of models, of frame differences, of optical flow."""

import numpy as np
import torch

from mbert.model.data.pixels import normalize, resize, stack_images
from mbert.model.network.features import MAP_REGIONS, pair_inputs
from mbert.model.scoring.localisation import patch_means
from mbert.shards.optical_flow import optical_flow

GRID = MAP_REGIONS  # of all maps, whatever that of a model is
BATCH = 16

# Of the robust fit of `without_head`.
FIT_EVERY = 7  # pixels
FIT_ROUNDS = 8
FIT_PX = 0.02  # below it, a residual weighs no more


def change_map(model, t0, t1):
    return patch_means(model.change_map(t0, t1).numpy(), GRID)


def distance_map(model, t0, t1):
    return pair_inputs(model, t0, t1, ("distance",)).view(-1, GRID, GRID).numpy()


MODEL_METHODS = {
    "mbert": ("default", change_map),
    "paper": ("paper", change_map),
    "paper_distance": ("paper", distance_map),
    "random_weights": ("random", change_map),
    "random_distance": ("random", distance_map),
}
CLASSICAL_METHODS = ("frame_difference", "optical_flow", "flow_without_head")


@torch.inference_mode()
def maps_of(model, make, pairs):
    """(P, GRID, GRID) of the pairs, made by one of the functions above."""
    maps, config = [], model.config
    for start in range(0, len(pairs), BATCH):
        frames = zip(*((pair.t0, pair.t1) for pair in pairs[start : start + BATCH]), strict=True)
        resized = (stack_images([resize(image, config.image_size) for image in images]) for images in frames)
        maps.append(make(model, *(normalize(images, config.in_chans) for images in resized)))
    return np.concatenate(maps)


def model_maps(models, pairs):
    """Of each method that is made of a model, by the names that they have in MODEL_METHODS."""
    return {name: maps_of(models[which], make, pairs) for name, (which, make) in MODEL_METHODS.items()}


def without_head(flow):
    """Flow (H, W, 2) less the affine motion that most of the crop shares: the one of least absolute deviations."""
    rows, columns = np.indices(flow.shape[:2])
    terms = np.stack([columns, rows, np.ones_like(rows)], axis=-1).astype(float)
    few = slice(FIT_EVERY // 2, None, FIT_EVERY)
    known, wanted = terms[few, few].reshape(-1, 3), flow[few, few].reshape(-1, 2)
    weights = np.ones((len(known), 1))
    for _ in range(FIT_ROUNDS):
        affine = np.linalg.lstsq(known * weights, wanted * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.linalg.norm(wanted - known @ affine, axis=1, keepdims=True) + FIT_PX)
    return flow - terms @ affine


def classical_maps(pairs):
    """Of each method that learns nothing, (P, GRID, GRID)."""
    maps = {name: [] for name in CLASSICAL_METHODS}
    for pair in pairs:
        flow = optical_flow(pair.t0, pair.t1)
        maps["frame_difference"].append(np.abs(pair.t1.astype(np.float32) - pair.t0).mean(axis=-1))
        maps["optical_flow"].append(np.linalg.norm(flow, axis=-1))
        maps["flow_without_head"].append(np.linalg.norm(without_head(flow), axis=-1))
    return {name: patch_means(np.stack(found), GRID) for name, found in maps.items()}
