"""The page of `mbert preview`: what it shows of real inputs, and how it looks in a real browser."""

import base64
import itertools
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import chromium, pages  # noqa: F401

import mbert
from mbert.manifests.distributions import Distribution, Grid
from mbert.manifests.schema import ClipRow, LabelRow, VideoRow
from mbert.manifests.store import read_rows, write_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.prediction.preview import run_preview
from mbert.reports.histogram import HEIGHT, WIDTH, draw_histogram

GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}
GREEN = (40, 160, 60)
HOSTILE = "<script>alert(1)</script>&{{ x }}"


def green(width=96, height=64, count=6):
    """Frames of which the first is black, as many recordings begin; a pattern on green follows."""
    frames = [np.full((height, width, 3), GREEN, np.uint8) for _ in range(count)]
    for frame in frames:
        frame[: height // 2, : width // 4] = 240
    frames[0][:] = 0
    return frames


@pytest.fixture(scope="module")
def ingested(synthetic_videos, write_video, tmp_path_factory):
    """A workspace of one face and four inputs that cannot be used, without a page. Read only."""
    folder = tmp_path_factory.mktemp("preview")
    videos = folder / "videos"
    videos.mkdir()
    shutil.copy(synthetic_videos / "s01" / "happiness_1.mp4", videos / "smile.mp4")
    write_video(videos / "green.mp4", green())
    write_video(videos / "later.mp4", green())
    (videos / "text.mp4").write_text("this is no video")
    (videos / "empty.mp4").touch()
    workspace = Workspace(folder / "workspace")
    run_ingest(videos, workspace, IngestOptions())
    return workspace


@pytest.fixture(scope="module")
def page(ingested, tmp_path_factory):
    """Its page. Read only."""
    out = tmp_path_factory.mktemp("page") / "preview.html"
    mbert.preview(ingested.root, pictures=6, out=out)
    return out


@pytest.fixture(scope="module")
def many(ingested, tmp_path_factory):
    """The page of thousands of rejected inputs, whose names and reasons try to break out, and of a crop.

    Their folder is gone.
    """
    workspace = Workspace(tmp_path_factory.mktemp("many") / "w")
    shutil.copytree(ingested.root, workspace.root)
    rows = read_rows(workspace.videos, VideoRow)
    reasons = [f"{HOSTILE} {'y' * 90} {chr(65 + n % 60)}" for n in range(5000)]
    rows += [
        VideoRow(
            video_id=f"videos-{n}", dataset="videos", path=f"{HOSTILE}/{'x' * 80}{n}.mp4", kind="video",
            status="unreadable", reason=reason, num_bytes=9,
        )
        for n, reason in enumerate(reasons)
    ]  # fmt: skip
    write_rows(workspace.videos, VideoRow, rows)
    return Path(mbert.preview(workspace.root, pictures=8).page)


def pictures_of(html, section):
    """The pictures in a section, (H, W, 3) uint8 RGB, by the captions below them."""
    body = re.search(rf'<section id="{section}".*?(?=<section id=|<h2 id="made)', html, re.DOTALL).group()
    figures = re.findall(r"<figure>(.*?)</figure>", body, re.DOTALL)
    found = []
    for figure in figures:
        data = re.search(r'src="data:image/jpeg;base64,([^"]+)"', figure)
        image = data and cv2.imdecode(np.frombuffer(base64.b64decode(data.group(1)), np.uint8), cv2.IMREAD_COLOR)
        caption = re.sub(r"<[^>]+>", " ", figure.split("<figcaption>")[1])
        found.append((" ".join(caption.split()), None if image is None else image[..., ::-1], figure))
    return found


def test_the_page_shows_a_frame_of_what_was_rejected(page):
    found = {
        caption.split(" ")[0]: (image, caption, figure)
        for caption, image, figure in pictures_of(page.read_text(), "rejected")
    }
    assert set(found) == {"green.mp4", "later.mp4", "text.mp4", "empty.mp4"}
    image, caption, _ = found["green.mp4"]
    assert image.shape == (64, 96, 3)
    assert np.abs(image[40:, 40:].mean(axis=(0, 1)) - GREEN).max() < 12
    assert caption == "green.mp4 no face track in 6 frames frame 1"  # the first one is black
    assert found["text.mp4"][0] is None
    assert "no picture: no frame decodes" in found["text.mp4"][2]
    assert "no picture: there is nothing in it" in found["empty.mp4"][2]


def test_a_source_that_is_gone_or_another_is_said_to_be(ingested, tmp_path):
    shutil.copytree(ingested.root.parent, tmp_path / "moved")
    workspace = Workspace(tmp_path / "moved" / "workspace")
    config = json.loads(workspace.corpus_config.read_text())
    config["datasets"]["videos"]["roots"] = [str(tmp_path / "moved" / "videos")]
    workspace.corpus_config.write_text(json.dumps(config))
    (tmp_path / "moved" / "videos" / "green.mp4").unlink()
    (tmp_path / "moved" / "videos" / "later.mp4").write_bytes(b"other")
    run_preview(workspace, pictures=6, seed=0)
    found = {
        caption.split(" ")[0]: figure for caption, _, figure in pictures_of(workspace.preview.read_text(), "rejected")
    }
    assert "no picture: the source is gone" in found["green.mp4"]
    assert "no picture: the source has changed since it was ingested" in found["later.mp4"]


def test_crops_of_the_page_are_those_of_their_captions(ingested, page):
    clips = {clip.clip.clip_id: clip for clip in mbert.open_frames(ingested.root)}
    found = pictures_of(page.read_text(), "crops")
    assert len(found) == 6 + 3 * 1  # random ones, and of the one clip the worst of three kinds
    for caption, image, _ in found:
        frame, clip = re.search(r"smile.mp4 frame (\d+), [\d:.]+ (\S+)$", caption).groups()
        place = clips[clip].frame_indices.tolist().index(int(frame))
        assert np.abs(image.astype(int) - clips[clip].images(place, place + 1)[0]).mean() < 4


def test_a_crop_that_cannot_be_read_is_said_to_be(ingested, tmp_path):
    shutil.copytree(ingested.root, tmp_path / "w")
    for tar in (tmp_path / "w/corpus/frames").glob("*.tar"):
        tar.unlink()
    html = Path(mbert.preview(tmp_path / "w", pictures=1).page).read_text()
    assert html.count("cannot be read: run mbert verify") == 4


def test_the_page_of_thousands_of_inputs_is_small_and_escapes_their_names(many):
    html = many.read_text()
    assert len(html) < 400_000
    assert html.count("<figure>") == 8 + 8 + 3 + 12  # rejected, random crops, the worst ones, histograms
    assert "8 of 5,004 are shown, one for each reason first." in html
    assert HOSTILE not in html
    assert "more reasons" in html


@pytest.mark.parametrize("statuses", [[], ["no_face"], ["pending", "unreadable"]])
def test_a_corpus_without_a_clip_has_a_page(tmp_path, statuses, pages):  # noqa: F811
    workspace = Workspace(tmp_path)
    rows = [
        VideoRow(video_id=f"v{n}", dataset="videos", path=f"{n}.mp4", kind="video", status=status)
        for n, status in enumerate(statuses)
    ]
    write_rows(workspace.videos, VideoRow, rows)
    write_rows(workspace.clips, ClipRow, [])
    write_rows(workspace.labels, LabelRow, [])
    workspace.corpus_config.write_text('{"schema": 5, "options": {}, "datasets": {}}')
    summary = mbert.preview(workspace.root)
    assert (summary.num_inputs, summary.num_crops) == (len(rows), 0)
    shown = pages.open(workspace.preview)
    assert shown.get_by_text("nothing to learn from").is_visible()
    assert shown.locator("figure").count() == summary.num_rejected


def test_the_page_loads_nothing_and_fits_every_screen_in_both_schemes(pages, page, many):  # noqa: F811
    for path in (page, many):
        shown = pages.open(path)
        assert shown.locator("img").evaluate_all("all => all.every((image) => image.naturalWidth > 0)")
        for width, (scheme, ground) in itertools.product((1280, 768, 360), GROUNDS.items()):
            shown.set_viewport_size({"width": width, "height": 800})
            shown.emulate_media(color_scheme=scheme)
            assert shown.evaluate("document.documentElement.scrollWidth") == width
            assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert pages.files() == {str(page), str(many)}


def test_on_paper_and_without_javascript_all_of_the_page_is_there(pages, page):  # noqa: F811
    shown = pages.open(page, color_scheme="dark", java_script_enabled=False)
    shown.emulate_media(media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.locator("section:visible").count() == shown.locator("section").count() > 6
    assert shown.locator("svg.histogram:visible").count() == 12
    assert len(shown.pdf(format="A4")) > 50_000


def test_every_picture_and_bar_is_said_in_words(pages, page):  # noqa: F811
    shown = pages.open(page)
    assert shown.locator("img:not([alt]), img[alt='']").count() == 0
    labels = shown.locator("svg[role=img]").evaluate_all("all => all.map((each) => each.getAttribute('aria-label'))")
    assert len(labels) == 12
    assert all(re.fullmatch(r".+: median −?[\d.,]+, 90 % from −?[\d.,]+ to −?[\d.,]+", label) for label in labels)
    heads = shown.locator("h1, h2, h3").evaluate_all("all => all.map((each) => each.tagName)")
    assert heads[0] == "H1"
    assert not any(before == "H1" and after == "H3" for before, after in itertools.pairwise(heads))


def test_the_same_corpus_and_seed_give_the_same_page(ingested, page, tmp_path):
    again = tmp_path / "again.html"
    mbert.preview(ingested.root, pictures=6, out=again)
    assert again.read_bytes() == page.read_bytes()
    mbert.preview(ingested.root, pictures=6, seed=1, out=again)
    assert again.read_bytes() != page.read_bytes()


def test_ingest_makes_the_page_and_names_it_and_forget_deletes_it(ingested, tmp_path, invoke):
    videos = tmp_path / "videos"
    shutil.copytree(ingested.root.parent / "videos", videos)
    (videos / "later.mp4").unlink()
    done = invoke("ingest", "videos", "--workers", "1", "--no-page", cwd=tmp_path)
    assert "preview.html" not in done.stdout
    page = tmp_path / "workspace" / "corpus" / "preview.html"
    assert not page.exists()
    done = invoke("ingest", "videos", "--workers", "1", cwd=tmp_path)
    assert "open workspace/corpus/preview.html" in done.stdout
    made = page.stat().st_mtime_ns
    summary = json.loads(invoke("ingest", "videos", "--json", cwd=tmp_path).stdout)
    assert (summary["page"], page.stat().st_mtime_ns) == ("workspace/corpus/preview.html", made)  # nothing is new
    before = page.read_text(encoding="utf-8")
    assert "No pairs yet" in before
    assert "Clips with pairs" not in before
    invoke("shard", "--pairs", cwd=tmp_path)
    done = invoke("preview", "workspace", "--pictures", "2", cwd=tmp_path)
    after = page.read_text(encoding="utf-8")
    assert "No pairs yet" not in after
    assert "Clips with pairs" in after
    assert re.search(r"4 inputs; the page shows 5 crops and 2 rejected inputs, 0\.\d MB", done.stdout)
    assert "open workspace/corpus/preview.html" in done.stdout
    assert invoke("forget", "videos/smile.mp4", cwd=tmp_path).returncode == 0
    assert not page.exists()


def test_bars_hold_all_values_and_have_a_round_width():
    rng = np.random.default_rng(0)
    values = rng.normal(40, 5, 5000)
    grid = Grid(column="x", lowest=0, step=0.5, num_bins=400)
    counts = np.bincount((values / grid.step).astype(int), minlength=grid.num_bins)
    drawn = draw_histogram(Distribution(grid=grid, counts=tuple(counts.tolist())))
    bars = [float(height) for height in re.findall(r"v-([\d.]+)", drawn.path)]
    assert 8 <= len(bars) <= 24
    assert max(bars) == HEIGHT
    edges = [float(tick) for tick in drawn.ticks]
    lefts = [float(x) for x in re.findall(r"M([\d.]+)", drawn.path)]
    assert (edges[2] - edges[0]) * min(np.diff(lefts)) / WIDTH == pytest.approx(2.5, abs=0.05)
    assert float(drawn.median) == pytest.approx(np.median(values), abs=0.5)
    assert edges[0] <= float(drawn.low) < float(drawn.median) < float(drawn.high) <= edges[2]


@pytest.mark.parametrize("place", [0, 200, 399])
def test_one_value_alone_is_one_bar(place):
    counts = [0] * 400
    counts[place] = 7
    drawn = draw_histogram(
        Distribution(grid=Grid(column="x", lowest=-100, step=0.5, num_bins=400), counts=tuple(counts))
    )
    assert drawn.path.count("z") == 1
    assert drawn.num_values == 7
    assert 0 <= drawn.median_x <= WIDTH


def test_no_value_is_no_histogram():
    assert draw_histogram(Distribution(grid=Grid(column="x", lowest=0, step=1, num_bins=2), counts=(0, 0))) is None
