"""What `mbert predict` finds, against events that a person annotated frame by frame.

    python benchmarks/events.py MEDIA [--annotations FILE] [--out DIR] [--per-minute 1] [--model RUN] [--list]

MEDIA holds `videos/` and `annotations.csv` (columns clip, event, onset, apex, offset, certainty, note; frames from 0).
Where the annotation of a clip ends early, give `--until CLIP=FRAME`: what comes later is not scored. How it is scored:

- blinks: one of ours and one of theirs that share a frame are one; an `eye` row (wink, squint) that ours shares is not
  scored. Recall and precision.
- brow and mouth events: found when the rise of one of ours (onset to apex, of that part of the face) shares a frame
  with theirs. Onset error in frames, of those found and marked `sure`.
- speech: share of the annotated frames that are in one of our stretches of speech, and the share of the other frames,
  without those of mouth events, that are in one, too.
- still: events whose onset lies in a still stretch, not counting its first and last two frames; per minute of them.

The last line of the output is one JSON object.
"""

import argparse
import csv
import json
import statistics
import tempfile
from pathlib import Path

import mbert
from mbert.manifests.predictions import EventRow, MovementRow
from mbert.manifests.store import read_rows

PARTS = {"brow": "brows", "mouth": "mouth"}
MARGIN = 2  # frames at both ends of a still stretch
AROUND = 5  # frames around a mouth event that are neither speech nor none


def read_annotations(file):
    rows = {}
    with file.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            onset, offset = int(row["onset"]), int(row["offset"])
            apex = int(row["apex"]) if row["apex"] else offset
            rows.setdefault(row["clip"], []).append((row["event"], onset, apex, offset, row["certainty"]))
    return rows


def shares(first, second):
    return first[0] <= second[1] and second[0] <= first[1]


def score_clip(rows, events, frames, until, tally, told):
    of = lambda kind: [row for row in rows if row[0] == kind]  # noqa: E731
    events = [event for event in events if event.onset_frame <= until]
    score_blinks(of("blink"), of("eye"), [event for event in events if event.type == "blink"], tally, told)
    found = [event for event in events if event.type in ("micro", "macro")]
    for kind, part in PARTS.items():
        for _, onset, apex, _, certainty in of(kind):
            same = [
                event
                for event in found
                if event.part == part and shares((event.onset_frame, event.apex_frame), (onset, apex))
            ]
            tally[kind].append(bool(same))
            if same:
                nearest = min(same, key=lambda event: abs(event.onset_frame - onset))
                if certainty == "sure":
                    tally["onset_error"].append(nearest.onset_frame - onset)
            told(f"{kind} {onset}-{apex} {certainty}: " + (f"found {nearest.onset_frame}" if same else "missed"))
    is_speech = {frame.frame: frame.speech for frame in frames if frame.success and frame.frame <= until}
    spoken = {frame for _, onset, _, offset, _ in of("speech") for frame in range(onset, offset + 1)}
    near = {f for _, onset, _, offset, _ in of("mouth") for f in range(onset - AROUND, offset + AROUND + 1)}
    tally["speech"] += [bool(is_speech.get(frame)) for frame in sorted(spoken) if frame <= until]
    tally["other"] += [bool(mark) for frame, mark in is_speech.items() if frame not in spoken | near]
    seconds = {frame.frame: frame.timestamp for frame in frames}
    for _, onset, _, offset, _ in of("still"):
        last = min(offset, max(seconds))
        tally["still_seconds"] += seconds[last] - seconds[onset]
        false = [event for event in found if onset + MARGIN <= event.onset_frame <= offset - MARGIN]
        tally["still_events"] += len(false)
        for event in false:
            told(f"still {onset}-{offset}: {event.part} {event.onset_frame}-{event.apex_frame} {event.speed:.2f}")


def score_blinks(theirs, eyes, ours, tally, told):
    left = list(ours)
    for _, onset, _, offset, _ in theirs:
        same = [event for event in left if shares((event.onset_frame, event.offset_frame), (onset, offset))]
        tally["blink"].append(bool(same))
        if same:
            left.remove(same[0])
            tally["blink_true"] += 1
        else:
            told(f"blink {onset}-{offset}: missed")
    for event in left:
        if not any(shares((event.onset_frame, event.offset_frame), (row[1], row[3])) for row in eyes):
            tally["blink_false"] += 1
            told(f"blink {event.onset_frame}-{event.offset_frame}: ours alone")


def mean(values):
    return round(sum(values) / len(values), 3) if values else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("--annotations", type=Path, help="default: MEDIA/annotations.csv")
    parser.add_argument("--out", type=Path, help="keep the predictions here; default: a temporary folder")
    parser.add_argument("--per-minute", type=float, default=1.0)
    parser.add_argument("--model", type=Path, help="default: the built-in one")
    parser.add_argument("--until", action="append", default=[], help="CLIP=FRAME: the annotation ends there")
    parser.add_argument("--list", action="store_true", help="every event that was found or missed")
    arguments = parser.parse_args()
    annotations = read_annotations(arguments.annotations or arguments.media / "annotations.csv")
    until = {"latentsync_demo1_hevc.mp4": 149} | {
        name: int(frame) for name, frame in (text.rsplit("=", 1) for text in arguments.until)
    }
    tally = {name: [] for name in ("blink", "brow", "mouth", "onset_error", "speech", "other")}
    tally |= {"blink_true": 0, "blink_false": 0, "still_events": 0, "still_seconds": 0.0}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        out = arguments.out or work / "predictions"
        videos = work / "videos"
        videos.mkdir()
        for clip in annotations:
            (videos / clip).symlink_to((arguments.media / "videos" / clip).resolve())
        run = mbert.predict(videos, out=out, per_minute=arguments.per_minute, model=arguments.model, overlay=False)
        for clip, rows in annotations.items():
            folder = Path(run.folders[clip])
            told = lambda text, clip=clip: print(f"{clip}: {text}") if arguments.list else None  # noqa: E731
            events = read_rows(folder / "events.parquet", EventRow)
            frames = read_rows(folder / "frames.parquet", MovementRow)
            score_clip(rows, events, frames, until.get(clip, 10**9), tally, told)
    minutes = tally["still_seconds"] / 60
    errors = [abs(error) for error in tally["onset_error"]]
    print(
        json.dumps(
            {
                "blink_recall": mean(tally["blink"]),
                "blink_precision": round(tally["blink_true"] / max(1, tally["blink_true"] + tally["blink_false"]), 3),
                "brow_recall": mean(tally["brow"]),
                "mouth_recall": mean(tally["mouth"]),
                "brow_mouth_recall": mean(tally["brow"] + tally["mouth"]),
                "speech_covered": mean(tally["speech"]),
                "speech_elsewhere": mean(tally["other"]),
                "still_events_per_minute": round(tally["still_events"] / minutes, 2) if minutes else None,
                "still_minutes": round(minutes, 3),
                "onset_error_frames": statistics.median(errors) if errors else None,
                "onset_bias_frames": mean(tally["onset_error"]),
                "num": {name: len(tally[name]) for name in ("blink", "brow", "mouth", "onset_error")},
            }
        )
    )


if __name__ == "__main__":
    main()
