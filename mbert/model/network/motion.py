"""What moved beside the head: evidence of motion for each patch of a pair, and what a small network makes of it.

Two frames that are encoded one by one, and compared patch by patch, cannot be told apart by what moved: a head that
drifts by half a pixel, or a lamp that fades, changes every patch more than an expression changes some. So the evidence
looks at both frames at once. It is Lucas & Kanade's (IJCAI 1981) least squares for each patch, after one affine motion
of the whole crop, robustly fitted, and the drift of the light were taken away.

Shapes: B pairs, N patches on a grid (h, w), S side of the image in pixels. Lengths are in pixels of a 224 px crop
whatever the size of the images.
"""

import dataclasses
import functools
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mbert.model.data.pixels import luma_of
from mbert.model.network.blur import blurred
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.flow_evidence import NUM_FLOW, flow_evidence

CROP_PX = 224
# In crop widths: what is smoothed before derivatives are taken, what counts as light, over what evidence is joined.
_SMOOTHED = 0.007
_LIGHT = 0.045
_JOINED = (0.0, 0.043, 0.071)  # beside the patch itself, standard deviation of a Gaussian over its neighbours
_PASSES = 2  # the second one around the motion that the first one found
_ROUNDS = 4  # of the robust fit
_DARK = 5.0  # levels of 255 that are added before the light's ratio is taken: black stays black
RARER = 4.0  # logarithm of how much rarer motion is in video than in the pairs that are drawn for training
_PLACES = 14  # a side, of what the head knows of places; other grids get it interpolated
_LEAST_PATCH = 8  # pixels; finer frames tell the least squares little that the flow does not
_PRIOR_PX = 1.5  # motions of this size are expected, before anything is seen
_PER_SCALE = 7
NUM_EVIDENCE = len(_JOINED) * _PER_SCALE + 1
EXPLAINED = slice(4, NUM_EVIDENCE - 1, _PER_SCALE)  # of the evidence: what motion explains, at each distance


@dataclasses.dataclass(frozen=True, slots=True)
class Motion:
    """What the head says about the patches of some pairs."""

    logit: Tensor  # (B, N): that the patch has moved beside the head, where motion is as frequent as in training
    displacement: Tensor  # (B, N, 2): x, y from t0 to t1, its mean under what is left open; in pixels of a 224 px crop

    @property
    def moved(self) -> Tensor:
        """(B, N): the probability, where motion is as rare as between frames of a face that is mostly at rest."""
        return torch.sigmoid(self.logit - RARER)


