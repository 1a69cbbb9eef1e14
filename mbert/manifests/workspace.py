"""The layout of a workspace: the only place that spells out its paths."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The folder shared by all commands."""

    root: Path

    @property
    def corpus(self) -> Path:
        """Written by `mbert ingest`."""
        return self.root / "corpus"

    @property
    def corpus_config(self) -> Path:
        """Resolved options and versions of the ingest."""
        return self.corpus / "config.json"

    @property
    def videos(self) -> Path:
        """One row per input."""
        return self.corpus / "videos.parquet"

    @property
    def clips(self) -> Path:
        """One row per clip."""
        return self.corpus / "clips.parquet"

    @property
    def labels(self) -> Path:
        """One row per annotated expression."""
        return self.corpus / "labels.parquet"

    @property
    def frames(self) -> Path:
        """Tars of aligned crops and their twins."""
        return self.corpus / "frames"

    @property
    def signatures(self) -> Path:
        """The motion of faces in each tar of crops; written by `mbert verify --duplicates`."""
        return self.corpus / "signatures"

    @property
    def preview(self) -> Path:
        """The preview page; written by `mbert ingest` and `mbert preview`."""
        return self.corpus / "preview.html"

    @property
    def forgotten(self) -> Path:
        """Keeps forgotten inputs from coming back."""
        return self.corpus / "forgotten.json"

    @property
    def forgetting(self) -> Path:
        """What `mbert forget` is removing; exists until that is done."""
        return self.corpus / ".forgetting.json"

    @property
    def pairs(self) -> Path:
        """Shards of pairs sampled by time, independent of labels; written by `mbert shard --pairs`."""
        return self.root / "shards" / "pairs"

    @property
    def expressions(self) -> Path:
        """Shards of the onset-apex pairs of labels; written by `mbert shard --pairs`."""
        return self.root / "shards" / "expressions"

    @property
    def runs(self) -> Path:
        """One folder per training or evaluation run."""
        return self.root / "runs"


PAIRS_INDEX = "pairs.json"  # totals, options and fingerprint of a folder of pair shards; written last
PAIRS_CLIPS = "clips.parquet"  # next to the shards: whose faces they show


def twin_paths(folder: Path, shard: str) -> tuple[Path, Path]:
    """The tar and the Parquet twin of a shard. The twin, written last, is the commit mark."""
    return folder / f"{shard}.tar", folder / f"{shard}.parquet"
