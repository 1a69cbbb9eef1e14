"""What lies under a folder: which files are inputs, which are not, and what is said of them."""

import os
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

from mbert import ConfigError
from mbert.manifests.paths import normalized, relative_path
from mbert.pipeline.corpora.videos import count_suffixes, list_videos
from mbert.pipeline.ingest_options import IngestOptions


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(os.urandom(8))


def images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((8, 8, 3), np.uint8))


def listed(folder):
    listing = list_videos(folder)
    return [(source.path, source.kind) for source in listing.sources], listing.notes


def test_stills_beside_a_video_are_no_clip_and_said(tmp_path):
    touch(tmp_path / "s1", "take.mp4")
    images(tmp_path / "s1", [f"thumb{index}.jpg" for index in range(20)])
    sources, notes = listed(tmp_path)
    assert sources == [("s1/take.mp4", "video")]
    assert notes == ("s1: 20 images (thumb0.jpg, ...) are no clip (next to videos); frames need a folder of their own",)


def test_pictures_beside_frame_folders_are_no_clip_but_a_series_is(tmp_path):
    images(tmp_path / "s1", [f"{index}.jpg" for index in range(3)])
    images(tmp_path / "thumbs", [f"{index}.jpg" for index in range(3)])
    images(tmp_path, ["poster.jpg"])
    sources, notes = listed(tmp_path)
    assert sources == [("s1", "frames")]
    assert notes == (
        "thumbs: 3 images (0.jpg, ...) are no clip (the name of the folder suggests stills); frames need a folder "
        "of their own",
        "poster.jpg is no clip (without a numbered series, next to other inputs); frames need a folder of their own",
    )
    images(tmp_path, ["1.jpg", "2.jpg"])
    assert listed(tmp_path)[0] == [(".", "frames"), ("s1", "frames")]


def test_a_link_that_sorts_first_leaves_the_real_path(tmp_path):
    touch(tmp_path / "real", "x.mp4", "y.mp4")
    (tmp_path / "alias").symlink_to("real")
    (tmp_path / "a.mp4").symlink_to("real/y.mp4")
    os.link(tmp_path / "real" / "x.mp4", tmp_path / "zz.mp4")
    touch(tmp_path.parent / f"{tmp_path.name}-elsewhere", "z.mp4")
    (tmp_path / "linked").symlink_to(f"../{tmp_path.name}-elsewhere")
    sources, notes = listed(tmp_path)
    assert [path for path, _ in sources] == ["linked/z.mp4", "real/x.mp4", "real/y.mp4"]
    assert set(notes) == {
        "a.mp4 is another name of real/y.mp4: one input",
        "alias is another name of real: one input",
        "zz.mp4 is another name of real/x.mp4: one input",
    }


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path):
    touch(tmp_path, "a.braw", "b.BRAW", "c.txt", "README")
    with pytest.raises(ConfigError, match=r"; it holds 2 \.braw, "):
        list_videos(tmp_path)
    touch(tmp_path, "a.h264", "b.obu", "c.Y4M")
    listing = list_videos(tmp_path)
    assert [source.path for source in listing.sources] == ["a.h264", "b.obu", "c.Y4M"]
    assert count_suffixes(listing.ignored) in ("2 .braw, 1 without, 1 .txt", "2 .braw, 1 .txt, 1 without")


def squares(num=5):
    return [Image.fromarray(np.full((16, 24, 3), 40 * index, np.uint8)) for index in range(num)]


ANIMATIONS = {"clip.webp": {"lossless": True}, "clip.png": {}, "clip.apng": {"format": "PNG"}, "clip.avif": {}}


@pytest.mark.parametrize("name", ANIMATIONS)
def test_an_animated_image_is_a_video_with_its_times(name, tmp_path):
    first, *others = squares()
    durations = [40, 80, 40, 200, 40]
    first.save(tmp_path / name, save_all=True, append_images=others, duration=durations, **ANIMATIONS[name])
    listing = list_videos(tmp_path)
    assert [(source.path, source.kind) for source in listing.sources] == [(name, "video")]
    for decoder in ("pyav", "ffmpeg"):
        decoder = IngestOptions(decoder=decoder).open_decoder(listing.sources[0])
        frames = list(decoder)
        assert [frame.index for frame in frames] == list(range(5))
        assert np.allclose([frame.pts_seconds for frame in frames], [0, 0.04, 0.12, 0.16, 0.36], atol=2e-3)
        assert np.abs(np.array([frame.rgb().mean() for frame in frames]) - 40 * np.arange(5)).max() < 3
        assert (decoder.info.width, decoder.info.height, decoder.info.remarks) == (24, 16, [])


def test_still_images_stay_frames_beside_none_that_move(tmp_path):
    for index, image in enumerate(squares()):
        for suffix in ("webp", "png"):
            (tmp_path / suffix).mkdir(exist_ok=True)
            image.save(tmp_path / suffix / f"{index}.{suffix}")
    assert listed(tmp_path)[0] == [("png", "frames"), ("webp", "frames")]


def test_bytes_that_are_no_text_have_a_name_that_a_label_can_write(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xc4\xe3 50%"
    os.mkdir(folder)  # noqa: PTH102 - a path of bytes
    with open(folder + b"/x.mp4", "wb") as file:  # noqa: PTH123
        file.write(b"x")
    (source,) = list_videos(tmp_path).sources
    assert source.path == "%C4%E3 50%/x.mp4"
    assert relative_path(tmp_path, tmp_path / "café") == "café"


def test_accents_are_compared_whoever_wrote_them():
    composed, apart = unicodedata.normalize("NFC", "café/ü"), unicodedata.normalize("NFD", "café/ü")
    assert composed != apart
    assert normalized(composed) == normalized(apart) == composed
