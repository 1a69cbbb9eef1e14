"""Each exchange format, read back by a reader that others wrote."""

import csv
import dataclasses
import html
import itertools
import os
import random
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pympi
import pytest
import webvtt
from praatio import textgrid

from mbert import MbertError
from mbert.manifests.predictions import EventRow, MovementRow
from mbert.reports.formats import CsvRows, write_challenge, write_eaf, write_textgrid, write_vtt

NASTY = 's 1/it\'s "a, b" & <script>\n日本 é.mp4'


def event(number=1, **values):
    onset, apex, offset = values.pop("frames", (30, 36, 45))
    row = {
        "video": "s1/take.mp4",
        "face_id": 0,
        "event": number,
        "type": "micro",
        "part": "brows",
        "onset_frame": onset,
        "apex_frame": apex,
        "offset_frame": offset,
        "onset_s": onset / 30,
        "apex_s": apex / 30,
        "offset_s": offset / 30,
        "duration_ms": (offset - onset) * 1000 / 30,
        "size_px": 1.7,
        "speed": 1.2345678,
        "direction": "up",
        "regions": "brow_inner_l brow_inner_r",
        "score": 2.5,
        "false_alarms_per_minute": 0.00316227766,
        "like": "1:0.81 2:0.40",
        "flags": None,
    }
    return EventRow(**{**row, **values})


BLINK = {"type": "blink", "part": "eyes", "regions": "lids_l lids_r", "score": None, "false_alarms_per_minute": None}
SPEECH = {"type": "speech", "part": "mouth", "regions": "", "direction": None, "like": None}
EVENTS = [
    event(1),
    event(2, frames=(40, 44, 70), type="macro", part="mouth", regions="lip_corner_l", flags="speech", emotion="happy"),
    event(3, frames=(44, 44, 44), part="eyes"),
    event(4, frames=(20, 22, 26), **BLINK),
    event(5, frames=(10, 50, 80), **SPEECH),
    event(6, frames=(60, 63, 66), face_id=2, emotion='a "b" <c> & d --> e\nf'),
    event(7, frames=(70, 71, 75), face_id=2, flags="blink head"),
]
SECONDS = 3.0


def random_events(seed, count=60):
    """Events of three faces that overlap in every way; some last one frame, some lie at the video's end."""
    rng = random.Random(seed)
    events = []
    for number in range(count):
        onset = rng.randrange(0, 88)
        offset = min(89, onset + rng.choice([0, 1, 2, 5, 20, 60]))
        kind = rng.choice([{}, {}, {"type": "macro", "emotion": rng.choice([None, "x"])}, BLINK, SPEECH])
        frames = (onset, rng.randint(onset, offset), offset)
        events.append(event(number, frames=frames, face_id=rng.randrange(3), **kind))
    return events


# CSV


def read_csv(path):
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def test_csv_comes_back_equal(tmp_path):
    events = [*EVENTS, event(8, video=NASTY, direction=None, speed=0.0, size_px=float("nan"))]
    with CsvRows(tmp_path / "events.csv", EventRow) as rows:
        rows.add(events[:3])
        rows.add(events[3:])
    table = read_csv(tmp_path / "events.csv")
    assert list(table.columns) == [field.name for field in dataclasses.fields(EventRow)]
    assert len(table) == len(events)
    for row, (_, found) in zip(events, table.iterrows(), strict=True):
        for name, value in dataclasses.asdict(row).items():
            if value is None or value == "" or value != value:
                assert pd.isna(found[name])
            else:
                assert found[name] == (pytest.approx(value, rel=5e-6) if type(value) is float else value)


def test_csv_has_whole_numbers_and_no_noise(tmp_path):
    row = MovementRow(frame=7, timestamp=7 / 30, face_id=0, success=1, confidence=0.1 + 0.2, x=100.0, blink=0)
    with CsvRows(tmp_path / "frames.csv", MovementRow) as rows:
        rows.add([row, MovementRow(frame=8, timestamp=8 / 30, face_id=-1, success=0)])
    header, first, second = (tmp_path / "frames.csv").read_bytes().decode().split("\n")[:3]
    assert header.startswith("frame,timestamp,face_id,confidence,success,x,y,w,h,pitch")
    assert first.startswith("7,0.233333,0,0.3,1,100.0,,,")
    assert second == "8,0.266667,-1,,0" + "," * (header.count(",") - 4)
    table = read_csv(tmp_path / "frames.csv")
    assert table["blink"].tolist()[0] == 0 and table["frame"].dtype == "int64"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "'", "'=", "''", "\uff1d"])
