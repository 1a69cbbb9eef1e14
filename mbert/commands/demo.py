"""`mbert demo`: the whole pipeline on clips that it makes."""

import collections
import dataclasses
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mbert import ConfigError
from mbert.commands.console import counted
from mbert.commands.options import (
    JsonOption,
    SeedOption,
)
from mbert.extras import require_video

if TYPE_CHECKING:
    from mbert.manifests.schema import TruthRow

_MAPS = "maps.png"

_MOST_MAPS = 8


def demo(
    out: Annotated[Path, typer.Option(help="Folder to work in.")] = Path("mbert-demo"),
    photos: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Use these portraits instead of the bundled photo."),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Use a smaller corpus and fewer steps, to see whether everything runs.")
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a small labelled corpus of synthetic videos and run the four commands on it, in minutes and offline."""
    require_video("mbert demo")
    from mbert.api import engine_of
    from mbert.pipeline.synthetic.synthesize import PRESETS, synthesize

    began = time.monotonic()
    if out.exists() and any(out.iterdir()) and not (out / "videos" / "synthesis.json").exists():
        raise ConfigError(f"{out} is not empty and holds no demo; give another folder with --out")
    if (out / "videos" / "labels.csv").exists():
        typer.echo(f"using the videos that are already in {out / 'videos'}", err=True)
    else:
        typer.echo(f"making videos of pseudo-subjects in {out / 'videos'} ...", err=True)
        num_subjects, num_photos = 4 if quick else 8, 1 if photos is None else sum(1 for _ in photos.iterdir())
        options = dataclasses.replace(
            PRESETS["easy"],
            prototypes=True,
            subjects_per_photo=max(1, num_subjects // max(1, num_photos)),
            clips_per_emotion=1 if quick else 4,
            neutral_clips=0,
            fps=30,
            min_seconds=1.4,
            max_seconds=2.0,
            seed=seed,
        )
        synthesize(out / "videos", options, photos=photos, engine=engine_of("local", None))
    results: dict[str, Any] = {}
    for name, words in {
        "ingest": ["ingest", "videos/"],
        "shard": ["shard", "--pairs"],
        "pretrain": ["train", "pretrain", *(["--steps", "30"] if quick else [])],
        "loso": ["eval", "--protocol", "loso"],
    }.items():
        typer.secho(f"\n$ mbert {' '.join(words)}", bold=True, err=True)
        results[name] = _run_command(words, out)
    results["maps"] = str(draw_maps(out))
    for words in (["preview"], ["predict", _shown_clip(out)]):  # the page of ingest has no pairs yet
        typer.secho(f"\n$ mbert {' '.join(words)}", bold=True, err=True)
        results[words[0]] = _run_command(words, out, place=())
    if as_json:
        typer.echo(json.dumps(results))
        return
    _print_demo(results, out, time.monotonic() - began)


def draw_maps(out: Path) -> Path:
    """Picture the truth next to the model's map and the baselines', for a few clips of a demo; returns the file."""
    import numpy as np

    from mbert.manifests.schema import TruthRow
    from mbert.manifests.store import read_rows
    from mbert.manifests.workspace import Workspace
    from mbert.model.network.micron_bert import MicronBert
    from mbert.model.training.pictures import picture_maps, write_png
    from mbert.pipeline.synthetic.synthesize import TRUTH_NAME
    from mbert.pipeline.synthetic.truth import true_pairs

    workspace = Workspace(out / "workspace")
    rows = _mixed(read_rows(out / "videos" / TRUTH_NAME, TruthRow))
    pairs = list(itertools.islice(true_pairs(out / "videos", workspace, rows), _MOST_MAPS))
    picture = picture_maps(
        MicronBert.from_pretrained(workspace.runs / "pretrain"),
        [(pair.t0, pair.t1) for pair in pairs],
        [np.linalg.norm(pair.expression, axis=-1) for pair in pairs],
        [
            f"{pair.row.subject}: {pair.row.emotion}, AU {pair.row.action_units}, up to {pair.row.amplitude_px:.1f} px"
            for pair in pairs
        ],
    )
    write_png(out / _MAPS, picture)
    return out / _MAPS


def _mixed(rows: "Sequence[TruthRow]") -> "list[TruthRow]":
    """Order rows so that the first few show many subjects and emotions."""
    subjects, emotions = sorted({row.subject for row in rows}), sorted({row.emotion for row in rows})
    takes: collections.Counter[tuple[int, int]] = collections.Counter()
    places = {}
    for row in rows:
        subject, emotion = subjects.index(row.subject), emotions.index(row.emotion)
        places[row.path] = (takes[subject, emotion], (emotion - subject) % len(emotions), subject)
        takes[subject, emotion] += 1
    return sorted(rows, key=lambda row: places[row.path])


def _shown_clip(out: Path) -> str:
    """The clip whose expression is the largest, relative to the demo's folder."""
    from mbert.manifests.schema import TruthRow
    from mbert.manifests.store import read_rows
    from mbert.pipeline.synthetic.synthesize import TRUTH_NAME

    rows = read_rows(out / "videos" / TRUTH_NAME, TruthRow)
    return f"videos/{max(rows, key=lambda row: row.amplitude_px).path}"


