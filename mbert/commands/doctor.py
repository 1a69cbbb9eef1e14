"""`mbert doctor`: what is installed, what will be used, what is missing."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from mbert import MbertError, __version__
from mbert.commands.options import (
    JsonOption,
)

if TYPE_CHECKING:
    pass


def doctor(as_json: JsonOption = False) -> None:
    """Check the installation and suggest fixes."""
    import importlib.metadata

    checks: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in (
        "av",
        "mediapipe",
        "face-alignment",
        "webdataset",
        "pyarrow",
        "duckdb",
        "timm",
        "torch",
        "torchvision",
    ):
        try:
            checks[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing[name] = f"pip install {name}"
    with _noting(missing, "landmarker", "pip install 'mediapipe==0.10.21'"):
        from mbert.pipeline.faces.landmarkers import open_landmarker

        landmarker = open_landmarker("mediapipe")
        checks["landmarker"] = f"{landmarker.name}, on CPU"
        landmarker.close()
    with _noting(missing, "decoder", "pip install av"):
        import av

        version = ".".join(str(part) for part in av.library_versions["libavcodec"])
        checks["decoder"] = f"PyAV {av.__version__}, libavcodec {version}"
    with _noting(missing, "ffmpeg", "pip install imageio-ffmpeg"):
        from mbert.pipeline.video.decode_ffmpeg import ffmpeg_program

        checks["ffmpeg"] = f"{ffmpeg_program()}, for --decoder ffmpeg"
    try:
        checks["ray"] = f"{importlib.metadata.version('ray')}, for --engine ray"
    except importlib.metadata.PackageNotFoundError:
        checks["ray"] = "not installed; only --engine ray needs it: pip install 'mbert[ray]'"
    with _noting(missing, "device", "pip install torch torchvision"):
        import torch

        from mbert.model.device import pick_compute

        compute = pick_compute()
        name = (
            torch.cuda.get_device_name() if compute.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        )
        checks["device"] = f"{name}, {compute.precision}"
    checks["free disk space"] = f"{shutil.disk_usage('.').free / 1e9:.0f} GB"
    if as_json:
        typer.echo(json.dumps({"mbert": __version__, "found": checks, "missing": missing}))
    else:
        typer.echo(f"mbert {__version__}")
        for name, text in checks.items():
            typer.echo(f"  {name:16} {text}")
        for name, fix in missing.items():
            typer.secho(f"  {name:16} missing: {fix}", fg="red")
        if not missing:
            typer.echo("everything that the four commands need is there")
    if missing:
        raise typer.Exit(1)


@contextlib.contextmanager
def _noting(missing: dict[str, str], name: str, fix: str) -> Iterator[None]:
    """Whatever keeps a part from loading is what `doctor` is there to report."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, MbertError) as exc:
        missing[name] = f"{fix} ({exc})"
