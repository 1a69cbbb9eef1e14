"""The files of results: their names, reading a summary back, and removing all files of a video."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from mbert.manifests.predictions import FRAMES, OVERLAY, FaceSummary, PredictionSummary, Warning

INDEX = "index.html"  # of all videos
SUMMARY, EVENTS, REPORT = "summary.json", "events.csv", "report.html"
_RESULTS = (
    *(SUMMARY, REPORT, OVERLAY, FRAMES, "frames.csv", EVENTS, "events.parquet"),
    *("events.eaf", "events.TextGrid", "events.vtt", "challenge.csv"),
)


def summary_of(value: dict[str, Any]) -> PredictionSummary:
    """Inverse of `dataclasses.asdict`, from a `summary.json`."""
    names = {field.name for field in dataclasses.fields(PredictionSummary)}
    value = {name: value[name] for name in names}
    value["faces"] = tuple(FaceSummary(**face) for face in value["faces"])
    value["warnings"] = tuple(Warning(**warning) for warning in value["warnings"])
    return PredictionSummary(**{**value, "outputs": tuple(value["outputs"])})


def remove_results(folder: Path) -> None:
    """Delete only what an earlier run wrote about a video, which may have been another video."""
    for name in _RESULTS:
        (folder / name).unlink(missing_ok=True)
    for left in folder.glob(".tracks-*"):  # from a killed run
        shutil.rmtree(left, ignore_errors=True)