def test_no_cell_is_run_as_a_formula(start, tmp_path):
    name = f'{start}HYPERLINK("http://a.example";"b")!A1.mp4'
    with CsvRows(tmp_path / "events.csv", EventRow) as rows:
        rows.add([event(video=name)])
    with (tmp_path / "events.csv").open(newline="") as file:
        cell = next(csv.DictReader(file))["video"]
    assert cell[0] == "'" and cell[1:] == name
    assert read_csv(tmp_path / "events.csv")["video"].str.removeprefix("'").tolist() == [name]


def test_a_number_below_zero_stays_a_number(tmp_path):
    with CsvRows(tmp_path / "frames.csv", MovementRow) as rows:
        rows.add([MovementRow(frame=0, timestamp=0.0, face_id=-1, success=1, pitch=-3.25)])
    assert read_csv(tmp_path / "frames.csv")[["face_id", "pitch"]].to_numpy().tolist() == [[-1, -3.25]]


def test_csv_appears_on_success_only(tmp_path):
    path = tmp_path / "events.csv"
    with pytest.raises(KeyboardInterrupt), CsvRows(path, EventRow) as rows:
        rows.add(EVENTS)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with CsvRows(path, EventRow):
        assert not path.exists()
    assert len(read_csv(path)) == 0 and len(read_csv(path).columns) == len(dataclasses.fields(EventRow))


def test_a_full_disk_is_told(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / ".events.csv.tmp").symlink_to("/dev/full")
    with pytest.raises(MbertError, match="No space left"), CsvRows(tmp_path / "events.csv", EventRow) as rows:
        rows.add(EVENTS * 1000)


# ELAN


