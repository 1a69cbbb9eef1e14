"""What a μ-BERT has to beat, under the same folds: frame difference, raw optical flow and flow relative to the head, a
small network on flow, and no learning at all. Whatever is fitted sees only the training samples of its fold.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mbert.manifests.labels.folds import Fold
from mbert.model.data.labelled import decode_pairs
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.features import MAP_REGIONS, SMALL_PX, pool_regions
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.motion import CROP_PX
from mbert.model.scoring.probe import OwnUnits, by_unit
from mbert.model.training.label_loss import balanced_weights, soft_targets, weighted_cross_entropy
from mbert.shards.optical_flow import flow_beside_head, optical_flow, strain
from mbert.shards.pair import FramePair

Features = npt.NDArray[np.float32]

BASELINE_DEFINITION = 3  # increase when a baseline changes: evaluations then recompute what they kept of it
_FLOW_UNITS = (1, 1, 2)  # x and y are lengths, strain has none
DIFFERENCE_UNITS: OwnUnits = np.ones(MAP_REGIONS**2, dtype=np.int64)  # of `difference_features`, see `in_own_units`
FLOW_UNITS: OwnUnits = np.repeat(_FLOW_UNITS, MAP_REGIONS**2)  # of `flow_features`
MOTION_UNITS: OwnUnits = np.ones(2 * MAP_REGIONS**2, dtype=np.int64)  # of `motion_features`
_FLOW_SCALE = 100  # flow in hundredths of the crop's width: 1 px of 224 is 0.45
_STRAIN_SCALE = 10  # a micro-expression stretches skin by some hundredths: about as large as its flow
_FILTERS = (3, 5, 8)  # in the three streams, as published
FLOW_STEPS = 80  # for the network; on synthetic flow, held-out accuracy is 0.78 after 40, 0.81 after 80 and 200
FLOW_STEPS_GRID = (20, 40, 80, 160, 320)  # choices for a fold; as many as for a linear head
_BATCH = 32
_LR = 0.005
_WEIGHT_DECAY = 0.01
_DROPOUT = 0.2


def majority(truth: Sequence[str], folds: Sequence[Fold]) -> list[str]:
    """The most common class of each fold's training samples, in sample order; ties go to the first by name."""
    predicted = [""] * len(truth)
    for fold in folds:
        labels = [truth[index] for index in fold.train]
        most = min(set(labels), key=lambda name: (-labels.count(name), name))
        for index in fold.test:
            predicted[index] = most
    return predicted


