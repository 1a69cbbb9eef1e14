"""`mbert preview`: makes the page of a corpus from manifests, crops and sources."""

import dataclasses
from pathlib import Path
from typing import Any

import cv2

from mbert import ConfigError, ManifestError, MbertError, ShardError
from mbert.manifests.corpus_tables import CorpusTables
from mbert.manifests.distributions import clip_distributions, frame_distributions, video_distributions
from mbert.manifests.files import read_json
from mbert.manifests.funnel import funnel
from mbert.manifests.overview import overview
from mbert.manifests.schema import VideoRow
from mbert.manifests.selection import ChosenCrop, choose_crops, choose_rejected, rejected_reasons
from mbert.manifests.tombstones import check_forgotten
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.reports.preview_page import CropPicture, RejectedPicture, write_preview_page
from mbert.shards.image import Image, decode_jpeg, encode_jpeg

MOST_PICTURES = 100  # of each kind: about 5 MB of page
_MOST_REASONS = 20
_CROP_SIDE, _FRAME_SIDE = 224, 320  # maximum size of pictures on the page
_QUALITY = 82
# Statuses of inputs that could crash this process, or that have nothing to show.
_NOT_AGAIN = {
    "missing": "it was not there",
    "empty": "there is nothing in it",
    "crashed": "decoding it ended a process",
    "timeout": "decoding it took too long",
    "error": "decoding it failed unexpectedly",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreviewSummary:
    """The page that was made."""

    page: str
    num_crops: int  # shown
    num_rejected: int  # inputs shown
    num_inputs: int
    num_bytes: int


def run_preview(workspace: Workspace, *, pictures: int, seed: int, out: Path | None = None) -> PreviewSummary:
    """Make the page of a corpus. See `mbert.api.preview`."""
    if not 0 <= pictures <= MOST_PICTURES:
        raise ConfigError(f"pictures is {pictures}; allowed are 0 to {MOST_PICTURES} of each kind")
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give the name of an HTML file")
    if not workspace.videos.exists():
        raise ManifestError(
            f"there is no corpus in {workspace.corpus}: run `mbert ingest FOLDER` first, or name another workspace"
        )
    check_forgotten(workspace)
    tables = CorpusTables(workspace)
    frames = frame_distributions(tables)
    found = overview(workspace, tables, frames)
    config: dict[str, Any] = read_json(workspace.corpus_config)
    roots = [Path(root) for about in config["datasets"].values() for root in about.get("roots", ()) if root is not None]
    chosen = choose_crops(tables, pictures, seed)
    rejected = [_look_at(row, config) for row in choose_rejected(tables, pictures)]
    page = out or workspace.preview
    write_preview_page(
        page,
        title=", ".join(root.name for root in roots) or "Corpus",
        roots=list(map(str, roots)),
        overview=found,
        stages=funnel(tables),
        crops={kind: [_picture(crop, workspace) for crop in crops] for kind, crops in chosen.items()},
        reasons=rejected_reasons(tables, _MOST_REASONS),
        rejected=rejected,
        distributions={**frames, **clip_distributions(tables), **video_distributions(tables)},
        command=f"mbert preview --pictures {pictures} --seed {seed}",
    )
    return PreviewSummary(
        page=str(page),
        num_crops=sum(map(len, chosen.values())),
        num_rejected=len(rejected),
        num_inputs=sum(found.statuses.values()),
        num_bytes=page.stat().st_size,
    )


def _picture(crop: ChosenCrop, workspace: Workspace) -> CropPicture:
    tar, _ = twin_paths(workspace.frames, crop.shard)
    try:
        with tar.open("rb") as file:
            file.seek(crop.offset)
            image = decode_jpeg(file.read(crop.size))
    except (OSError, ShardError):
        return CropPicture(crop=crop, jpeg=None)
    return CropPicture(crop=crop, jpeg=_small(image, _CROP_SIDE)[0])


def _small(image: Image, side: int) -> tuple[bytes, tuple[int, int]]:
    """A picture shrunk to at most `side` pixels as JPEG, and its width and height."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return encode_jpeg(small, _QUALITY), size


def _look_at(row: VideoRow, config: dict[str, Any]) -> RejectedPicture:
    """A frame of a rejected input, if the source still exists and can be decoded safely."""
    if row.status in _NOT_AGAIN:
        return RejectedPicture(video=row, jpeg=None, note=f"no picture: {_NOT_AGAIN[row.status]}")
    # Decoders and landmarkers take longer to load than the page to make, and most corpora do not need them.
    from mbert.pipeline.ingest_options import IngestOptions
    from mbert.pipeline.roots import read_roots, root_of
    from mbert.pipeline.video.source import content_hash, frames_source, video_source
    from mbert.pipeline.video.thumbnail import telling_frame

    root = root_of(row, read_roots(config))
    location = Path(root or "") / row.path
    try:
        if root is None or not location.exists():
            return RejectedPicture(video=row, jpeg=None, note="no picture: the source is gone")
    except OSError as exc:
        return RejectedPicture(video=row, jpeg=None, note=f"no picture: {exc.strerror}")
    source = (frames_source if row.kind == "frames" else video_source)(Path(root), location, row.dataset)
    is_touched = source.mtime_ns != row.mtime_ns
    if source.num_bytes != row.num_bytes or (is_touched and row.sha256 != content_hash(source)):
        return RejectedPicture(video=row, jpeg=None, note="no picture: the source has changed since it was ingested")
    known = {field.name for field in dataclasses.fields(IngestOptions)}
    options = IngestOptions(**{name: value for name, value in config["options"].items() if name in known})
    try:
        seen = telling_frame(options.open_decoder(source, 1))
    except (MbertError, OSError):
        seen = None
    if seen is None:
        return RejectedPicture(video=row, jpeg=None, note="no picture: no frame decodes")
    jpeg, size = _small(seen[1], _FRAME_SIDE)
    return RejectedPicture(video=row, jpeg=jpeg, size=size, note=f"frame {seen[0]}")
