"""Which datasets are known, and which of them a folder holds."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from mbert import ConfigError
from mbert.manifests.labels.label_file import has_label_file
from mbert.pipeline.corpora import casme, casme2, casme3, casme_sq, dfme, fourdme, mmew, samm, samm_lv, smic, smic_e
from mbert.pipeline.corpora.videos import DATASET, list_videos
from mbert.pipeline.video.source import Corpus, Distribution, Listing

CORPORA: Mapping[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        casme.CORPUS,
        casme2.CORPUS,
        casme3.CORPUS,
        casme_sq.CORPUS,
        smic.CORPUS,
        smic_e.CORPUS,
        samm.CORPUS,
        samm_lv.CORPUS,
        mmew.CORPUS,
        fourdme.CORPUS,
        dfme.CORPUS,
    )
}
AUTO = "auto"
DATASETS = (AUTO, DATASET, *CORPORA)
_NAME = re.compile("[a-z0-9_]{1,10}")  # the beginning of every key


def list_corpus(
    path: Path,
    *,
    dataset: str = AUTO,
    name: str | None = None,
    labels_path: Path | None = None,
    distribution: Distribution = "auto",
) -> Listing:
    """The inputs and labels under a folder. With `auto`, as the one dataset that recognises it, else as any videos.

    A folder with a `labels.csv`, a single file, and a folder given a `name` are treated as any videos. Raises
    ConfigError for an unknown dataset, for a folder that several datasets recognise, and if there is no input.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"--dataset is {dataset!r}; allowed are {', '.join(DATASETS)}")
    if name is not None and (not _NAME.fullmatch(name) or name in CORPORA):
        raise ConfigError(
            f"--name is {name!r}; allowed are up to 10 of a-z, 0-9 and _, but no dataset's name ({', '.join(CORPORA)})"
        )
    path = path.absolute()
    notes: tuple[str, ...] = ()
    if dataset == AUTO and path.is_dir() and name is None and not has_label_file(path):
        reasons = {corpus.name: reason for corpus in CORPORA.values() if (reason := corpus.recognise(path))}
        if len(reasons) > 1:
            told = "; ".join(f"{found}: {reason}" for found, reason in reasons.items())
            raise ConfigError(f"{path} looks like several datasets ({told}): ingest them one by one, with --dataset")
        for found, reason in reasons.items():
            dataset, notes = found, (f"taken as {CORPORA[found].title}: {reason}",)
    if dataset in (AUTO, DATASET):
        if distribution != "auto":
            raise ConfigError("--distribution is for datasets that come both raw and cropped")
        return list_videos(path, labels_path, dataset=name or DATASET)
    if name is not None:
        raise ConfigError(f"--name is for your own videos; {CORPORA[dataset].title} has its name")
    listing = CORPORA[dataset].read(path, labels_path, distribution)
    if not listing.sources:
        raise ConfigError(f"{path} holds no input of {CORPORA[dataset].title}")
    return dataclasses.replace(listing, notes=(*notes, *listing.notes))
