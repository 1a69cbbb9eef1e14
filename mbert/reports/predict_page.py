"""The pages of `mbert predict`: of one video, and of a folder of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from mbert.manifests.predictions import EventRow, PredictionSummary
from mbert.manifests.regions import PARTS, REGIONS, region_text
from mbert.reports import words
from mbert.reports.curves import STEPS_PER_UNIT, TICKS_PER_SECOND, decimate, read_curves
from mbert.reports.maps import map_paths
from mbert.reports.page import data_url, file_url, flat_settings, render, sparkline, write_page

_INDEX_POINTS = 120
_INDEX_TOP = 3.0  # px per 100 ms, as fast as speech


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EventPicture:
    """Pictures of one event, in the aligned crop of its face."""

    event: int
    onset: bytes  # JPEG
    apex: bytes  # JPEG
    moved: npt.NDArray[np.floating[Any]]  # (14, 14), 0-1: where the face moved


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IndexEntry:
    """One input of a folder, including failed ones."""

    name: str
    page: str | None  # relative path
    status: str
    reason: str | None
    summary: PredictionSummary | None
    curve: Sequence[float]  # movement of the face visible longest


def write_predict_page(
    path: Path,
    *,
    summary: PredictionSummary,
    frames: Path,
    events: Sequence[EventRow],
    pictures: Sequence[EventPicture] = (),
    video: str | None = None,
    overlay: str | None = None,
    embedded: tuple[str, bytes] | None = None,
) -> None:
    """Write the page of one video, atomically.

    `frames` is its `frames.parquet`; `video` (the original) and `overlay` are paths relative to the page, with forward
    slashes and unescaped: the page makes URLs of them. `embedded` is a small video inside the page itself: its media
    type and its bytes. Without any of the three the page has no player. Without pictures an hour of video gives a page
    of about 1 MB. Raises ManifestError if `frames` cannot be read.
    """
    curves = read_curves(frames)
    sources = [("Overlay", file_url(overlay))] if overlay is not None else []
    sources += [("Original", file_url(video))] if video is not None else []
    # A page with an embedded video is made for sending: the files next to it may be missing.
    sources = ([("Preview", data_url(*embedded))] if embedded is not None else []) + sources
    by_event = {picture.event: picture for picture in pictures}
    ordered = sorted(events, key=lambda event: (event.is_doubtful, event.onset_s, event.event))
    html = render(
        "predict.html.j2",
        scripts=("predict.js", "curves.js"),
        name=PurePosixPath(summary.video).name or summary.video,
        summary=summary,
        found=words.found_words(summary.counts, curves.with_speech),
        warnings=[(words.WARNINGS.get(warning.kind, warning.kind), warning.text) for warning in summary.warnings],
        sources=sources,
        events=[_event_values(event, by_event.get(event.event)) for event in ordered],
        types=[kind for kind in words.TYPES if any(event.type == kind for event in events)],
        curves=curves,
        percent=words.percent,
        quality=[
            (title, sparkline(values), f"{np.nanmin(values):.0f} to {np.nanmax(values):.0f}, {unit}")
            for title, values, unit in (
                ("Sharpness", curves.sharpness, "variance of the Laplacian"),
                ("Brightness", curves.brightness, "mean luma, 0–255"),
            )
            if np.isfinite(values).any()
        ],
        settings=flat_settings(summary.settings),
        data={
            **curves.data,
            "steps": STEPS_PER_UNIT,
            "ticks": TICKS_PER_SECOND,
            "parts": PARTS,
            "regions": {region: region_text(region) for region in REGIONS},
            "types": words.TYPES,
            "events": [
                [
                    event.event, event.face_id, event.type, event.part,
                    *(round(seconds, 4) for seconds in (event.onset_s, event.apex_s, event.offset_s)),
                    event.regions,
                ]
                for event in sorted(events, key=lambda event: (event.onset_s, event.event))
            ],
        },
    )  # fmt: skip
    write_page(path, html)


def write_index_page(path: Path, entries: Sequence[IndexEntry], *, title: str, command: str) -> None:
    """Write the page of a folder, atomically: a row for each input in the order given, failures with their reasons."""
    summaries = [entry.summary for entry in entries if entry.summary is not None]
    totals = {kind: sum(summary.counts.get(kind, 0) for summary in summaries) for kind in words.TYPES}
    html = render(
        "predict_index.html.j2",
        scripts=("sort.js",),
        title=title,
        command=command,
        entries=entries,
        # One scale for all, so that a still face looks still.
        sparklines=[
            sparkline(decimate(entry.curve, _INDEX_POINTS), width=120, height=24, top=_INDEX_TOP) for entry in entries
        ],
        num_failed=sum(entry.summary is None for entry in entries),
        totals=totals,
        seconds=sum(summary.seconds for summary in summaries),
        warning_kinds=words.WARNINGS,
    )
    write_page(path, html)


def _event_values(event: EventRow, picture: EventPicture | None) -> dict[str, Any]:
    """The template's values for an event."""
    regions = [region_text(region) for region in event.regions.split()]
    return {
        "row": event,
        "flags": words.flag_words(event.flags),
        "regions": "; ".join(regions),
        "like": words.like_words(event.like),
        "alarms": words.alarm_words(event.false_alarms_per_minute),
        "shapes": words.drawn_regions(event.regions),
        "arrow": words.arrow(event.regions, event.direction),
        "drawing": f"Moved: {'; '.join(regions)}" + (f"; direction: {event.direction}" if event.direction else ""),
        "onset": None if picture is None else data_url("image/jpeg", picture.onset),
        "apex": None if picture is None else data_url("image/jpeg", picture.apex),
        "map": [] if picture is None else map_paths(picture.moved),
    }
