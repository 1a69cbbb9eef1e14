import numpy as np

from mbert.manifests.labels.table import Label
from mbert.pipeline.faces.align import template
from mbert.pipeline.faces.landmarks import MESH, Face
from mbert.pipeline.faces.track import CutRules, follow_faces, spans
from mbert.pipeline.video.frame import Frame

HEIGHT, WIDTH, CROP = 240, 320, 64
NO_RULES = CutRules(max_seconds=1000.0, max_bytes=1 << 40)


def make_face(x, y, size=100.0):
    points = np.array([x, y]) + np.random.default_rng(0).uniform(-0.5, 0.5, (468, 2)) * size * 0.9
    points[list(MESH.rigid)] = (template() - 0.5) * size * 1.5 + [x, y]
    return Face(points)


class ScriptedLandmarker:
    """Says for each frame what a script says; the frame's index is written into its pixels."""

    name = "scripted"

    def __init__(self, script):
        self.script = script
        self.asked = []

    def detect(self, rgb):
        index = int(rgb[0, 0, 0]) + 256 * int(rgb[0, 0, 1])
        self.asked.append(index)
        return self.script(index)

    def close(self):
        pass


def frames(num_frames, fps=30, level=lambda index: 100):
    for index in range(num_frames):
        image = np.full((HEIGHT, WIDTH, 3), level(index), np.uint8)
        image[0, 0] = (index % 256, index // 256, 0)
        yield Frame(index, index / fps, image)


def clips_of(script, num_frames=60, rules=NO_RULES, tick_seconds=0.2, level=lambda index: 100):
    landmarker = ScriptedLandmarker(script)
    measured = spans(frames(num_frames, level=level), landmarker, tick_seconds=tick_seconds)
    return list(follow_faces(measured, crop_size=CROP, rules=rules)), landmarker


def ranges(clips):
    return [(clip.track, clip.frames[0].frame.index, clip.frames[-1].frame.index) for clip in clips]


def indices(clip):
    return [region.frame.index for region in clip.frames]


def test_landmarks_are_sparse_and_measured_on_both_ends():
    _, landmarker = clips_of(lambda index: [make_face(160, 120)], num_frames=50)
    assert landmarker.asked == [0, 6, 12, 18, 24, 30, 36, 42, 48, 49]


def test_a_face_that_stays_is_one_clip_with_every_frame_once():
    clips, _ = clips_of(lambda index: [make_face(160 + index * 0.5, 120)])
    assert len(clips) == 1
    assert indices(clips[0]) == list(range(60))
    assert len(clips[0].ticks) == 11


def test_a_face_that_goes_and_comes_back_is_two_tracks():
    clips, _ = clips_of(lambda index: [] if 20 <= index < 40 else [make_face(160, 120)])
    assert ranges(clips) == [(0, 0, 18), (1, 42, 59)]


def test_one_or_two_hits_are_no_face():
    assert clips_of(lambda index: [make_face(160, 120)] if index in (12, 18) else [])[0] == []


def test_a_short_input_may_have_two_ticks_only():
    clips, _ = clips_of(lambda index: [make_face(160, 120)], num_frames=4)
    assert ranges(clips) == [(0, 0, 3)]
    assert clips_of(lambda index: [make_face(160, 120)], num_frames=1)[0] == []


def test_two_faces_are_two_tracks():
    clips, _ = clips_of(lambda index: [make_face(80, 120), make_face(240, 120)])
    assert ranges(clips) == [(0, 0, 59), (1, 0, 59)]


def test_faces_that_could_be_swapped_end_both_tracks():
    def crossing(index):
        return [make_face(100 + 2 * index, 120), make_face(220 - 2 * index, 120)]

    clips, _ = clips_of(crossing)
    assert len(clips) >= 3
    for clip in clips:
        xs = [face.center[0] for _, face in clip.ticks.values()]
        steps = np.diff(xs)
        assert np.all(steps > 0) or np.all(steps < 0)  # nobody turns round in the middle


def test_a_jump_is_not_followed():
    clips, _ = clips_of(lambda index: [make_face(80 if index < 30 else 200, 120)])
    assert ranges(clips) == [(0, 0, 24), (1, 30, 59)]


def test_a_scene_cut_ends_the_clip_although_the_face_stays_in_place():
    clips, _ = clips_of(lambda index: [make_face(160, 120)], level=lambda index: 60 if index < 33 else 160)
    assert ranges(clips) == [(0, 0, 30), (1, 36, 59)]


def test_long_tracks_are_cut_but_not_inside_a_label():
    label = Label(
        line=2, path="a", dataset="videos", subject="videos/s", sample="a", onset=28, apex=33, offset=38, emotion="x"
    )
    rules = CutRules.for_labels([label], max_seconds=1.0, max_bytes=1 << 40)
    clips, _ = clips_of(lambda index: [make_face(160, 120)], num_frames=100, rules=rules)
    assert ranges(clips) == [(0, 0, 38), (0, 39, 69), (0, 70, 99)]


def test_two_labels_lie_in_one_clip():
    labels = [
        Label(
            line=line,
            path="a",
            dataset="videos",
            subject="videos/s",
            sample="a",
            onset=onset,
            apex=onset + 4,
            offset=onset + 8,
            emotion="x",
        )
        for line, onset in ((2, 5), (3, 30))
    ]
    rules = CutRules.for_labels(labels, max_seconds=1000.0, max_bytes=1 << 40)
    clips, _ = clips_of(lambda index: [make_face(160, 120)], rules=rules)
    assert ranges(clips) == [(0, 0, 59)]


def test_memory_of_an_open_clip_is_bounded():
    rules = CutRules(max_seconds=1000.0, max_bytes=1_000_000)
    clips, _ = clips_of(lambda index: [make_face(160, 120)], rules=rules)
    assert len(clips) > 1
    assert max(clip.num_bytes for clip in clips) < 1_000_000 + clips[0].frames[0].frame.num_bytes
    assert sorted(index for clip in clips for index in indices(clip)) == list(range(60))


def test_regions_of_large_faces_are_shrunk_and_know_where_they_lie():
    clips, _ = clips_of(lambda index: [make_face(160, 120, size=130)])
    region = clips[0].frames[5]
    assert region.shrink == 3
    assert region.frame.size[1] * region.shrink <= HEIGHT
