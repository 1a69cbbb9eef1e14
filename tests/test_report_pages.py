"""The pages of `mbert predict` in a real browser, opened from the disk; what they hold: test_reports.py."""

import dataclasses
import itertools
import time

import numpy as np
import pytest
from browser import Pages, chromium, number_seen, pages, write_numbered  # noqa: F401
from predicted import (
    EVENTS,
    HOSTILE,
    NUM_FRAMES,
    TRICKY,
    acted_rows,
    entry,
    event,
    picture,
    seconds_of,
    summary,
    write_case,
)

from mbert.manifests.predictions import FaceSummary
from mbert.reports.predict_page import IndexEntry, write_index_page

ENDS = float(seconds_of(NUM_FRAMES - 1))
GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}
BY_NUMBER = {event.event: event for event in EVENTS}


@pytest.fixture(scope="module")
def case(tmp_path_factory, face):
    """The page of a video whose name is a trap; its overlay shows the same numbers. Read only."""
    folder = tmp_path_factory.mktemp("case")
    times = seconds_of(np.arange(NUM_FRAMES))
    write_numbered(folder / TRICKY, times)
    (folder / "overlay.mp4").write_bytes((folder / TRICKY).read_bytes())
    pictures = [picture(2, face), picture(3, face)]
    return write_case(folder, pictures=pictures, video=TRICKY, overlay="overlay.mp4")


def started(pages, path, **options):  # noqa: F811
    """An open page whose video has loaded its first frame."""
    page = pages.open(path, **options)
    eventually(lambda: page.evaluate("document.getElementById('video').readyState >= 2"), True)
    return page


def eventually(found, expected):
    """Ask until the answer is as expected; a page's policy forbids what Playwright offers for that."""
    until = time.monotonic() + 120  # a busy machine is no fault of the page
    while found() != expected and time.monotonic() < until:
        time.sleep(0.02)
    assert found() == expected


def frame_told(page):
    return int(page.locator("#clock-frame").inner_text())


def is_paused(page):
    return page.evaluate("document.getElementById('video').paused")


def time_of(page):
    return page.evaluate("document.getElementById('video').currentTime")


def test_a_page_opened_from_the_disk_loads_its_video_and_nothing_else(pages, case):  # noqa: F811
    page = started(pages, case)
    assert page.locator("h1").inner_text() == TRICKY.rpartition("/")[2]
    assert page.locator("dd", has_text=HOSTILE.strip()).count() >= 2
    assert page.evaluate("document.getElementById('video').duration") == pytest.approx(ENDS, abs=0.1)
    page.get_by_label("Original").check()
    eventually(lambda: page.evaluate("document.getElementById('video').readyState >= 2"), True)
    assert pages.files() == {str(case), str(case.parent / "overlay.mp4"), str(case.parent / TRICKY)}
    assert page.locator("img").evaluate_all("images => images.every((image) => image.naturalWidth === 224)")


def test_a_step_is_one_frame_by_the_times_of_the_frames(pages, case):  # noqa: F811
    page = started(pages, case)
    assert (frame_told(page), number_seen(page)) == (0, 0)
    for expected in (1, 2, 3, 4, 5, 4, 5, 6):
        page.keyboard.press("." if expected > frame_told(page) else ",")
        assert frame_told(page) == expected
        eventually(lambda: number_seen(page), expected)
    for _ in range(20):  # faster than the pictures come
        page.keyboard.press(".")
    assert frame_told(page) == 26
    eventually(lambda: number_seen(page), 26)
    page.get_by_role("slider", name="Time").press("End")
    assert frame_told(page) == NUM_FRAMES - 1
    eventually(lambda: number_seen(page), NUM_FRAMES - 1)
    page.keyboard.press(".")
    page.get_by_role("button", name="Back one frame").click()
    assert frame_told(page) == NUM_FRAMES - 2
    eventually(lambda: number_seen(page), NUM_FRAMES - 2)
    assert page.locator("#clock-time").inner_text() == f"0:0{seconds_of(NUM_FRAMES - 2):.3f}"


def test_the_other_video_goes_on_at_the_same_frame(pages, case):  # noqa: F811
    page = started(pages, case)
    page.locator("body").press("ArrowRight")
    told = frame_told(page)
    page.get_by_label("Original").check()
    eventually(lambda: number_seen(page), told)
    assert (frame_told(page), is_paused(page)) == (told, True)
    page.get_by_label("Speed").select_option("0.1")  # or it may have ended before a busy machine looks
    page.locator("#play").click()
    page.get_by_label("Overlay").check()
    eventually(lambda: frame_told(page) > told + 5, True)
    assert not is_paused(page)
    assert page.locator("#play").inner_text() == "Pause"


def test_a_file_whose_times_do_not_begin_at_zero_is_shown_right(pages, case, tmp_path):  # noqa: F811
    (tmp_path / "v.mp4").write_bytes((case.parent / "overlay.mp4").read_bytes())
    rows = [dataclasses.replace(row, timestamp=row.timestamp + 1.4) for row in acted_rows()]
    page = started(pages, write_case(tmp_path, rows=rows, events=[], video="v.mp4"))
    assert page.locator("#clock-time").inner_text() == "0:01.400"
    for _ in range(7):
        page.keyboard.press(".")
    eventually(lambda: number_seen(page), 7)
    assert page.locator("#clock-time").inner_text() == f"0:0{seconds_of(7) + 1.4:.3f}"


