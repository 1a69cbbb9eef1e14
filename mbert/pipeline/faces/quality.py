"""Quality of a crop or a clip: pure functions."""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mbert.shards.image import Image

# The bridge and root of the nose: skin on bone, moved least by expressions. In crop widths.
_RIGID_REGION = (0.34, 0.28, 0.66, 0.60)

_LOW_FREQUENCY = 0.15  # cycles per pixel: below it is the face, above it mostly noise

Luma = npt.NDArray[np.uint8]
Region = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex128]  # (F,): the low frequencies
Shift = npt.NDArray[np.float64]  # (2,): x, y


def luma(crop: Image) -> Luma:
    """(H, W) uint8 luma of an RGB crop."""
    gray: Luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return gray


def sharpness(gray: Luma) -> float:
    """Variance of the Laplacian: low for blurred crops; depends on content, so compare within a corpus."""
    _, deviation = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    return float(deviation[0, 0] ** 2)


def brightness(gray: Luma) -> float:
    """Mean luma, 0-255."""
    return float(cv2.mean(gray)[0])


def clipped(gray: Luma) -> float:
    """Share of pixels that are black or white (luma within 3 of either end)."""
    return float(cv2.countNonZero(cv2.inRange(gray, 4, 251)) / -gray.size + 1)


def rigid_region(gray: Luma) -> Region:
    """The part of a crop in which any motion is due to the alignment."""
    height, width = gray.shape
    left, top, right, bottom = _RIGID_REGION
    rows, columns = (
        2 * round((high - low) * side / 2) for low, high, side in ((top, bottom, height), (left, right, width))
    )
    first_row, first_column = round(top * height), round(left * width)
    return gray[first_row : first_row + rows, first_column : first_column + columns].astype(np.float32)


def jitter_px(regions: Sequence[Region]) -> float | None:
    """RMS motion between consecutive rigid regions, in their pixels; None for fewer than two."""
    spectra = [_low_spectrum(region) for region in regions]
    squares = [
        float((_shift(regions[index], regions[index + 1], spectra[index], spectra[index + 1]) ** 2).sum())
        for index in range(len(regions) - 1)
    ]
    return float(np.sqrt(np.mean(squares))) if squares else None


def region_shift(one: Region, other: Region) -> Shift:
    """The translation (x, y) in pixels from one region to another, by sub-pixel phase correlation.

    It is the slope of the phase of the cross spectrum over the low frequencies, weighted by amplitude; whole pixels,
    if any, are removed first. The centroid of the correlation's peak, often used instead, is drawn
    towards zero.
    """
    return _shift(one, other, _low_spectrum(one), _low_spectrum(other))


def _shift(one: Region, other: Region, first: Spectrum, second: Spectrum) -> Shift:
    shift = _phase_slope(first, second, one.shape)
    if np.abs(shift).max() < 1:
        return shift
    # OpenCV applies the window to its arguments in place where their size needs no padding: hand it copies.
    (peak_x, peak_y), _ = cv2.phaseCorrelate(one.copy(), other.copy(), _spectrum_grid(one.shape)[0])
    whole: Shift = np.round([peak_x, peak_y])
    moved = np.roll(other, (-int(whole[1]), -int(whole[0])), axis=(0, 1))
    return whole + _phase_slope(first, _low_spectrum(moved), one.shape)


def _phase_slope(first: Spectrum, second: Spectrum, shape: tuple[int, ...]) -> Shift:
    _, _, design = _spectrum_grid(shape)
    cross = second * first.conj()
    weighted = design * np.abs(cross)
    slope: Shift = np.linalg.lstsq(weighted @ design.T, weighted @ np.angle(cross), rcond=None)[0]
    return slope


def _low_spectrum(region: Region) -> Spectrum:
    window, low, _ = _spectrum_grid(region.shape)
    return np.fft.rfft2((region - region.mean()) * window)[low]


@functools.cache
def _spectrum_grid(shape: tuple[int, ...]) -> tuple[Region, npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """The window that hides the borders, the mask of low frequencies, and their phase per pixel of shift (2, F)."""
    height, width = shape
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    low = (np.hypot(x, y) < _LOW_FREQUENCY) & (np.hypot(x, y) > 0)
    return cv2.createHanningWindow((width, height), cv2.CV_32F), low, -2 * np.pi * np.stack([x[low], y[low]])
