"""Local motion that is known, drawn onto real crops: what a motion head learns from, without a label.

One crop gives both frames. Motion of the shape that faces make (`facial_motion.py`) is put onto one of them, or some
hills, anywhere, or both. A hill has a length, a width and an edge of its own, because a weak expression next to an eye
that turns is what has to be told apart. Both frames are then disturbed as those of a recording are, each by itself: the
head drifts and turns out of the plane, the light and its colour drift, the sensor is noisy. What a head learns to
ignore is what it is shown here.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from mbert import ConfigError
from mbert.model.data.draws import Draws
from mbert.model.data.pixels import levels_of, normalize
from mbert.model.network.motion import CROP_PX, Motion
from mbert.model.training.facial_motion import FACIAL_NUMBERS, facial_fields

_HILLS = 4  # at most
_SPREAD = (0.015, 0.30)  # of a hill: standard deviation in crop widths
_KINDS = (0.10, 0.80)  # pairs in which nothing moves; up to here, those with facial motion; the others have hills
_HILLS_TOO = 0.2  # share of pairs with facial motion that have hills as well
_EDGE = (1.0, 4.0)  # 1: a Gaussian, which has none; 4: nearly a disc
_LEAST = 0.1  # share of the largest head motion, noise and light at which they begin
_DEGREES_PER_PX = 0.3  # of the head's rotation to its drift
_MOVED_PX, _EDGE_PX = 0.2, 0.03  # from what length on a patch has moved, and how sharply: less can hardly be seen


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WarpConfig:
    """How strongly crops are moved and disturbed; each strength is drawn again for each pair, a length for each local
    motion, small ones more often.
    """

    min_px: float = 0.15  # length of a local motion, in pixels of a 224 px crop
    max_px: float = 3.0
    head_px: float = 3.0  # drift of the whole crop, at most this standard deviation
    noise: float = 5.0  # of a pixel of a 224 px crop, at most this standard deviation, of 255
    light: float = 0.04  # drift of gain, slope, colour and gamma, at most this standard deviation, 1 = all
    turn_degrees: float = 4.0  # by which a head turns out of the plane, at most
    turned: float = 0.4  # share of pairs in which it turns

    def __post_init__(self) -> None:
        if not 0 < self.min_px <= self.max_px:
            raise ConfigError(f"warp: local motion is {self.min_px:g} to {self.max_px:g} px; it must be 0 < min <= max")
        for name in ("head_px", "noise", "light", "turn_degrees"):
            if getattr(self, name) < 0:
                raise ConfigError(f"warp: {name} is {getattr(self, name):g}; it must not be negative")
        if not 0 <= self.turned <= 1:
            raise ConfigError(f"warp: turned is {self.turned:g}; it must lie between 0 and 1")


@dataclasses.dataclass(frozen=True, slots=True)
class WarpedPair:
    """Two normalised frames (B, C, H, W), and how each patch moves between them beside the head."""

    t0: Tensor
    t1: Tensor
    displacement: Tensor  # (B, N, 2), in pixels of a 224 px crop


def warped_pairs(images: Tensor, patch_size: int, config: WarpConfig, draws: Draws) -> WarpedPair:
    """Make a pair of each normalised crop (B, C, H, W); square ones."""
    random = _Random(draws)
    with torch.autocast(images.device.type, enabled=False):
        levels = levels_of(images)
        axes = _axes(images.shape[-1], images.device)
        local = _local_motion(axes, config, random)
        apart = _head_motion(axes, config, random) + _head_turn(axes, config, random)
        # The whole crop is moved for both frames, or sharpness would tell which one is the original.
        together = _head_motion(axes, config, random)
        t0 = _taken(_read(levels, together, axes), axes, config, random)
        t1 = _taken(_read(levels, together - apart - local, axes), axes, config, random)
        channels = images.shape[1]
        displacement = reduce(local, "b (h p) (w q) d -> b (h w) d", "mean", p=patch_size, q=patch_size)
        return WarpedPair(normalize(t0, channels), normalize(t1, channels), displacement)


def motion_loss(found: Motion, displacement: Tensor) -> Tensor:
    """Cross-entropy of whether each patch moved, and the error of its displacement (B, N, 2) in pixels.

    A length counts as moved from 0.2 px on. Errors of displacement count as squares up to 0.2 px, then as lengths.
    """
    length = displacement.norm(dim=-1)
    moved = F.binary_cross_entropy_with_logits(found.logit, ((length - _MOVED_PX) / _EDGE_PX).sigmoid())
    return moved + 2 * F.smooth_l1_loss(found.displacement, displacement, beta=_MOVED_PX)


class _Random:
    """Random numbers of each pair. They stay on the CPU, where few numbers cost least, until `_sent` moves them."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def uniform(self, low: float = 0.0, high: float = 1.0, count: int = 1) -> Tensor:
        """(B, count), evenly between two values."""
        return low + (high - low) * self._draws(count)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """(B, 1), evenly on a logarithmic scale."""
        if high == 0:
            return torch.zeros_like(self.uniform())
        return torch.exp(self.uniform(math.log(low), math.log(high)))

    def normal(self, count: int = 1) -> Tensor:
        """(B, count)."""
        found: Tensor = torch.special.ndtri(self.uniform(1e-6, 1 - 1e-6, count))
        return found