def read_eaf(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pympi knows versions up to 2.8 and 3.0, and says so
        return pympi.Eaf(str(path))


def write_elan(path, events=EVENTS, media=None, seconds=SECONDS):
    write_eaf(path, events, media=media, media_type="video/mp4", seconds=seconds)
    return path


def test_elan_has_tiers_for_each_face(tmp_path):
    eaf = read_eaf(write_elan(tmp_path / "a.eaf"))
    assert list(eaf.get_tier_names()) == [
        "face 0 events", "face 0 phases", "face 0 regions",
        "face 0 events 2", "face 0 phases 2", "face 0 regions 2", "face 0 emotion 2", "face 0 flags 2",
        "face 0 events 3", "face 0 phases 3", "face 0 regions 3",
        "face 0 blinks", "face 0 speech",
        "face 2 events", "face 2 phases", "face 2 regions", "face 2 emotion", "face 2 flags", "face 2 blinks",
        "face 2 speech",
    ]  # fmt: skip
    data = eaf.get_annotation_data_for_tier
    assert data("face 0 events") == [(1000, 1500, "micro brows")]
    assert data("face 0 phases") == [(1000, 1200, "onset to apex"), (1200, 1500, "apex to offset")]
    assert data("face 0 regions") == [(1000, 1500, "inner brow, image left; inner brow, image right", "micro brows")]
    assert data("face 0 events 2") == [(1333, 2333, "macro mouth")]
    assert data("face 0 emotion 2") == [(1333, 2333, "happy", "macro mouth")]
    assert data("face 0 flags 2") == [(1333, 2333, "speech", "macro mouth")]
    assert data("face 0 events 3") == [(1467, 1468, "micro eyes")]  # one frame
    assert data("face 0 blinks") == [(667, 867, "blink")]
    assert data("face 0 speech") == [(333, 2667, "speech")]
    assert data("face 2 emotion") == [(2000, 2200, 'a "b" <c> & d --> e f', "micro brows")]
    assert eaf.get_parameters_for_tier("face 0 phases 2")["PARENT_REF"] == "face 0 events 2"


def check_elan(path):
    """The rules of EAF 3.0 that concern us: order of elements, needed attributes, references, constraints."""
    root = ET.parse(path).getroot()
    order = ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE", "CONSTRAINT"]
    places = [order.index(child.tag) for child in root]
    assert places == sorted(places)
    assert {"AUTHOR", "DATE", "FORMAT", "VERSION"} <= set(root.attrib)
    assert root.find("HEADER").get("TIME_UNITS") == "milliseconds"
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in root.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    assert min(slots.values(), default=0) >= 0
    constraints = {element.get("STEREOTYPE"): element.get("DESCRIPTION") for element in root.iter("CONSTRAINT")}
    assert set(constraints) <= {"Time_Subdivision", "Symbolic_Subdivision", "Symbolic_Association", "Included_In"}
    types = {element.get("LINGUISTIC_TYPE_ID"): element for element in root.iter("LINGUISTIC_TYPE")}
    for kind in types.values():
        assert kind.get("CONSTRAINTS") in {None, *constraints}
        assert kind.get("TIME_ALIGNABLE") == ("false" if kind.get("CONSTRAINTS") == "Symbolic_Association" else "true")
    spans, homes, used = {}, {}, set()
    names = [tier.get("TIER_ID") for tier in root.iter("TIER")]
    assert len(names) == len(set(names)) > 0
    for tier in root.iter("TIER"):
        constraint = types[tier.get("LINGUISTIC_TYPE_REF")].get("CONSTRAINTS")
        assert (constraint is None) == (tier.get("PARENT_REF") is None)
        assert tier.get("PARENT_REF") in {None, *homes.values(), *names}
        assert {annotation.tag for annotation in tier} <= {"ANNOTATION"}
        timed = []
        for annotation in tier:
            (inner,) = annotation
            assert [child.tag for child in inner] == ["ANNOTATION_VALUE"]
            name = inner.get("ANNOTATION_ID")
            assert name not in homes
            homes[name] = tier.get("TIER_ID")
            if inner.tag == "REF_ANNOTATION":
                assert constraint == "Symbolic_Association"
                assert homes[inner.get("ANNOTATION_REF")] == tier.get("PARENT_REF")
                assert (tier, inner.get("ANNOTATION_REF")) not in used  # one for each parent
                used.add((tier, inner.get("ANNOTATION_REF")))
                continue
            ends = (inner.get("TIME_SLOT_REF1"), inner.get("TIME_SLOT_REF2"))
            assert not used & set(ends)
            used |= set(ends)
            start, end = spans[name] = (slots[ends[0]], slots[ends[1]])
            assert start < end
            timed.append((start, end))
            if constraint == "Included_In":
                parents = [spans[key] for key, home in homes.items() if home == tier.get("PARENT_REF")]
                assert any(first <= start and end <= last for first, last in parents)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(timed))
    return spans


@pytest.mark.parametrize("seed", range(12))
def test_annotations_of_a_tier_never_overlap(seed, tmp_path):
    events = random_events(seed)
    spans = check_elan(write_elan(tmp_path / "a.eaf", events))
    assert len(spans) >= len(events)  # nothing is lost
    assert max(end for _, end in spans.values()) <= SECONDS * 1000
    write_textgrid(tmp_path / "a.TextGrid", events, seconds=SECONDS)
    check_textgrid(tmp_path / "a.TextGrid", SECONDS)


def test_elan_rules_hold_for_all_that_is_written(tmp_path):
    check_elan(write_elan(tmp_path / "a.eaf"))
    check_elan(write_elan(tmp_path / "a.eaf", []))
    eaf = read_eaf(tmp_path / "a.eaf")
    assert next(iter(eaf.get_tier_names())) == "face 0 events"
    assert all(eaf.get_annotation_data_for_tier(name) == [] for name in eaf.get_tier_names())


