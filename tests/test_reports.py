"""What the pages of `mbert predict` hold; how they behave in a browser: test_report_pages.py."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from predicted import EVENTS, HOSTILE, TRICKY, entry, event, movement, picture, seconds_of, summary, write_case

import mbert.reports
from mbert import ManifestError
from mbert.manifests.predictions import NO_FACE, MovementRow
from mbert.manifests.schema import arrow_schema
from mbert.manifests.store import write_rows
from mbert.reports import words
from mbert.reports.curves import decimate, knots, read_curves
from mbert.reports.page import embedded_json, file_url, sparkline, timecode
from mbert.reports.predict_page import write_index_page, write_predict_page


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])


def expand(found):
    """The values that `knots` stands for; the script of the page has the same."""
    places, values = np.cumsum(np.array(found).reshape(-1, 2), axis=0).T
    return np.interp(np.arange(places[-1] + 1), places, values)


def test_times_are_kept_as_straight_pieces():
    constant = np.rint(np.arange(90_000) / 29.97 * 10_000)
    assert len(knots(constant, 10)) == 4
    rng = np.random.default_rng(0)
    uneven = np.rint(np.cumsum(rng.choice([166, 333, 1000], 3000)).astype(float))
    found = expand(knots(uneven, 10))
    assert len(found) == 3000
    assert np.abs(found - uneven).max() <= 10
    assert expand(knots(np.array([5.0, 6.0, 7.0, 20.0, 21.0]), 0)).tolist() == [5, 6, 7, 20, 21]
    assert (knots(np.array([]), 0), knots(np.array([7.0]), 0)) == ([], [0, 7])


@pytest.mark.parametrize("length", [1, 7, 1999, 2000, 2001, 54_321])
def test_a_decimated_curve_keeps_the_largest_value_of_every_bin(length):
    values = np.random.default_rng(length).random(length)
    values[::5] = np.nan
    found = decimate(values)
    assert len(found) == min(length, 2000)
    edges = [*(np.arange(len(found)) * length // len(found)), length]
    for place, (first, last) in enumerate(itertools.pairwise(edges)):
        within = values[first:last]
        expected = np.nan if np.isnan(within).all() else np.nanmax(within)
        np.testing.assert_equal(found[place], expected)
    assert len(decimate([])) == 0


def test_curves_keep_peaks_blinks_gaps_and_the_faces_apart(tmp_path):
    there = [movement(frame) for frame in range(5000) if not 3000 <= frame < 3010]
    there[1234] = movement(1234, chin=7.125)
    there[2000] = movement(2000, eye_open=0.05)
    there[2500] = movement(2500, light=-9.0)
    away = [
        MovementRow(frame=frame, timestamp=seconds_of(frame), face_id=NO_FACE, success=0) for frame in range(3000, 3010)
    ]
    second = [movement(frame, 1) for frame in range(4000, 4500)]
    path = tmp_path / "frames.parquet"
    write_rows(path, MovementRow, sorted([*there, *away, *second], key=lambda row: (row.frame, row.face_id)))
    curves = read_curves(path)
    data = curves.data
    assert (curves.num_frames, data["bins"], curves.with_face) == (5000, 2000, pytest.approx(0.998))
    first, other = data["faces"]
    assert (first["id"], first["first"], other["id"], other["first"]) == (0, 0, 1, 1600)
    assert {len(curve) for curve in other["curves"].values()} == {200}
    assert first["curves"]["chin"][1234 * 2000 // 5000] == 7125
    assert first["curves"]["eye_open"][2000 * 2000 // 5000] == 50
    assert first["curves"]["light"][2500 * 2000 // 5000] == 9000
    gap = [place for place, value in enumerate(first["curves"]["head"]) if value is None]
    assert gap == [1200, 1201, 1202, 1203]
    assert np.abs(expand(data["times"]) / 10_000 - seconds_of(np.arange(5000))).max() < 0.00101
    assert expand(data["frames"]).tolist() == list(range(5000))


def test_a_video_without_a_face_has_a_page(tmp_path):
    rows = [MovementRow(frame=frame, timestamp=seconds_of(frame), face_id=NO_FACE, success=0) for frame in range(20)]
    page = write_case(tmp_path, rows=rows, events=[], about=summary(faces=(), counts={}))
    text = page.read_text()
    assert "No face was found." in text
    assert "0 micro, 0 macro movements, 0 blinks" in text
    assert data_of(page)["faces"] == []
    assert "<video" not in text  # none was given


def test_a_page_refuses_what_is_not_a_table_of_frames(tmp_path):
    (tmp_path / "frames.parquet").write_bytes(b"no table")
    with pytest.raises(ManifestError, match=r"frames\.parquet cannot be read"):
        write_predict_page(tmp_path / "p.html", summary=summary(), frames=tmp_path / "frames.parquet", events=[])
    assert not (tmp_path / "p.html").exists()


def test_everything_is_escaped_and_nothing_points_to_a_server(tmp_path, face):
    page = write_case(tmp_path, pictures=[picture(2, face)], video=TRICKY, overlay="overlay.mp4")
    write_index_page(tmp_path / "index.html", [entry(HOSTILE)], title=HOSTILE, command=HOSTILE)
    for path in (page, tmp_path / "index.html"):
        text = path.read_text()
        assert not re.search(r"https?:", text)
        assert "<img src=x" not in text
        assert "onerror=alert(2)&gt;" in text
        assert not re.search(r"\sstyle=|\son[a-z]+=\"", text)  # the policy of the page would not allow them
        assert text.count("<script") == text.count("</script>") == (2 if path == page else 1)
    assert 'src="overlay.mp4"' in page.read_text()
    assert f'value="{file_url(TRICKY)}"' in page.read_text()


def test_json_in_a_page_survives_what_would_end_its_element():
    text = embedded_json({HOSTILE: [1.5, None, "<!--", "\udcff"]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {HOSTILE: [1.5, None, "<!--", "\udcff"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json(float("nan"))


def test_a_file_name_that_is_not_text_has_a_page(tmp_path):
    about = summary("caf\udce9.mp4")
    text = write_case(tmp_path, about=about, video="caf\udce9.mp4").read_text()
    assert "<h1>caf?.mp4</h1>" in text
    assert 'src="caf%E9.mp4"' in text


def test_a_page_of_an_hour_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    num_frames, num_faces = 108_000, 2
    frames = np.repeat(np.arange(num_frames), num_faces)
    rates = np.cumsum(rng.choice([0.030, 0.033, 0.037], num_frames))  # a phone: no two distances alike
    schema = arrow_schema(MovementRow)
    columns = {"frame": frames, "timestamp": rates[frames], "face_id": np.tile(np.arange(num_faces), num_frames)}
    whole = {name: rng.integers(0, 2, len(frames)) for name in ("success", "speech", "blink", "repeated")}
    values = {**columns, **whole, "success": np.ones(len(frames), int)}
    arrays = [
        pa.array(values[field.name] if field.name in values else rng.gamma(1, 0.4, len(frames)), field.type)
        for field in schema
    ]
    pq.write_table(pa.table(arrays, schema=schema), tmp_path / "frames.parquet")
    kinds = ["blink"] * 1000 + ["speech"] * 200
    events = [event(number + 1, kind, "eyes", 80, 90, 100) for number, kind in enumerate(kinds)]
    events += [dataclasses.replace(EVENTS[1], event=2000 + number) for number in range(100)]
    write_predict_page(tmp_path / "p.html", summary=summary(), frames=tmp_path / "frames.parquet", events=events)
    assert (tmp_path / "p.html").stat().st_size < 1_500_000


def test_events_are_told_in_words():
    assert words.found_words({"micro": 3, "macro": 5, "blink": 12}, 0.41) == (
        "3 micro, 5 macro movements, 12 blinks, speech 41\u00a0% of the time"
    )
    assert words.found_words({"macro": 1, "blink": 1}, 0.001) == (
        "0 micro, 1 macro movement, 1 blink, speech <1\u00a0% of the time"
    )
    assert words.like_words("12:0.81 99:0.40") == [("AU\u00a012 (lip corner puller)", "0.81"), ("AU\u00a099", "0.40")]
    told = {rate: words.alarm_words(rate) for rate in (None, 0.0, 1e-5, 0.005, 0.1, 1.0, 90.0)}
    assert told[None] is None
    assert told[0.0] == "no still face gave one as fast"
    ends = [told[rate].partition("every ")[2] for rate in (1e-5, 0.005, 0.1, 1.0, 90.0)]
    assert ends == ["69 days", "3 hours", "10 minutes", "60 seconds", "second"]
    assert words.flag_words("blink new_one") == ["during a blink", "new one"]
    assert words.arrow("cheek_r", "left") == "M89 85L67 85M67 85L74 80M67 85L74 90"
    assert words.arrow("cheek_r", None) is None


def test_times_urls_and_sparklines():
    assert [timecode(seconds) for seconds in (0, 12.4334, 59.9996, 3723.5, -0.04)] == [
        "0:00.000", "0:12.433", "1:00.000", "1:02:03.500", "-0:00.040",
    ]  # fmt: skip
    assert file_url("a b/C:#?%é.mp4") == "a%20b/C%3A%23%3F%25%C3%A9.mp4"
    assert sparkline([0, 1, np.nan, 0.5], width=30, height=10) == "M0.0 10.0h.1L10.0 0.0M30.0 5.0h.1"
    assert sparkline([np.nan]) == sparkline([]) == ""


def test_text_can_be_read_on_every_ground():
    style = Path(mbert.reports.__file__).parent.joinpath("templates", "style.css").read_text()
    light, dark = (dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6});", part)) for part in style.split("@media")[:2])
    for colours in (light, light | dark):
        for ground, text in itertools.product(("paper", "raised"), ("ink", "soft", "accent", "caution")):
            assert contrast(colours[ground], colours[text]) >= 4.5, (ground, text)
        assert contrast(colours["accent"], colours["on-accent"]) >= 4.5
        for mark in ("micro", "macro", "blink", "speech", "cursor", "curve"):
            assert contrast(colours["paper"], colours[mark]) >= 3, mark


def contrast(one, other):
    """The ratio of the Web Content Accessibility Guidelines."""
    levels = []
    for colour in (one, other):
        parts = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        levels.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(levels) + 0.05) / (min(levels) + 0.05)
