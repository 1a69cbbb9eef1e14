"""The `config.json` of a corpus: the options, landmarker and versions that made it, and whether others match."""

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

from mbert import ConfigError, ManifestError, __version__
from mbert.manifests.files import describe_differences, read_json, write_json
from mbert.manifests.labels.errata import ERRATA_VERSION, Errata
from mbert.manifests.schema import SCHEMA_VERSION, VideoRow
from mbert.manifests.workspace import Workspace
from mbert.pipeline.faces.landmarkers import weights_sha256
from mbert.pipeline.ingest_corpus import read_if_there
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.roots import Placed, place, read_roots
from mbert.pipeline.video.source import Listing
from mbert.shards.image import JPEG_SUBSAMPLING


def checked_config(
    workspace: Workspace, listing: Listing, options: IngestOptions, *, overwrite: bool
) -> dict[str, Any]:
    """The existing config.json; empty if there is none, or it will be overwritten.

    Overwriting removes what was made from the current folder: if the corpus holds inputs of other folders, its options
    stay. Raises ConfigError if the corpus was begun with other options.
    """
    if not workspace.corpus_config.exists():
        return {}
    found: dict[str, Any] = read_json(workspace.corpus_config)
    is_ours = found.get("schema") == SCHEMA_VERSION

    def others() -> list[str]:  # compares contents
        videos = read_if_there(workspace.videos, VideoRow) if is_ours else []
        return place(listing, read_roots(found), videos).others

    if overwrite and not others():
        return {}
    if not is_ours:
        raise ManifestError(
            f"the corpus in {workspace.corpus} has schema {found.get('schema')}, this version of mbert reads "
            f"{SCHEMA_VERSION}: {_told_ways('run the same command with --overwrite, or', others())}"
        )
    # An option newer than the corpus had its default.
    before = {**dataclasses.asdict(IngestOptions()), **found["options"], **found["landmarker"]}
    asked = {**dataclasses.asdict(options), **_landmarker(options)}
    for each in (before, asked):  # weights are identified by their hash, wherever the file is
        del each["landmarker_model"]
    if differences := describe_differences(before, asked, "corpus"):
        ways = _told_ways("use the same options, --overwrite to make it again, or", others())
        raise ConfigError(f"the corpus in {workspace.corpus} was made with other options ({differences}): {ways}")
    return found


def write_config(
    workspace: Workspace, placed: Placed, options: IngestOptions, errata: Errata, before: dict[str, Any]
) -> None:
    """Write what the corpus was made with; `before` is the result of `checked_config`."""
    listing = placed.listing
    names = ["av", "mediapipe", "numpy", "opencv-contrib-python", "simplejpeg"]
    names += ["face-alignment"] if options.landmarker == "fan" else []
    current = {"mbert": __version__, **{name: importlib.metadata.version(name) for name in names}}
    versions = before.get("versions", [])
    applied = sorted({erratum for label in listing.labels for erratum in label.errata})
    latest = {
        "root": str(listing.root),
        "annotations": [str(file) for file in listing.annotations],
        "errata": {"version": ERRATA_VERSION, "choice": errata, "applied": applied},
        "notes": list(listing.notes),
    }
    datasets = sorted({source.dataset for source in listing.sources})
    write_json(
        workspace.corpus_config,
        {
            "root": str(listing.root),  # of the latest ingest
            # As when the corpus was begun, so that dependent shards and runs stay valid.
            "options": before.get("options", dataclasses.asdict(options)),
            "landmarker": before.get("landmarker", _landmarker(options)),
            "schema": SCHEMA_VERSION,
            "datasets": {
                **before.get("datasets", {}),
                **{dataset: {**latest, "roots": placed.roots[dataset]} for dataset in datasets},
            },
            "jpeg_subsampling": JPEG_SUBSAMPLING,
            # From every ingest that added to the corpus, if they differ.
            "versions": versions if current in versions else [*versions, current],
        },
    )


def _told_ways(ways: str, others: list[str]) -> str:
    """What to do about a corpus that does not match; never anything that deletes crops of another folder."""
    if not others:
        return f"{ways} use another --workspace"
    return (
        f"use another --workspace, or ingest with the options and the mbert that it was made with (it holds inputs of "
        f"{', '.join(others)}, too, which --overwrite would not make again)"
    )


def _landmarker(options: IngestOptions) -> dict[str, Any]:
    """The landmarker and its weights."""
    model = Path(options.landmarker_model) if options.landmarker_model else None
    return {
        "landmarker": options.landmarker,
        "landmarker_sha256": weights_sha256(options.landmarker, model=model),
    }
