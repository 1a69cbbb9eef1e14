"""The optional parts of mbert: the packages of each, and the message if they are not installed.

`pip install mbert` alone loads models, runs them on arrays, trains from shards and evaluates.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping

from mbert import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """What `pip install 'mbert[NAME]'` adds. A test compares it with pyproject.toml."""

    purpose: str
    packages: Mapping[str, str]  # module -> package

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for module, package in self.packages.items() if importlib.util.find_spec(module) is None]


EXTRAS = {
    "video": Extra(
        purpose="predict, ingest, synthesize, weights build and demo: decoding video, finding faces",
        packages={
            "av": "av",
            "face_alignment": "face-alignment",
            "ffmpeg": "ffmpeg-python",
            "imageio_ffmpeg": "imageio-ffmpeg",
            "mediapipe": "mediapipe",
            "PIL": "pillow",
            "skimage": "scikit-image",
            "tifffile": "tifffile",
        },
    ),
    "heif": Extra(purpose="HEIC and HEIF images", packages={"pi_heif": "pi-heif"}),
    "ray": Extra(purpose="--engine ray", packages={"ray": "ray"}),
    "remote": Extra(
        purpose="shards in object stores and on web servers",
        packages={"aiohttp": "aiohttp", "fsspec": "fsspec", "s3fs": "s3fs"},
    ),
}


def require_video(what: str) -> None:
    """Raise ConfigError, before any work, if packages that `what` needs to read videos are not installed."""
    if missing := EXTRAS["video"].missing():
        raise ConfigError(
            f"{what} decodes videos and finds faces, which needs packages that are not installed "
            f"({', '.join(missing)}): pip install 'mbert[video]'"
        )
