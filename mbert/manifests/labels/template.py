"""A label file to fill in: one line for each input of a corpus."""

import csv
import dataclasses
import io
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from mbert import ConfigError, ManifestError
from mbert.manifests.files import read_json, replacing
from mbert.manifests.labels.label_file import find_label_file
from mbert.manifests.labels.table import LABEL_COLUMNS, LABELS_NAME
from mbert.manifests.schema import ClipRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace

_COLUMNS = (*LABEL_COLUMNS, "action_units")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelTemplate:
    """What was written."""

    files: dict[str, int]  # path -> number of inputs in it
    num_left_out: int  # inputs whose folder is missing, or whose dataset has its own annotation
    corpus: str


def write_template(
    workspace: Workspace, *, published: Collection[str] = (), out: Path | None = None, overwrite: bool = False
) -> LabelTemplate:
    """Write `labels.csv` into each ingested folder, with the path of each input, and its subject if known.

    With `out`, write that file. Datasets that are `published` have their own annotation and are left out. Raises
    ManifestError if there is no corpus or no input, ConfigError if there is a label file and `overwrite` is not given,
    and for one file for several folders.
    """
    if not workspace.videos.exists():
        raise ManifestError(
            f"there is no corpus in {workspace.corpus}: run `mbert ingest FOLDER` first, or name another --workspace"
        )
    folders = {name: Path(told["root"]) for name, told in read_json(workspace.corpus_config)["datasets"].items()}
    people: dict[str, set[str]] = defaultdict(set)
    for clip in read_rows(workspace.clips, ClipRow):
        if clip.subject:
            people[clip.video_id].add(clip.subject.id)
    lines: dict[Path, dict[str, str]] = defaultdict(dict)  # folder -> path -> subject
    videos = [row for row in read_rows(workspace.videos, VideoRow) if row.status != "missing"]
    num_written = 0
    for row in videos:
        folder = folders.get(row.dataset)
        if row.dataset not in published and folder is not None and (folder / row.path).exists():
            known = people[row.video_id]
            lines[folder][row.path] = known.pop() if len(known) == 1 else ""
            num_written += 1
    if not lines:
        raise ManifestError(
            f"the corpus in {workspace.corpus} has no input that needs a {LABELS_NAME}: published datasets have their "
            "own annotation, and other inputs must still be in the folder that was ingested"
        )
    if out is not None and len(lines) > 1:
        folders_told = ", ".join(map(str, lines))
        raise ConfigError(f"one file cannot label several folders ({folders_told}): leave out --out")
    files = {folder: out or _target(folder) for folder in lines}
    for file in files.values():
        if file.exists() and not overwrite:
            raise ConfigError(f"{file} is there: fill that in, or --overwrite it and lose what it says")
    for folder, file in files.items():
        _write(file, lines[folder])
    return LabelTemplate(
        files={str(file): len(lines[folder]) for folder, file in files.items()},
        num_left_out=len(videos) - num_written,
        corpus=str(workspace.corpus),
    )


def _target(folder: Path) -> Path:
    """Where labels of a folder are searched first; never next to a spreadsheet that would then be ignored."""
    found, _ = find_label_file(folder)
    if found is not None and found.suffix.casefold() != ".csv":
        raise ConfigError(f"{found} is there: fill that in, or write another file with --out FILE")
    return found or folder / LABELS_NAME


def _write(file: Path, subjects: dict[str, str]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows([path, subject, *[""] * (len(_COLUMNS) - 2)] for path, subject in subjects.items())
    # A spreadsheet program only recognises UTF-8 by a mark.
    content = text.getvalue().encode("utf-8" if text.getvalue().isascii() else "utf-8-sig")
    with replacing(file) as temporary:
        temporary.write_bytes(content)
