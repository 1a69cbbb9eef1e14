import csv
import hashlib

import av
import cv2
import numpy as np
import pytest

from mbert import ConfigError
from mbert.manifests.labels import read_labels
from mbert.pipeline.align import fit_pose
from mbert.pipeline.engine import Engine
from mbert.pipeline.landmarkers import MediaPipeMesh
from mbert.pipeline.synthesize import (
    EXPRESSIONS,
    Portrait,
    SynthesisOptions,
    SyntheticClip,
    displacement_field,
    expression_profile,
    synthesize,
)


def frames_of(path):
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]


@pytest.fixture(scope="module")
def portrait(face):
    landmarker = MediaPipeMesh(max_faces=1)
    image = cv2.resize(face[20:260, 100:340], (480, 480), interpolation=cv2.INTER_CUBIC)
    return Portrait(image, landmarker.detect(image)[0].points)


def test_clips_are_real_videos_that_their_labels_describe(synthetic_videos):
    labels = read_labels(synthetic_videos / "labels.csv", "videos")
    assert len(labels) == 18
    assert {label.emotion for label in labels} == set(EXPRESSIONS)
    for label in labels:
        num_frames = len(frames_of(synthetic_videos / label.path))
        assert 40 <= num_frames <= 80
        assert 0 < label.onset < label.apex < label.offset < num_frames
        assert 6 <= label.apex - label.onset <= 15  # 0.2 to 0.5 s at 30 fps


def test_the_face_moves_at_the_apex_and_rests_at_onset_and_offset(synthetic_videos):
    ratios = []
    for label in read_labels(synthetic_videos / "labels.csv", "videos"):
        frames = [cv2.GaussianBlur(frame, (0, 0), 1).astype(int) for frame in frames_of(synthetic_videos / label.path)]
        rest = np.abs(frames[label.onset] - frames[label.onset - 3]).mean()
        ratios.append(np.abs(frames[label.apex] - frames[label.onset]).mean() / rest)
    assert np.median(ratios) > 1.5


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path):
    def digests(name, seed, workers):
        options = SynthesisOptions(num_subjects=2, clips_per_emotion=1, seed=seed)
        assert synthesize(tmp_path / name, options, engine=Engine(workers=workers)) == 6
        files = sorted(file for file in (tmp_path / name).rglob("*") if file.is_file())
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    first = digests("a", 0, 1)
    assert len(first) == 7
    assert digests("b", 0, 2) == first
    assert digests("c", 1, 2) != first


def test_the_profile_rises_to_the_apex_and_falls(portrait):
    clip = SyntheticClip("a.mp4", "s", "happiness", 10, 20, 30, 50, 2.0, 0)
    profile = expression_profile(clip)
    assert profile[[0, 10, 30, 49]].tolist() == [0, 0, 0, 0]
    assert profile[20] == 1
    assert np.all(np.diff(profile[10:21]) > 0)
    assert np.all(np.diff(profile[20:31]) < 0)


@pytest.mark.parametrize("emotion", sorted(EXPRESSIONS))
def test_the_field_has_the_stated_amplitude_and_stays_in_the_face(portrait, emotion):
    field = displacement_field(portrait, emotion)
    size = np.linalg.norm(field, axis=-1)
    crop_px = np.exp(fit_pose(portrait.mesh)[2]) * 224  # crop pixels per pixel of the portrait
    assert size.max() * crop_px == pytest.approx(1, abs=1e-3)
    low, high = portrait.mesh[:, :2].min(axis=0), portrait.mesh[:, :2].max(axis=0)
    y, x = np.unravel_index(size.argmax(), size.shape)
    assert low[0] < x < high[0]
    assert low[1] < y < high[1]
    assert size[:, 0].max() < 0.01


def test_emotions_move_different_parts_of_the_face(portrait):
    eyes = portrait.mesh[[33, 263], 1].mean()
    upward = {}
    for emotion in EXPRESSIONS:
        field = displacement_field(portrait, emotion)
        heights = np.arange(field.shape[0])
        weight = np.linalg.norm(field, axis=-1).sum(axis=1)
        upward[emotion] = (heights * weight).sum() / weight.sum() < eyes
    assert upward == {"surprise": True, "happiness": False, "disgust": False}


def test_other_photos_are_used(media, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("still_pyfeat_single_face.jpg", "still_liveportrait_d0.jpg"):
        (photos / name).symlink_to(media / "photos" / name)
    assert synthesize(tmp_path / "videos", SynthesisOptions(num_subjects=2, clips_per_emotion=1), photos=photos) == 6
    one, other = (frames_of(tmp_path / "videos" / subject / "happiness_1.mp4")[0] for subject in ("s01", "s02"))
    assert np.abs(one.astype(int) - other).mean() > 20


def test_photos_without_a_face_are_a_clear_error(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(ConfigError, match="holds no photo"):
        synthesize(tmp_path / "videos", SynthesisOptions(), photos=photos)
    cv2.imwrite(str(photos / "gray.png"), np.full((200, 200, 3), 128, np.uint8))
    with pytest.raises(ConfigError, match="no face was found in any photo"):
        synthesize(tmp_path / "videos", SynthesisOptions(), photos=photos)
    assert not (tmp_path / "videos").exists()


def test_labels_are_plain_csv(synthetic_videos):
    with (synthetic_videos / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["action_units"] == "4+9+10"