class MotionEvidence(nn.Module):
    """What a motion head sees, as a module without parameters, so that it can be compiled by itself.

    Least squares on frames whose patches are at least _LEAST_PATCH pixels wide, smaller where they were wider; with
    `flow` the dense flow of `flow_evidence.py` as well, on the frames as they are.
    """

    def __init__(self, patch_size: int, *, flow: bool = False) -> None:
        super().__init__()
        self.patch_size, self.flow = patch_size, flow
        self.num_inputs = NUM_EVIDENCE + NUM_FLOW * flow

    @torch.no_grad()
    def forward(self, t0: Tensor, t1: Tensor) -> Tensor:
        """Normalised frames (B, C, H, W) -> (B, N, num_inputs)."""
        with torch.autocast(t0.device.type, enabled=False):
            first, second = luma_of(t0), luma_of(t1)
            if not self.flow:
                return _evidence(first, second, self.patch_size)
            factor = max(1, self.patch_size // _LEAST_PATCH)
            smaller = F.avg_pool2d(first, factor), F.avg_pool2d(second, factor)
            squares = _evidence(smaller[0], smaller[1], self.patch_size // factor)
            flow: Tensor = flow_evidence(first, second, t0.shape[-1] // self.patch_size, CROP_PX / t0.shape[-1])
            return torch.cat([squares, flow], dim=-1)


class MotionHead(nn.Module):
    """Evidence of each patch -> whether the patch moved, and where to.

    A patch looks at its neighbours first: motion is smooth, so they are evidence, unless one of them moves for itself,
    as an eye does. Then at all patches: how noisy a pair is shows best where nothing moves.
    """

    def __init__(self, config: MicronBertConfig) -> None:
        super().__init__()
        self.evidence = MotionEvidence(config.patch_size, flow=config.motion_flow)
        self.from_evidence = nn.Linear(self.evidence.num_inputs, config.motion_dim)
        # Where a patch lies says how much its skin usually moves. Not without flow: there it brought nothing.
        self.place = nn.Parameter(torch.zeros(1, config.motion_dim, _PLACES, _PLACES)) if config.motion_flow else None
        self.neighbours = nn.Sequential(*(_Neighbours(config.motion_dim) for _ in range(config.motion_convs)))
        norm = functools.partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(config.motion_dim, config.motion_heads, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
            for _ in range(config.motion_depth)
        )
        self.norm = norm(config.motion_dim)
        self.to_motion = nn.Linear(config.motion_dim, 3 + len(_JOINED))

    def forward(self, evidence: Tensor, rows: int) -> Motion:
        """What `evidence` gives, (B, N, num_inputs), of patches in so many rows.

        The encoder's tokens are not asked: with them, maps were worse.
        """
        patches = rearrange(self.from_evidence(evidence), "b (h w) d -> b d h w", h=rows)
        if self.place is not None:
            patches = patches + F.interpolate(self.place, patches.shape[-2:], mode="bilinear", align_corners=False)
        tokens = rearrange(self.neighbours(patches), "b d h w -> b (h w) d")
        for block in self.blocks:
            tokens = block(tokens)
        logit, correction, trust = self.to_motion(self.norm(tokens)).float().split([1, 2, len(_JOINED)], dim=-1)
        # How far each distance is to be trusted is learned in a tenth of the steps that displacement itself takes.
        measured = rearrange(evidence[..., : _PER_SCALE * len(_JOINED)], "b n (s e) -> b n s e", e=_PER_SCALE)[..., :2]
        displacement = torch.einsum("bns,bnsd->bnd", trust, measured) + correction
        return Motion(logit[..., 0], displacement)


class _Neighbours(nn.Module):
    """What a patch and the eight around it add to what is known of it, (B, D, h, w)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, dim), nn.Conv2d(dim, dim, 3, padding=1), nn.GELU(), nn.Conv2d(dim, dim, 1)
        )

    def forward(self, patches: Tensor) -> Tensor:
        with_neighbours: Tensor = patches + self.layers(patches)
        return with_neighbours


@torch.no_grad()
def motion_evidence(t0: Tensor, t1: Tensor, patch_size: int) -> Tensor:
    """(B, N, NUM_EVIDENCE), each about 1 in size, from normalised frames (B, C, H, W). Nothing in it is learned.

    For the patch alone and joined with its neighbours over two distances: displacement x and y beside the head, in
    pixels and in standard deviations; how much of the change it explains, how much texture there is and how much change
    is left, these three against the noise of the pair, as logarithms. And the noise itself.
    """
    with torch.autocast(t0.device.type, enabled=False):
        return _evidence(luma_of(t0), luma_of(t1), patch_size)


def measured_motion(t0: Tensor, t1: Tensor, patch_size: int) -> Tensor:
    """The part of the evidence that says which way each patch moved beside the head: (B, N, 2), x and y.

    In standard deviations s under the noise of the pair, as asinh(s) / 2, of each patch by itself. Nothing is learned,
    and nothing is held back where the noise is strong.
    """
    return motion_evidence(t0, t1, patch_size)[..., 2:4]


def _evidence(first: Tensor, second: Tensor, patch_size: int) -> Tensor:
    size = first.shape[-1]
    rows, columns = first.shape[-2] // patch_size, size // patch_size
    places = _places(rows, columns, first.device)  # (N, 3)
    smooth, light = _SMOOTHED * size, _LIGHT * size
    t0, light_t0 = blurred(first, smooth), blurred(first, light)
    affine = first.new_zeros(len(first), 2, 3)  # where the crop goes, pixels at (1, x, y), these from -1 to 1
    for step in range(_PASSES):
        t1 = _moved(second, affine) if step else second
        t1 = blurred(t1, smooth) * ((light_t0 + _DARK) / (blurred(t1, light) + _DARK))
        squares = _squares(t0, t1, patch_size)
        found, noise = _fit_affine(squares, places)
        affine = affine + found
    grid = rearrange(_beside(squares, found, places), "b (h w) s -> b s h w", h=rows)
    # A motion of _PRIOR_PX is as likely as noise of one standard deviation in each of a patch's independent pixels.
    independent = patch_size**2 / (4 * math.pi * smooth**2)
    prior = noise / independent / (_PRIOR_PX * size / CROP_PX) ** 2
    scales = torch.stack([blurred(grid, joined * columns) for joined in _JOINED])  # (scales, B, 6, h, w)
    by_scale = rearrange(_scale(scales, noise, prior, CROP_PX / size), "s b n e -> b n (s e)")
    whole = (noise.log() / 3)[..., None].expand(-1, rows * columns, 1)
    return torch.cat([by_scale, whole], dim=-1)


def _squares(t0: Tensor, t1: Tensor, patch_size: int) -> Tensor:
    """Means over each patch of products of both derivatives and the difference: xx, xy, yy, xd, yd, dd, (B, N, 6)."""
    middle = F.pad((t0 + t1) / 2, (1, 1, 1, 1), mode="replicate")
    dx = (middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]) / 2
    dy = (middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]) / 2
    change = t1 - t0
    products = torch.cat([dx * dx, dx * dy, dy * dy, dx * change, dy * change, change * change], dim=1)
    return F.avg_pool2d(products, patch_size).flatten(2).mT


def _fit_affine(squares: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The affine motion (B, 2, 3) that explains most patches, and the noise (B, 1): the median of what it leaves.

    Iteratively reweighted least squares; patches that it explains badly lose weight.
    """
    weight = torch.ones_like(squares[..., 0])
    products = (places[:, :, None] * places[:, None, :]).flatten(1)  # (N, 9), its first three are the places
    for _ in range(_ROUNDS):
        # Sums, not a product of matrices, which would be rounded otherwise in a batch of another size.
        moments = ((weight[..., None] * squares[..., :5])[..., None] * products[:, None]).sum(dim=1)  # (B, 5, 9)
        xx, xy, yy = moments[:, :3].unbind(dim=1)
        left = rearrange(torch.stack([xx, xy, xy, yy], dim=1), "b (i j) (k l) -> b (i k) (j l)", i=2, k=3)
        right = -moments[:, 3:, :3].flatten(1)
        # Where a crop has no texture at all, nothing moves.
        small = 1e-3 * left.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-6
        left = left + small[:, None, None] * torch.eye(6, device=left.device)
        # `solve` would wait for the card to say whether there was a solution; there is, see `small`.
        affine = torch.linalg.solve_ex(left, right).result.view(-1, 2, 3)
        rest = _beside(squares, affine, places)[..., 5]
        noise = rest.median(dim=1, keepdim=True).values + 1e-3
        weight = 1 / (1 + rest / noise)
    return affine, noise


def _beside(squares: Tensor, affine: Tensor, places: Tensor) -> Tensor:
    """The same squares after an affine motion was taken away."""
    x, y = (affine[:, None] * places[:, None]).sum(dim=-1).unbind(dim=-1)  # (B, N)
    xx, xy, yy, xd, yd, dd = squares.unbind(dim=-1)
    pulled_x, pulled_y = xx * x + xy * y, xy * x + yy * y
    rest = dd + (2 * xd + pulled_x) * x + (2 * yd + pulled_y) * y
    return torch.stack([xx, xy, yy, xd + pulled_x, yd + pulled_y, rest], dim=-1)


def _scale(squares: Tensor, noise: Tensor, prior: Tensor, px: float) -> Tensor:
    """Evidence over some distances: squares (..., 6, h, w) -> (..., N, _PER_SCALE); `px`: crop px per image pixel."""
    xx, xy, yy, xd, yd, rest = squares.flatten(-2).unbind(dim=-2)
    sum_x, sum_y = xx + prior, yy + prior
    determinant = sum_x * sum_y - xy * xy
    x, y = -(sum_y * xd - xy * yd) / determinant, -(sum_x * yd - xy * xd) / determinant
    explained, texture = -(x * xd + y * yd) / noise, (xx + yy) / noise
    certainty = (texture + 1e-3).sqrt()
    values = [
        *((px * x).clamp(-6, 6), (px * y).clamp(-6, 6)),
        *((x * certainty).asinh() / 2, (y * certainty).asinh() / 2),
        (explained.clamp(min=0) + 0.1).log() / 2,
        (texture + 1e-2).log() / 3 - 1,
        (rest.clamp(min=0) / noise + 1e-2).log() / 2,
    ]
    return torch.stack(values, dim=-1)


def _places(rows: int, columns: int, device: torch.device) -> Tensor:
    """1, x, y of each patch, (N, 3), x and y from -1 to 1."""
    y, x = torch.meshgrid(_centres(rows, device), _centres(columns, device), indexing="ij")
    return torch.stack([torch.ones_like(x), x, y], dim=-1).flatten(0, 1)


def _centres(count: int, device: torch.device) -> Tensor:
    return (torch.arange(count, device=device) + 0.5) / count * 2 - 1


def _moved(images: Tensor, affine: Tensor) -> Tensor:
    """Images (B, 1, H, W) read where an affine motion in pixels has taken each place."""
    height, width = images.shape[-2:]
    to_grid = torch.tensor([[2 / width], [2 / height]]).to(images.device, non_blocking=True)
    matrix = (affine * to_grid).roll(-1, dims=2) + torch.eye(2, 3, device=images.device)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