def test_elan_follows_its_schema(tmp_path):
    """No package has the schema: it is at https://www.mpi.nl/tools/elan/EAFv3.0.xsd."""
    xmlschema = pytest.importorskip("xmlschema", reason="pip install xmlschema")
    schema = os.environ.get("MBERT_TEST_EAF_SCHEMA")
    if schema is None:
        pytest.skip("needs ELAN's schema EAFv3.0.xsd, its path in MBERT_TEST_EAF_SCHEMA")
    xmlschema.validate(str(write_elan(tmp_path / "a.eaf", media=tmp_path / "v.mp4")), schema)


def test_elan_finds_the_video(tmp_path):
    (tmp_path / "in").mkdir()
    media = tmp_path / "in" / 'it\'s "a b" & <c> 日本.mp4'
    path = write_elan(tmp_path / "out" / "a.eaf", media=media)
    (descriptor,) = read_eaf(path).media_descriptors
    assert descriptor["MIME_TYPE"] == "video/mp4"
    assert descriptor["MEDIA_URL"] == f"file://{media}"  # as ELAN reads it: nothing is percent-encoded
    assert (path.parent / descriptor["RELATIVE_MEDIA_URL"]).resolve() == media.resolve()
    beside = write_elan(tmp_path / "in" / "a.eaf", media=media)
    assert read_eaf(beside).media_descriptors[0]["RELATIVE_MEDIA_URL"] == f"./{media.name}"
    assert read_eaf(write_elan(tmp_path / "a.eaf")).media_descriptors == []


def test_equal_runs_give_equal_files(tmp_path):
    one = write_elan(tmp_path / "a.eaf").read_bytes()
    assert write_elan(tmp_path / "a.eaf", list(reversed(EVENTS))).read_bytes() == one


@pytest.mark.parametrize("name", ["a\nb\x01\x0b.mp4", "\udcff.mp4", "\ufffe.mp4"])
def test_names_that_xml_cannot_hold_do_not_break_it(name, tmp_path):
    path = write_elan(tmp_path / "a.eaf", [event(emotion=name)], media=tmp_path / name)
    check_elan(path)
    assert read_eaf(path).media_descriptors[0]["MEDIA_URL"].startswith(f"file://{tmp_path}/")


# Praat


def check_textgrid(path, seconds):
    """Every tier covers 0 to the end without gap and overlap."""
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    assert (grid.minTimestamp, grid.maxTimestamp) == (0, pytest.approx(seconds))
    for name in grid.tierNames:
        entries = grid.getTier(name).entries
        assert entries[0].start == 0 and entries[-1].end == grid.maxTimestamp
        assert all(entry.start < entry.end for entry in entries)
        assert all(one.end == other.start for one, other in itertools.pairwise(entries))
    return grid


def test_praat_reads_the_same_tiers(tmp_path):
    write_textgrid(tmp_path / "a.TextGrid", EVENTS, seconds=SECONDS)
    grid = check_textgrid(tmp_path / "a.TextGrid", SECONDS)
    assert list(grid.tierNames) == list(read_eaf(write_elan(tmp_path / "a.eaf")).get_tier_names())

    def texts(name):
        return [tuple(entry) for entry in grid.getTier(name).entries if entry.label]

    assert texts("face 0 events") == [(1.0, 1.5, "micro brows")]
    assert texts("face 0 phases") == [(1.0, 1.2, "onset to apex"), (1.2, 1.5, "apex to offset")]
    assert texts("face 2 emotion")[0][2].replace('""', '"') == 'a "b" <c> & d --> e f'


def test_praat_gets_quotes_doubled(tmp_path):
    write_textgrid(tmp_path / "a.TextGrid", [event(emotion='"')], seconds=SECONDS)
    assert 'text = """"\n' in (tmp_path / "a.TextGrid").read_text(encoding="utf-8")


@pytest.mark.parametrize("seconds", [0.0, 0.5, SECONDS])
def test_a_textgrid_without_events_has_empty_tiers(seconds, tmp_path):
    write_textgrid(tmp_path / "a.TextGrid", [], seconds=seconds)
    grid = check_textgrid(tmp_path / "a.TextGrid", max(seconds, 0.001))
    assert list(grid.tierNames) == [
        "face 0 events", "face 0 phases", "face 0 regions", "face 0 blinks", "face 0 speech",
    ]  # fmt: skip


