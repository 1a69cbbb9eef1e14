"""The page of a corpus: what became of its inputs, crops to look at, what was rejected, how good the crops are."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbert.manifests.corpus_tables import OTHERS
from mbert.manifests.distributions import Distribution
from mbert.manifests.funnel import Stage
from mbert.manifests.overview import Overview
from mbert.manifests.schema import VideoRow
from mbert.manifests.selection import ChosenCrop, Kind, RejectedReason
from mbert.reports.histogram import draw_histogram
from mbert.reports.page import data_url, render, write_page
from mbert.reports.words import percent

_STEPS = {
    "inputs": ("Inputs", "videos and frame folders"),
    "read": ("Read", "frames decode"),
    "with_face": ("With a face", "at least one face can be followed"),
    "frames": ("Frames", "decoded, of the inputs with a face"),
    "frames_with_face": ("With a face", "frames that a clip holds"),
    "clips": ("Clips", "one face each, at most 10 s unless a label needs more"),
    "crops": ("Crops", "one for each face in a frame"),
    "clips_with_pairs": ("Clips with pairs", "clips that can be learned from"),
    "pairs": ("Pairs", "sampled by time, for pretraining"),
}
_OF_PAIRS = ("clips_with_pairs", "pairs")
_LOSSES = {
    "pending": "not ingested yet",
    "missing": "not there",
    "empty": "empty",
    "unreadable": "cannot be read",
    "no_video": "without a video stream",
    "timeout": "took too long",
    "crashed": "ended the process that read them",
    "error": "unexpected error",
    "too_short": "fewer than two frames",
    "no_face": "no face found",
    "no_face_in_frame": "no face that can be followed",
    "repeated": "repeat the picture before, and are in no pair",
    "no_pair": "shorter than the distance of a pair, left out by --where, or newer than the pairs",
}
_SHEETS: dict[Kind, tuple[str, str]] = {
    "random": ("Random sample", "Drawn from all crops. Faces fill the picture, upright and centred, eyes level."),
    "jitter": (
        "Largest jitter",
        "Clips in which the bridge of the nose moves most from crop to crop, in pixels of a crop: motion that "
        "alignment left. The crop is the middle one of its clip.",
    ),
    "score": (
        "Lowest score",
        "Where the landmarker is least sure (0 to 1): hands, hair, other things over the face, or no face at all.",
    ),
    "pose": ("Largest pose", "Heads that are turned furthest, by the largest of yaw, pitch and roll."),
}
_QUALITY = {  # title, column, unit, hint
    "face_px": ("Face size", "face_px", "px in the source", "Below 100 px, small movements are lost."),
    "jitter_px": ("Jitter", "jitter_px", "px of a crop, per clip", "Motion that alignment left between crops."),
    "yaw": ("Yaw", "yaw", "degrees", "Positive: turned to the right of the image."),
    "pitch": ("Pitch", "pitch", "degrees", "Positive: looking up."),
    "roll": ("Roll", "roll", "degrees", "In the source; alignment levels it."),
    "sharpness": ("Sharpness", "sharpness", "variance of the Laplacian", "Low: blurred, out of focus or enlarged."),
    "brightness": ("Brightness", "brightness", "mean luma, 0–255", "Very low or very high: little detail is left."),
    "clipped": ("Clipped", "clipped", "share of pixels", "Black, white, or outside of the frame."),
    "score": ("Score", "score", "of 1", "How sure the landmarker is."),
    "fps": ("Frame rate", "fps", "per second, per input", "At 25, an expression of 200 ms has 5 frames."),
    "minutes": ("Length", "", "minutes, per input", ""),
    "clip_seconds": ("Clip length", "", "seconds, per clip", "A clip ends at a cut and after 10 s."),
}
_MOST_RATES = 4  # in the header


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CropPicture:
    """A chosen crop and its picture."""

    crop: ChosenCrop
    jpeg: bytes | None  # None: it cannot be read


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RejectedPicture:
    """A rejected input and a frame of it."""

    video: VideoRow
    jpeg: bytes | None
    size: tuple[int, int] = (0, 0)  # of the picture
    note: str  # which frame it is, or why there is none


def write_preview_page(
    path: Path,
    *,
    title: str,
    roots: Sequence[str],
    overview: Overview,
    stages: Sequence[Stage],
    crops: Mapping[Kind, Sequence[CropPicture]],
    reasons: Sequence[RejectedReason],
    rejected: Sequence[RejectedPicture],
    distributions: Mapping[str, Distribution],
    command: str,
) -> None:
    """Write the page of a corpus, atomically; its size depends only on the number of pictures.

    The page names the ingested folders (`roots`), not the workspace: equal corpora have equal pages. `reasons` cover
    all rejected inputs, `rejected` are the few shown.
    """
    has_pairs = any(stage.step == "pairs" and stage.count for stage in stages)
    html = render(
        "preview.html.j2",
        title=title,
        roots=roots,
        overview=overview,
        facts=_facts(overview),
        num_inputs=sum(overview.statuses.values()),
        num_rejected=sum(count for name, count in overview.statuses.items() if name not in ("ok", "pending")),
        stages=[_stage_values(stage) for stage in stages if has_pairs or stage.step not in _OF_PAIRS],
        has_pairs=has_pairs,
        sheets=[
            (kind, *_SHEETS[kind], [_crop_values(picture) for picture in pictures])
            for kind, pictures in crops.items()
            if pictures
        ],
        reasons=reasons,
        rejected=[_rejected_values(picture) for picture in rejected],
        statuses=_LOSSES,
        histograms=[
            (*texts, drawing) for name, texts in _QUALITY.items() if (drawing := draw_histogram(distributions[name]))
        ],
        percent=percent,
        command=command,
    )
    write_page(path, html)


def _facts(overview: Overview) -> list[str]:
    """Facts about the corpus, in a few words each."""
    facts = []
    if overview.seconds:
        minutes = overview.seconds / 60
        facts.append(f"{minutes:,.1f} minutes" if minutes >= 2 else f"{overview.seconds:.0f} seconds")
    if overview.people:
        facts.append("1 person" if overview.people == 1 else f"{overview.people:,} people")
    rates = [rate.removesuffix(".00") for rate in overview.fps if rate != OTHERS]
    if rates:
        facts.append(f"{', '.join(rates[:_MOST_RATES])}{', …' * (len(rates) > _MOST_RATES)} frames per second")
    if len(overview.datasets) > 1:
        facts.append(", ".join(f"{name} {count:,}" for name, count in overview.datasets.items()))
    return facts


def _stage_values(stage: Stage) -> dict[str, Any]:
    name, what = _STEPS[stage.step]
    return {
        "name": name,
        "what": what,
        "count": stage.count,
        "share": stage.share,
        "is_first": stage.share == 1.0 and stage.step in ("inputs", "frames", "clips"),
        "losses": [(_LOSSES[cause], count) for cause, count in stage.losses.items()],
    }


def _crop_values(picture: CropPicture) -> dict[str, Any]:
    crop = picture.crop
    texts = {"random": "", "jitter": "{:.2f} px", "score": "{:.2f}", "pose": "{:.0f}°"}
    return {
        "crop": crop,
        "value": "" if crop.value is None else texts[crop.kind].format(crop.value),
        "url": None if picture.jpeg is None else data_url("image/jpeg", picture.jpeg),
    }


def _rejected_values(picture: RejectedPicture) -> dict[str, Any]:
    return {
        "video": picture.video,
        "url": None if picture.jpeg is None else data_url("image/jpeg", picture.jpeg),
        "size": picture.size,
        "note": picture.note,
    }
