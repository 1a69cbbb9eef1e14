"""`mbert shard`: aligned frames to pair shards."""

from typing import Annotated, Literal

import typer

from mbert.commands.console import Progress, counted
from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    AddressOption,
    EngineOption,
    JsonOption,
    SeedOption,
    WorkersOption,
    WorkspaceOption,
    print_json,
    print_next,
)


def shard(
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Make frame-pair shards. The default: they are the only kind.")
    ] = True,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    min_delta_ms: Annotated[float, typer.Option(help="Smallest distance of a pair's frames, in ms.")] = 167.0,
    max_delta_ms: Annotated[float, typer.Option(help="Largest distance, in ms.")] = 367.0,
    pairs_per_second: Annotated[float, typer.Option(help="Pairs per second of video.")] = 10.0,
    pairs_per_shard: Annotated[int, typer.Option(min=1, help="Pairs in a tar.")] = 2048,
    apex: Annotated[
        Literal["annotated", "middle", "spotted"],
        typer.Option(
            help="What stands in for an apex that is not annotated: nothing (no pair), the frame half-way between "
            "onset and offset, or the frame that has moved most."
        ),
    ] = "middle",
    frames_between: Annotated[
        int, typer.Option(min=0, help="Pairs of the onset with frames before the apex, for eval --frames.")
    ] = 0,
    seed: SeedOption = 0,
    where: Annotated[
        str | None,
        typer.Option(
            help="Keep a pair only if both frames fulfil this, e.g. 'jitter_px < 0.2 and face_px > 120': SQL over the "
            "columns of the frame, clip and video manifests."
        ),
    ] = None,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    overwrite: Annotated[bool, typer.Option(help="Make the shards again with other options.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pair the crops by time and deal the pairs to WebDataset shards."""
    progress = Progress("shard")
    from mbert import api

    with progress:
        done = 0

        def tell(num_pairs: int) -> None:
            nonlocal done
            done += num_pairs
            progress.advance(num_pairs, f"{done} pairs, {done / progress.seconds:.0f} pairs/s")

        summary = api.shard(
            pairs=pairs,
            workspace=workspace,
            min_delta_ms=min_delta_ms,
            max_delta_ms=max_delta_ms,
            pairs_per_second=pairs_per_second,
            pairs_per_shard=pairs_per_shard,
            apex=apex,
            frames_between=frames_between,
            seed=seed,
            where=where,
            workers=workers,
            engine=engine,
            address=address,
            overwrite=overwrite,
            on_plan=lambda num_pairs, num_shards: progress.begin(num_pairs),
            on_shard=tell,
        )
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
        typer.echo(f"{summary.apexes_filled} onset-apex pairs without an annotated apex: {apex} (column apex_source)")
    if summary.labels_without_pair:
        typer.echo(
            f"{counted(summary.labels_without_pair, 'label')} in a clip give no onset-apex pair: they lack frames, "
            "see mbert labels"
        )
    print_next(summary.folder, "mbert train pretrain")
