"""Forget inputs: their crops, rows and labels leave the corpus, their pairs the shards, and they cannot come back.

What will be removed is recorded first (`Workspace.forgetting`), then the tombstones; rows are removed last. So the next
run finishes a killed one, and nothing can use a half-cleaned corpus.
"""

import dataclasses
import difflib
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from mbert import ConfigError, ManifestError
from mbert.manifests.files import read_json, write_json
from mbert.manifests.labels.people import person
from mbert.manifests.labels.provenance import expired
from mbert.manifests.labels.table import digest_of_frames
from mbert.manifests.schema import ClipRow, LabelRow, VideoRow
from mbert.manifests.scrub import Scrubber
from mbert.manifests.store import read_rows, write_rows
from mbert.manifests.subject import Subject
from mbert.manifests.tombstones import Tombstones
from mbert.manifests.workspace import PAIRS_INDEX, Workspace, twin_paths
from mbert.pipeline.corpora.videos import list_videos
from mbert.pipeline.roots import Roots, read_roots, root_of
from mbert.pipeline.shard import corpus_fingerprint
from mbert.pipeline.video.source import content_hash
from mbert.shards.forget import count_pairs, forget_pairs

By = Literal["path", "subject", "video", "expired"]
_NEAREST = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """What to forget: everything needed to finish, whatever is already gone."""

    videos: tuple[str, ...]  # ids
    paths: tuple[str, ...]  # as in `videos.parquet`
    clips: tuple[str, ...]
    subjects: tuple[str, ...]  # of whom nothing remains
    persons: tuple[str, ...]  # shown in the inputs
    names: tuple[str, ...]  # that no file may contain any more: paths and subjects of these inputs only
    contents: tuple[str, ...]  # SHA-256
    corpora: tuple[str, ...]  # fingerprints of the corpora that held them
    all_shown_named: bool  # every input names somebody
    num_unread: int  # inputs whose content is not known
    num_crops: int
    num_labels: int

    @property
    def scrubber(self) -> Scrubber:
        """Removes their names from files."""
        return Scrubber(ids=self.videos, names=self.names)

    def joined(self, other: "Forgetting") -> "Forgetting":
        """The two combined."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        both: dict[str, Any] = dict(mine)
        for name, values in mine.items():
            if isinstance(values, tuple):
                both[name] = tuple(sorted({*values, *theirs[name]}))
        add = max if set(self.videos) & set(other.videos) else int.__add__
        both |= {name: add(mine[name], theirs[name]) for name in ("num_crops", "num_labels", "num_unread")}
        both["all_shown_named"] = self.all_shown_named and other.all_shown_named
        return Forgetting(**both)


def under_way(workspace: Workspace) -> Forgetting | None:
    """What an interrupted run had begun to forget."""
    if not workspace.forgetting.exists():
        return None
    value: dict[str, Any] = read_json(workspace.forgetting)
    value = {name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}
    try:
        return Forgetting(**value)
    except TypeError as exc:
        raise ManifestError(f"{workspace.forgetting} is not of this version of mbert: {exc}") from exc


def select(workspace: Workspace, by: By, wanted: Sequence[str]) -> Forgetting:
    """Find the specified inputs, and everything known about them.

    A path is one on disk, or as in `videos.parquet`; a folder means all inputs below it. A subject may be named without
    its dataset if that is unambiguous. Inputs of equal content go together. Raises ConfigError for anything not found
    or ambiguous, ManifestError if there is no corpus.
    """
    if not workspace.videos.exists():
        raise ManifestError(f"there is no corpus in {workspace.corpus}: nothing can be forgotten")
    rows = read_rows(workspace.videos, VideoRow)
    clips, labels = read_rows(workspace.clips, ClipRow), read_rows(workspace.labels, LabelRow)
    if by == "path":
        roots = read_roots(read_json(workspace.corpus_config))
        found = {key for text in wanted for key in _at_path(text, rows, roots)}
    elif by == "subject":
        everything: list[VideoRow | ClipRow | LabelRow] = [*rows, *clips, *labels]
        named = [(row.video_id, row.subject) for row in everything if row.subject]
        found = {key for text in wanted for key in _of_subject(text, named)}
    elif by == "expired":
        found = {row.video_id for row in expired(workspace.videos)}
        if not found:
            raise ConfigError(f"retention_until has passed for no input in {workspace.corpus}")
    else:
        found = set(wanted)
        if unknown := sorted(found - {row.video_id for row in rows}):
            raise ConfigError(f"there is no video_id {unknown[0]} in {workspace.videos}")
    contents = {row.sha256 for row in rows if row.video_id in found and row.sha256 and row.num_bytes}
    found |= {row.video_id for row in rows if row.sha256 in contents}
    return _described(workspace, rows, clips, labels, found)


def _at_path(text: str, rows: Sequence[VideoRow], roots: Roots) -> set[str]:
    """The ids of the inputs at a path on disk, else of those with the content found there, else by their rows."""
    here = Path(os.path.realpath(text))
    places = {row.video_id: Path(os.path.realpath(root)) / row.path for row in rows if (root := root_of(row, roots))}
    if on_disk := {key for key, place in places.items() if here == place or here in place.parents}:
        return on_disk
    contents = _contents(Path(text))
    if equal := {row.video_id for row in rows if row.sha256 in contents}:
        return equal
    plain = text.replace("\\", "/").removeprefix("./").rstrip("/")
    in_table = [row for row in rows if row.path == plain or row.path.startswith(f"{plain}/")]
    if len({(row.dataset, row.root) for row in in_table}) > 1:
        told = "; ".join(f"--video {row.video_id}" for row in in_table)
        raise ConfigError(f"{text} is in several sources: name one by its path on disk, or by its id: {told}")
    if not in_table:
        near = difflib.get_close_matches(plain, [row.path for row in rows], _NEAREST)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise ConfigError(f"{text} is neither an input of the corpus nor a folder of inputs{hint}")
    return {row.video_id for row in in_table}


def _contents(place: Path) -> set[str]:
    """The contents of the inputs at a path."""
    try:
        sources = list_videos(place, with_labels=False).sources
    except ConfigError:
        return set()
    return {sha256 for source in sources if source.num_bytes and (sha256 := content_hash(source))}


def _of_subject(text: str, named: Iterable[tuple[str, Subject]]) -> set[str]:
    asked = Subject.parse(text)
    found: dict[Subject, set[str]] = {}
    everybody = set()
    for key, subject in named:
        someone = person(subject)
        everybody.add(subject)
        if someone == person(asked) if asked.dataset else someone.id == person(asked).id:
            found.setdefault(someone, set()).add(key)
    if len(found) > 1:
        raise ConfigError(f"--subject {text} may be {' or '.join(sorted(found))}: write the one that is meant")
    if not found:
        near = difflib.get_close_matches(text, [*everybody, *(each.id for each in everybody)], _NEAREST)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise ConfigError(f"--subject {text} is nobody in the corpus{hint}")
    return next(iter(found.values()))


def _described(
    workspace: Workspace,
    rows: Sequence[VideoRow],
    clips: Sequence[ClipRow],
    labels: Sequence[LabelRow],
    found: Collection[str],
) -> Forgetting:
    """Everything known about some inputs."""
    roots = read_roots(read_json(workspace.corpus_config))
    gone, kept = ([row for row in rows if (row.video_id in found) is is_gone] for is_gone in (True, False))
    people: dict[str, set[Subject]] = {}
    everything: list[VideoRow | ClipRow | LabelRow] = [*rows, *clips, *labels]
    for each in everything:
        if each.subject is not None:
            people.setdefault(each.video_id, set()).add(each.subject)
    shown = {subject for row in gone for subject in people.get(row.video_id, ())}
    staying = {subject for row in kept for subject in people.get(row.video_id, ())}
    samples = [row for row in labels if row.video_id in found]
    names = {row.path for row in gone} - {row.path for row in kept} | shown - staying
    left = {(row.dataset, row.root) for row in kept}
    contents: set[str] = set()
    num_unread = 0
    for row in gone:
        root = root_of(row, roots)
        if root is not None and (row.dataset, row.root) not in left:
            names.add(root)
        if row.num_bytes and row.sha256:  # all empty files are equal
            contents.add(row.sha256)
        elif row.num_bytes:  # an input that was not read to its end
            found_there = set() if root is None else _contents(Path(root) / row.path)
            contents |= found_there
            num_unread += not found_there
    corpora = {corpus_fingerprint(workspace, rows, clips)}
    for folder in (workspace.pairs, workspace.expressions):
        if (folder / PAIRS_INDEX).exists():
            corpora.add(str(read_json(folder / PAIRS_INDEX).get("corpus")))
    return Forgetting(
        videos=tuple(sorted(found)),
        paths=tuple(sorted(row.path for row in gone)),
        clips=tuple(sorted(clip.clip_id for clip in clips if clip.video_id in found)),
        subjects=tuple(sorted(shown - staying)),
        persons=tuple(sorted(shown)),
        names=tuple(sorted(names - {"."})),
        contents=tuple(sorted(contents)),
        corpora=tuple(sorted(corpora)),
        all_shown_named=all(row.video_id in people for row in gone),
        num_crops=sum(row.num_crops for row in gone),
        num_labels=len(samples),
        num_unread=num_unread,
    )


def count_in_shards(workspace: Workspace, what: Forgetting) -> int:
    """How many pairs show what will be forgotten."""
    clips = set(what.clips)
    return sum(count_pairs(folder, clips).num_pairs for folder in (workspace.pairs, workspace.expressions))


def begin(workspace: Workspace, what: Forgetting) -> list[str]:
    """Record what will be removed, and what keeps it from coming back; returns the ids of the tombstones."""
    write_json(workspace.forgetting, dataclasses.asdict(what))
    return Tombstones.read(workspace.forgotten).add(list(what.contents))


def forget_in_shards(workspace: Workspace, what: Forgetting) -> int:
    """Rewrite both sets of pairs; returns how many were removed. Raises ShardError for a shard that cannot be read."""
    clips = set(what.clips)
    before = _rows(workspace, ())
    after = _rows(workspace, what.videos)
    fingerprint = corpus_fingerprint(workspace, after[0], after[1])

    def renewed(index: dict[str, Any]) -> dict[str, Any]:
        """The index for the corpus without them; one that was out of date stays so."""
        value: dict[str, Any] = what.scrubber.value(index)
        value["corpus"] = fingerprint
        if index.get("labels") == digest_of_frames(before[2]):
            value["labels"] = digest_of_frames(after[2])
        return value

    return sum(
        forget_pairs(folder, clips, renewed).num_pairs
        for folder in (workspace.pairs, workspace.expressions)
        if folder.is_dir()
    )


def _rows(workspace: Workspace, without: Collection[str]) -> tuple[list[VideoRow], list[ClipRow], list[LabelRow]]:
    """The rows of a corpus without some inputs."""
    videos, clips, labels = (
        [row for row in read_rows(file, row_type) if row.video_id not in without]  # type: ignore[attr-defined]
        for file, row_type in ((workspace.videos, VideoRow), (workspace.clips, ClipRow), (workspace.labels, LabelRow))
    )
    return videos, clips, labels  # type: ignore[return-value]


def forget_in_corpus(workspace: Workspace, what: Forgetting) -> None:
    """Delete tars and rows, and what config.json says about the inputs."""
    videos, clips, labels = _rows(workspace, what.videos)
    kept = {row.shard for row in videos}
    folders = (workspace.corpus, workspace.frames, workspace.signatures)
    for file in [*workspace.frames.glob("*.tar"), *workspace.frames.glob("*.parquet")]:
        if file.stem not in kept:
            for each in twin_paths(workspace.frames, file.stem):
                each.unlink(missing_ok=True)
    for file in workspace.signatures.glob("*.npz"):
        if file.stem not in kept:
            file.unlink()
    for left in [file for folder in folders for file in folder.glob(".*.tmp")]:
        left.unlink()
    workspace.preview.unlink(missing_ok=True)  # it shows crops; `mbert preview` recreates it
    config = _config_without(what, read_json(workspace.corpus_config), videos, labels)
    write_rows(workspace.clips, ClipRow, clips)
    write_rows(workspace.labels, LabelRow, labels)
    write_rows(workspace.videos, VideoRow, videos)
    write_json(workspace.corpus_config, config)


def _config_without(
    what: Forgetting, config: dict[str, Any], videos: Sequence[VideoRow], labels: Sequence[LabelRow]
) -> dict[str, Any]:
    left = {(row.dataset, row.root) for row in videos}
    dropped: set[str] = set()
    for dataset, about in config["datasets"].items():
        roots = read_roots(config)[dataset]
        about["roots"] = [root if (dataset, at) in left else None for at, root in enumerate(roots, 1)]
        gone = [Path(root) for root in roots if root is not None and root not in about["roots"]]
        applied = {id for row in labels if row.dataset == dataset for id in (row.errata or "").split()}
        about["errata"]["applied"] = sorted(applied)
        about["notes"] = [note for note in about["notes"] if what.scrubber.text(note) == note]
        if about["root"] and not {*gone}.isdisjoint([Path(about["root"]), *Path(about["root"]).parents]):
            dropped.add(about["root"])
            about.update(root=None, annotations=[])
    if config["root"] in dropped:
        config["root"] = None
    scrubbed: dict[str, Any] = what.scrubber.value(config)
    return scrubbed


def finish(workspace: Workspace) -> None:
    """Delete the record of what to forget: everything is done."""
    workspace.forgetting.unlink()
