"""Shared by all pages: one HTML file that contains its style, script and data, and may load nothing but videos."""

import base64
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mbert.manifests.files import replacing

_STYLE = "style.css"


def render(template: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """One HTML file from a template that extends `base.html.j2`.

    `scripts` are file names next to the template; they run in this order. All values are escaped. The page's Content
    Security Policy allows these scripts and the style by their hashes, and nothing from a server.
    """
    style, script = _text(_STYLE), Markup("\n").join(map(_text, scripts))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "img-src data:",
            # Chromium treats files on disk as 'self'; the scheme is for browsers that do not.
            "media-src 'self' file: data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return _environment().get_template(template).render(policy=policy, style=style, script=script, **values)


def write_page(path: Path, html: str) -> None:
    """Write a page, atomically. Bytes of a file name that are not UTF-8 become question marks."""
    with replacing(path) as temporary:
        temporary.write_bytes(html.encode("utf-8", "replace"))


def embedded_json(value: Any) -> Markup:
    """JSON that is safe in a `<script type="application/json">`, whatever its strings contain."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII, so without U+2028 and U+2029
    # In JSON these characters only occur in strings.
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def data_url(media_type: str, data: bytes) -> str:
    """The bytes of a picture or a video as a URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def file_url(path: str) -> str:
    """A relative path with forward slashes as a relative URL; any file name is allowed."""
    return quote(os.fsencode(path))


def timecode(seconds: float) -> str:
    """Seconds as `0:12.433`, or `1:02:12.433` from an hour on."""
    milliseconds = round(abs(seconds) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02d}" if hours else str(minutes)
    return f"{'-' if seconds < 0 else ''}{clock}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def sparkline(values: npt.ArrayLike, *, width: int = 200, height: int = 32, top: float | None = None) -> str:
    """Equally spaced values as the path of an SVG of `width` x `height`: 0 at the bottom, `top` at the top.

    Larger values are cut off there; None: the largest.

    A NaN leaves a gap, a value between NaNs a dot; without values, the path is empty.
    """
    heights = np.asarray(values, dtype=np.float64)
    known = np.isfinite(heights)
    if not known.any():
        return ""
    top = max(float(heights[known].max()) if top is None else top, 1e-9)
    xs = np.linspace(0, width, len(heights)) if len(heights) > 1 else np.array([width / 2])
    ys = height - np.where(known, heights, 0).clip(0, top) / top * height
    starts = known & ~np.concatenate([[False], known[:-1]])
    points = zip(xs[known], ys[known], starts[known].tolist(), strict=True)
    return "".join(
        f"{'M' if starts_here else 'L'}{x:.1f} {y:.1f}" + ("h.1" if starts_here else "") for x, y, starts_here in points
    )


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as one list of dotted names."""
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += flat_settings(value, f"{prefix}{name}.")
        else:
            told = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            found.append((f"{prefix}{name}", "–" if value is None or told == "" else told))
    return found


def _text(name: str) -> Markup:
    return Markup((resources.files(__package__) / "templates" / name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mbert.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"embedded_json": embedded_json, "file_url": file_url, "timecode": timecode}
    return environment
