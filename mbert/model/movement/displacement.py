"""From aligned crops in time to where each region of the face is in each frame.

Optical flow says how far the skin went between two crops; the model says where that is a movement of the face at all
and not the head, the light or noise. Their product is the movement of a patch: flow alone moves with every turn of the
head, and the model alone holds back what goes further than what it was trained on. Pairs of several distances in time
are joined to one path of each region by least squares, so that slow movements are not lost in the noise of
neighbouring frames and fast ones are not smeared.

Shapes: N frames, L pairs, R regions of `mbert.manifests.regions.REGIONS`, 14 x 14 patches. Lengths are in pixels of a
224 px crop, times in seconds.
"""

import bisect
import collections
import concurrent.futures
import dataclasses
import itertools
import math

import cv2
import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch

from mbert import ConfigError
from mbert.manifests.regions import REGIONS
from mbert.model.data.pixels import normalize, resize, stack_images
from mbert.model.device import Compute, pick_compute
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.motion import CROP_PX
from mbert.shards.image import Image
from mbert.shards.optical_flow import quick_flow

Numbers = npt.NDArray[np.float64]
GRID = 14
MAP_SECONDS = 0.08  # the distance of the pairs that the model is shown
DISTANCES = (0.04, MAP_SECONDS, 0.16)  # of the pairs that flow is measured on, besides neighbouring frames
_PATCH_PX = CROP_PX / GRID
_REACH = 11 / _PATCH_PX  # of a region: standard deviation, in patches
_MAP_HZ = 60.0  # the model is shown so many frames per second at most
_RARER = 2.0  # logarithm of how much rarer motion is than in the pairs that the model was trained on
_BATCH = 16  # pairs the model is shown at once
_ROUNDS = 4  # of the robust fit of what is left of the head's motion
_HELD_SECONDS = 0.5  # frames that are further apart are not compared
_SAME_LEVELS = 0.05  # two pictures whose luma differs by less, on average, are one picture shown twice


@dataclasses.dataclass(frozen=True, slots=True)
class RegionPaths:
    """Where the regions of one face were while it was followed without a break."""

    seconds: Numbers  # (N,)
    positions: Numbers  # (N, R, 2): x, y beside the head; only differences in time have a meaning
    maps: npt.NDArray[np.uint8]  # (N, 14, 14): the probability that a patch moved in the 80 ms before, times 255
    repeated: npt.NDArray[np.bool_]  # (N,): the same picture as the one before