def test_an_event_that_is_chosen_plays_in_a_loop_until_that_is_ended(pages, case):  # noqa: F811
    page = started(pages, case)
    event = BY_NUMBER[2]
    page.get_by_label("Speed").select_option("1")
    page.locator("#event-2 button.event").click()
    times = []
    for _ in range(60):
        times.append(time_of(page))
        page.wait_for_timeout(40)
        if sum(b < a - 0.3 for a, b in itertools.pairwise(times)) == 2:
            break
    assert sum(b < a - 0.3 for a, b in itertools.pairwise(times)) == 2  # it came back twice
    assert event.onset_s - 0.4 < min(times) < event.onset_s
    assert event.offset_s < max(times) < event.offset_s + 0.5
    assert not is_paused(page)
    assert "event 2: micro" in page.locator("#loop").inner_text()
    assert page.locator("#event-2").get_attribute("aria-current") == "true"
    page.keyboard.press("Space")
    assert is_paused(page)
    eventually(lambda: number_seen(page) - frame_told(page), 0)  # also after playing
    page.get_by_role("button", name="End the loop").click()
    assert page.locator("[aria-current]").count() == 0


def test_an_event_at_the_end_of_a_video_loops_too(pages, case, tmp_path):  # noqa: F811
    (tmp_path / "v.mp4").write_bytes((case.parent / "overlay.mp4").read_bytes())
    page = started(pages, write_case(tmp_path, events=[event(1, "speech", "mouth", 195, 197, 199)], video="v.mp4"))
    page.locator(".lane button").click()
    times = []
    eventually(lambda: times.append(time_of(page)) or sum(b < a for a, b in itertools.pairwise(times)) > 1, True)
    assert not is_paused(page)
    assert min(times) > ENDS - 0.6


def test_everything_can_be_done_with_the_keyboard(pages, case):  # noqa: F811
    page = started(pages, case)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none" or seen[-1] == "", seen[-1]
        if seen[-1] == "event":
            break
    assert {"play", "forward", "speed", "sound", "wider", "plot axis", "band micro", "unfold", "certain"} <= set(seen)
    assert seen.count("band micro") == 1  # one stop for all of a lane
    page.keyboard.press("Enter")
    eventually(lambda: is_paused(page), False)
    page.keyboard.press("Escape")
    assert page.locator("[aria-current]").count() == 0
    page.locator("#play").press("Space")
    assert is_paused(page)
    page.locator("body").press("n")
    chosen = page.locator("tbody[aria-current]").get_attribute("id")
    page.keyboard.press("n")
    assert page.locator("tbody[aria-current]").get_attribute("id") != chosen
    page.keyboard.press("p")
    assert page.locator("tbody[aria-current]").get_attribute("id") == chosen
    page.locator('.lane [data-event="2"]').press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.event") == "5"
    page.keyboard.press("Space")
    assert page.locator("tbody[aria-current]").get_attribute("id") == "event-5"
    page.keyboard.press("Escape")
    page.get_by_role("slider").press("Home")
    page.keyboard.press(" ")  # stops what still plays
    page.get_by_role("slider").press("Home")
    page.keyboard.press("ArrowRight")
    assert frame_told(page) == np.searchsorted(seconds_of(np.arange(NUM_FRAMES)), 1.0005) - 1


def test_a_click_into_the_curves_goes_there_and_one_on_a_band_loops(pages, case):  # noqa: F811
    page = started(pages, case)
    plot = page.locator(".plot:not(.lane, .axis)").nth(3)
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] * 0.5, "y": 20})
    assert seconds_of(frame_told(page)) == pytest.approx(ENDS / 2, abs=0.06)
    eventually(lambda: number_seen(page) - frame_told(page), 0)
    assert is_paused(page)
    page.locator('div.band[data-event="3"]').click()
    assert page.locator("#event-3").get_attribute("aria-current") == "true"
    page.locator("#wider").click()
    assert page.evaluate("document.getElementById('timeline').offsetWidth") > 1800
    before = page.locator("#timeline .label").count()
    page.locator("[data-part=mouth]").click()
    assert page.locator("#timeline .label").count() == before + 8
    assert page.locator('div.band[data-event="2"]').count() == 1 + 3  # the part, and the regions that moved


def test_the_table_can_be_filtered_and_the_map_taken_off(pages, case):  # noqa: F811
    page = started(pages, case)
    order = page.locator("table.events tbody").evaluate_all("rows => rows.map((row) => row.id)")
    assert order == ["event-1", "event-2", "event-5", "event-4", "event-3"]  # the doubtful one last
    page.get_by_label("hide what is in doubt").check()
    assert page.locator("#event-3").is_hidden()
    page.get_by_role("checkbox", name="blink").uncheck()
    assert page.locator("#event-1").is_hidden()
    assert page.locator("#shown").inner_text() == "3 of 5 events are shown."
    assert page.locator("#event-2 .map").is_visible()
    page.get_by_label("show where it moved").uncheck()
    assert page.locator("#event-2 .map").is_hidden()
    assert page.locator("#event-2 .drawing").get_attribute("aria-label") == (
        "Moved: lip corner, image left; cheek, image left; upper lip; direction: up left"
    )


