"""The content of tars as arrays: the clips of a corpus with their crops, and the pairs of shards.

For notebooks and user code. Training uses `source.py` and `lane.py`, which handle order and workers.
"""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mbert import ConfigError, ManifestError, ShardError
from mbert.manifests.schema import ClipRow, FrameRow, LabelRow, PairRow, arrow_schema
from mbert.manifests.store import read_rows, to_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.shards.image import Image, decode_jpeg
from mbert.shards.order import Segment
from mbert.shards.reader import BadPair, PairReader
from mbert.shards.source import ShardSource

_PAIRS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class ClipFrames:
    """One clip: its row, the rows of its crops in time order, its labels, and the crops on demand."""

    clip: ClipRow
    rows: list[FrameRow]
    labels: list[LabelRow]  # with frames in the clip
    tar: Path

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """(N,): presentation times in the video."""
        return np.array([row.pts_seconds for row in self.rows])

    @property
    def frame_indices(self) -> npt.NDArray[np.int64]:
        """(N,): counted from 0 in a video, the numbers of the images in a frame folder, as in labels."""
        return np.array([row.frame_index for row in self.rows])

    def images(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB: the crops at positions `[start, stop)`. Raises ShardError for a damaged tar."""
        images = []
        try:
            with self.tar.open("rb") as file:
                for row in self.rows[start:stop]:
                    file.seek(row.offset)
                    images.append(decode_jpeg(file.read(row.size)))
        except OSError as exc:
            raise ShardError(f"{self.tar} cannot be read: {exc.strerror}") from exc
        return np.stack(images) if images else np.empty((0, 0, 0, 3), np.uint8)

    def image_at(self, seconds: float) -> Image:
        """(S, S, 3) uint8 RGB: the crop nearest to a time of the video."""
        place = int(np.abs(self.seconds - seconds).argmin())
        found: Image = self.images(place, place + 1)[0]
        return found


class CorpusFrames:
    """The clips of a corpus in reading order; clips are read on demand, by position or clip_id."""

    def __init__(self, workspace: Workspace) -> None:
        if not workspace.clips.exists():
            raise ManifestError(f"there is no corpus in {workspace.corpus}: run `mbert ingest FOLDER` first")
        self.clips = read_rows(workspace.clips, ClipRow)
        self.labels = read_rows(workspace.labels, LabelRow)
        self._workspace = workspace
        self._places = {clip.clip_id: place for place, clip in enumerate(self.clips)}
        self._twins: collections.OrderedDict[str, dict[str, list[FrameRow]]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[ClipFrames]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, clip: int | str) -> ClipFrames:
        if isinstance(clip, str) and clip not in self._places:
            raise ConfigError(
                f"there is no clip {clip!r}; clip_ids are like {self.clips[0].clip_id if self.clips else ''}"
            )
        row = self.clips[self._places[clip] if isinstance(clip, str) else clip]
        tar, _ = twin_paths(self._workspace.frames, row.shard)
        labels = [label for label in self.labels if label.clip_id == row.clip_id]
        return ClipFrames(row, self._rows_of(row.shard).get(row.clip_id, []), labels, tar)

    def _rows_of(self, shard: str) -> dict[str, list[FrameRow]]:
        """Rows by clip; the last tar is kept, because clips of one tar are adjacent."""
        if shard not in self._twins:
            found: dict[str, list[FrameRow]] = {}
            for row in read_rows(twin_paths(self._workspace.frames, shard)[1], FrameRow):
                found.setdefault(row.clip_id, []).append(row)
            self._twins.clear()
            self._twins[shard] = found
        return self._twins[shard]


@dataclasses.dataclass(frozen=True)
class DecodedPair:
    """One pair and its frames, (S, S, 3) uint8 RGB each; t0 is the earlier one."""

    row: PairRow
    t0: Image
    t1: Image


class PairFrames:
    """The pairs of shards in the order of their tars. Iterating raises ShardError naming a damaged pair."""

    def __init__(self, source: ShardSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.num_pairs

    def __iter__(self) -> Iterator[DecodedPair]:
        reader = PairReader(self.source)
        for shard, count in enumerate(self.source.counts):
            rows = to_rows(PairRow, self.source.read_twin(shard, arrow_schema(PairRow).names))
            for start in range(0, count, _PAIRS_AT_ONCE):
                segment = Segment(shard, start, min(start + _PAIRS_AT_ONCE, count))
                for row, pair in zip(rows[segment.start : segment.stop], reader.read([segment]), strict=True):
                    if isinstance(pair, BadPair):
                        raise ShardError(f"{pair}: run `mbert verify`")
                    yield DecodedPair(row, *pair.images())
