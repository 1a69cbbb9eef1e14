"""A folder of images -> frames: one scale of depth, upright, of one size, with the times that are known."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from mbert import ConfigError, InputError
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.folder import FrameFolder
from mbert.pipeline.video.source import frame_numbers


@pytest.fixture(scope="module")
def gray(face):
    return cv2.cvtColor(np.ascontiguousarray(face[:96, 160:288]), cv2.COLOR_RGB2GRAY)


def frames_of(folder, **options):
    decoder = FrameFolder(folder, **options)
    return list(decoder), decoder.info


def write_deep(folder, images, suffix=".png"):
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images):
        path = folder / f"{index:03d}{suffix}"
        if suffix == ".png":
            cv2.imwrite(str(path), image if image.ndim == 2 else image[:, :, ::-1])
        else:
            tifffile.imwrite(path, image, photometric="minisblack" if image.ndim == 2 else "rgb")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_samples_padded_to_sixteen_bits_get_the_scale_of_their_depth(bits, suffix, gray, tmp_path):
    fine = np.random.default_rng(0).integers(0, 1 << (bits - 8), gray.shape)  # what eight bits do not hold
    deep = (gray.astype(np.int64) << (bits - 8)) + fine
    colour = np.stack([deep, deep // 2, deep // 4], axis=2)
    for name, image in (("gray", deep), ("rgb", colour)):
        # The first frames are dark: one scale for all.
        write_deep(tmp_path / name, [(image // 8).astype(np.uint16)] * 3 + [image.astype(np.uint16)] * 2, suffix)
        frames, info = frames_of(tmp_path / name)
        assert info.bit_depth == bits
        assert len(info.remarks) == (bits < 16)
        for frame, share in zip(frames, (8, 8, 8, 1, 1), strict=True):
            expected = image / share * 255 / ((1 << bits) - 1)
            rgb = frame.rgb() if image.ndim == 3 else frame.rgb()[:, :, 0]
            assert np.abs(rgb - expected).max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_samples_at_the_upper_end_keep_their_brightness_and_tell_their_depth(bits, gray, tmp_path):
    fine = np.random.default_rng(0).integers(0, 1 << (bits - 8), gray.shape)
    upper = (((gray.astype(np.int64) << (bits - 8)) + fine) << (16 - bits)).astype(np.uint16)
    write_deep(tmp_path / "f", [upper] * 3)
    frames, info = frames_of(tmp_path / "f")
    assert (info.bit_depth, info.remarks) == (bits, [])
    assert np.abs(frames[0].rgb()[:, :, 1].astype(int) - gray).max() <= 1


def test_what_a_dark_input_cannot_tell_is_said_and_can_be_said_to_it(gray, tmp_path):
    write_deep(tmp_path / "f", [gray.astype(np.uint16) * 16] * 3)
    frames, info = frames_of(tmp_path / "f")
    assert info.bit_depth == 12
    assert "though a dark input of more bits looks the same; --bit-depth names another" in info.remarks[0]
    dark, info = frames_of(tmp_path / "f", bit_depth=16)
    assert (info.bit_depth, info.remarks) == (16, [])
    assert dark[0].rgb().max() == round(int(gray.max()) * 16 / 257)
    with pytest.raises(InputError, match=r"000\.png has samples up to \d+, more than the bit depth holds"):
        frames_of(tmp_path / "f", bit_depth=10)
    with pytest.raises(ConfigError, match="the bit depth is 7; allowed are 8 to 16"):
        IngestOptions(bit_depth=7)
    # Where samples reach the upper part of 16 bits, nothing is brightened, however dark most frames are.
    write_deep(tmp_path / "f", [gray.astype(np.uint16)] * 40)
    cv2.imwrite(str(tmp_path / "f" / "041.png"), gray.astype(np.uint16) * 257)
    frames, info = frames_of(tmp_path / "f")
    assert (info.bit_depth, frames[0].rgb().max(), len(frames)) == (16, 1, 41)


def test_eight_bits_among_sixteen_are_said(gray, tmp_path):
    write_deep(tmp_path / "f", [gray.astype(np.uint16) * 257] * 3 + [gray])
    frames, info = frames_of(tmp_path / "f")
    assert (info.bit_depth, info.remarks) == (16, ["1 image of 8 bits among those of 16"])
    assert all(np.array_equal(frame.rgb()[:, :, 0], gray) for frame in frames)


def save(path, image, orientation=1, taken=None):
    exif = Image.Exif()
    exif[274] = orientation
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    image.save(path, exif=exif, quality=97)


def test_one_turned_image_is_turned_back_and_said(face, tmp_path):
    image = Image.fromarray(face[:96, 160:288])
    for index in range(9):
        save(tmp_path / f"{index}.jpg", image)
    save(tmp_path / "4.jpg", image.transpose(Image.Transpose.ROTATE_90), 6)
    frames, info = frames_of(tmp_path)
    assert [frame.index for frame in frames] == list(range(9))
    assert np.abs(frames[4].rgb().astype(int) - frames[3].rgb()).mean() < 2
    assert (info.rotation, info.remarks) == (0, ["1 image turned upright by EXIF orientation 6"])
    save(tmp_path / "4.jpg", image.transpose(Image.Transpose.ROTATE_90))  # without the flag: a picture of another size
    frames, info = frames_of(tmp_path)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert info.remarks == ["1 image of another size left out: 4.jpg is 96x128, most images are 128x96"]


def test_images_turned_alike_have_a_rotation_as_a_video_has(face, tmp_path):
    image = Image.fromarray(face[:96, 160:288])
    for index in range(3):
        save(tmp_path / f"{index}.jpg", image.transpose(Image.Transpose.ROTATE_90), 6)
    frames, info = frames_of(tmp_path)
    assert (info.width, info.height, info.rotation) == (128, 96, -90)
    assert np.abs(frames[0].rgb().astype(int) - face[:96, 160:288]).mean() < 3


def test_photos_are_no_recording_unless_their_rate_is_named(face, tmp_path):
    image = Image.fromarray(face[:64, 160:288])
    for index in range(4):
        save(tmp_path / f"IMG_{index}.jpg", image, taken=f"2024:05:0{index + 1} 10:00:00")
    with pytest.raises(InputError, match="were taken 86400 s apart: they are photos") as caught:
        frames_of(tmp_path)
    assert caught.value.status == "no_video"
    frames, info = frames_of(tmp_path, fps=2)
    assert [frame.pts_seconds for frame in frames] == [0, 0.5, 1, 1.5]
    assert info.times_from == "fps"


def test_times_come_from_names_unless_a_rate_is_given(gray, tmp_path):
    for index in range(12):
        cv2.imwrite(str(tmp_path / f"10-00-00.{500 + 40 * index:03d}.jpg"), gray)
    frames, info = frames_of(tmp_path)
    assert np.allclose([frame.pts_seconds for frame in frames], np.arange(12) / 25)
    assert (info.times_from, round(info.fps, 3), info.bit_depth) == ("names", 25, 8)
    frames, info = frames_of(tmp_path, fps=100)
    assert np.allclose([frame.pts_seconds for frame in frames], np.arange(12) / 100)
    assert info.times_from == "fps"
    (tmp_path / "plain").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "plain" / f"{index + 30}.jpg"), gray)
    frames, info = frames_of(tmp_path / "plain")
    assert (frames[0].pts_seconds, info.times_from) == (1, "assumed")


def test_frame_numbers_of_what_is_no_series_are_none(tmp_path):
    assert frame_numbers(tmp_path) == []
    assert frame_numbers(tmp_path / "nowhere") == []
    for name in ("a_7.jpg", "a_9.jpg"):
        (tmp_path / name).touch()
    assert frame_numbers(tmp_path) == [7, 9]
