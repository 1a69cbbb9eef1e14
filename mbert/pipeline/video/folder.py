"""Frame folder -> frames in presentation order, with index and time."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mbert import InputError
from mbert.pipeline.video.decode import Frame, StreamInfo
from mbert.pipeline.video.source import frame_files


class FrameFolder:
    """A folder of images; the frame index is the last integer in the file name, gaps stay gaps.

    `fps` is the frame rate, which images do not carry. Raises InputError like `VideoFile`, also while it is iterated
    when the images differ in size.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        try:
            self._files = list(frame_files(path))
        except OSError as exc:
            raise InputError("unreadable", f"the folder cannot be read: {exc.strerror}") from exc
        if not self._files:
            raise InputError("empty", "the folder holds no numbered image")
        for (index, file), (next_index, next_file) in itertools.pairwise(self._files):
            if index == next_index:
                raise InputError(
                    "unreadable", f"two images have frame number {index}: {file.name} and {next_file.name}"
                )
        self._fps = fps
        self.info = StreamInfo(
            codec=self._files[0][1].suffix.lower().removeprefix("."),
            width=0,
            height=0,
            num_frames_from_header=len(self._files),
            seconds_from_header=(self._files[-1][0] - self._files[0][0]) / fps,
        )

    def __iter__(self) -> Iterator[Frame]:
        damaged = []
        for index, file in self._files:
            image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if file.stat().st_size else None
            if image is None:
                damaged.append(file.name)
                continue
            height, width = image.shape[:2]
            if not self.info.num_frames:
                self.info.width, self.info.height = width, height
            elif (width, height) != (self.info.width, self.info.height):
                raise InputError(
                    "unreadable",
                    f"{file.name} is {width}x{height}, the frames before it are {self.info.width}x{self.info.height}",
                )
            frame = Frame(index, index / self._fps, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            self.info.saw(frame)
            yield frame
        if damaged:
            self.info.remarks.append(f"{len(damaged)} images cannot be decoded, the first is {damaged[0]}")
