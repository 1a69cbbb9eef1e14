"""`mbert shard`: aligned frames to pair shards."""

from typing import Any

import typer

from mbert import api
from mbert.commands.console import Progress, counted
from mbert.commands.options import (
    AddressOption,
    EngineOption,
    JsonOption,
    SeedOption,
    WorkersOption,
    WorkspaceOption,
    options_of,
    print_json,
    print_next,
)


@options_of(
    api.shard,
    pairs=typer.Option("--pairs", help="Make frame-pair shards. This is the default, as there is no other kind."),
    workspace=WorkspaceOption,
    min_delta_ms="Smallest time between the frames of a pair, in ms.",
    max_delta_ms="Largest time between the frames of a pair, in ms.",
    pairs_per_second="Pairs to sample per second of video.",
    pairs_per_shard=typer.Option(min=1, help="Pairs per tar."),
    apex="What replaces an apex that is not annotated: nothing (no pair), the frame half-way between "
    "onset and offset, or the frame that has moved most.",
    frames_between=typer.Option(min=0, help="Pairs of the onset with frames before the apex, for mbert eval --frames."),
    seed=SeedOption,
    where="Keep only pairs of which both frames fulfil this condition, e.g. 'jitter_px < 0.2 and face_px > 120': SQL "
    "over the columns of the frame, clip and video manifests.",
    workers=WorkersOption,
    engine=EngineOption,
    address=AddressOption,
    overwrite="Make the shards again with other options.",
)
def shard(options: dict[str, Any], as_json: JsonOption = False) -> None:
    """Pair crops by time, and write the pairs to WebDataset shards."""
    with Progress("shard") as progress:
        done = 0

        def tell(num_pairs: int) -> None:
            nonlocal done
            done += num_pairs
            progress.advance(num_pairs, f"{done} pairs, {done / progress.seconds:.0f} pairs/s")

        summary = api.shard(**options, on_plan=lambda num_pairs, num_shards: progress.begin(num_pairs), on_shard=tell)
    if as_json:
        return print_json(summary)
    kinds = ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in sorted(summary.kinds.items()))
    typer.echo(
        f"{counted(summary.num_pairs, 'pair')} ({kinds}) in {counted(summary.num_shards, 'shard')}, "
        f"{summary.num_bytes / 1e6:.0f} MB"
    )
    typer.echo(f"this run wrote {counted(summary.num_new_shards, 'shard')} in {summary.seconds:.1f} s")
    if summary.pairs_left_out:
        typer.echo(f"{counted(summary.pairs_left_out, 'pair')} left out by --where")
    if summary.clips_without_pairs:
        typer.echo(f"{summary.clips_without_pairs} clips give no pair")
    if summary.apexes_filled:
        typer.echo(
            f"{summary.apexes_filled} onset-apex pairs lack an annotated apex: {options['apex']} (column apex_source)"
        )
    if summary.labels_without_pair:
        typer.echo(
            f"{counted(summary.labels_without_pair, 'label')} in a clip give no onset-apex pair: they lack frames, "
            "see mbert labels"
        )
    print_next(summary.folder, "mbert train pretrain")
