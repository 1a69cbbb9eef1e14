"""Synthetic corpora for `recognition.py` and `ablation.py`: people to pretrain on without labels, others to judge on.

With photos, a photo is a person and the split `mbert-synth-v1` says who is who. The bundled photo is one person: there
the others are the same face, varied by another seed, and `told_people` says so.
"""

import csv
import dataclasses

from mbert.manifests.labels.table import LABEL_COLUMNS
from mbert.manifests.schema import TruthRow
from mbert.manifests.store import read_rows
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.synthetic.synthesize import TRUTH_NAME, synthesize
from mbert.shards.engine import Engine

_PSEUDO_SUBJECTS = 8  # of the bundled photo
_SEED_OF_PRETRAINING = 1


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


def _write_people(videos):
    path = videos.with_name(f"{videos.name}-people.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LABEL_COLUMNS)
        writer.writeheader()
        for row in read_rows(videos / TRUTH_NAME, TruthRow):
            writer.writerow({"path": row.path, "subject": row.subject})
    return path
