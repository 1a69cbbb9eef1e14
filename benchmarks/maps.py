"""Maps of change, one for each method that the benchmarks compare: of models, of frame differences, of optical flow.

A method gives *fields*, (P, GRID, GRID, D): what it says of each patch, a number or a displacement x, y. Most can be
made in several ways, its *variants*. `readings.py` makes maps of them, chosen on other people than scores are of.
"""

import numpy as np
import torch

from mbert.model.data.pixels import normalize, resize, stack_images
from mbert.model.network.features import MAP_REGIONS, pair_inputs
from mbert.model.network.motion import EXPLAINED, motion_evidence
from mbert.model.scoring.localisation import patch_means
from mbert.shards.optical_flow import flow_beside_head, optical_flow

GRID = MAP_REGIONS  # of all maps, whatever that of a model is
BATCH = 16
EVIDENCE_SIZES = (112, 224)  # px that frames are resized to; patches are those of the grid


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
FLOWS = {
    "optical_flow": optical_flow,
    "dis": flow_beside_head,
    "dis_fine": lambda t0, t1: flow_beside_head(t0, t1, "dis_fine"),
    "farneback": lambda t0, t1: flow_beside_head(t0, t1, "farneback"),
}
CLASSICAL_METHODS = ("frame_difference", *FLOWS, "evidence")


@torch.inference_mode()
def maps_of(model, make, pairs):
    """(P, GRID, GRID) of the pairs, made by one of the functions above."""
    size, channels = model.config.image_size, model.config.in_chans
    return np.concatenate([make(model, *frames) for frames in batches(pairs, size, channels)])


def batches(pairs, size, channels=3):
    """Both frames of some pairs at a time, normalised, (B, C, size, size)."""
    for start in range(0, len(pairs), BATCH):
        frames = zip(*((pair.t0, pair.t1) for pair in pairs[start : start + BATCH]), strict=True)
        yield [normalize(stack_images([resize(image, size) for image in images]), channels) for images in frames]


def model_fields(models, pairs):
    """{method: {variant: fields}} of what is made of the models, which have the names that are in MODEL_METHODS."""
    return {
        name: {"map": maps_of(models[which], make, pairs)[..., None]}
        for name, (which, make) in MODEL_METHODS.items()
        if which in models
    }


def classical_fields(pairs):
    """{method: {variant: fields}} of what learns nothing.

    Flow: the mean length of a patch, or its mean displacement. Evidence: how much of the change a motion explains
    against the noise of the pair, of the patch alone or joined with its neighbours, for frames of either size.
    """
    differences = [np.abs(pair.t1.astype(np.float32) - pair.t0).mean(axis=-1) for pair in pairs]
    fields = {"frame_difference": {"mean": patch_means(np.stack(differences), GRID)[..., None]}}
    for name, find in FLOWS.items():
        flows = np.stack([find(pair.t0, pair.t1) for pair in pairs])
        fields[name] = {
            "length": patch_means(np.linalg.norm(flows, axis=-1), GRID)[..., None],
            "displacement": np.stack([patch_means(flows[..., axis], GRID) for axis in (0, 1)], axis=-1),
        }
    return fields | {"evidence": evidence_fields(pairs)}


@torch.inference_mode()
def evidence_fields(pairs):
    fields = {}
    for size in EVIDENCE_SIZES:
        found = torch.cat([motion_evidence(t0, t1, size // GRID) for t0, t1 in batches(pairs, size)])
        explained = found[..., EXPLAINED].view(len(pairs), GRID, GRID, -1).numpy()
        for distance in range(explained.shape[-1]):
            fields[f"{size} px, joined {distance}"] = explained[..., distance, None]
    return fields