def _sent(device: torch.device, *numbers: Tensor) -> list[Tensor]:
    """(B, ..., k) each -> (B, ..., k, 1, 1) on a device, to be used with pixels; nobody waits for them."""
    together = torch.cat(numbers, dim=-1).to(device, non_blocking=True)[..., None, None]
    return list(torch.split(together, [number.shape[-1] for number in numbers], dim=-3))


def _axes(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and y of each pixel in crop widths from the centre, (S, S)."""
    along = (torch.arange(size, device=device) + 0.5) / size - 0.5
    y, x = torch.meshgrid(along, along, indexing="ij")
    return x, y


def _local_motion(axes: tuple[Tensor, Tensor], config: WarpConfig, random: _Random) -> Tensor:
    """Facial motion, hills of motion or both, (B, S, S, 2) in pixels of a 224 px crop; of some pairs, none."""
    kind, too = random.uniform(), random.uniform()
    is_facial = (kind >= _KINDS[0]) & (kind < _KINDS[1])
    has_hills = (kind >= _KINDS[1]) | (is_facial & (too < _HILLS_TOO))
    length = random.log_uniform(config.min_px, config.max_px) * is_facial
    facial = facial_fields(random.uniform(count=FACIAL_NUMBERS), axes)
    (length,) = _sent(facial.device, length)
    field = facial * length + _hills(axes, config, random, has_hills)
    # Where motions lie on each other, none is longer than requested.
    capped: Tensor = field / (field.norm(dim=-1, keepdim=True) / config.max_px).clamp(min=1)
    return capped


def _hills(axes: tuple[Tensor, Tensor], config: WarpConfig, random: _Random, wanted: Tensor) -> Tensor:
    """One to _HILLS hills of motion where `wanted` (B, 1), (B, S, S, 2) in pixels of a 224 px crop."""
    x, y = axes
    count = 1 + (random.uniform() * _HILLS).floor()
    hills = []
    for number in range(_HILLS):
        centre, angle = random.uniform(-0.5, 0.5, 2), random.uniform(0, 2 * math.pi)
        spread, edge = random.log_uniform(*_SPREAD), random.log_uniform(*_EDGE)
        length = random.log_uniform(config.min_px, config.max_px) * ((number < count) & wanted)
        hills.append(torch.cat([centre, 2 * spread**2, edge, length * angle.cos(), length * angle.sin()], dim=1))
    centre, width, edge, motion = _sent(x.device, *torch.split(torch.stack(hills, dim=1), [2, 1, 1, 2], dim=-1))
    distance = (x - centre[:, :, 0]) ** 2 + (y - centre[:, :, 1]) ** 2  # (B, hills, S, S)
    hill = torch.exp(-((distance / width[:, :, 0]) ** edge[:, :, 0]))
    return torch.einsum("bhyx,bhd->byxd", hill, motion[..., 0, 0])


def _head_turn(axes: tuple[Tensor, Tensor], config: WarpConfig, random: _Random) -> Tensor:
    """How a head that turns out of the plane moves its crop, (B, S, S, 2) in pixels of a 224 px crop.

    The head is an ellipsoid with a nose, of another size and place in each pair. In most pairs it shakes or nods.
    """
    x, y = axes
    turns = random.uniform() < config.turned
    degrees = random.log_uniform(0.04 * config.turn_degrees, config.turn_degrees) * turns
    angle, straight = random.uniform(0, 2 * math.pi), random.uniform() < 0.6
    angle = torch.where(straight, (angle / (math.pi / 2)).round() * (math.pi / 2), angle)
    centre = random.normal(2) * 0.03
    half = torch.exp(0.12 * random.normal(2))
    depth, nose, nose_size = random.uniform(0.22, 0.42), random.uniform(0, 0.12), random.uniform(0.035, 0.07)
    way = degrees.deg2rad().sin() * CROP_PX
    centre_x, centre_y, half_x, half_y, depth, nose, nose_size, way_x, way_y = _sent(
        x.device, centre[:, :1], centre[:, 1:] + 0.05, 0.42 * half[:, :1], 0.55 * half[:, 1:], depth, nose, nose_size,
        way * angle.cos(), way * angle.sin(),
    )  # fmt: skip
    across, down = x - centre_x[:, 0], y - centre_y[:, 0]
    rest = 1 - (across / half_x[:, 0]) ** 2 - (down / half_y[:, 0]) ** 2
    skull = depth[:, 0] * rest.clamp(min=1e-4).sqrt()
    tip = nose[:, 0] * torch.exp(-((across / nose_size[:, 0]) ** 2 + (down / nose_size[:, 0] / 1.6) ** 2) / 2)
    relief = skull + tip
    return torch.stack([relief * way_x[:, 0], relief * way_y[:, 0]], dim=-1)


def _head_motion(axes: tuple[Tensor, Tensor], config: WarpConfig, random: _Random) -> Tensor:
    """Shift, rotation and a little scale of the crop as a field, (B, S, S, 2) in pixels of a 224 px crop."""
    strength = random.log_uniform(_LEAST * config.head_px, config.head_px)
    shift = random.normal(2) * strength
    angle = random.normal() * strength * math.radians(_DEGREES_PER_PX)
    growth = random.normal() * strength * 0.001
    x, y = (CROP_PX * axis for axis in axes)
    shift, angle, growth = _sent(x.device, shift, angle, growth)
    moved_x, moved_y = growth[:, 0] * x - angle[:, 0] * y, growth[:, 0] * y + angle[:, 0] * x
    return torch.stack([moved_x + shift[:, 0], moved_y + shift[:, 1]], dim=-1)


def _read(levels: Tensor, field: Tensor, axes: tuple[Tensor, Tensor]) -> Tensor:
    """Images (B, C, S, S) as they are at some distance, (B, S, S, 2) in pixels of a 224 px crop, from each pixel."""
    grid = 2 * (torch.stack(axes, dim=-1) + field / CROP_PX)
    return F.grid_sample(levels, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def _taken(levels: Tensor, axes: tuple[Tensor, Tensor], config: WarpConfig, random: _Random) -> Tensor:
    """What light, colour and the sensor make of images (B, C, S, S) in 0-255."""
    channels, size = levels.shape[1], levels.shape[-1]
    x, y = axes
    strength = random.log_uniform(_LEAST / 2 * config.light, config.light)
    gain = 1 + strength * (random.normal() + 0.7 * random.normal(channels))
    gamma = torch.exp(0.7 * strength * random.normal())
    angle, slope = random.uniform(0, 2 * math.pi), 2 * strength * random.normal()
    # A pixel of a smaller crop is an average over pixels of the sensor.
    noise = random.log_uniform(_LEAST * config.noise, config.noise) * min(1, size / CROP_PX)
    corner = random.uniform(0, size), random.uniform(0, size)
    gain, gamma, slope_x, slope_y, noise, left, top = _sent(
        levels.device, gain, gamma, slope * angle.cos(), slope * angle.sin(), noise, *corner
    )
    lit = 255 * (levels.clamp(0, 255) / 255) ** gamma * gain
    lit = lit * (1 + slope_x * x + slope_y * y)
    noisy = lit + noise * _sensor_noise(levels.shape, left.flatten().long(), top.flatten().long())
    return noisy.round().clamp(0, 255)


def _sensor_noise(shape: torch.Size, left: Tensor, top: Tensor) -> Tensor:
    """Normal numbers (B, C, S, S): for each image another part of one large picture of noise, from a corner (B,) on.

    So no image needs S² draws of its own, and an image gets the same noise on every rank.
    """
    _, channels, size, _ = shape
    generator = torch.Generator(left.device).manual_seed(0)
    bank = torch.randn(channels, 2 * size, 2 * size, generator=generator, device=left.device)
    along = torch.arange(size, device=left.device)
    rows, columns = top[:, None] + along, left[:, None] + along  # (B, S)
    return bank[:, rows[:, :, None], columns[:, None, :]].movedim(1, 0)
