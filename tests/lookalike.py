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

CASME2_HEADER = [
    "Subject",
    "Filename",
    None,
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    None,
    "Action Units",
    "Estimated Emotion",
]
CASME2_ROWS = [
    # subject, clip, onset, apex, offset, AUs, emotion, first and last image
    ("01", "EP02_01f", 95, 100, 105, "6+12", "happiness"),
    ("01", "EP03_02", 1, 6, 12, 4, "disgust"),  # AUs as a number
    (2, "EP02_01f", 46, "/", 60, "1+2", "surprise"),  # a clip name of another subject; apex missing; subject a number
    (2, "EP09f", 46, 60, 60, "?", "Others"),  # apex is the offset
    ("03", "EP08_1", 10, 10, 20, "4+7", "repression"),  # apex is the onset
    ("03", "EP06_02_01", 1, 5, 10, "4", "disgust"),  # its folder is missing
]


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


def write_casme2(root: Path, videos: Path) -> Path:
    """Write a CASME II look-alike: raw and cropped images of five clips, one folder without a row."""
    shown = {"happiness": "happiness", "disgust": "disgust", "surprise": "surprise"}
    for subject, clip, onset, _, offset, _, emotion in CASME2_ROWS[:-1]:
        number = int(subject)
        frames = expression_frames(videos, number - 1, shown.get(emotion, "disgust"))
        indices = range(onset, offset + 1)
        folder = f"sub{number:02d}/{clip}"
        write_images(root / "CASME2_RAW_selected" / folder, [f"img{index}.jpg" for index in indices], frames)
        write_images(root / "Cropped" / folder, [f"reg_img{index}.jpg" for index in indices], frames)
    write_images(
        root / "CASME2_RAW_selected" / "sub03" / "EP19_01",
        [f"img{index}.jpg" for index in range(1, 9)],
        expression_frames(videos, 2, "surprise"),
    )
    sheet = [
        CASME2_HEADER,
        *([s, c, None, on, apex, off, None, aus, emotion] for s, c, on, apex, off, aus, emotion in CASME2_ROWS),
    ]
    write_book(root / "CASME2-coding-20140508.xlsx", {"Sheet1": sheet, "Sheet2": [], "Sheet3": []})
    return root