def _run_command(
    words: Sequence[str], folder: Path, *, place: Sequence[str] = ("--workspace", "workspace")
) -> dict[str, Any]:
    """Run one of our own commands as a user would, in `folder`; returns its JSON summary."""
    command = [sys.executable, "-m", "mbert.cli", *words, *place, "--json"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)  # the command has reported the reason
    return dict(json.loads(done.stdout))


def _print_demo(results: dict[str, Any], out: Path, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    ingested, sharded, trained, scored = (results[name] for name in ("ingest", "shard", "pretrain", "loso"))
    table = Table("", "", title=f"the demo took {seconds:.0f} s", show_header=False)
    rate = ingested["num_frames_decoded"] / max(ingested["seconds"], 1e-9)
    table.add_row(
        "frames ingested", f"{ingested['num_crops']}" + (f", {rate:.0f} frames/s" if ingested["num_new"] else "")
    )
    table.add_row("pairs", f"{sharded['num_pairs']} in {counted(sharded['num_shards'], 'shard')}")
    table.add_row("pretraining loss", f"{trained['first']['loss']:.4f} -> {trained['last']['loss']:.4f}")
    for score in ("uf1", "uar"):
        methods = {name: method["scores"] for name, method in scored["methods"].items()}
        mine, interval, chance = (methods["mbert"][name] for name in (score, f"{score}_interval", f"chance_{score}"))
        difference = methods["frame_difference"][score]
        table.add_row(
            f"LOSO {score.upper()}",
            f"{mine:.3f} ({interval[0]:.3f}-{interval[1]:.3f}), chance {chance:.3f}, frame difference {difference:.3f}",
        )
    workspace = out / "workspace"
    for name, path in {
        "videos and labels": out / "videos",
        "crops": workspace / "corpus",
        "pair shards": workspace / "shards" / "pairs",
        "checkpoint": workspace / "runs" / "pretrain" / "checkpoints" / "last",
        "scores": workspace / "runs" / "loso" / "results.json",
        "maps": results["maps"],
        "the corpus's page": out / results["preview"]["page"],
        "pretraining's page": out / trained["page"],
        "scores' page": out / scored["page"],
        "a video's page": out / results["predict"]["page"],
    }.items():
        table.add_row(name, str(path))
    Console().print(table)
    typer.echo("pseudo-subjects and drawn-on motion: this shows that everything runs, not how good the method is")
    typer.echo(f"look at {results['maps']}: a good map is bright where the true motion is; optical flow comes near")
    typer.echo(f"open {out / scored['page']}: the scores, next to baselines")
    typer.echo(f"open {out / results['predict']['page']}: what moved in one of the videos, when and where")
