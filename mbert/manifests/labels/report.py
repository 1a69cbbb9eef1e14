"""What a corpus has of each dataset, class and protocol, compared with what is annotated and published.

Scores on samples other than the published ones are not comparable with published scores: this shows it first.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mbert import ManifestError
from mbert.manifests.files import read_json
from mbert.manifests.labels.action_units import parse_action_units
from mbert.manifests.labels.classes import CLASS_MAPS, ClassMap
from mbert.manifests.labels.differences import LabelDifference, find_differences, is_usable
from mbert.manifests.labels.folds import PROTOCOLS, EvalProtocol, check_samples
from mbert.manifests.labels.people import person
from mbert.manifests.labels.published import Standing, expected, expected_of_dataset
from mbert.manifests.labels.table import LABEL_COLUMNS, LABELS_NAME
from mbert.manifests.schema import LabelRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace

_ANNOTATED = "annotated"  # the class map for datasets that no other covers


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Micro-expressions, or the people who show one."""

    usable: int  # see `is_usable`
    annotated: int
    published: tuple[int, ...] = ()  # one figure for each release in use; empty: unknown


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    """All labels of one dataset."""

    dataset: str
    samples: Counts
    subjects: Counts
    num_macro: int  # annotated macro-expressions, which are reported but not used
    num_in_clips: int  # annotated micro-expressions contained in a clip
    num_apexes_missing: int  # usable ones without an annotated apex: `mbert shard --apex` sets the replacement
    emotions: Mapping[str, int]  # annotated micro-expressions by emotion, as annotated, the most frequent first
    errata: Mapping[str, int]  # labels that each correction was applied to
    num_unlabelled: int  # inputs without a label
    standing: Standing | None  # of the published figures
    remark: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClassReport:
    """One dataset under one class map."""

    dataset: str
    class_map: str
    samples: Counts  # of all classes
    subjects: Counts  # that have a sample under this map
    classes: Mapping[str, Counts]  # in the map's order
    num_left_out: int  # usable expressions that have no class under this map
    standing: Standing | None
    remark: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolReport:
    """A protocol of several datasets."""

    protocol: str
    class_map: str | None  # None: its samples are those with action units
    samples: Counts  # of all datasets; nothing is published for a part of them
    subjects: Counts
    datasets: Mapping[str, Counts]  # those present
    missing: tuple[str, ...]  # datasets that it needs and that are missing


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """The existing labels, the published counts, and every difference."""

    corpus: str
    annotations: tuple[str, ...]  # the files that the labels were read from
    datasets: tuple[DatasetReport, ...]
    classes: tuple[ClassReport, ...]
    protocols: tuple[ProtocolReport, ...]
    differences: tuple[LabelDifference, ...]
    count_differences: tuple[str, ...]  # if the numbers of usable and published ones differ
    errors: tuple[str, ...]  # why a dataset's samples do not allow folds

    @property
    def num_usable(self) -> int:
        """Micro-expressions of all datasets that can be samples."""
        return sum(report.samples.usable for report in self.datasets)


def report_labels(workspace: Workspace) -> LabelReport:
    """Count the labels of a corpus. Raises ManifestError if there is no corpus, or no label in it."""
    if not workspace.videos.exists() or not workspace.labels.exists():
        raise ManifestError(
            f"there is no corpus in {workspace.corpus}: run `mbert ingest FOLDER` first, or name another --workspace"
        )
    config = read_json(workspace.corpus_config) if workspace.corpus_config.exists() else {}
    labels, videos = read_rows(workspace.labels, LabelRow), read_rows(workspace.videos, VideoRow)
    if not labels:
        raise ManifestError(
            f"no input in {workspace.corpus} has a label: write {LABELS_NAME} into "
            f"{config.get('root', 'the ingested folder')}, one line per expression, with the columns "
            f"{', '.join(LABEL_COLUMNS)} (`mbert labels --template` begins it), or name the layout of a dataset with "
            "`mbert ingest --dataset`; then run `mbert ingest` again"
        )
    names = sorted({label.dataset for label in labels})
    of_dataset = {name: [label for label in labels if label.dataset == name] for name in names}
    micro = {name: [label for label in of_dataset[name] if label.expression == "micro"] for name in names}
    datasets = tuple(_report_dataset(name, of_dataset[name], micro[name], videos) for name in names)
    classes = tuple(_report_classes(name, item, micro[name]) for name in names for item in _class_maps_of(name))
    rules = [item for item in PROTOCOLS.values() if item.needs_all_datasets and set(item.datasets) & set(names)]
    return LabelReport(
        corpus=str(workspace.corpus),
        annotations=tuple(
            dict.fromkeys(file for told in config.get("datasets", {}).values() for file in told["annotations"])
        ),
        datasets=datasets,
        classes=classes,
        protocols=tuple(_report_protocol(item, micro) for item in rules),
        differences=tuple(find_differences(labels, {video.video_id: video for video in videos})),
        count_differences=tuple(_count_differences(datasets, classes)),
        errors=tuple(_sample_errors(micro.values())),
    )


def _class_maps_of(dataset: str) -> list[ClassMap]:
    return [item for item in CLASS_MAPS.values() if dataset in item.datasets] or [CLASS_MAPS[_ANNOTATED]]


