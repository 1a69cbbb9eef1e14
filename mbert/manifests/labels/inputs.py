"""Which input a label refers to: its path as people write it, compared with the existing paths.

A label only gets an input that its path does not name exactly if there is no doubt; otherwise the nearest one is
reported, and how its path differs.
"""

import contextlib
import dataclasses
import difflib
import functools
import itertools
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from mbert.manifests.labels.table import Label
from mbert.manifests.paths import escaped, normalized

_Key = TypeVar("_Key", bound=Hashable)
_NAMES_ON_DISK = ("gb18030", "big5", "cp932", "euc_kr", "cp1252")  # code pages of names that are not UTF-8
_ESCAPED = re.compile(r"%([89A-F][0-9A-F])")  # as `escaped` writes bytes that are not UTF-8
_SUFFIX = re.compile(r"\.(?=\w*[a-z])\w{2,5}$", re.IGNORECASE)  # of a file; `take.1` has none
_LIKE = 0.75  # minimum `difflib` ratio for a path to be a misspelling of another
_NEAR, _FAR = 5000, 500  # inputs that a path is compared with letter by letter: in the same folder, in all
_COUNTED = 10_000  # files of a folder that are counted


def plain_path(path: str) -> str:
    """A path with forward slashes, in NFC, without `./`, `..` and a trailing slash."""
    return posixpath.normpath(normalized(path).replace("\\", "/"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Meant:
    """The interpretation of a path in a label file."""

    path: str
    remark: str | None = None
    absent: str | None = None
    is_elsewhere: bool = False


class Inputs:
    """The inputs that labels may name: by their paths relative to `root`, in reading order.

    If the run `is_whole`, a path not among them is not an input; otherwise it may belong to another run. Only looks for
    names below `root` on disk.
    """

    def __init__(self, root: Path, paths: Iterable[str], *, is_whole: bool) -> None:
        self._root, self._is_whole = root, is_whole
        self._forms = {path: normalized(path) for path in paths}
        self._by_form = _grouped((form, path) for path, form in self._forms.items())
        self._answers: dict[str, _Meant] = {}

    @property
    def names(self) -> set[str]:
        """The names of their files and folders that are not plain ASCII."""
        return {part for path in self._forms if not path.isascii() for part in path.split("/") if not part.isascii()}

    def placed(self, label: Label) -> Label:
        """The label with the path of its input, or with the reason for none in `absent`."""
        if label.path not in self._answers:
            self._answers[label.path] = self._find(label.path)
        meant = self._answers[label.path]
        if meant == _Meant(path=label.path):
            return label
        label = dataclasses.replace(label, path=meant.path, absent=meant.absent, is_elsewhere=meant.is_elsewhere)
        return label.remarked(meant.remark) if meant.remark else label

    def _find(self, written: str) -> _Meant:
        if written in self._forms:  # also a name that is not UTF-8, as manifests write it
            return _Meant(path=written)
        plain = plain_path(written)
        if len(same := self._by_form.get(plain, [])) == 1:
            return _Meant(path=same[0])
        meant = self._without_doubt(plain)
        if len(meant) == 1:
            ((path, why),) = meant.items()
            return _Meant(path=path, remark=f"{written!r} is taken as {path!r}: {why}")
        if not self._is_whole:
            return self._of_another_run(written, plain)
        return _Meant(path=plain, absent=self._why_absent(plain))

    def _of_another_run(self, written: str, plain: str) -> _Meant:
        """The interpretation of a path among all existing ones, of which this run has a part."""
        possible = [path for path, _ in self._without_root(plain)]
        there = dict.fromkeys(found for path in (plain, *possible) for found in self._on_disk_like(path))
        meant = Inputs(self._root, there, is_whole=True)._find(written)
        if there:
            return dataclasses.replace(meant, absent=None, is_elsewhere=True)
        folder = plain.rpartition("/")[0]
        suffixes = {posixpath.splitext(path)[1] for path in self._forms}
        beside = [posixpath.join(folder, name) for name in self._names_of(self._on_disk(folder or ".") or self._root)]
        beside = [path for path in beside if posixpath.splitext(path)[1] in suffixes]
        return Inputs(self._root, dict.fromkeys([*self._forms, *beside]), is_whole=True)._find(written)

    def _without_doubt(self, plain: str) -> dict[str, str]:
        """The inputs that a path may refer to, with reasons. A single one leaves no doubt."""
        found: dict[str, str] = {}
        if self._on_disk(plain) is not None:  # a link, or a case-insensitive disk
            same = self._by_identity.get(_identity(self._root / plain))
            return {same: "it is the same file or folder"} if same else {}
        for path, why in (*self._without_root(plain), (plain, "")):
            for exact in self._by_form.get(path, ()):
                found.setdefault(exact, why)
            for longer in self._by_stem.get(path, ()):
                found.setdefault(longer, f"{why}; its suffix is left out".removeprefix("; "))
        return found or dict.fromkeys(self._by_decoded.get(plain, ()), "its name on disk is not UTF-8")

    def _without_root(self, plain: str) -> Iterator[tuple[str, str]]:
        """The rest of a path after the ingested folder, and the reason to omit the folder."""
        for root in dict.fromkeys((self._root, Path(os.path.realpath(self._root)))):
            prefix = normalized(root.as_posix()).rstrip("/") + "/"
            if plain.startswith(prefix):
                yield plain.removeprefix(prefix), "it is absolute"
                return
        parts, name = plain.split("/"), normalized(self._root.name)
        for place, part in enumerate(parts, start=1):
            if part == name:
                before = "/".join(parts[:place])
                yield "/".join(parts[place:]) or ".", f"it begins with the ingested folder, {before}/"

    def _why_absent(self, plain: str) -> str:
        try:
            (self._root / plain).stat()
        except PermissionError as exc:
            return f"it cannot be read ({exc.strerror})"
        except (OSError, ValueError):
            pass  # there is no such file, or the name is invalid
        if (found := self._on_disk(plain)) is not None:
            return f"it exists, but {self._why_no_input(plain, found)}"
        nearest = self._nearest(plain)
        return f"there is no such file or folder; {nearest}" if nearest else "there is no such file or folder"

    def _why_no_input(self, plain: str, found: Path) -> str:
        if any(part.startswith(".") and part != "." for part in plain.split("/")):
            return "hidden files and folders are not read"
        if (folder := plain.rpartition("/")[0]) in self._by_form:
            return f"it is in the input {folder!r}: name that"
        prefix = "" if plain == "." else f"{plain}/"
        if inside := [path for path, form in self._forms.items() if form.startswith(prefix)]:
            told = f"{len(inside)} inputs" if len(inside) > 1 else "one input"
            return f"it is a folder that holds {told}: name each, as {inside[0]!r}"
        if not found.is_dir():
            suffix = posixpath.splitext(plain)[1]
            return f"its suffix {suffix!r} is not read" if suffix else "a file without a suffix is not read"
        names = [escaped(name) for name in _names_in(found)]
        suffixes = Counter(posixpath.splitext(name)[1].lower() or "without a suffix" for name in names)
        told = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
        return f"no suffix of its files is read: {told}" if told else "it is empty"

    def _nearest(self, plain: str) -> str | None:
        """The input most similar to a path, and how it differs."""
        parts, folded = plain.split("/"), plain.casefold()
        tails = ["/".join(parts[place:]).casefold() for place in range(1, len(parts))]
        for paths, what in (
            (self._by_folded.get(folded), "case"),
            (self._by_stem.get(_stem(plain)), "its suffix"),
            (self._by_folded_stem.get(_stem(folded)), "case and suffix"),
            (next((self._by_folded[tail] for tail in tails if tail in self._by_folded), None), "what stands before it"),
            (self._by_folded_stem.get(_stem(tails[-1]) if tails else folded), "what stands before it"),
            (self._by_name.get(parts[-1].casefold()), "its folder"),
        ):
            if paths:
                more = "" if len(paths) == 1 else f" (or {paths[1]!r}{', ...' if len(paths) > 2 else ''})"
                return f"the nearest is {paths[0]!r}{more}, which differs in {what}"
        if like := self._like(plain):
            return f"the nearest is {like!r}, which differs in spelling"
        return None

    def _like(self, plain: str) -> str | None:
        parts = plain.casefold().split("/")
        # Usually one of several names is misspelled.
        near = [path for place in range(len(parts)) for path in self._by_gap.get(_gap(parts, place), ())]
        for paths in (near[:_NEAR], list(self._forms)[:_FAR]):
            folded = {self._forms[path].casefold(): path for path in paths}
            if found := difflib.get_close_matches(plain.casefold(), folded, n=1, cutoff=_LIKE):
                return folded[found[0]]
        return None

    def _on_disk(self, plain: str) -> Path | None:
        """The location of a path, by the compared form of names; None if it does not exist or leaves the root."""
        if posixpath.isabs(plain) or plain.split("/")[0] == ".." or "\0" in plain:
            return None
        found = self._root
        for part in plain.split("/"):
            name = part if os.path.lexists(found / part) else self._names_of(found).get(part)
            if name is None:
                return None
            found /= name
        return found

    def _on_disk_like(self, plain: str) -> list[str]:
        """A path as written on disk, else existing ones with an additional suffix."""
        if (found := self._on_disk(plain)) is not None:
            return [escaped(found.relative_to(self._root).as_posix())]
        folder, _, name = plain.rpartition("/")
        if (home := self._on_disk(folder or ".")) is None:
            return []
        names = [actual for other, actual in self._names_of(home).items() if _stem(other) == name]
        return [escaped((home / actual).relative_to(self._root).as_posix()) for actual in names]

    def _names_of(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            self._listed[folder] = {normalized(name): name for name in _names_in(folder)}
        return self._listed[folder]

    @functools.cached_property
    def _listed(self) -> dict[Path, dict[str, str]]:
        return {}

    @functools.cached_property
    def _by_identity(self) -> dict[tuple[int, int] | None, str]:
        found = {_identity(self._root / path): path for path in reversed(self._forms)}
        found.pop(None, None)
        return found

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped((_stem(form), path) for path, form in self._forms.items() if _stem(form) != form)

    @functools.cached_property
    def _by_folded(self) -> dict[str, list[str]]:
        return _grouped((form.casefold(), path) for path, form in self._forms.items())

    @functools.cached_property
    def _by_folded_stem(self) -> dict[str, list[str]]:
        return _grouped((_stem(form).casefold(), path) for path, form in self._forms.items())

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped((form.rpartition("/")[2].casefold(), path) for path, form in self._forms.items())

    @functools.cached_property
    def _by_gap(self) -> dict[tuple[str, ...], list[str]]:
        """Paths by all their names except one."""
        parts = [(form.casefold().split("/"), path) for path, form in self._forms.items()]
        return _grouped((_gap(names, place), path) for names, path in parts for place in range(len(names)))

    @functools.cached_property
    def _by_decoded(self) -> dict[str, list[str]]:
        """Paths with undecodable bytes, which manifests escape, by their possible meanings."""
        return _grouped((form, path) for path in self._forms for form in _decodings(path))


def _grouped(pairs: Iterable[tuple[_Key, str]]) -> dict[_Key, list[str]]:
    groups: dict[_Key, list[str]] = defaultdict(list)
    for key, path in pairs:
        groups[key].append(path)
    return dict(groups)


def _stem(path: str) -> str:
    return _SUFFIX.sub("", path)


def _gap(parts: list[str], place: int) -> tuple[str, ...]:
    return (*parts[:place], "", *parts[place + 1 :])


def _decodings(path: str) -> set[str]:
    if not _ESCAPED.search(path):
        return set()
    raw = _ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), path).encode("utf-8", "surrogateescape")
    found = set()
    for encoding in _NAMES_ON_DISK:
        with contextlib.suppress(UnicodeDecodeError):
            found.add(normalized(raw.decode(encoding)))
    return found


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _names_in(folder: Path) -> list[str]:
    """The names in a folder without hidden files; the first ones if there are very many."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, _COUNTED) if not entry.name.startswith(".")]
    except OSError:
        return []
