"""What `mbert predict` may have found in a video: rows, events, a summary; names in them try to break out of a page."""

import dataclasses

import cv2
import numpy as np

from mbert.manifests.predictions import RESEARCH_ONLY, EventRow, FaceSummary, MovementRow, PredictionSummary, Warning
from mbert.manifests.regions import REGIONS
from mbert.manifests.store import write_rows
from mbert.reports.predict_page import EventPicture, IndexEntry, write_predict_page
from mbert.shards.image import encode_jpeg

NUM_FRAMES = 200
# A folder may be called `<script>alert(1)<`, so that the path below it looks like a whole element.
TRICKY = '<script>alert(1)</script> "x" #1?%41 é.mp4'
HOSTILE = "</script><img src=x onerror=alert(2)> \u2028 ${x} {{ y }}"


def seconds_of(frame):
    """Seconds of a frame, or of an array of them: 22 to 58 ms apart, as a phone may film."""
    return np.rint(40 * frame + 12 * np.sin(1.7 * frame)) / 1000


def movement(frame, face=0, **values):
    """A row of a face that is there and still, but for `values`."""
    rng = np.random.default_rng(frame + 7919 * face)
    still = dict(zip(REGIONS, (0.12 + 0.04 * rng.standard_normal(len(REGIONS))).clip(0).tolist(), strict=True))
    whole = {
        **still, "head": 0.3 + 0.1 * rng.random(), "eye_open": 0.3, "mouth_open": 0.02, "light": -0.2 * rng.random(),
        "brightness": 120.0 + 8 * np.sin(frame / 40), "sharpness": 300.0 + 20 * rng.random(), "speech": 0, "blink": 0,
        "repeated": 0, "x": 10.0, "y": 10.0, "w": 90.0, "h": 90.0, "confidence": 0.9, **values,
    }  # fmt: skip
    moves = max(whole[region] for region in REGIONS)
    return MovementRow(
        frame=frame, timestamp=float(seconds_of(frame)), face_id=face, success=1, movement=moves, **whole
    )


def event(number, kind, part, onset, apex, offset, **values):
    seconds = [float(seconds_of(frame)) for frame in (onset, apex, offset)]
    found = EventRow(
        video=TRICKY, face_id=0, event=number, type=kind, part=part, onset_frame=onset, apex_frame=apex,
        offset_frame=offset, onset_s=seconds[0], apex_s=seconds[1], offset_s=seconds[2],
        duration_ms=1000 * (seconds[2] - seconds[0]), size_px=1.62, speed=1.9, direction=None, regions="", score=None,
        false_alarms_per_minute=None, like=None, flags=None,
    )  # fmt: skip
    return dataclasses.replace(found, **values)


EVENTS = [
    event(1, "blink", "eyes", 20, 22, 25),
    event(
        2, "micro", "mouth", 60, 65, 70, direction="up left", regions="lip_corner_l cheek_l upper_lip", score=2.1,
        false_alarms_per_minute=0.008, like="12:0.81 6:0.40",
    ),
    event(
        3, "macro", "brows", 100, 112, 125, direction="up", regions="brow_inner_r brow_outer_r", score=1.3,
        false_alarms_per_minute=0.05, like="2:0.66 99:0.30", flags="head light",
    ),
    event(4, "speech", "mouth", 150, 160, 190),
    event(
        5, "micro", "eyes", 130, 134, 138, direction="down", regions="lids_l lids_r", score=1.0,
        false_alarms_per_minute=0.1, like="7:0.52", emotion=HOSTILE, emotion_probability=0.7,
    ),
]  # fmt: skip


def acted_rows(num_frames=NUM_FRAMES, events=EVENTS, faces=(0,)):
    """Rows in which the regions of the events move fastest half way to the apex."""
    rows = []
    for frame in range(num_frames):
        values = {}
        for each in events:
            if not each.onset_frame <= frame <= each.offset_frame:
                continue
            if each.type in ("blink", "speech"):
                values |= {each.type: 1, **({"eye_open": 0.08} if each.type == "blink" else {"lower_lip": 1.1})}
            phase = (frame - each.onset_frame) / max(each.offset_frame - each.onset_frame, 1)
            values |= {region: 0.15 + 1.9 * abs(float(np.sin(2 * np.pi * phase))) for region in each.regions.split()}
        rows += [movement(frame, face, **(values if face == 0 else {})) for face in faces]
    return rows


def summary(video=TRICKY, **values):
    whole = {
        "video": video, "sha256": "0f" * 32, "width": 640, "height": 480, "fps": 25.0, "fps_nominal": 25.0,
        "is_vfr": False, "num_frames": NUM_FRAMES, "seconds": 7.96,
        "faces": (FaceSummary(face_id=0, first_s=0.0, last_s=7.96, num_frames=NUM_FRAMES, face_px=182.0),),
        "counts": {"micro": 2, "macro": 1, "blink": 1, "speech": 1, "doubtful": 1},
        "warnings": (
            Warning(kind="fps", text="25 frames per second: a movement of 100 ms is seen in two or three frames."),
            Warning(kind="input", text=HOSTILE),
        ),
        "note": RESEARCH_ONLY,
        "settings": {"events": {"threshold": 1.0, "parts": ["brows", "eyes"]}, "subject": HOSTILE},
        "versions": {"mbert": "0.1.0", "numpy": "1.26.4"}, "model": {"name": "movement", "sha256": "ab" * 32},
        "command": f"mbert predict '{video}' --out results", "outputs": ("frames.csv", "events.csv", "a b#1.json"),
        **values,
    }  # fmt: skip
    return PredictionSummary(**whole)


def picture(number, face):
    crop = cv2.resize(face[30:190, 140:300], (224, 224), interpolation=cv2.INTER_AREA)
    ys, xs = np.mgrid[:14, :14]
    moved = np.exp(-((xs - 4) ** 2 + (ys - 10) ** 2) / 4)
    return EventPicture(event=number, onset=encode_jpeg(crop, 85), apex=encode_jpeg(crop, 85), moved=moved)


def entry(name, *, page="a b/page.html", **values):
    return IndexEntry(name=name, page=page, status="ok", reason=None, summary=summary(**values), curve=[0.1, 2.0, 0.4])


def write_case(folder, *, rows=None, events=EVENTS, about=None, **options):
    """Write a page of rows and events beside their `frames.parquet`; gives its path."""
    write_rows(folder / "frames.parquet", MovementRow, acted_rows() if rows is None else rows)
    page = folder / "page.html"
    write_predict_page(page, summary=about or summary(), frames=folder / "frames.parquet", events=events, **options)
    return page
