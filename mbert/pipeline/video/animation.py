"""Animated images (WebP, PNG, AVIF) -> frames in presentation order, with index and time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from mbert import InputError
from mbert.pipeline.video.decode import StreamInfo
from mbert.pipeline.video.frame import Frame
from mbert.pipeline.video.still import DamagedImage, flat_pixels, open_image

_UNTIMED_SECONDS = 0.1  # used by players if no duration is stated


class AnimatedImage:
    """An animated image; frame times are the sums of its stated durations.

    Raises InputError like `VideoFile`.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._image: Any = open_image(path, path.read_bytes())
        except OSError as exc:
            raise InputError("unreadable", f"cannot be read: {exc.strerror}") from exc
        except DamagedImage as exc:
            raise InputError("unreadable", f"cannot be opened as an image: {exc}") from exc
        # A PNG may have a picture for programs that do not support animations.
        self._places = range(int(getattr(self._image, "default_image", False)), getattr(self._image, "n_frames", 1))
        if len(self._places) < 2:
            raise InputError("too_short", "is a single image; frames are a folder of images")
        self.info = StreamInfo(
            codec=self._image.format.lower(),
            width=self._image.width,
            height=self._image.height,
            num_frames_from_header=len(self._places),
            bit_depth=8,
        )

    def __iter__(self) -> Iterator[Frame]:
        seconds, num_untimed = 0.0, 0
        for index, place in enumerate(self._places):
            try:
                self._image.seek(place)
                pixels, done = flat_pixels(self._image)
            except (DamagedImage, EOFError, OSError, SyntaxError, ValueError) as exc:
                self.info.remarks.append(f"frame {index} and what follows cannot be decoded: {exc}")
                break
            for what in done:
                if what not in self.info.remarks:
                    self.info.remarks.append(what)
            rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels
            frame = Frame(index, seconds, rgb)
            self.info.saw(frame)
            yield frame
            duration = self._image.info.get("duration", 0) / 1000
            num_untimed += duration <= 0
            seconds += duration if duration > 0 else _UNTIMED_SECONDS
        if num_untimed:
            self.info.remarks.append(f"{num_untimed} frames state no duration: {_UNTIMED_SECONDS:g} s is taken")