class MovementMeter:
    """Takes the crops of one face in time order, a few of which it keeps, and gives the paths of its regions."""

    def __init__(self, model: MicronBert, *, compute: Compute | None = None, threads: int = 2) -> None:
        if model.config.attention != "motion":
            raise ConfigError(
                f"the model has attention={model.config.attention!r}; movement needs a model with attention='motion', "
                "the default of mbert train pretrain"
            )
        self._compute = compute or pick_compute()
        self._model = model.to(self._compute.device).eval()
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._start()

    def _start(self) -> None:
        self._seconds: list[float] = []
        self._frames: collections.deque[_Frame] = collections.deque()
        self._num_begun = 0  # frames whose comparison has begun
        self._running: _Batch | None = None
        self._links: list[tuple[int, int, Numbers]] = []
        self._maps: list[npt.NDArray[np.uint8]] = []
        self._repeated: list[bool] = []
        self._last_map = -math.inf  # the time of the latest frame that the model was shown

    def __len__(self) -> int:
        return len(self._seconds)

    def push(self, seconds: float, crop: Image, centres: Numbers) -> None:
        """The next frame: its time, its crop (S, S, 3) uint8 RGB, the centres of the regions (R, 2) in crop pixels."""
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        small = stack_images([resize(crop, self._model.config.image_size)])
        weights = _region_weights(centres * (GRID / crop.shape[0]))
        is_same = bool(self._frames) and float(cv2.absdiff(grey, self._frames[-1].grey).mean()) < _SAME_LEVELS
        self._repeated.append(is_same)
        self._frames.append(_Frame(len(self._seconds), seconds, grey, small, weights))
        self._seconds.append(seconds)
        if len(self._seconds) - self._num_begun >= _BATCH:
            self._begin()

    def moved_lately(self) -> float:
        """The largest probability that a patch moved, over the latest batch that is done; 0 before the first."""
        return float(np.max(self._maps[-_BATCH:])) / 255 if self._maps else 0.0

    def finish(self) -> RegionPaths:
        """The paths of what was pushed; the next frame that is pushed begins another path."""
        self._begin()
        self._complete()
        found = RegionPaths(
            np.array(self._seconds),
            _joined(len(self._seconds), self._links),
            np.stack(self._maps) if self._maps else np.empty((0, GRID, GRID), np.uint8),
            np.array(self._repeated, dtype=bool),
        )
        self._start()
        return found

    def _begin(self) -> None:
        """Have the frames that came since the last time compared with those before them, by threads of their own.

        What is done with the batch before follows meanwhile: the model never waits.
        """
        new = [frame for frame in self._frames if frame.number >= self._num_begun]
        self._num_begun = len(self._seconds)
        shown = self._shown_of(new)
        jobs = [(earlier, frame) for frame in new for earlier in self._partners(frame)]
        begun = _Batch(
            new,
            shown,
            jobs,
            self._pool.submit(self._moved, shown, [self._earlier(frame) for frame in shown]),
            [self._pool.submit(_patch_flow, earlier.grey, frame.grey) for earlier, frame in jobs],
        )
        self._complete()
        self._running = begun

    def _complete(self) -> None:
        """Join what was found of the batch that is running."""
        batch, self._running = self._running, None
        if batch is None:
            return
        self._maps += self._held(batch)
        if batch.jobs:
            flows = np.stack([flow.result() for flow in batch.flows])
            moved = np.stack([self._moved_between(earlier, frame) for earlier, frame in batch.jobs])
            beside = _beside_head(flows, 1 - moved) * moved[..., None]
            self._links += [
                (earlier.number, frame.number, earlier.weights @ each)
                for (earlier, frame), each in zip(batch.jobs, beside, strict=True)
            ]
        if batch.new:
            oldest = batch.new[-1].seconds - _HELD_SECONDS
            while self._frames[0].seconds < oldest:
                self._frames.popleft()

    def _moved_between(self, earlier: "_Frame", later: "_Frame") -> Numbers:
        """(196,): the probability that a patch moved at some time between two frames, from the maps that cover it."""
        numbers = [later.number]
        if later.seconds - earlier.seconds > 1.5 * MAP_SECONDS:
            numbers.append(self._nearest(list(self._frames), later.seconds - MAP_SECONDS).number)
        moved: Numbers = np.max([self._maps[number] for number in numbers], axis=0).reshape(-1) / 255
        return moved

    def _partners(self, frame: "_Frame") -> "list[_Frame]":
        """The earlier frames to compare with: the one before, and those nearest to each distance."""
        before = self._before(frame)
        if not before:
            return []
        wanted = [before[-1]] + [self._nearest(before, frame.seconds - distance) for distance in DISTANCES]
        return list({other.number: other for other in wanted}.values())

    def _before(self, frame: "_Frame") -> "list[_Frame]":
        return list(itertools.islice(self._frames, frame.number - self._frames[0].number))

    def _nearest(self, frames: "list[_Frame]", seconds: float) -> "_Frame":
        place = bisect.bisect_left(frames, seconds, key=lambda frame: frame.seconds)
        return min(frames[max(0, place - 1) : place + 1], key=lambda frame: abs(frame.seconds - seconds))

    def _shown_of(self, frames: "list[_Frame]") -> "list[_Frame]":
        """Those that the model is shown; at high frame rates the others share the map of the frame before."""
        shown = []
        for frame in frames:
            if frame.seconds - self._last_map >= 1 / _MAP_HZ - 1e-6:
                shown.append(frame)
                self._last_map = frame.seconds
        return shown

    def _held(self, batch: "_Batch") -> list[npt.NDArray[np.uint8]]:
        """A map for each frame of a batch."""
        maps = {frame.number: found for frame, found in zip(batch.shown, batch.moved.result(), strict=True)}
        found = []
        latest = self._maps[-1] if self._maps else np.zeros((GRID, GRID), np.uint8)
        for frame in batch.new:
            if frame.number in maps:
                latest = (np.clip(maps[frame.number], 0, 1) * 255).round().astype(np.uint8)
            found.append(latest)
        return found

    def _earlier(self, frame: "_Frame") -> "_Frame":
        """The frame MAP_SECONDS before; of the first one, itself."""
        before = self._before(frame)
        return self._nearest(before, frame.seconds - MAP_SECONDS) if before else frame

    @torch.inference_mode()
    def _moved(self, frames: "list[_Frame]", earlier: "list[_Frame]") -> npt.NDArray[np.float64]:
        """(len(frames), 14, 14): the probability that a patch moved since the earlier frames."""
        if not frames:
            return np.empty((0, GRID, GRID))
        images = torch.cat([each.small for each in [*earlier, *frames]]).to(self._compute.device)
        t0, t1 = normalize(images, self._model.config.in_chans).chunk(2)
        with self._compute.autocast():
            # Not as rare as maps have it: how far a movement goes would shrink too much where it is weak.
            moved = (self._model.motion_of(t0, t1).logit - _RARER).sigmoid()
        grid = self._model.config.grid
        found = moved.float().cpu().numpy().astype(np.float64).reshape(-1, grid, grid)
        if grid != GRID:
            found = np.stack([cv2.resize(each, (GRID, GRID), interpolation=cv2.INTER_AREA) for each in found])
        first = np.array([one is other for one, other in zip(earlier, frames, strict=True)])
        found[first] = 0  # the first frame has nothing before it
        return found


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    number: int
    seconds: float
    grey: npt.NDArray[np.uint8]
    small: torch.Tensor  # (1, C, S, S), as `stack_images` gives it
    weights: Numbers  # (R, 196)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Frames that are being compared with earlier ones."""

    new: list[_Frame]
    shown: list[_Frame]  # to the model
    jobs: list[tuple[_Frame, _Frame]]  # that flow is found between
    moved: "concurrent.futures.Future[npt.NDArray[np.float64]]"
    flows: "list[concurrent.futures.Future[Numbers]]"


