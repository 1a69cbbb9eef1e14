"""A small copy of a video that fits into a page."""

import tempfile
from pathlib import Path

import cv2

from mbert.pipeline.video.decode import Decoder
from mbert.pipeline.video.film import writing_film

_MAX_SIDE = 480


def small_preview(decoder: Decoder, *, sound: Path | None) -> bytes:
    """The same pictures at the same times as MP4, at most 480 px wide and high, with the sound of a file.

    Raises InputError when the video cannot be decoded.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "preview.mp4"
        with writing_film(out, sound=sound, num_threads=1) as film:
            for frame in decoder:
                width, height = frame.size
                scale = min(1.0, _MAX_SIDE / max(width, height))
                size = tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))
                film.add(cv2.resize(frame.rgb(), size, interpolation=cv2.INTER_AREA), frame.pts_seconds)
        return out.read_bytes()