def random_model(config: MicronBertConfig, seed: int) -> MicronBert:
    """An untrained μ-BERT: the score of its features comes from the faces and the head alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MicronBert(config).eval()


def difference_features(pairs: Sequence[FramePair]) -> Features:
    """(n, MAP_REGIONS²): absolute difference of the two frames in 0-255, averaged over regions."""
    features = []
    for pair in pairs:
        t0, t1 = (images.float() for images in decode_pairs([pair], pair.images()[0].shape[0]))
        features.append(pool_regions((t1 - t0).abs().mean(dim=1, keepdim=True), MAP_REGIONS).numpy())
    return np.concatenate(features)


def flow_features(pairs: Sequence[FramePair]) -> Features:
    """(n, 3 * MAP_REGIONS²): optical flow x, y and strain, averaged over regions; for a linear head."""
    return flow_images(pairs, size=MAP_REGIONS).reshape(len(pairs), -1)


def motion_features(pairs: Sequence[FramePair]) -> Features:
    """(n, 2 * MAP_REGIONS²): flow x and y relative to the head, averaged over regions; for a linear head."""
    return motion_images(pairs, size=MAP_REGIONS)[:, :2].reshape(len(pairs), -1)


def motion_images(pairs: Sequence[FramePair], size: int = 28) -> Features:
    """(n, 3, size, size): flow x and y and strain, with changes of light and the head's motion removed.

    Flow is on the scale of the model's input `motion`, asinh(px / 0.15) of a 224 px crop; strain in tenths. Raises
    ShardError naming a damaged pair.
    """
    images = []
    for pair in pairs:
        t0, t1 = pair.images()
        flow = flow_beside_head(t0, t1, "dis_fine")  # the best method on people who are not used for scores
        stretched = torch.from_numpy(strain(flow) * _STRAIN_SCALE)[None, None]
        px = torch.from_numpy(flow * (CROP_PX / t0.shape[1])).permute(2, 0, 1)[None]
        maps = [(pool_regions(px, size) / SMALL_PX).asinh(), pool_regions(stretched, size)]
        images.append(torch.cat(maps, dim=1).view(1, 3, size, size).numpy())
    return np.concatenate(images)


def flow_images(pairs: Sequence[FramePair], size: int = 28) -> Features:
    """(n, 3, size, size): raw optical flow, x and y in hundredths of the frame's width, strain in tenths.

    Pairs are processed independently, so samples do not leak into each other. Raises ShardError naming a damaged pair.
    """
    images = []
    for pair in pairs:
        t0, t1 = pair.images()
        flow = optical_flow(t0, t1)
        maps = np.stack([*np.moveaxis(flow, -1, 0) * (_FLOW_SCALE / t0.shape[1]), strain(flow) * _STRAIN_SCALE])
        images.append(pool_regions(torch.from_numpy(maps)[None], size).view(1, 3, size, size).numpy())
    return np.concatenate(images)


class FlowCnn(nn.Module):
    """A shallow network on flow images, modelled on STSTNet (Liong et al., FG 2019): (B, C, 28, 28) -> (B, K).

    Three parallel streams of 3, 5 and 8 filters of 3 x 3 with one pooling each, concatenated, pooled again, and one
    linear layer. As the streams see the same image and are joined after their pooling, one convolution with all 16
    filters is the same network. The published one sees one pair, 3 channels; several pairs are concatenated.
    """

    def __init__(self, num_classes: int, size: int = 28, channels: int = 3) -> None:
        super().__init__()
        width = sum(_FILTERS)
        self.streams = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=3, padding=1),
            nn.AvgPool2d(kernel_size=2),
        )
        side = ((size + 2) // 3) // 2  # 5 for 28
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(_DROPOUT), nn.Linear(width * side**2, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised flow images -> logits."""
        logits: Tensor = self.head(self.streams(images))
        return logits


def predict_flow_cnn(
    images: Features,
    labels: Sequence[int],
    train: Sequence[int],
    test: Sequence[int],
    num_classes: int,
    *,
    seed: int,
    steps: int = FLOW_STEPS,
) -> npt.NDArray[np.int64]:
    """Train a FlowCnn on the samples `train` of one fold and name the classes of `test`, in its order.

    `images` (n, 3 K, h, w) as `motion_images` gives them for K pairs, `labels` in [0, num_classes). Statistics, class
    weights and network weights come from `train` only, with one scale for flow x and y; trains for `steps` steps
    (AdamW, batches of 32, cosine learning rate to 0), classes weighted equally. Takes a third of a second for 442
    samples on one CPU core; deterministic for a given seed.
    """
    known = torch.from_numpy(images[list(train)])
    mean = known.mean(dim=(0, 2, 3), keepdim=True)
    own_units = np.tile(_FLOW_UNITS, images.shape[1] // len(_FLOW_UNITS))
    scale = by_unit(known.std(dim=(0, 2, 3)).numpy(), own_units)
    std = torch.from_numpy(scale)[:, None, None].clamp(min=1e-6)
    classes = torch.tensor([labels[index] for index in train])
    targets = soft_targets(classes, num_classes, smoothing=0.0)
    present = torch.bincount(classes, minlength=num_classes)
    weights = balanced_weights(present.clamp(min=1).tolist())  # a class without samples has no loss
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        model = FlowCnn(num_classes, images.shape[-1], images.shape[1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
        normalised = ((known - mean) / std).contiguous(memory_format=torch.channels_last)  # a third faster
        passes = math.ceil(steps * _BATCH / len(train))
        order = torch.cat([torch.randperm(len(train)) for _ in range(passes)])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for start in range(0, steps * _BATCH, _BATCH):
            batch = order[start : start + _BATCH]
            optimizer.zero_grad()
            loss = weighted_cross_entropy(model(normalised[batch]), targets[batch], weights)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            logits = model.eval()((torch.from_numpy(images[list(test)]) - mean) / std)
    predicted: npt.NDArray[np.int64] = logits.masked_fill(present == 0, -torch.inf).argmax(dim=1).numpy()
    return predicted


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Steps of a millisecond are too short to parallelise: on a busy machine, threads wait a hundred times longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
