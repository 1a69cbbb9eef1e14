"""Synthetic corpora of the benchmarks: people to pretrain on without labels, others to choose on, others to judge on.

With photos, a photo is a person and the split `mbert-synth-v1` says who is who. The bundled photo is one person: there
the others are the same face, varied by another seed, and `told_people` says so.
"""

import csv
import dataclasses
import time

from mbert.manifests.labels.table import LABEL_COLUMNS
from mbert.manifests.schema import TruthRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthetic.synthesize import PRESETS, TRUTH_NAME, synthesize
from mbert.pipeline.synthetic.truth import true_pairs
from mbert.shards.engine import Engine

_PSEUDO_SUBJECTS = 8  # of the bundled photo
_SEED_OF_PRETRAINING = 1
# What is raised from `standard` to `hard`, alone.
NUISANCES = {
    "noise": ("noise",),
    "crf": ("crf",),
    "light": ("light",),
    "tone": ("tone",),
    "flicker": ("flicker",),
    "head": ("head_px", "head_degrees"),
    "blinks": ("blinks",),
    "gaze": ("gaze_px",),
    "mouth": ("mouth_px",),
    "scene": ("scene_px",),
}


def told_people(photos):
    """One line for a reader: who is pretrained on and who is judged."""
    if photos is None:
        return (
            "one bundled photo: pretraining and evaluation show pseudo-subjects of the SAME person, as do both sides "
            "of each fold; these figures say that everything runs; for any other claim give --photos"
        )
    return "a photo is a person: those of the part pretrain are in no fold, those of train and test were never seen"


def make_videos(folder, options, photos, workers):
    """The clips of one part of the photos, or what is missing of them; returns the folder."""
    if photos is None:
        options = dataclasses.replace(options, part="all", subjects_per_photo=_PSEUDO_SUBJECTS)
        if folder.name == "pretrain":
            options = dataclasses.replace(options, seed=_SEED_OF_PRETRAINING)
    synthesize(folder, options, photos=photos, engine=Engine(workers=workers))
    return folder


def ingest_videos(videos, workspace, options, workers, *, with_labels=True):
    """Ingest a folder of `make_videos` as the dataset of its name: equal subject ids of two folders stay two people.

    Without labels, the corpus knows who is seen and nothing else: no pair of onset and apex is made of it.
    """
    sheet = None if with_labels else _write_people(videos)
    choice = CorpusChoice(name=videos.name, labels_path=sheet)
    run_ingest(videos, workspace, options, engine=Engine(workers=workers), choice=choice)


def judged_people(folder, options, photos, workers):
    """A workspace of labelled clips, with pairs, of the people whom models are judged on, made or taken as it is."""
    people = Workspace(folder / "people")
    for part in ("train", "test") if photos else ("people",):
        of_part = dataclasses.replace(options, part=part) if photos else options
        videos = make_videos(folder / "videos" / part, of_part, photos, workers)
        ingest_videos(videos, people, IngestOptions(), workers)
    run_shard(people, PairOptions(), engine=Engine(workers=workers))
    return people


def _write_people(videos):
    path = videos.with_name(f"{videos.name}-people.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LABEL_COLUMNS)
        writer.writeheader()
        for row in read_rows(videos / TRUTH_NAME, TruthRow):
            writer.writerow({"path": row.path, "subject": row.subject})
    return path


class TrueCorpora:
    """Corpora of `localisation.py` in a folder, whose motion is known; one that is there is taken as it is."""

    def __init__(self, folder, photos, quick, workers):
        self._folder, self._photos, self._engine = folder, photos, Engine(workers=workers)
        self._quick = quick

    def pretraining(self, level):
        """Videos and workspace, with pair shards, of the people that models are pretrained on."""
        videos, workspace = self._make(
            f"pretrain-{level}",
            PRESETS[level],
            part="pretrain" if self._photos else "all",
            subjects_per_photo=1 if self._photos else 8,
            clips_per_emotion=1,
            neutral_clips=1,
        )
        run_shard(workspace, PairOptions(), engine=self._engine)
        return videos, workspace

    def judged(self, part, level, amplitude, nuisance=None):
        """Pairs of the people of `part`: `test`, whom scores are of, or `train`, whom settings are chosen on.

        `nuisance` is raised to that of `hard`.
        """
        preset, clips = PRESETS[level], 2 if part == "test" and not self._quick else 1
        if nuisance is not None:
            raised = {name: getattr(PRESETS["hard"].nuisance, name) for name in NUISANCES[nuisance]}
            preset = dataclasses.replace(preset, nuisance=dataclasses.replace(preset.nuisance, **raised))
        videos, workspace = self._make(
            f"{part}-{level}-{amplitude:g}px{f'-{nuisance}' if nuisance else ''}",
            preset,
            part=part if self._photos else "all",
            seed=0 if self._photos else {"test": 1, "train": 2}[part],  # of the bundled photo, other variations
            subjects_per_photo=1 if self._photos else 8,
            clips_per_emotion=clips,
            neutral_clips=clips,
            min_amplitude_px=amplitude,
            max_amplitude_px=amplitude,
        )
        return list(true_pairs(videos, workspace))

    def _make(self, name, preset, **changes):
        videos, workspace = self._folder / name / "videos", Workspace(self._folder / name / "workspace")
        began, options = time.monotonic(), dataclasses.replace(preset, emotions="five", fps=30, **changes)
        made = synthesize(videos, options, photos=self._photos, engine=self._engine)
        run_ingest(videos, workspace, IngestOptions(), engine=self._engine)
        print(
            f"{name}: {made.num_clips} clips of {made.num_subjects} people, {time.monotonic() - began:.0f} s",
            flush=True,
        )
        return videos, workspace
