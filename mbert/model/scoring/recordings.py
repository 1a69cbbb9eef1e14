"""Leaks that no name reveals: a tested recording that is in the corpus again, under another name or none."""

from collections.abc import Collection
from pathlib import Path

from mbert import MbertError
from mbert.manifests.workspace import Workspace
from mbert.shards.duplicates import find_duplicates, num_unread_crops
from mbert.shards.remote import is_url

_MOST_CROPS = 100_000  # about two minutes of decoding


def recording_warnings(labels: Path | str, tested: Collection[str]) -> list[str]:
    """Warnings about the inputs `tested` (their video_ids), by how faces move in the corpus of a `labels.parquet`.

    A model that learned from one recording, or saw it in pretraining, is not new to its duplicate.
    """
    corpus = Path(labels).parent
    if is_url(str(labels)) or corpus.name != "corpus" or not (corpus / "videos.parquet").exists():
        return [
            f"there is no corpus next to {labels}: whether a recording is there twice, under two names, is not known"
        ]
    workspace = Workspace(corpus.parent)
    try:
        if (count := num_unread_crops(workspace)) > _MOST_CROPS:
            return [
                f"whether a recording is there twice, under two names, is not known: {count} crops were not compared; "
                "run `mbert verify --duplicates` once"
            ]
        found = [each for each in find_duplicates(workspace) if not each.is_of_one_person]
    except MbertError as exc:
        return [f"whether a recording is there twice, under two names, is not known: {exc}"]
    found = [each for each in found if {each.video_id, each.other} & set(tested)]
    if not found:
        return []
    return [
        f"{len(found)} tested recordings are in the corpus twice, and not as one person's: what is learned from one "
        f"leaks into the score of the other; the first is {found[0]}; see `mbert verify --duplicates`"
    ]
