"""How the skin moves between two frames of a face: dense optical flow, and the strain that it puts on the skin.

A raw flow includes the head's motion and spurious motion from changes of light; `flow_beside_head` removes both.
"""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from mbert import ShardError
from mbert.shards.image import Image

Flow = npt.NDArray[np.float32]
FlowMethod = Literal["dis", "dis_fine", "farneback"]
_MIN_SIDE = 12  # pixels; the search rejects smaller frames

# In pixels, chosen on maps of faces (docs/evidence.md). For the fine search: the side of its patches, and their
# spacing. For Farneback's method: the width of its window, and the size of the neighbourhood that its polynomials
# describe.
_FINE_PATCH, _FINE_STRIDE = 16, 6
_SEARCH_PATCH, _SEARCH_STRIDE, _SEARCH_ROUNDS = 8, 5, 6  # of `searched_flow`; more rounds change nothing
_WINDOW, _POLY_N, _POLY_SIGMA = 41, 5, 1.1

# For the head's motion: the flow is fitted to means over this many cells per side.
_CELLS = 28
_ROUNDS = 10
_FIT_PX = 0.02  # below it, the weight of a residual no longer grows

# For the light: the scale of slow changes, as a share of the frame's longer side; on a picture shrunk by a whole
# number.
_LIGHT = 0.045
_LIGHT_PX = 2.5  # the blur of the smaller picture
_DARK = 5.0  # levels of 255 added before taking the ratio: black stays black


def optical_flow(t0: Image, t1: Image) -> Flow:
    """The motion of each pixel from t0 to t1: two (H, W, 3) uint8 RGB or (H, W) lumas -> (H, W, 2), x, y in pixels.

    Dense inverse search (Kroeger et al., ECCV 2016) on the luma, at half resolution, then variational refinement. On a
    224 px portrait under noise of 2/255 and JPEG, shifted by 0.3 to 2 px: mean error 0.025 px, RMS of a pixel 0.06 px;
    local motion of at most 0.7 to 1.5 px is found with a relative error of 0.27; 6 ms. At its best setting Farneback's
    method has 0.031, 0.10 and 0.30 in 31 ms. TV-L1 has 0.009, 0.03 and 0.23, in half a second, but 2.4 instead of 0.23
    as soon as the light changes by 3 %. Same result with any number of threads: places do not learn from their
    neighbours, which also costs accuracy.

    Raises ShardError for frames of different sizes, and for frames too small to search in.
    """
    _check_sizes(t0, t1)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setUseSpatialPropagation(False)
    flow: Flow = search.calc(_luma(t0), _luma(t1), None)
    return flow


def quick_flow(t0: npt.NDArray[np.uint8], t1: npt.NDArray[np.uint8]) -> Flow:
    """Flow of two lumas (H, W) of equal size in a fifteenth of the time, for video, with its many redundant pairs.

    At a quarter of the resolution and without variational refinement: 0.4 ms for 224 px. Refinement would take three
    times as long, and found two fewer of 28 annotated movements of brows and mouths.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setUseSpatialPropagation(False)
    search.setVariationalRefinementIterations(0)
    flow: Flow = search.calc(t0, t1, None)
    return flow


def searched_flow(t0: npt.NDArray[np.uint8], t1: npt.NDArray[np.uint8]) -> Flow:
    """Flow of two lumas (H, W) of equal size at full resolution, without variational refinement, for training motion
    heads. 4 ms for 224 px. Spatially finer than `optical_flow`, and noisier.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setUseSpatialPropagation(False)
    search.setVariationalRefinementIterations(0)
    search.setFinestScale(0)
    search.setPatchSize(_SEARCH_PATCH)
    search.setPatchStride(_SEARCH_STRIDE)
    search.setGradientDescentIterations(_SEARCH_ROUNDS)
    flow: Flow = search.calc(t0, t1, None)
    return flow


def flow_beside_head(t0: Image, t1: Image, method: FlowMethod = "dis") -> Flow:
    """How far each pixel moved relative to the head: removes slow changes of light, finds flow, removes the head.

    Two (H, W, 3) uint8 RGB or (H, W) lumas -> (H, W, 2), x then y, in pixels. `dis` is the search of `optical_flow`, 12
    ms for 224 px; `dis_fine` the same at full resolution in larger patches, 50 ms; `farneback` Farneback's method (SCIA
    2003) in a wide window, 20 ms.

    Raises ShardError as `optical_flow` does, and for another method.
    """
    _check_sizes(t0, t1)
    first, second = _luma(t0), without_light(t0, t1)
    if method not in _METHODS:
        raise ShardError(f"flow method is {method!r}; allowed are {', '.join(_METHODS)}")
    return without_head(_METHODS[method](first, second))


