"""The expressions that an evaluation got most wrong, with their two crops and the model's map of what moved."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbert import MbertError
from mbert.manifests.runs import WrongPair
from mbert.model.data.labelled import frames_of
from mbert.model.network.compare import compare_crops
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import hash_weights
from mbert.model.training.places import find_place
from mbert.shards.pair import FramePair
from mbert.shards.source import open_source

PREDICTIONS = "predictions.parquet"
_MOST = 10
_AGAIN = "run `mbert eval` again, then `mbert report`"


def worst_pairs(
    run: Path, results: Mapping[str, Any], rows: Sequence[dict[str, Any]]
) -> tuple[int, list[WrongPair], str]:
    """How many of the rows of an evaluation's predictions are wrong, the worst of them, and why any lack pictures.

    The worst are those of which the head was most confident; for action units, those with most units wrong. Ties go to
    the first by key. The map always comes from the evaluated model: if its weights have changed since, or shards or
    model are gone, it is left out and the reason says why.
    """
    wrong = [row for row in rows if row["prediction"] != row["label"]]
    worst = sorted(wrong, key=lambda row: (-_wrongness(row), row["key"]))[:_MOST]
    found = [
        WrongPair(
            key=row["key"],
            subject=row["subject"],
            sample=row["sample"],
            fold=row["fold"],
            label=row["label"],
            prediction=row["prediction"],
            confidence=row.get("confidence"),
        )
        for row in worst
    ]
    if not found:
        return 0, [], ""
    pairs, reason = _read_pairs(run, results, [pair.key for pair in found])
    if not pairs:
        return len(wrong), found, reason
    found = [
        dataclasses.replace(pair, onset=bytes(frames.t0_jpeg), apex=bytes(frames.t1_jpeg))
        for pair, frames in zip(found, pairs, strict=True)
    ]
    model, reason = _load_model(run, results)
    if model is None:
        return len(wrong), found, reason
    try:
        t0, t1 = (np.stack(images) for images in zip(*(pair.images() for pair in pairs), strict=True))
        moved = compare_crops(t0, t1, model).moved
    except (MbertError, ValueError) as exc:  # crops of another size, a damaged JPEG
        return len(wrong), found, f"The maps cannot be computed: {exc}."
    return len(wrong), [dataclasses.replace(pair, moved=each) for pair, each in zip(found, moved, strict=True)], ""


def _wrongness(row: Mapping[str, Any]) -> float:
    confidence = row.get("confidence")
    if confidence is not None:
        return float(confidence)
    label, prediction = (set(str(row[name]).split("+")) - {""} for name in ("label", "prediction"))
    return float(len(label ^ prediction))


def _read_pairs(run: Path, results: Mapping[str, Any], keys: Sequence[str]) -> tuple[list[FramePair], str]:
    place = results.get("places", {}).get("shards")
    if place is None:
        return [], f"This evaluation does not say where its pairs are: {_AGAIN}."
    where = find_place(place, run)
    if where is None:
        return [], f"The pairs are not on this disk: {place}."
    try:
        frames = frames_of(open_source(where))
    except MbertError as exc:
        return [], f"The pairs cannot be read: {exc}."
    if missing := [key for key in keys if key not in frames]:
        return [], f"The shards in {place} were made again since and hold no pair {missing[0]}: {_AGAIN}."
    return [frames[key] for key in keys], ""


def _load_model(run: Path, results: Mapping[str, Any]) -> tuple[MicronBert | None, str]:
    place = str(results.get("places", {}).get("checkpoint"))
    where = find_place(place, run)
    if where is None:
        return None, f"The maps are missing: the model is not on this disk: {place}."
    try:
        model = MicronBert.from_pretrained(where).eval()
    except MbertError as exc:
        return None, f"The maps are missing: {exc}."
    if hash_weights(model) != results.get("weights"):
        return None, f"The maps are missing: the weights in {place} have changed since this evaluation; {_AGAIN}."
    return model, ""
