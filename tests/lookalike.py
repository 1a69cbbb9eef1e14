"""Look-alikes of licensed datasets for the tests: their layouts and quirks, synthetic rows, small images.

The faces are those of the synthetic videos of conftest.py. No row of a real annotation is in here.
"""

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import openpyxl

SIZE = 192  # pixels of an image
EMOTIONS = ("disgust", "happiness", "surprise")  # that the videos show


@functools.cache
def expression_frames(videos: Path, subject: int, emotion: str, take: int = 1) -> list[np.ndarray]:
    """Frames (SIZE, SIZE, 3) BGR from onset to offset of one synthetic video; subject 0, 1 or 2, take 1 or 2."""
    name = f"s{subject + 1:02d}/{emotion}_{take}.mp4"
    with (videos / "labels.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["path"] == name]
    with av.open(str(videos / name)) as container:
        frames = [picture.to_ndarray(format="bgr24") for picture in container.decode(video=0)]
    chosen = frames[int(row["onset"]) : int(row["offset"]) + 1]
    return [cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for frame in chosen]


def write_images(folder: Path, names: Sequence[str], frames: Sequence[np.ndarray], *, gray: bool = False) -> None:
    """Write one image under each name, spread over the frames from first to last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, place in zip(names, np.linspace(0, len(frames) - 1, len(names)), strict=True):
        frame = frames[round(place)]
        cv2.imwrite(str(folder / name), cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) if gray else frame)


def write_book(path: Path, sheets: Mapping[str, Sequence[Sequence[Any]]]) -> Path:
    """Write a spreadsheet; None is an empty cell, text that begins with = is a formula without a stored value."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path