def test_an_event_beyond_the_told_end_makes_the_grid_longer(tmp_path):
    write_textgrid(tmp_path / "a.TextGrid", EVENTS, seconds=1.0)
    check_textgrid(tmp_path / "a.TextGrid", 80 / 30 + 1 / 3000)


# WebVTT


def test_cues_are_read_back(tmp_path):
    write_vtt(tmp_path / "a.vtt", EVENTS)
    cues = webvtt.read(tmp_path / "a.vtt").captions
    assert [(cue.start, cue.end, html.unescape(cue.text)) for cue in cues] == [
        ("00:00:00.333", "00:00:02.667", "face 0: speech"),
        ("00:00:00.667", "00:00:00.867", "face 0: blink"),
        ("00:00:01.000", "00:00:01.500", "face 0: micro brows"),
        ("00:00:01.333", "00:00:02.333", "face 0: macro mouth, happy"),
        ("00:00:01.467", "00:00:01.468", "face 0: micro eyes"),
        ("00:00:02.000", "00:00:02.200", 'face 2: micro brows, a "b" <c> & d --> e f'),
        ("00:00:02.333", "00:00:02.500", "face 2: micro brows"),
    ]
    text = (tmp_path / "a.vtt").read_text(encoding="utf-8")
    assert text.count("-->") == len(cues)
    assert "&lt;c&gt; &amp; d --&gt; e f" in text


def test_cues_go_on_after_an_hour(tmp_path):
    write_vtt(tmp_path / "a.vtt", [event(onset_s=3725.5, apex_s=3725.6, offset_s=3726.0)])
    assert "01:02:05.500 --> 01:02:06.000" in (tmp_path / "a.vtt").read_text(encoding="utf-8")


def test_no_event_is_no_cue(tmp_path):
    write_vtt(tmp_path / "a.vtt", [])
    assert (tmp_path / "a.vtt").read_bytes() == b"WEBVTT\n"
    assert webvtt.read(tmp_path / "a.vtt").captions == []


# Challenges


def test_spotting_has_micro_and_macro_in_frames(tmp_path):
    events = [dataclasses.replace(row, emotion=None) for row in EVENTS]
    assert write_challenge(tmp_path / "a.csv", events) == 3
    assert (tmp_path / "a.csv").read_bytes().decode().split("\r\n") == [
        "vid,pred_onset,pred_offset,type",
        "take,30,45,me",
        "take,44,44,me",
        "take,60,66,me",
        "",
    ]
    assert write_challenge(tmp_path / "a.csv", events, leave_out=()) == 5
    assert pd.read_csv(tmp_path / "a.csv")["type"].tolist() == ["me", "mae", "me", "me", "me"]


def test_spot_then_recognise_has_micro_expressions_with_an_emotion(tmp_path):
    events = [
        event(1, video="s05/sub/anger1.mp4", emotion="negative"),
        event(2, video="017/017_3", emotion="positive", frames=(316, 400, 428)),
        event(3, video="017/take.2", emotion="surprise"),
        event(4, video="b.mkv", emotion="surprise", type="macro"),
        event(5, video="b.mkv"),
        event(6, video=NASTY, emotion="negative"),
    ]
    assert write_challenge(tmp_path / "a.csv", events) == 4
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["subject", "video", "onset", "offset", "emotion"],
        ["017", "017_3", "316", "428", "positive"],
        ["017", "take.2", "30", "45", "surprise"],
        ["s 1", 'it\'s "a, b" & <script>\n日本 é', "30", "45", "negative"],
        ["sub", "anger1", "30", "45", "negative"],
    ]
    assert (tmp_path / "a.csv").read_bytes().count(b"\r\n") == 5
    assert write_challenge(tmp_path / "a.csv", events, with_emotion=False) == 6


@pytest.mark.parametrize(("with_emotion", "header"), [(None, b"vid,pred_onset"), (True, b"subject,video,onset")])
def test_a_challenge_table_may_be_empty(with_emotion, header, tmp_path):
    assert write_challenge(tmp_path / "a.csv", [], with_emotion=with_emotion) == 0
    assert (tmp_path / "a.csv").read_bytes().startswith(header)
