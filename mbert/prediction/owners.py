"""Which input each folder of results belongs to: equally named videos of two folders can share one `--out`."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

from mbert.manifests.files import read_json, write_json
from mbert.prediction.results import REPORT, SUMMARY, summary_of
from mbert.reports.predict_page import IndexEntry

_FILE = ".folders.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Owners:
    """The inputs of the folders of results in `out`, from all runs."""

    out: Path
    inputs: Mapping[str, str]  # folder, relative to `out` -> location of the input

    @classmethod
    def read(cls, out: Path) -> "Owners":
        """Read the recorded ones."""
        return cls(out, dict(read_json(out / _FILE)) if (out / _FILE).exists() else {})

    def is_free(self, folder: Path, location: Path, name: str, sha256: str | None) -> bool:
        """Whether an input may use a folder: it is its own, or nobody's.

        An input that has moved is recognised by its content.
        """
        owner = self.inputs.get(self._key(folder))
        if owner == str(location):
            return True
        if not (folder / SUMMARY).exists():
            return True
        value = read_json(folder / SUMMARY)
        if value.get("video") != name:
            return False
        return owner is None or (sha256 is not None and value.get("sha256") == sha256)

    def without(self, folders: Collection[Path]) -> "Owners":
        """All except those of `folders`."""
        gone = {self._key(folder) for folder in folders}
        return Owners(self.out, {key: place for key, place in self.inputs.items() if key not in gone})

    def existing(self) -> "Owners":
        """Those whose results exist."""
        return Owners(self.out, {key: at for key, at in self.inputs.items() if (self.out / key / SUMMARY).exists()})

    def joined(self, inputs: Mapping[Path, Path]) -> "Owners":
        """All, with `inputs` added."""
        return Owners(self.out, {**self.inputs, **{self._key(folder): str(place) for folder, place in inputs.items()}})

    def write(self) -> None:
        """Write the record for the next run."""
        if self != Owners.read(self.out):
            write_json(self.out / _FILE, dict(self.inputs))

    def entries(self, root: Path) -> list[IndexEntry]:
        """Entries for the page of all inputs: those in `root` by their path in it, others by their location."""
        found = []
        for key, place in sorted(self.inputs.items(), key=lambda item: item[1]):
            value = read_json(self.out / key / SUMMARY)
            name = str(Path(place).relative_to(root)) if Path(place).is_relative_to(root) else place
            page = (Path(key) / REPORT).as_posix()
            found.append(
                IndexEntry(
                    name=name, page=page, status="ok", reason=None, summary=summary_of(value), curve=value["curve"]
                )
            )
        return found

    def _key(self, folder: Path) -> str:
        return folder.relative_to(self.out).as_posix()
