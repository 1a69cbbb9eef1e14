"""`mbert doctor`: what is installed, what will be used, what is missing."""

import contextlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterator

import typer

from mbert import MbertError, __version__
from mbert.commands.options import JsonOption
from mbert.extras import EXTRAS

_CORE = ("webdataset", "pyarrow", "duckdb", "timm", "torch", "torchvision")


def doctor(as_json: JsonOption = False) -> None:
    """Check the installation and suggest fixes."""
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in _CORE:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing[name] = f"pip install {name}"
    with _noting(missing, "device", "pip install torch torchvision"):
        found["device"] = _device()
    absent: dict[str, str] = {}
    for name, extra in EXTRAS.items():
        if lacking := extra.missing():
            absent[name] = f"not installed ({', '.join(lacking)}): pip install 'mbert[{name}]' for {extra.purpose}"
        else:
            versions = [f"{package} {importlib.metadata.version(package)}" for package in extra.packages.values()]
            found[f"mbert[{name}]"] = ", ".join(versions)
    if "video" not in absent:
        with _noting(missing, "landmarker", "pip install 'mbert[video]' again"):
            found["landmarker"] = _landmarker()
        with _noting(missing, "decoder", "pip install --force-reinstall av"):
            found["decoder"] = _decoder()
        with _noting(missing, "ffmpeg", "pip install imageio-ffmpeg"):
            from mbert.pipeline.video.decode_ffmpeg import ffmpeg_program

            found["ffmpeg"] = f"{ffmpeg_program()}, for --decoder ffmpeg"
    found["free disk space"] = f"{shutil.disk_usage('.').free / 1e9:.0f} GB"
    if as_json:
        typer.echo(json.dumps({"mbert": __version__, "found": found, "not_installed": absent, "missing": missing}))
    else:
        typer.echo(f"mbert {__version__}")
        for name, text in found.items():
            typer.echo(f"  {name:16} {text}")
        for name, text in absent.items():
            typer.echo(f"  {f'mbert[{name}]':16} {text}")
        for name, fix in missing.items():
            typer.secho(f"  {name:16} missing: {fix}", fg="red")
        if not missing:
            typer.echo("what is installed works" if absent else "everything is installed and works")
    if missing:
        raise typer.Exit(1)


def _device() -> str:
    import torch

    from mbert.model.device import pick_compute

    compute = pick_compute()
    name = torch.cuda.get_device_name() if compute.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, {compute.precision}"


def _landmarker() -> str:
    from mbert.pipeline.faces.landmarkers import open_landmarker

    landmarker = open_landmarker("mediapipe")
    landmarker.close()
    return f"{landmarker.name}, on CPU"


def _decoder() -> str:
    import av

    version = ".".join(str(part) for part in av.library_versions["libavcodec"])
    return f"PyAV {av.__version__}, libavcodec {version}"


@contextlib.contextmanager
def _noting(missing: dict[str, str], name: str, fix: str) -> Iterator[None]:
    """Whatever keeps a part from loading is what `doctor` is there to report; our own errors say what to do."""
    try:
        yield
    except MbertError as exc:
        missing[name] = str(exc)
    except (ImportError, OSError, RuntimeError) as exc:
        missing[name] = f"{fix} ({exc})"
