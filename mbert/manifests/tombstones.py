"""Keeps forgotten inputs from coming back: a keyed hash of the content, without anything that names the input."""

import dataclasses
import datetime
import hmac
import secrets
from pathlib import Path

from mbert import ManifestError
from mbert.manifests.files import read_json, write_json
from mbert.manifests.workspace import Workspace

_ID_LENGTH = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Tombstones:
    """The forgotten inputs of a workspace, with its own key: equal inputs of two workspaces have different ids."""

    file: Path
    key: str
    days: dict[str, str]  # id -> when it was forgotten

    @classmethod
    def read(cls, file: Path) -> "Tombstones":
        """Read those of a workspace; raises ManifestError for a damaged file."""
        if not file.exists():
            return cls(file, secrets.token_hex(32), {})
        value = read_json(file)
        try:
            return cls(file, str(value["key"]), dict(value["forgotten"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise ManifestError(f"{file} does not say what was forgotten ({exc!r}): restore it from a copy") from exc

    def id_of(self, sha256: str) -> str:
        """The id of a content."""
        return hmac.digest(bytes.fromhex(self.key), sha256.encode(), "sha256").hex()[:_ID_LENGTH]

    def holds(self, sha256: str | None) -> bool:
        """Whether an input of this content was forgotten."""
        return sha256 is not None and self.id_of(sha256) in self.days

    def add(self, contents: list[str]) -> list[str]:
        """Record that these contents were forgotten; returns their ids."""
        ids = sorted({self.id_of(sha256) for sha256 in contents})
        today = datetime.date.today().isoformat()
        self._write({**dict.fromkeys(ids, today), **self.days})
        return ids

    def lift(self, contents: list[str]) -> int:
        """Allow these contents again; returns how many had been forgotten."""
        lifted = {self.id_of(sha256) for sha256 in contents} & self.days.keys()
        self._write({id: day for id, day in self.days.items() if id not in lifted})
        return len(lifted)

    def _write(self, days: dict[str, str]) -> None:
        write_json(self.file, {"key": self.key, "forgotten": days})
        self.days.clear()
        self.days.update(days)


def check_forgotten(workspace: Workspace) -> None:
    """Raise ManifestError if `mbert forget` was interrupted: until it is done, manifests and tars do not match."""
    if workspace.forgetting.exists():
        raise ManifestError(
            f"`mbert forget` was stopped in {workspace.root}: run it again, with the same options, to let it finish"
        )