def _region_weights(centres: Numbers) -> Numbers:
    """(R, 2) in patches -> (R, 196): how much each patch counts for each region; sums are 1."""
    along = np.arange(GRID) + 0.5
    x, y = (np.exp(-((along - centre[:, None]) ** 2) / (2 * _REACH**2)) for centre in centres.T)  # (R, 14) each
    weights: Numbers = (y[:, :, None] * x[:, None, :]).reshape(len(centres), -1)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return weights


def _patch_flow(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> Numbers:
    """(196, 2): mean optical flow of each patch, in pixels of a 224 px crop."""
    flow = quick_flow(first, second)
    patches = cv2.resize(flow, (GRID, GRID), interpolation=cv2.INTER_AREA)
    found: Numbers = patches.reshape(-1, 2).astype(np.float64) * (CROP_PX / first.shape[0])
    return found


def _beside_head(flow: Numbers, trust: Numbers) -> Numbers:
    """Flow (L, 196, 2) without one affine motion of each pair, robustly fitted to its patches.

    `trust` (L, 196) is how far each patch is to be taken for one of the head alone.
    """
    trust = trust + 1e-3
    weight = trust
    for _ in range(_ROUNDS):
        weighted = _PLACES * weight[..., None]  # (L, 196, 3)
        left = weighted.transpose(0, 2, 1) @ _PLACES + 1e-6 * np.eye(3)
        affine = np.linalg.solve(left, weighted.transpose(0, 2, 1) @ flow)
        rest: Numbers = flow - _PLACES @ affine
        length = np.linalg.norm(rest, axis=-1)
        weight = trust / (1 + (length / (np.median(length, axis=1, keepdims=True) + 0.05)) ** 2)
    return rest


def _places() -> Numbers:
    along = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    y, x = np.meshgrid(along, along, indexing="ij")
    return np.stack([np.ones(GRID**2), x.ravel(), y.ravel()], axis=1)


_PLACES = _places()  # (196, 3): 1, x, y of each patch


def _joined(count: int, links: list[tuple[int, int, Numbers]]) -> Numbers:
    """Positions (N, R, 2) whose differences come nearest to all links (earlier, later, displacement (R, 2))."""
    if not links:
        return np.zeros((count, len(REGIONS), 2))  # a face that was seen in one frame
    earlier, later = (np.array([link[place] for link in links]) for place in (0, 1))
    moved = np.stack([link[2] for link in links])  # (L, R, 2)
    flat = moved.reshape(len(links), -1)
    width = int((later - earlier).max())
    # The normal equations of a graph: banded, as links are short. The first frame is held, or all could float.
    banded = np.zeros((width + 1, count))
    np.add.at(banded[0], earlier, 1.0)
    np.add.at(banded[0], later, 1.0)
    np.add.at(banded, (later - earlier, earlier), -1.0)
    banded[0] += 1e-9
    banded[0, 0] += 1.0
    right = np.zeros((count, flat.shape[1]))
    np.add.at(right, later, flat)
    np.add.at(right, earlier, -flat)
    positions: Numbers = scipy.linalg.solveh_banded(banded, right, lower=True)
    return positions.reshape(count, *moved.shape[1:])
