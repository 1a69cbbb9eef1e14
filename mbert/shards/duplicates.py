"""Inputs of a corpus that are the same recording: under two names, re-encoded, scaled, trimmed, cropped.

Two recordings of one person in one session look alike, but never move alike. So a clip is described by how its crops
change: each crop as some low frequencies of its luma, 20 times a second, minus their values a moment before. Constant
parts (the face, light, the codec's loss) cancel out, and so does a constant difference in alignment. The signs of these
changes over a second are the key of a bucket; two clips that share buckets at one time offset are compared by
correlation. So time grows with the number of crops and of chance hits, not with the number of pairs of crops.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from mbert import ManifestError, ShardError
from mbert.manifests.files import replacing
from mbert.manifests.labels.people import person
from mbert.manifests.schema import ClipRow, FrameRow, VideoRow
from mbert.manifests.store import read_extra, read_rows, read_table
from mbert.manifests.subject import Subject
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.shards.engine import IN_PROCESS, Engine, run_tasks
from mbert.shards.writer import TAR_HASH_ENTRY

_VERSION = 1  # of the content of signatures
_RATE = 20  # steps per second
_LAG = 4  # steps between the two values of a change
_SIDE = 28  # pixels; a JPEG of 224 px is decoded to an eighth at a fraction of the time
_ORDER = 5  # highest frequency in both directions together
_APART = 4  # steps between the changes whose signs make a key
_BANDS = 4
_BITS_PER_STEP = 4  # of a band
_NEIGHBOURS = 64  # in a bucket that a step is compared with: bounds the work if everything moves alike
_FEWEST_HITS = 2
_LEAST_MOTION = 0.5  # of a change at its median; below it, signs are noise
_OFFSETS_TRIED = 4  # tried for two clips
_CLIPS_TRIED = 24  # tried for one clip, with their offsets
_REACH = 2  # steps around an offset that are also tried
_SHORTEST = 20  # steps that must be compared
# Other recordings of one person in one session gave up to 0.62 over a second, 0.56 over two, 0.47 over three.
_SIMILAR = 0.45
_WHEN_SHORT = 6.0  # steps
_ALIKE = 0.5  # of the faces themselves

Motion = npt.NDArray[np.float32]
_FREQUENCIES = [(v, u) for order in range(1, _ORDER + 1) for v in range(order + 1) for u in (order - v,)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate:
    """Two inputs that hold the same recording, judging by their faces."""

    video_id: str
    other: str
    path: str
    other_path: str
    subjects: tuple[str, ...]  # named in the first
    other_subjects: tuple[str, ...]
    offset_seconds: float  # time t in the first is t + offset in the other
    similarity: float  # correlation of their changes, up to 1
    seconds: float  # that were compared

    @property
    def is_of_one_person(self) -> bool:
        """Whether both inputs name the same people: then a split by subject keeps them together."""
        people, others = ({person(Subject.parse(name)) for name in names} for names in self._named)
        return bool(people) and people == others

    @property
    def _named(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.subjects, self.other_subjects

    def __str__(self) -> str:
        who, whom = (" and ".join(names) or "nobody named" for names in self._named)
        return (
            f"{self.path} ({who}) and {self.other_path} ({whom}): {self.similarity:.2f} alike over "
            f"{self.seconds:.1f} s, the second {abs(self.offset_seconds):.2f} s "
            f"{'later' if self.offset_seconds >= 0 else 'earlier'}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Match:
    """Two inputs by their ids, with the rest as in `Duplicate`."""

    video_id: str
    other: str
    offset_seconds: float
    similarity: float
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Clip:
    """The signature of one clip."""

    video_id: str
    start: int  # in steps of the input's time
    face: Motion  # (F,): mean over time
    motion: Motion  # (N, F): change from step to step + _LAG


@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    workspace: Path
    video_id: str
    shard: str


def find_duplicates(
    workspace: Workspace,
    *,
    against: Workspace | None = None,
    engine: Engine = IN_PROCESS,
    on_plan: Callable[[int], None] = lambda num_tars: None,
    on_tar: Callable[[int], None] = lambda num_crops: None,
) -> list[Duplicate]:
    """Compare all inputs of a corpus with each other, or with those of another corpus.

    Signatures are stored with the corpus, so that a second search decodes nothing. Raises ManifestError without a
    corpus, ShardError for a damaged tar.
    """
    spaces = [workspace, *([against] if against is not None else [])]
    tasks = [task for space in spaces for task in _tasks(space)]
    on_plan(len(tasks))
    for num_crops in run_tasks(_make_signature, tasks, engine):
        on_tar(num_crops)
    ours = [clip for task in _tasks(workspace) for clip in _read_signature(task)]
    if against is None:
        return _named(_matches(ours), workspace, workspace)
    theirs = [clip for task in _tasks(against) for clip in _read_signature(task)]
    return _named(_matches([*ours, *theirs], len(ours)), workspace, against)


def _named(matches: Sequence[_Match], workspace: Workspace, against: Workspace) -> list[Duplicate]:
    """The matches with paths and people."""
    (paths, people), (other_paths, others) = _names(workspace), _names(against)
    return [
        Duplicate(
            **dataclasses.asdict(match),
            path=paths[match.video_id],
            other_path=other_paths[match.other],
            subjects=people.get(match.video_id, ()),
            other_subjects=others.get(match.other, ()),
        )
        for match in matches
    ]


def _names(workspace: Workspace) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    people: dict[str, set[str]] = collections.defaultdict(set)
    for clip in read_rows(workspace.clips, ClipRow):
        if clip.subject:
            people[clip.video_id].add(clip.subject)
    paths = {row.video_id: row.path for row in read_rows(workspace.videos, VideoRow)}
    return paths, {key: tuple(sorted(names)) for key, names in people.items()}


def num_unread_crops(workspace: Workspace) -> int:
    """How many crops a search would decode: those without a signature."""
    rows = read_rows(workspace.videos, VideoRow)
    undone = {task.shard for task in _tasks(workspace) if not _is_signed(task)}
    return sum(row.num_crops for row in rows if row.shard in undone)


def _tasks(workspace: Workspace) -> Iterator[_Task]:
    if not workspace.videos.exists():
        raise ManifestError(f"there is no corpus in {workspace.corpus}: run `mbert ingest FOLDER` first")
    for row in read_rows(workspace.videos, VideoRow):
        if row.status == "ok" and row.shard:
            yield _Task(workspace.root, row.video_id, row.shard)


def _path(task: _Task) -> Path:
    return Workspace(task.workspace).signatures / f"{task.shard}.npz"


def _state(task: _Task) -> str:
    """The state that a signature must have been made from."""
    _, twin = twin_paths(Workspace(task.workspace).frames, task.shard)
    return f"{_VERSION} {read_extra(twin, FrameRow, TAR_HASH_ENTRY)}"


def _is_signed(task: _Task) -> bool:
    try:
        with np.load(_path(task), allow_pickle=False) as found:
            return bool(str(found["state"]) == _state(task))
    except (OSError, ValueError, KeyError):
        return False


def _make_signature(task: _Task) -> int:
    """Write the signature of an input, unless it exists. Returns the number of crops decoded."""
    if _is_signed(task):
        return 0
    tar, twin = twin_paths(Workspace(task.workspace).frames, task.shard)
    table = read_table(twin, FrameRow, columns=["clip_id", "pts_seconds", "offset", "size"])
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    values: dict[str, list[Motion]] = collections.defaultdict(list)
    try:
        with tar.open("rb") as file:
            for row in table.to_pylist():
                file.seek(row["offset"])
                seconds[row["clip_id"]].append(row["pts_seconds"])
                values[row["clip_id"]].append(_described(file.read(row["size"])))
    except (OSError, ValueError) as exc:
        raise ShardError(f"{tar} cannot be read: {exc}; run `mbert verify`") from exc
    arrays: dict[str, npt.NDArray[np.generic]] = {"state": np.array(_state(task))}
    for number, clip in enumerate(seconds):
        start, steps = _on_grid(np.array(seconds[clip]), np.stack(values[clip]))
        arrays[f"start_{number}"], arrays[f"values_{number}"] = np.array(start), steps.astype(np.float16)
    with replacing(_path(task)) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return len(table)


def _described(jpeg: bytes) -> Motion:
    """(F,): low frequencies of a crop's luma; independent of brightness and contrast."""
    gray = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY", min_height=_SIDE, min_width=_SIDE, fastdct=True)[:, :, 0]
    small = cv2.resize(gray.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    small = (small - small.mean()) / (small.std() + 1e-3)
    frequencies = cv2.dct(small) / _SIDE
    return np.array([frequencies[place] for place in _FREQUENCIES], np.float32)


def _on_grid(seconds: npt.NDArray[np.float64], values: Motion) -> tuple[int, Motion]:
    """Values at multiples of a step, (N, F), and the number of the first multiple."""
    start, stop = int(np.ceil(seconds[0] * _RATE - 1e-6)), int(np.floor(seconds[-1] * _RATE + 1e-6))
    at = np.arange(start, stop + 1) / _RATE
    return start, np.stack([np.interp(at, seconds, column) for column in values.T], axis=1)


def _read_signature(task: _Task) -> Iterator[_Clip]:
    with np.load(_path(task), allow_pickle=False) as found:
        for number in range(len(found.files) // 2):
            values = found[f"values_{number}"].astype(np.float32)
            if len(values) >= _LAG + _SHORTEST:
                motion = values[_LAG:] - values[:-_LAG]
                yield _Clip(task.video_id, int(found[f"start_{number}"]), values.mean(axis=0), motion)


def _matches(clips: Sequence[_Clip], num_ours: int | None = None) -> list[_Match]:
    """The best match for every two inputs; with `num_ours`, between that many first clips and the others."""
    if not clips:
        return []
    clips = [_comparable(clip) for clip in clips]
    best: dict[tuple[str, str], _Match] = {}
    for first, second, lag in _candidates(clips, num_ours):
        one, other = clips[first], clips[second]
        if _cosine(one.face, other.face) < _ALIKE:
            continue
        similarity, lag, length = _compare(one.motion, other.motion, lag)
        if similarity < _SIMILAR + _WHEN_SHORT / max(length, 1):
            continue
        offset = (other.start - one.start - lag) / _RATE
        found = _Match(
            video_id=one.video_id,
            other=other.video_id,
            offset_seconds=round(offset, 3),
            similarity=round(similarity, 3),
            seconds=length / _RATE,
        )
        known = best.get((one.video_id, other.video_id))
        if known is None or found.similarity * found.seconds > known.similarity * known.seconds:
            best[one.video_id, other.video_id] = found
    return sorted(best.values(), key=lambda each: (each.video_id, each.other))


def _comparable(clip: _Clip) -> _Clip:
    """The clip with changes scaled to similar length at each step: else a head turn would dominate."""
    lengths = np.linalg.norm(clip.motion, axis=1)[:, None]
    return dataclasses.replace(clip, motion=clip.motion / (lengths + np.median(lengths) / 2 + 1e-12))


def _candidates(clips: Sequence[_Clip], num_ours: int | None) -> Iterator[tuple[int, int, int]]:
    """Two clips, and how many steps after the start of the first the second one starts, most likely first."""
    ids = {name: number for number, name in enumerate(dict.fromkeys(clip.video_id for clip in clips))}
    num_steps = sum(len(clip.motion) for clip in clips)
    # Just long enough that few steps share a bucket by chance: each additional sign may be wrong.
    length = min(max(int(np.ceil((np.log2(num_steps) - 2) / _BITS_PER_STEP)), 3), 6)
    parts = [_keys(clip.motion, range(0, length * _APART, _APART)) for clip in clips]
    keys = np.concatenate([keys for _, keys in parts])  # (N, _BANDS)
    places = np.concatenate([steps for steps, _ in parts])
    owners = np.repeat(np.arange(len(clips)), [len(steps) for steps, _ in parts])
    videos = np.array([ids[clip.video_id] for clip in clips])
    found = np.concatenate([_hits(keys[:, band], owners, places) for band in range(_BANDS)])  # (M, 3)
    apart = videos[found[:, 0]] != videos[found[:, 1]]
    if num_ours is not None:
        apart = (found[:, 0] < num_ours) & (found[:, 1] >= num_ours)
    # As one number each, which sorts ten times faster than rows.
    first, second, lag = found[apart].T
    reach = max(len(clip.motion) for clip in clips)
    unique, counts = np.unique((first * len(clips) + second) * (2 * reach) + lag + reach, return_counts=True)
    tried = collections.defaultdict[tuple[int, int], list[int]](list)
    of_clip = collections.Counter[int]()
    for place in np.argsort(-counts, kind="stable"):
        if counts[place] < _FEWEST_HITS:
            break
        pair, late = divmod(int(unique[place]), 2 * reach)
        one, other = divmod(pair, len(clips))
        is_new = all(abs(late - reach - before) > _REACH for before in tried[one, other])
        # Chance hits grow with the number of clips; true matches are among those with the most hits.
        if is_new and len(tried[one, other]) < _OFFSETS_TRIED and min(of_clip[one], of_clip[other]) < _CLIPS_TRIED:
            tried[one, other].append(late - reach)
            of_clip.update((one, other))
            yield one, other, late - reach


def _keys(motion: Motion, window: range) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The steps at which a face moves, (N,), and their keys, (N, _BANDS): signs of the slowest changes in a window."""
    num_steps = len(motion) - window[-1]
    if num_steps <= 0:
        return np.zeros(0, np.int64), np.zeros((0, _BANDS), np.int64)
    windows = np.stack([motion[step : step + num_steps, : _BANDS * _BITS_PER_STEP] for step in window], axis=1)
    signs = (windows > 0).reshape(num_steps, len(window), _BITS_PER_STEP, _BANDS).astype(np.int64)
    weights = 1 << np.arange(len(window) * _BITS_PER_STEP).reshape(len(window), _BITS_PER_STEP)
    keys = np.einsum("nwbk,wb->nk", signs, weights)
    lengths = np.stack([np.linalg.norm(motion[step : step + num_steps], axis=1) for step in window])
    moving = np.flatnonzero(lengths.mean(axis=0) > _LEAST_MOTION)
    return moving, keys[moving]


def _hits(
    keys: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """(M, 3): two clips that share a key, in list order, and their distance in steps."""
    order = np.argsort(keys, kind="stable")
    keys, owners, places = keys[order], owners[order], places[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    sizes = np.diff(np.concatenate([starts, [len(keys)]]))
    found = [np.zeros((0, 3), np.int64)]
    for distance in range(1, min(int(sizes.max(initial=1)), _NEIGHBOURS + 1)):
        left = np.flatnonzero(keys[:-distance] == keys[distance:])
        right = left + distance
        left, right = left[owners[left] != owners[right]], right[owners[left] != owners[right]]
        found.append(np.stack([owners[left], owners[right], places[left] - places[right]], axis=1))
    return np.concatenate(found)


def _compare(one: Motion, other: Motion, lag: int) -> tuple[float, int, int]:
    """The highest correlation of two clips near a lag: its value, the lag, and how many steps were compared."""
    best = (-1.0, lag, 0)
    for shift in range(lag - _REACH, lag + _REACH + 1):
        start, stop = max(0, shift), min(len(one), len(other) + shift)
        if stop - start >= _SHORTEST:
            similarity = _cosine(one[start:stop].ravel(), other[start - shift : stop - shift].ravel())
            best = max(best, (similarity, shift, stop - start))
    return best


def _cosine(one: Motion, other: Motion) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) + 1e-12))
