import csv
import dataclasses
import hashlib
import json
import shutil

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from mbert import ConfigError
from mbert.cli import app
from mbert.manifests.labels.label_file import read_labels
from mbert.manifests.schema import TruthRow
from mbert.manifests.store import read_rows
from mbert.pipeline.faces.landmarkers import open_landmarker
from mbert.pipeline.synthetic import synthesize as module
from mbert.pipeline.synthetic.facial_motion import CROP_PX, face_axes, pixel_grid
from mbert.pipeline.synthetic.nuisance import Nuisance
from mbert.pipeline.synthetic.render import Portrait, Scene, active_units, expression_course
from mbert.pipeline.synthetic.synthesize import EMOTIONS, PRESETS, SynthesisOptions, synthesize, truth_path
from mbert.shards.engine import Engine
from mbert.shards.optical_flow import optical_flow

OFF = Nuisance(**{field.name: 0 for field in dataclasses.fields(Nuisance)})
SMALL = SynthesisOptions(
    subjects_per_photo=1, clips_per_emotion=1, neutral_clips=1, fps=30, min_seconds=0.8, max_seconds=0.9, nuisance=OFF
)


def frames_of(path):
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]


def digests(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def a_row(**changes):
    plain = {
        "path": "s01/a_1.mp4", "subject": "s01", "part": "train", "photo": "a.png", "photo_sha256": "0", "variation": 0,
        "emotion": "happiness", "action_units": "6+12", "left_strengths": (1.0, 1.0), "right_strengths": (0.8, 0.9),
        "amplitude_px": 1.0, "onset": 5, "apex": 10, "offset": 16, "num_frames": 24, "fps": 30, "width": 320,
        "height": 320, "seed": 7,
    }  # fmt: skip
    return TruthRow(**{**dataclasses.asdict(OFF), **plain, **changes})


@pytest.fixture(scope="module")
def portrait(face):
    landmarker = open_landmarker("mediapipe", max_faces=1)
    try:
        image = cv2.resize(face[20:260, 100:340], (320, 320), interpolation=cv2.INTER_CUBIC)
        return Portrait(image, landmarker.detect(image)[0].points)
    finally:
        landmarker.close()


def write_photos(folder, face, names):
    """The bundled face in different light: other photos, by their bytes."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / name), cv2.cvtColor(face[:300, 60:360], cv2.COLOR_RGB2BGR) // 12 * (12 - number % 6))
    return folder


def test_clips_are_real_videos_that_their_labels_describe(synthetic_videos):
    labels = read_labels(synthetic_videos / "labels.csv", "videos").labels
    assert len(labels) == 18
    assert {label.emotion for label in labels} == {"disgust", "happiness", "surprise"}
    for label in labels:
        num_frames = len(frames_of(synthetic_videos / label.path))
        assert 40 <= num_frames <= 61
        assert 0 < label.onset < label.apex < label.offset < num_frames
        assert 6 <= label.apex - label.onset <= 12  # 0.2 to 0.4 s at 30 fps
        assert tuple(int(unit) for unit in label.action_units.split("+")) == EMOTIONS[label.emotion][0]


def test_the_truth_says_what_the_labels_say_and_more(synthetic_videos):
    rows = {row.path: row for row in read_rows(synthetic_videos / "truth.parquet", TruthRow)}
    labels = read_labels(synthetic_videos / "labels.csv", "videos").labels
    assert [label.path for label in labels] == list(rows)
    for label in labels:
        row = rows[label.path]
        assert (label.onset, label.apex, label.offset, label.emotion) == (row.onset, row.apex, row.offset, row.emotion)
        assert label.subject == f"videos/{row.subject}"
        assert len(row.left_strengths) == len(row.right_strengths) == len(row.action_units.split("+"))
        assert 1.5 <= row.amplitude_px <= 3
        assert row.num_frames == len(frames_of(synthetic_videos / row.path))
    assert len({row.seed for row in rows.values()}) == 18
    assert len({row.left_strengths for row in rows.values()}) == 18
    with np.load(truth_path(synthetic_videos, "s01/disgust_1.mp4")) as truth:
        row = rows["s01/disgust_1.mp4"]
        assert truth["expression"].shape == truth["distractor"].shape == (320, 320, 2)
        assert truth["expression"].dtype == np.float16
        assert np.linalg.norm(truth["expression"].astype(float), axis=-1).max() == pytest.approx(
            row.amplitude_px * 320 / 1.45 / 224, rel=0.1
        )
        assert not truth["distractor"].any()
        assert truth["head"].shape == (row.num_frames, 2, 3)
        assert truth["strength"][[row.onset, row.apex, row.offset]].tolist() == [0, 1, 0]


def test_the_face_moves_at_the_apex_and_rests_at_onset_and_offset(synthetic_videos):
    ratios = []
    for label in read_labels(synthetic_videos / "labels.csv", "videos").labels:
        frames = [cv2.GaussianBlur(frame, (0, 0), 1).astype(int) for frame in frames_of(synthetic_videos / label.path)]
        rest = np.abs(frames[label.onset] - frames[label.onset - 3]).mean()
        ratios.append(np.abs(frames[label.apex] - frames[label.onset]).mean() / rest)
    assert np.median(ratios) > 1.3


def test_the_profile_rises_to_the_apex_and_falls():
    profile = expression_course(a_row(onset=10, apex=20, offset=30, num_frames=50))
    assert profile[[0, 10, 30, 49]].tolist() == [0, 0, 0, 0]
    assert profile[20] == 1
    assert np.all(np.diff(profile[10:21]) > 0)
    assert np.all(np.diff(profile[20:31]) < 0)


def test_undisturbed_frames_differ_from_the_photo_between_onset_and_offset_only(portrait):
    row = a_row()
    changed = [not np.array_equal(frame, portrait.image) for frame in Scene(portrait, row).frames()]
    assert changed == [5 < index < 16 for index in range(24)]
    neutral = a_row(
        emotion="neutral", action_units=None, left_strengths=(), right_strengths=(), onset=None, apex=None, offset=None
    )
    assert all(np.array_equal(frame, portrait.image) for frame in Scene(portrait, neutral).frames())


@pytest.mark.parametrize("units", ["12", "1+2+25", "4+7+9", "15+17"])
@pytest.mark.parametrize("head_px", [0, 2])
def test_the_true_field_is_the_motion_of_the_pixels(portrait, units, head_px):
    number = len(units.split("+"))
    row = a_row(
        action_units=units,
        left_strengths=(1.0,) * number,
        right_strengths=(0.8,) * number,
        amplitude_px=CROP_PX / face_axes(portrait.mesh)[0],  # one pixel of the video
        head_px=head_px,
    )
    scene = Scene(portrait, row)
    frames, truth = list(scene.frames()), scene.truth()
    expression = truth["expression"].astype(np.float32)
    head = truth["head"].astype(float)
    # First the skin moves, then the head, from where it was at the onset.
    matrices = [np.vstack([head[frame], [0, 0, 1]]) for frame in (row.onset, row.apex)]
    between = (matrices[1] @ np.linalg.inv(matrices[0]))[:2]
    grid = pixel_grid(expression.shape)
    true = cv2.transform(grid + expression, between) - grid
    # The flow of small frames blurs motion as local as this; enlarged, it finds it.
    pair = [cv2.resize(frames[frame], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC) for frame in (5, 10)]
    measured = cv2.resize(optical_flow(*pair), (320, 320), interpolation=cv2.INTER_AREA) / 3
    size = np.linalg.norm(expression, axis=-1)
    assert size.max() == pytest.approx(1, abs=0.03)
    error = np.linalg.norm(measured - true, axis=-1)[size > 0.1]
    assert error.mean() < 0.1
    assert np.linalg.norm(true, axis=-1)[size > 0.1].mean() > 0.3


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Nuisance) if field.name != "crf"])
def test_a_nuisance_changes_the_frames_and_not_the_expression(portrait, name):
    plain, disturbed = (Scene(portrait, a_row(num_frames=20, fps=10, **{name: size})) for size in (0, 2))
    assert np.array_equal(disturbed.expression, plain.expression)
    assert np.array_equal(disturbed.strength, plain.strength)
    assert any(not np.array_equal(*frames) for frames in zip(disturbed.frames(), plain.frames(), strict=True))
    before, after = (scene.truth() for scene in (plain, disturbed))
    if not name.startswith("head"):
        assert np.array_equal(before["expression"], after["expression"])
        assert np.array_equal(before["head"], after["head"])
    if name not in ("blinks", "gaze_px", "mouth_px", "scene_px"):
        assert not after["distractor"].any()


def test_the_distractor_is_told_apart_from_the_expression(portrait):
    row = a_row(mouth_px=2, gaze_px=2, scene_px=2, num_frames=30, onset=10, apex=16, offset=22)
    scene = Scene(portrait, row)
    frames, truth = list(scene.frames()), scene.truth()
    distractor = truth["distractor"].astype(np.float32)
    assert np.linalg.norm(distractor, axis=-1).max() > 0.5
    both = truth["expression"].astype(np.float32) + distractor
    # Undoing both brings the onset back better than undoing either.
    left = {}
    for told, field in (("both", both), ("expression", truth["expression"]), ("distractor", distractor)):
        places = pixel_grid(both.shape) + field.astype(np.float32)
        undone = cv2.remap(frames[row.apex], places, None, cv2.INTER_CUBIC).astype(float)
        left[told] = np.abs(undone - frames[row.onset])[np.linalg.norm(both, axis=-1) > 0.1].mean()
    assert left["both"] < 0.6 * min(left["expression"], left["distractor"])


def test_stronger_compression_makes_smaller_videos(tmp_path):
    sizes = []
    for crf in (0, 20, 35):
        options = dataclasses.replace(SMALL, neutral_clips=0, nuisance=dataclasses.replace(OFF, noise=2, crf=crf))
        synthesize(tmp_path / str(crf), options)
        sizes.append((tmp_path / str(crf) / "s01" / "disgust_1.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path):
    options = dataclasses.replace(SMALL, nuisance=PRESETS["hard"].nuisance)
    first = synthesize(tmp_path / "a", options, engine=Engine(workers=1))
    assert (first.num_clips, first.num_new, first.num_labelled, first.num_subjects) == (4, 4, 3, 1)
    found = digests(tmp_path / "a")
    assert len(found) == 4 + 4 + 4  # videos, fields, labels, truth, options, lock
    synthesize(tmp_path / "b", options, engine=Engine(workers=2))
    assert digests(tmp_path / "b") == found
    other = dataclasses.replace(options, seed=1)
    synthesize(tmp_path / "c", other)
    videos = [name for name in found if name.endswith(".mp4")]
    assert all(digests(tmp_path / "c")[name] != found[name] for name in videos)


def test_a_second_run_does_nothing_and_a_cut_off_one_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    synthesize(folder, SMALL)
    found = digests(folder)
    (folder / "truth.parquet").unlink()
    (folder / "s01" / "surprise_1.mp4").unlink()
    again = synthesize(folder, SMALL)
    assert (again.num_new, again.num_clips) == (1, 4)
    assert digests(folder) == found

    def no_need(*_, **__):
        raise AssertionError("a complete corpus needs no landmarks")

    monkeypatch.setattr(module, "open_landmarker", no_need)
    done = synthesize(folder, SMALL)
    assert (done.num_new, done.num_clips, done.num_labelled) == (0, 4, 3)


def test_making_a_corpus_anew_removes_nothing_outside_of_it(tmp_path):
    folder, other = tmp_path / "videos", tmp_path / "mine"
    folder.mkdir()
    other.mkdir()
    for name in ("../mine", str(other), "..", ""):
        (folder / "synthesis.json").write_text(json.dumps({"subjects": ["s01", name]}))
        (folder / "s01").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=r"synthesis.json names .* as a subject, which is not a folder in"):
            synthesize(folder, SMALL, overwrite=True)
        assert other.exists() and (folder / "s01").exists()


def test_other_options_are_refused_until_the_corpus_may_be_made_anew(tmp_path):
    folder = tmp_path / "videos"
    synthesize(folder, SMALL)
    other = dataclasses.replace(SMALL, neutral_clips=0, nuisance=dataclasses.replace(OFF, noise=1))
    with pytest.raises(ConfigError, match=r"neutral_clips: folder 1, requested 0; noise: folder 0, requested 1"):
        synthesize(folder, other)
    (folder / "mine.txt").touch()
    synthesize(folder, other, overwrite=True)
    assert sorted(file.name for file in (folder / "s01").iterdir()) == [
        "disgust_1.mp4",
        "happiness_1.mp4",
        "surprise_1.mp4",
    ]
    assert (folder / "mine.txt").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty and holds no synthetic corpus"):
        synthesize(tmp_path / "other", SMALL)


def test_neutral_clips_are_named_on_request_and_frames_may_be_folders(tmp_path):
    options = dataclasses.replace(SMALL, label_neutral=True, frame_folders=True)
    synthesize(tmp_path / "videos", options)
    with (tmp_path / "videos" / "labels.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    neutral = rows["s01/neutral_1"]
    assert (neutral["emotion"], neutral["onset"], neutral["action_units"]) == ("neutral", "", "")
    truth = {row.path: row for row in read_rows(tmp_path / "videos" / "truth.parquet", TruthRow)}
    assert set(truth) == set(rows)
    images = sorted((tmp_path / "videos" / "s01" / "surprise_1").iterdir())
    assert [file.name for file in images[:2]] == ["00000.jpg", "00001.jpg"]
    assert len(images) == truth["s01/surprise_1"].num_frames
    assert cv2.imread(str(images[0])).shape == (320, 320, 3)


def test_the_split_keeps_photos_apart_and_does_not_depend_on_others(tmp_path, face):
    photos = write_photos(tmp_path / "photos", face, [f"p{number}.png" for number in range(1, 6)])

    def parts_of(folder):
        return {photo.sha256: photo.part for photo in module._list_photos(folder)}

    before = parts_of(photos)
    write_photos(photos, face, [f"p{number}.png" for number in range(1, 7)])
    (photos / "p1.png").rename(photos / "z.png")
    after = parts_of(photos)
    assert len(after) == 6
    assert before.items() <= after.items()
    # A part is what the whole corpus has of it.
    part = module._list_photos(photos)[2].part
    options = dataclasses.replace(SMALL, neutral_clips=0, part=part)
    summary = synthesize(tmp_path / "part", options, photos=photos)
    assert summary.subjects_by_part == {**dict.fromkeys(module.PARTS, 0), part: list(after.values()).count(part)}
    synthesize(tmp_path / "all", dataclasses.replace(options, part="all"), photos=photos)
    of_all = {row.path: row for row in read_rows(tmp_path / "all" / "truth.parquet", TruthRow)}
    of_part = {row.path: row for row in read_rows(tmp_path / "part" / "truth.parquet", TruthRow)}
    assert of_part == {path: row for path, row in of_all.items() if row.part == part}
    video = next(iter(of_part))
    assert (tmp_path / "part" / video).read_bytes() == (tmp_path / "all" / video).read_bytes()


def test_the_lots_of_the_split_are_a_half_and_two_quarters():
    photos = [
        module._Photo(str(number), hashlib.sha256(str(number).encode()).hexdigest(), None) for number in range(4000)
    ]
    parts = [photo.part for photo in photos]
    assert [parts.count(name) / 4000 for name in module.PARTS] == pytest.approx([0.5, 0.25, 0.25], abs=0.02)
    # The split is fixed: a photo is in the same part in every version.
    assert parts[:4] == ["pretrain", "test", "pretrain", "test"]


def test_photos_that_cannot_be_used_are_left_out_and_told(tmp_path, face):
    photos = write_photos(tmp_path / "photos", face, ["good.png"])
    shutil.copy(photos / "good.png", photos / "same.png")
    cv2.imwrite(str(photos / "gray.png"), np.full((200, 200, 3), 128, np.uint8))
    (photos / "broken.jpg").write_bytes(b"no image")
    cv2.imwrite(str(photos / "small.png"), cv2.resize(cv2.imread(str(photos / "good.png")), (110, 110)))
    notes = []
    summary = synthesize(tmp_path / "videos", SMALL, photos=photos, on_note=notes.append)
    assert summary.num_subjects == 1
    reasons = dict(sorted(summary.skipped.items()))
    small = reasons.pop("small.png")
    assert reasons == {
        "broken.jpg": "it cannot be decoded",
        "gray.png": "no face was found",
        "same.png": "the same photo as good.png",
    }
    assert "100 px are needed" in small
    assert len(notes) == 4


def test_photos_without_a_face_are_a_clear_error(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(ConfigError, match="holds no photo"):
        synthesize(tmp_path / "videos", SMALL, photos=photos)
    cv2.imwrite(str(photos / "gray.png"), np.full((200, 200, 3), 128, np.uint8))
    with pytest.raises(ConfigError, match="no face was found in any photo"):
        synthesize(tmp_path / "videos", SMALL, photos=photos)
    assert not (tmp_path / "videos").exists()


def test_real_photos_give_different_people(media, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("still_pyfeat_single_face.jpg", "still_liveportrait_d0.jpg"):
        (photos / name).symlink_to(media / "photos" / name)
    options = dataclasses.replace(SMALL, emotions="five", neutral_clips=0)
    assert synthesize(tmp_path / "videos", options, photos=photos, engine=Engine(workers=2)).num_clips == 10
    still = [frames_of(tmp_path / "videos" / f"s{number:02d}" / "anger_1.mp4")[0].astype(int) for number in (1, 2)]
    assert np.abs(still[0] - still[1]).mean() > 20
    rows = read_rows(tmp_path / "videos" / "truth.parquet", TruthRow)
    assert {row.emotion for row in rows} == set(EMOTIONS)


def test_options_that_make_no_sense_are_refused():
    for wrong, told in (
        ({"fps": 20}, "allowed are 30 to 500"),
        ({"min_amplitude_px": 3.0}, "min <= max"),
        ({"asymmetry": 1.0}, "below 1"),
        ({"min_phase_ms": 20}, "at least 50 ms"),
        ({"min_seconds": 0.5}, "clips must be 0.8 s"),
        ({"subjects_per_photo": 0}, "at least 1 subject"),
    ):
        with pytest.raises(ConfigError, match=told):
            dataclasses.replace(PRESETS["standard"], **wrong)


def test_the_presets_are_ordered_by_difficulty():
    easy, standard, hard = PRESETS.values()
    for name in (field.name for field in dataclasses.fields(Nuisance)):
        sizes = [getattr(preset.nuisance, name) for preset in (easy, standard, hard)]
        assert sizes == sorted(sizes)
    for name in ("light", "tone", "head_px", "head_degrees"):
        assert getattr(hard.nuisance, name) == pytest.approx(4 * getattr(standard.nuisance, name))
    assert easy.min_amplitude_px > standard.min_amplitude_px > hard.min_amplitude_px
    assert active_units(a_row())[1].right == 0.9


def test_an_emotion_is_shown_by_all_its_combinations(tmp_path):
    found = {name: set() for name in EMOTIONS}
    for emotion in EMOTIONS:
        for seed in range(200):
            plan = module._plan_expression(emotion, PRESETS["standard"], np.random.default_rng(seed))
            found[emotion].add(tuple(int(unit) for unit in plan["action_units"].split("+")))
            assert plan["onset"] >= 15
            assert 10 <= plan["apex"] - plan["onset"] <= 25
            assert 10 <= plan["offset"] - plan["apex"] <= 25
            assert plan["offset"] <= plan["num_frames"] - 14
    assert found == {name: set(combinations) for name, combinations in EMOTIONS.items()}


def test_the_command_tells_where_things_are_and_does_nothing_twice(tmp_path):
    out = tmp_path / "videos"
    words = ["synthesize", "--out", str(out), "--subjects-per-photo", "1", "--clips-per-emotion", "1"]
    words += ["--neutral-clips", "0", "--fps", "30", "--workers", "1", "--preset", "hard", "--noise", "0"]
    first, again = (CliRunner().invoke(app, words) for _ in range(2))
    assert first.exit_code == again.exit_code == 0
    assert "3 clips of 1 subject" in first.stdout
    assert "this run made 3 clips" in first.stdout
    assert f"next: mbert ingest {out}" in first.stdout
    assert "synthesize: 3 clips" in first.stderr
    assert "nothing new to make" in again.stdout
    row = read_rows(out / "truth.parquet", TruthRow)[0]
    assert (row.noise, row.crf, row.head_px) == (0, 14, 4)
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert (told["num_clips"], told["num_new"], told["skipped"]) == (3, 0, {})
    other = CliRunner().invoke(app, [*words, "--seed", "1"])
    assert other.exit_code == 2
    assert "seed: folder 0, requested 1" in other.stderr