def _report_dataset(
    name: str, labels: Sequence[LabelRow], micro: Sequence[LabelRow], videos: Sequence[VideoRow]
) -> DatasetReport:
    published = expected_of_dataset(name)
    labelled = {label.video_id for label in labels}
    return DatasetReport(
        dataset=name,
        samples=_count_samples(micro, published.num_samples if published else ()),
        subjects=_count_subjects(micro, (published.num_subjects,) if published else ()),
        num_macro=len(labels) - len(micro),
        num_in_clips=sum(label.clip_id is not None for label in micro),
        num_apexes_missing=sum(is_usable(label) and label.apex is None for label in micro),
        emotions=dict(Counter(label.emotion for label in micro if label.emotion is not None).most_common()),
        errata=dict(Counter(erratum for label in labels for erratum in (label.errata or "").split())),
        num_unlabelled=sum(video.dataset == name and video.video_id not in labelled for video in videos),
        standing=published.standing if published else None,
        remark=published.remark if published else "",
    )


def _report_classes(dataset: str, chosen: ClassMap, micro: Sequence[LabelRow]) -> ClassReport:
    published = expected(chosen.name, dataset)
    class_of = [chosen.class_of(label) for label in micro]
    taken = [label for label, name in zip(micro, class_of, strict=True) if name is not None]
    num_subjects = published.num_subjects if published else None
    return ClassReport(
        dataset=dataset,
        class_map=chosen.name,
        samples=_count_samples(taken, (published.num_samples,) if published else ()),
        subjects=_count_subjects(taken, () if num_subjects is None else (num_subjects,)),
        classes={
            name: _count_samples(
                [label for label, found in zip(micro, class_of, strict=True) if found == name],
                (published.samples[name],) if published else (),
            )
            for name in chosen.classes or sorted({name for name in class_of if name is not None})
        },
        num_left_out=sum(is_usable(label) and name is None for label, name in zip(micro, class_of, strict=True)),
        standing=published.standing if published else None,
        remark=published.remark if published else "",
    )


def _report_protocol(rules: EvalProtocol, micro: Mapping[str, Sequence[LabelRow]]) -> ProtocolReport:
    chosen = CLASS_MAPS[rules.class_map] if rules.class_map else None
    taken = {
        name: [label for label in micro[name] if (chosen.class_of(label) if chosen else _has_units(label))]
        for name in rules.datasets
        if name in micro
    }
    missing = tuple(name for name in rules.datasets if name not in micro)
    published = {name: _published(chosen, name) for name in rules.datasets}
    everything = [label for group in taken.values() for label in group]
    return ProtocolReport(
        protocol=rules.name,
        class_map=rules.class_map,
        samples=_count_samples(everything, () if missing else _sum(samples for samples, _ in published.values())),
        subjects=_count_subjects(everything, () if missing else _sum(subjects for _, subjects in published.values())),
        datasets={name: _count_samples(group, _sum([published[name][0]])) for name, group in taken.items()},
        missing=missing,
    )


def _published(chosen: ClassMap | None, dataset: str) -> tuple[int | None, int | None]:
    """Samples and subjects of a dataset under a class map; None: unknown."""
    counts = expected(chosen.name, dataset) if chosen else None
    return (counts.num_samples, counts.num_subjects) if counts else (None, None)


def _sum(figures: Iterable[int | None]) -> tuple[int, ...]:
    """The published figure of several datasets; empty if one of theirs is unknown."""
    known = list(figures)
    return () if None in known else (sum(figure for figure in known if figure is not None),)


def _count_samples(labels: Sequence[LabelRow], published: tuple[int, ...]) -> Counts:
    return Counts(usable=sum(map(is_usable, labels)), annotated=len(labels), published=published)


def _count_subjects(labels: Sequence[LabelRow], published: tuple[int, ...]) -> Counts:
    people = [(person(label.subject), is_usable(label)) for label in labels if label.subject is not None]
    return Counts(
        usable=len({name for name, usable in people if usable}),
        annotated=len({name for name, _ in people}),
        published=published,
    )


def _has_units(label: LabelRow) -> bool:
    if label.action_units is None:
        return False
    try:
        parse_action_units(label.action_units)
    except ManifestError:  # reported as a difference
        return False
    return True


def _count_differences(datasets: Sequence[DatasetReport], classes: Sequence[ClassReport]) -> Iterator[str]:
    """One line for each published figure that the corpus does not reach, or exceeds."""
    for dataset in datasets:
        for what, counts in (("micro-expressions", dataset.samples), ("subjects", dataset.subjects)):
            yield from _told_difference(dataset.dataset, what, counts, dataset.standing)
    for item in classes:
        where = f"{item.dataset} / {item.class_map}"
        if item.samples.annotated == 0 and item.samples.published:
            field = CLASS_MAPS[item.class_map].field.replace("_", " ")
            yield f"{where}: no label has the {field} of a class, {item.samples.published[0]} are published"
            continue
        for what, counts in (*item.classes.items(), ("subjects", item.subjects)):
            yield from _told_difference(where, what, counts, item.standing)


def _told_difference(where: str, what: str, counts: Counts, standing: Standing | None) -> Iterator[str]:
    if counts.published and counts.usable not in counts.published:
        published = " or ".join(map(str, counts.published))
        yield f"{where}: {what} {counts.usable} of {published} published ({standing}), {counts.annotated} annotated"


def _sample_errors(groups: Iterable[Sequence[LabelRow]]) -> Iterator[str]:
    for labels in groups:
        try:
            check_samples([label for label in labels if is_usable(label)])
        except ManifestError as exc:
            yield str(exc)
