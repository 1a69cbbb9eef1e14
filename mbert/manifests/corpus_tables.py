"""The manifests of a corpus as tables of DuckDB: a query reads only what it needs of millions of frames."""

import glob
from typing import Any

from mbert import ManifestError
from mbert.manifests.files import read_json
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, FrameRow, PairRow, VideoRow, arrow_schema
from mbert.manifests.store import read_table
from mbert.manifests.workspace import Workspace, twin_paths

OTHERS = "others"


class CorpusTables:
    """The tables `videos`, `clips`, `frames` and `pairs` of a workspace; those that do not exist are empty.

    `frames` only has those of the inputs in `videos`, without leftovers of a killed or repeated ingest, and `pairs` the
    sampled ones. Raises ManifestError for a manifest that is damaged or of another schema.
    """

    def __init__(self, workspace: Workspace) -> None:
        import duckdb

        _check_schema(workspace)
        self.workspace = workspace
        self._duckdb: Any = duckdb
        self._connection: Any = duckdb.connect()
        self._connection.execute("SET preserve_insertion_order = false")
        self._connection.execute("SET enable_progress_bar = false")  # it would go to stdout
        for name, path, row_type in (("videos", workspace.videos, VideoRow), ("clips", workspace.clips, ClipRow)):
            table = read_table(path, row_type) if path.exists() else arrow_schema(row_type).empty_table()
            self._connection.register(name, table)
        named = [shard for (shard,) in self.rows("SELECT DISTINCT shard FROM videos WHERE status = 'ok' ORDER BY 1")]
        found = {path.stem for path in workspace.frames.glob("*.parquet")}
        self.missing = [shard for shard in named if shard not in found]  # tars of crops whose manifest is missing
        self._view("frames", [str(twin_paths(workspace.frames, shard)[1]) for shard in named if shard in found])
        self._view("pairs", sorted(map(str, workspace.pairs.glob("[0-9]*.parquet"))))

    def _view(self, name: str, files: list[str]) -> None:
        if files:
            # DuckDB treats names as patterns.
            self._guarded(lambda: self._connection.read_parquet([*map(glob.escape, files)]).create_view(name))
        else:
            row_type = {"frames": FrameRow, "pairs": PairRow}[name]
            self._connection.register(name, arrow_schema(row_type).empty_table())

    def rows(self, question: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The result of a query in SQL, with `values` for its `?`."""
        found: list[tuple[Any, ...]] = self._guarded(lambda: self._connection.execute(question, values).fetchall())
        return found

    def one(self, question: str) -> Any:
        """The result of a query for one value."""
        ((value,),) = self.rows(question)
        return value

    def counts(self, expression: str, source: str, *, most: int | None = None) -> dict[str, int]:
        """How often each value of an expression occurs, the most frequent first; NULL does not count.

        `source` is the SQL after FROM. With `most`, the rest is counted under OTHERS.
        """
        rows = self.rows(f"SELECT ({expression})::VARCHAR v, count(*) n FROM {source} GROUP BY v ORDER BY n DESC, v")
        known = [(value, count) for value, count in rows if value is not None]
        shown = known if most is None or len(known) <= most + 1 else known[:most]
        rest = sum(count for _, count in known[len(shown) :])
        return dict(shown) | ({OTHERS: rest} if rest else {})

    def _guarded(self, ask: Any) -> Any:
        try:
            return ask()
        except (self._duckdb.IOException, self._duckdb.InvalidInputException, self._duckdb.BinderException) as exc:
            reason = str(exc).split("\n")[0]
            raise ManifestError(
                f"a manifest in {self.workspace.root} cannot be read ({reason}): run `mbert verify`, it names the file"
            ) from exc


def _check_schema(workspace: Workspace) -> None:
    """Raise ManifestError for a corpus of another version, without opening each of the many manifests of crops."""
    found = read_json(workspace.corpus_config).get("schema") if workspace.corpus_config.exists() else SCHEMA_VERSION
    if found != SCHEMA_VERSION:
        raise ManifestError(
            f"the corpus in {workspace.corpus} has schema {found}, this version of mbert reads {SCHEMA_VERSION}: run "
            "`mbert ingest` and `mbert shard --pairs` again with --overwrite, or use the mbert that wrote it"
        )