def _fine_flow(t0: Image, t1: Image) -> Flow:
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setUseSpatialPropagation(False)
    search.setFinestScale(0)
    search.setPatchSize(_FINE_PATCH)
    search.setPatchStride(_FINE_STRIDE)
    flow: Flow = search.calc(t0, t1, None)
    return flow


def _farneback(t0: Image, t1: Image) -> Flow:
    flow: Flow = cv2.calcOpticalFlowFarneback(
        t0, t1, None, 0.5, 3, _WINDOW, 3, _POLY_N, _POLY_SIGMA, cv2.OPTFLOW_FARNEBACK_GAUSSIAN
    )
    return flow


_METHODS: dict[str, Callable[[Image, Image], Flow]] = {
    "dis": optical_flow,
    "dis_fine": _fine_flow,
    "farneback": _farneback,
}


def without_head(flow: Flow) -> Flow:
    """A flow (H, W, 2) minus the affine motion that most of the frame shares, such as a drifting or turning head's.

    Least absolute deviations, on means over cells: local motion in less than half of the frame has no influence.
    """
    height, width = flow.shape[:2]
    rows, columns = min(_CELLS, height), min(_CELLS, width)
    means = cv2.resize(flow, (columns, rows), interpolation=cv2.INTER_AREA).reshape(-1, 2).astype(np.float64)
    y, x = np.meshgrid(_centres(rows), _centres(columns), indexing="ij")
    terms = np.stack([np.ones(rows * columns), x.ravel(), y.ravel()], axis=1)
    weighted = terms
    for _ in range(_ROUNDS):
        affine = np.linalg.lstsq(weighted.T @ terms, weighted.T @ means, rcond=None)[0]  # (3, 2)
        weighted = terms / (np.linalg.norm(means - terms @ affine, axis=1, keepdims=True) + _FIT_PX)
    across = (_centres(width)[:, None] * affine[1] + affine[0]).astype(np.float32)
    down = (_centres(height)[:, None] * affine[2]).astype(np.float32)
    beside: Flow = flow - across - down[:, None]
    return beside


def without_light(t0: Image, t1: Image) -> npt.NDArray[np.uint8]:
    """The luma of t1 (H, W) under the light of t0: (H, W, 3) RGB or lumas, with their slow ratio removed.

    Raises ShardError for frames of different sizes.
    """
    if t0.shape[:2] != t1.shape[:2]:
        raise ShardError(f"frames differ in size, {t0.shape} and {t1.shape}")
    second = _luma(t1)
    height, width = second.shape
    factor = max(1, round(_LIGHT * max(height, width) / _LIGHT_PX))
    size = max(1, round(width / factor)), max(1, round(height / factor))
    spread = _LIGHT * max(height, width) / factor
    light = [
        cv2.GaussianBlur(
            cv2.resize(luma.astype(np.float32), size, interpolation=cv2.INTER_AREA), (0, 0), spread,
            borderType=cv2.BORDER_REPLICATE,
        )
        for luma in (_luma(t0), second)
    ]  # fmt: skip
    ratio = cv2.resize((light[0] + _DARK) / (light[1] + _DARK), (width, height), interpolation=cv2.INTER_LINEAR)
    relit: npt.NDArray[np.uint8] = cv2.multiply(second, ratio, dtype=cv2.CV_8U)  # rounded, and clipped at 255
    return relit


def _check_sizes(t0: Image, t1: Image) -> None:
    if t0.shape != t1.shape:
        raise ShardError(f"frames differ in size, {t0.shape} and {t1.shape}")
    if min(t0.shape[:2]) < _MIN_SIDE:
        raise ShardError(f"frames are {t0.shape[1]} x {t0.shape[0]} px; optical flow needs at least {_MIN_SIDE} a side")


def _luma(image: Image) -> npt.NDArray[np.uint8]:
    luma: npt.NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return luma


def _centres(count: int) -> npt.NDArray[np.float64]:
    """Places of pixels or cells along a side, from -1 to 1."""
    return (np.arange(count) + 0.5) / count * 2 - 1


def strain(flow: Flow) -> Flow:
    """How strongly the skin is stretched or sheared, unitless: flow (H, W, 2) in pixels -> (H, W).

    The magnitude of the strain tensor, sqrt(e_xx² + e_yy² + 2 e_xy²) (optical strain, Shreve et al., FG 2011). It is 0
    where a face moves as a whole.
    """
    (u_y, u_x), (v_y, v_x) = (np.gradient(flow[..., place]) for place in (0, 1))
    magnitude: Flow = np.sqrt(u_x**2 + v_y**2 + (u_y + v_x) ** 2 / 2)
    return magnitude
