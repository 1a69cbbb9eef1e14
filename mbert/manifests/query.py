"""Queries over manifests in SQL, answered by DuckDB."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mbert import ConfigError
from mbert.manifests.schema import ClipRow, FrameRow, VideoRow, arrow_schema


class FrameCondition:
    """An SQL condition over the columns of a frame, its clip and its video.

    If manifests share a name, the frame's column is used, then the clip's. Raises ConfigError for an expression that
    does not parse, names no column, or is not a condition. The expression can only access these rows: not the file
    system, not the network.
    """

    def __init__(self, expression: str, clips: pa.Table, videos: pa.Table) -> None:
        import duckdb

        self.expression = expression
        self._duckdb: Any = duckdb
        self._connection = duckdb.connect(config={"enable_external_access": "false", "threads": "1"})
        self._connection.execute("SET lock_configuration = true")
        self._clips, self._videos = clips, videos
        schemas = [arrow_schema(row_type) for row_type in (FrameRow, ClipRow, VideoRow)]
        self._names = list(dict.fromkeys(name for schema in schemas for name in schema.names))
        words = set(re.findall(r"\w+", expression.lower()))
        # Reading an extra column (a word in a text) costs a little time, a missing one would be an error.
        self.frame_columns = [name for name in schemas[0].names if name in words or name in ("clip_id", "video_id")]
        self._check(schemas[0].empty_table())

    def mask(self, frames: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a table with `frame_columns` satisfy the condition, (N,); unknown (NULL) means no."""
        kept = np.zeros(len(frames), dtype=bool)
        kept[self._rows(frames)] = True
        return kept

    def _rows(self, frames: pa.Table) -> npt.NDArray[np.int64]:
        frames = frames.select(self.frame_columns).append_column("row_", pa.array(np.arange(len(frames))))
        clip_names = [name for name in arrow_schema(ClipRow).names if name not in frames.column_names]
        video_names = [name for name in self._names if name not in {*frames.column_names, *clip_names}]
        columns = [f"c.{name}" for name in clip_names] + [
            f"v.{name}" for name in video_names if name in arrow_schema(VideoRow).names
        ]
        self._connection.register("frames_", frames)
        self._connection.register("clips_", self._clips)
        self._connection.register("videos_", self._videos)
        found = self._connection.execute(
            f"SELECT row_ FROM (SELECT f.*, {', '.join(columns)} FROM frames_ f "
            "JOIN clips_ c ON f.clip_id = c.clip_id JOIN videos_ v ON f.video_id = v.video_id) "
            f"WHERE ({self.expression}\n)"
        )
        rows: npt.NDArray[np.int64] = found.fetchnumpy()["row_"]
        return rows

    def _check(self, no_frames: pa.Table) -> None:
        reason = None if self.expression.strip() else "it is empty"
        try:
            self._rows(no_frames)
        except self._duckdb.Error as exc:
            reason = reason or str(exc).split("\n")[0]
        if reason:
            raise ConfigError(
                f"--where {self.expression!r} cannot be used: {reason}. The columns are {', '.join(self._names)}"
            )
