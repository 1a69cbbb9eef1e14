"""A headless Chromium for tests of pages, and a video whose picture tells which frame it is."""

import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import av
import cv2
import numpy as np
import pytest

_BITS = 8
_MILLISECOND = Fraction(1, 1000)
_SIDE = 32  # of the square that shows a bit


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser; tests that need it skip where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: uv pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


class Pages:
    """Opens pages from the disk, and notes what they ask for and what they complain about."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def open(self, path: Path, *, width: int = 1280, **options: Any) -> Any:
        """A page of its own, with the options of Playwright's `new_context`."""
        context = self._browser.new_context(viewport={"width": width, "height": 900}, **options)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(0)  # a busy machine is no fault of the page
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.absolute().as_uri())
        return page

    def files(self) -> set[str]:
        """The paths of the files that were asked for; pictures within a page are not files."""
        parts = [urlsplit(url) for url in self.requests if not url.startswith("data:image/")]
        assert {part.scheme for part in parts} <= {"file"}
        return {unquote(part.path) for part in parts}

    def close(self) -> None:
        """Forget all pages."""
        for context in self._contexts:
            context.close()


@pytest.fixture
def pages(chromium: Any) -> Iterator[Pages]:
    """Opens pages; a page that complained, or loaded what is not a file, fails the test."""
    pages = Pages(chromium)
    yield pages
    pages.close()
    assert pages.complaints == []
    pages.files()


def write_numbered(path: Path, times: np.ndarray) -> Path:
    """H.264 of 256 x 64 px; the picture at each of the times (seconds, from 0) shows its number as white squares."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "g": "24"})
        stream.width, stream.height, stream.pix_fmt = _BITS * _SIDE, 2 * _SIDE, "yuv420p"
        stream.codec_context.time_base = stream.time_base = _MILLISECOND
        for number, seconds in enumerate(times):
            bits = np.array([number >> bit & 1 for bit in range(_BITS)], np.uint8)
            image = np.kron(np.tile(bits, (2, 1)), np.ones((_SIDE, _SIDE), np.uint8)) * 255
            frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, axis=2), format="rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), _MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number_seen(page: Any) -> int:
    """The number that the video's picture shows at this moment."""
    picture = cv2.imdecode(np.frombuffer(page.locator("#video").screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
    height = len(picture)
    row = cv2.resize(picture[height // 4 : height // 2], (_BITS * 3, 3), interpolation=cv2.INTER_AREA)[1, 1::3]
    return sum(1 << bit for bit in range(_BITS) if row[bit] > 128)
