import shutil

import cv2
import numpy as np
import pytest

from mbert import ConfigError, InputError
from mbert.pipeline.corpora.videos import list_videos
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.source import content_hash


def gray_frames(num_frames, height=64, width=96):
    """Frame i is plain gray of level 10 + 4 i: its index can be read off its pixels."""
    return [np.full((height, width, 3), 10 + 4 * (i % 60), np.uint8) for i in range(num_frames)]


def decode(path, **options):
    (source,) = list_videos(path).sources
    decoder = IngestOptions(folder_fps=options.pop("folder_fps", 30)).open_decoder(source, **options)
    return list(decoder), decoder.info


def test_every_frame_comes_once_in_order_with_its_time(tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", gray_frames(50), fps=25)
    frames, info = decode(path)
    levels = [round((frame.rgb().mean() - 10) / 4) for frame in frames]
    assert levels == list(range(50))
    assert [frame.index for frame in frames] == list(range(50))
    assert np.allclose([frame.pts_seconds for frame in frames], np.arange(50) / 25)
    assert (info.codec, info.width, info.height, info.num_frames) == ("h264", 96, 64, 50)
    assert info.fps == pytest.approx(25)
    assert info.remarks == []


def test_scenes_look_alike_in_eight_and_in_ten_bits(tmp_path, write_video):
    rng = np.random.default_rng(0)
    pattern = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    moving = [np.roll(pattern, 2 * index, axis=1) for index in range(10)]
    eight, ten = (
        decode(write_video(tmp_path / f"{pix_fmt}.mp4", moving, pix_fmt=pix_fmt))[0]
        for pix_fmt in ("yuv420p", "yuv420p10le")
    )
    for one, other in zip(eight, ten, strict=True):
        assert np.abs(one.signature() - other.signature()).mean() < 3


def test_variable_frame_rate_keeps_its_times(tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", gray_frames(60), vf="select='not(eq(mod(n,3),1))'", fps_mode="vfr")
    frames, info = decode(path)
    kept = [i for i in range(60) if i % 3 != 1]
    assert np.allclose([frame.pts_seconds for frame in frames], np.array(kept) / 30, atol=1e-3)
    assert info.num_frames == 40
    assert info.fps == pytest.approx(20, rel=0.02)


def test_threads_do_not_change_a_pixel(tmp_path, write_video):
    rng = np.random.default_rng(0)
    path = write_video(tmp_path / "a.mp4", [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(20)])
    one, _ = decode(path, num_threads=1)
    many, _ = decode(path, num_threads=0)
    assert np.array_equal([frame.rgb() for frame in one], [frame.rgb() for frame in many])


def test_a_frame_folder_is_read_in_numeric_order_with_gaps(tmp_path):
    for number in (9, 10, 99, 100, 7):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), np.full((32, 40, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not a frame")
    frames, info = decode(tmp_path, folder_fps=200)
    assert [frame.index for frame in frames] == [7, 9, 10, 99, 100]
    assert [int(frame.rgb().mean()) for frame in frames] == [7, 9, 10, 99, 100]
    assert np.allclose([frame.pts_seconds for frame in frames], np.array([7, 9, 10, 99, 100]) / 200)
    assert (info.codec, info.width, info.height) == ("png", 40, 32)


def test_frames_of_other_size_or_equal_number_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((32, 40, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(InputError, match=r"2\.png is 40x30, most images are 40x32"):
        decode(tmp_path)
    cv2.imwrite(str(tmp_path / "002.png"), np.zeros((32, 40, 3), np.uint8))
    with pytest.raises(InputError, match=r"two images have frame number 2: 002\.png and 2\.png"):
        decode(tmp_path)


def test_a_damaged_image_is_passed_over_and_remarked(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((32, 40, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((32, 40, 3), np.uint8))
    (tmp_path / "2.png").write_bytes(b"no image")
    frames, info = decode(tmp_path)
    assert [frame.index for frame in frames] == [1, 3]
    assert info.remarks == ["1 images cannot be decoded, the first is 2.png"]


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [(b"", "empty", "has no bytes"), (b"this is text, not video\n" * 50, "unreadable", "cannot be opened as a video")],
)
def test_files_that_are_no_video_say_so(tmp_path, content, status, reason):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        decode(path)
    assert caught.value.status == status


def test_a_truncated_file_gives_what_decodes_and_a_remark(tmp_path, write_video):
    whole = write_video(tmp_path / "whole.mp4", gray_frames(90), movflags="+faststart", g=5)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
    frames, info = decode(cut)
    assert 10 < len(frames) < 90
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert f"the header says 90 frames, {len(frames)} decode" in info.remarks


def test_real_clips_decode_as_their_list_says(media):
    frames, info = decode(media / "videos" / "derived_rot_meta.mp4")
    assert (len(frames), info.width, info.height, info.rotation) == (90, 360, 640, -90)
    assert frames[0].rgb().shape == (640, 360, 3)
    frames, info = decode(media / "videos" / "media3_sample.flv")
    assert (len(frames), round(info.fps, 1)) == (30, 30.0)  # its header says 1000
    with pytest.raises(InputError, match="holds no video stream"):
        decode(media / "videos" / "media3_sample_audio_only.mp4")


def test_the_listing_is_natural_complete_and_says_what_it_left_out(tmp_path, write_video):
    clip = write_video(tmp_path / "in" / "clip2.mp4", gray_frames(3))
    root = tmp_path / "in"
    shutil.copy(clip, root / "clip10.mp4")
    shutil.copy(clip, root / ".hidden.mp4")
    (root / "sub" / "frames").mkdir(parents=True)
    cv2.imwrite(str(root / "sub" / "frames" / "1.jpg"), np.zeros((8, 8, 3), np.uint8))
    (root / "nothing").mkdir()
    (root / "folder.mp4").mkdir()
    (root / "notes.txt").write_text("x")
    (root / "labels.csv").write_text("path,subject,onset,apex,offset,emotion\n")
    (root / "loop").symlink_to(root, target_is_directory=True)
    listing = list_videos(root)
    assert [(source.path, source.kind) for source in listing.sources] == [
        ("clip2.mp4", "video"),
        ("clip10.mp4", "video"),
        ("folder.mp4", "frames"),
        ("nothing", "frames"),
        ("sub/frames", "frames"),
    ]
    assert listing.ignored == ("notes.txt",)


def test_a_folder_without_inputs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no video file"):
        list_videos(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        list_videos(tmp_path / "nowhere")


def test_the_hash_of_a_folder_depends_on_names_and_bytes(tmp_path):
    def hash_of(**files):
        folder = tmp_path / "-".join(files)
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / f"{name}.png").write_bytes(data)
        return content_hash(list_videos(folder).sources[0])

    assert hash_of(f1=b"a", f2=b"b") == hash_of(f1=b"a", f2=b"b")
    assert len({hash_of(f1=b"a", f2=b"b"), hash_of(f1=b"ab", f3=b""), hash_of(f1=b"a", f2=b"c")}) == 3
