"""`videos.csv` next to the videos of any corpus: each input gets the facts on its line."""

import dataclasses

from mbert.manifests.labels.provenance import find_videos_table, provenance_of, read_provenance
from mbert.pipeline.video.source import Listing


def with_provenance(listing: Listing) -> Listing:
    """The listing with the facts of its folder's `videos.csv`, if there is one.

    Labels without a subject get that of their input; a label's own subject wins. Raises ManifestError for a
    file that cannot be used.
    """
    table = find_videos_table(listing.root)
    if table is None:
        return listing
    lines = read_provenance(table)
    sources = [dataclasses.replace(each, provenance=provenance_of(each.path, lines)) for each in listing.sources]
    subjects = {
        (each.dataset, each.path): each.provenance.person(each.dataset)
        for each in sources
        if each.provenance is not None
    }
    notes = [
        f"{table} line {line.line}: there is no {line.path} next to it"
        for line in lines
        if not (listing.root / line.path).exists()
    ]
    labels = []
    for label in listing.labels:
        subject = subjects.get((label.dataset, label.path))
        if subject and label.subject is None:
            label = dataclasses.replace(label, subject=subject)
        elif subject and label.subject != subject:
            notes.append(
                f"{table} says that {label.path} shows {subject.id}, label line {label.line} says {label.subject}: "
                "the label is taken"
            )
        labels.append(label)
    return dataclasses.replace(
        listing,
        sources=tuple(sources),
        labels=tuple(labels),
        videos_table=table,
        table_notes=tuple(dict.fromkeys(notes)),
    )