def test_one_of_several_faces_is_chosen(pages, tmp_path):  # noqa: F811
    faces = tuple(FaceSummary(face_id=n, first_s=0.0, last_s=ENDS, num_frames=NUM_FRAMES, face_px=90.0) for n in (0, 1))
    events = [*EVENTS, dataclasses.replace(EVENTS[1], event=6, face_id=1)]
    page = pages.open(write_case(tmp_path, rows=acted_rows(faces=(0, 1)), events=events, about=summary(faces=faces)))
    assert page.locator(".lane button").count() == 5
    page.get_by_role("combobox", name="Face").select_option("1")
    assert page.locator(".lane button").count() == 1
    page.locator("#event-3 button.event").click()  # of the other face
    assert page.get_by_role("combobox", name="Face").input_value() == "0"
    assert page.locator("#event-3").get_attribute("aria-current") == "true"


def test_a_page_fits_every_screen_in_both_schemes(pages, case, tmp_path):  # noqa: F811
    failed = IndexEntry(name="x" * 80, page=None, status="unreadable", reason="y" * 90, summary=None, curve=[])
    write_index_page(tmp_path / "index.html", [entry("a"), failed], title="t" * 90, command="c" * 300)
    for path in (case, tmp_path / "index.html"):
        page = pages.open(path)
        for width, (scheme, ground) in itertools.product((1280, 768, 360), GROUNDS.items()):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground


def test_on_paper_a_page_is_light_and_has_no_player(pages, case):  # noqa: F811
    page = started(pages, case, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#player").is_hidden()
    assert page.locator(".plot .line").first.is_visible()
    assert page.locator("#event-3").is_visible()
    assert len(page.pdf(format="A4")) > 10_000


def test_without_javascript_the_tables_and_the_video_are_there(pages, case):  # noqa: F811
    page = pages.open(case, java_script_enabled=False)
    assert page.locator("#event-2 .drawing").is_visible()
    assert page.locator("#event-3").is_visible()
    assert page.locator("video[controls]").is_visible()
    assert page.get_by_text("need JavaScript").is_visible()
    assert page.locator(".only-script:visible").count() == 0
    assert page.locator("#settings").is_visible()


def test_a_video_in_the_page_plays_without_a_file(pages, case, tmp_path):  # noqa: F811
    data = (case.parent / TRICKY).read_bytes()
    path = write_case(tmp_path, embedded=("video/mp4", data), video="gone.mp4")
    page = started(pages, path)
    page.keyboard.press(".")
    assert frame_told(page) == 1
    eventually(lambda: number_seen(page), 1)
    assert {part for part in pages.files() if part.endswith(".html")} == {str(path)}
    assert not any("gone" in part for part in pages.files())


def test_a_video_that_is_gone_is_told_and_the_curves_still_work(pages, tmp_path):  # noqa: F811
    page = pages.open(write_case(tmp_path, video="gone.mp4"))
    page.locator("#video-error").wait_for()
    page.locator("#event-2 button.event").click()
    assert frame_told(page) == 60
    page.keyboard.press(".")
    assert frame_told(page) == 61
    assert all("ERR_FILE_NOT_FOUND" in complaint for complaint in pages.complaints)
    pages.complaints.clear()


def test_a_folder_is_sorted_by_a_click_on_a_column(pages, tmp_path):  # noqa: F811
    seconds = {"b.mp4": 100.5, "a.mp4": 9.25, "c 10.mp4": 3605.0, "c 9.mp4": 9.3}
    entries = [entry(name, seconds=value) for name, value in seconds.items()]
    failed = IndexEntry(name="z.avi", page=None, status="no_face", reason="no face", summary=None, curve=[])
    write_index_page(tmp_path / "index.html", [failed, *entries], title="study", command="mbert predict study")
    page = pages.open(tmp_path / "index.html")

    def names():
        return page.locator("tbody th").all_inner_texts()

    assert names() == ["z.avi", *seconds]
    page.get_by_role("button", name="Length").click()
    assert names() == ["a.mp4", "c 9.mp4", "b.mp4", "c 10.mp4", "z.avi"]
    page.get_by_role("button", name="Length").press("Enter")
    assert names() == ["c 10.mp4", "b.mp4", "c 9.mp4", "a.mp4", "z.avi"]
    page.get_by_role("button", name="Video").click()
    assert names() == ["a.mp4", "b.mp4", "c 9.mp4", "c 10.mp4", "z.avi"]
    assert page.locator("th[aria-sort=ascending]").inner_text() == "Video"
    assert page.get_by_role("link", name="a.mp4").get_attribute("href") == "a%20b/page.html"
    assert "no face" in page.locator("tr.failed").inner_text()
