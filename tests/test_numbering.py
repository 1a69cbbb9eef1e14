"""Names of images -> frame index and time of each."""

import random

import pytest

from mbert import InputError
from mbert.pipeline.video.numbering import LARGEST_INDEX, number_images


def clock(form, *, fps=30, start=0.4, num=40):
    """Names whose times are `fps` apart; `form` gets hours, minutes, seconds, milli- and microseconds."""
    names = []
    for index in range(num):
        micro = round((start + index / fps) * 1e6)
        second = micro // 10**6
        fields = {"h": 10 + second // 3600, "m": second // 60 % 60, "s": second % 60, "us": micro % 10**6}
        names.append(form.format(**fields, ms=micro % 10**6 // 1000, total_ms=micro // 1000, total_us=micro, i=index))
    return names


PLAIN = {
    "no padding": ([f"img{number}.png" for number in (7, 9, 10, 11, 100)], [7, 9, 10, 11, 100]),
    "mixed widths": (["008.jpg", "09.jpg", "10.jpg", "9999.jpg"], [8, 9, 10, 9999]),
    "size behind": ([f"frame_{index:04d}_224.jpg" for index in range(12)], list(range(12))),
    "size before": ([f"face112_{index}.webp" for index in range(3, 20)], list(range(3, 20))),
    "resolution behind": ([f"{index}_1280x720.jpg" for index in range(12)], list(range(12))),
    "capitals": (["IMG_1.JPG", "img_2.jpg", "Img_3.jpg"], [1, 2, 3]),
    "two that rise, one by one": ([f"{index:03d}_at_{index * 7}.jpg" for index in range(9)], list(range(9))),
    "burst within a second": ([f"20240105_100000_{index:03d}.jpg" for index in range(12)], list(range(12))),
    "brackets": ([f"frame ({index}).jpg" for index in range(8, 13)], list(range(8, 13))),
    "one image": (["clip_12_5.jpg"], [5]),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLAIN)
def test_the_integer_that_varies_is_the_frame_index(kind):
    names, indices = PLAIN[kind]
    found = number_images(random.Random(0).sample(names, len(names)))
    assert (found.indices, found.seconds, found.remarks) == (indices, None, ())
    assert found.names == names


CLOCKS = {
    "time of day": clock("cam0_{h:02d}-{m:02d}-{s:02d}.{ms:03d}.jpg"),
    "time of day, colons": clock("{h:02d}:{m:02d}:{s:02d}.{us:06d}.png", fps=200),
    "milliseconds without zeros": clock("v_{h}-{m}-{s}-{ms}.jpg"),
    "ISO": clock("2024-01-05T{h:02d}-{m:02d}-{s:02d}.{ms:03d}.jpg", fps=25),
    "compact": clock("20240105_{h:02d}{m:02d}{s:02d}{us:06d}.tif", fps=60),
    "compact, all in one": clock("20240105{h:02d}{m:02d}{s:02d}{ms:03d}.tif"),
    "screenshots": clock("Screenshot 2024-01-05 at {h:02d}.{m:02d}.{s:02d}.png", fps=1 / 7),
    "across minutes": clock("{h:02d}_{m:02d}_{s:02d}_{ms:03d}.jpg", start=58.9),
    "decimal seconds": clock("{s}.{us:06d}.jpg", fps=100, num=150),
    "seconds and fraction since 1970": clock("16123456{s:02d}_{ms:03d}.jpg"),
    "milliseconds since 1970": [f"{1612345678000 + round(index * 1000 / 30)}.jpg" for index in range(40)],
    "microseconds since 1970": [f"f_{1612345678000000 + round(index * 1e6 / 30)}.jpg" for index in range(40)],
    "nanoseconds since 1970": [f"{1612345678 * 10**9 + round(index * 1e9 / 90)}.jpg" for index in range(40)],
    "microseconds of a device": clock("frame_{total_us}.png", start=70),
    "nanoseconds of a device": [f"{5 * 10**12 + round(index * 1e9 / 200)}.png" for index in range(40)],
}
RATES = {"time of day, colons": 200, "screenshots": 1 / 7, "ISO": 25, "compact": 60, "decimal seconds": 100}
RATES |= {"nanoseconds since 1970": 90, "nanoseconds of a device": 200}


@pytest.mark.parametrize("kind", CLOCKS)
def test_times_in_names_are_the_times_of_the_frames(kind):
    names = CLOCKS[kind]
    found = number_images(random.Random(0).sample(names, len(names)))
    rate = RATES.get(kind, 30)
    assert found.names == names
    assert found.indices == list(range(len(names)))
    assert found.seconds == pytest.approx([index / rate for index in range(len(names))], abs=0.0011)
    assert found.remarks[0].startswith("the names hold times (")


def test_a_counter_beside_a_clock_stays_the_index():
    names = clock("{i:05d}_{h:02d}-{m:02d}-{s:02d}.{ms:03d}.jpg")[7:]
    found = number_images(names)
    assert found.indices == list(range(7, 40))
    assert found.seconds[-1] == pytest.approx(32 / 30, abs=0.0011)


def test_times_that_pass_midnight_stay_in_order():
    before = [f"23-59-59.{ms:03d}.jpg" for ms in range(700, 1000, 33)]
    after = [f"00-00-00.{ms:03d}.jpg" for ms in range(30, 300, 33)]
    found = number_images(after + before)
    assert found.names == before + after
    assert found.seconds == pytest.approx([index * 0.033 for index in range(len(found.names))])
    assert found.remarks[0] == "the times in the names pass midnight: the frames before it come first"


@pytest.mark.parametrize(
    ("names", "remark"),
    [
        ([f"20240105100000{900000 + 33 * index}.jpg" for index in range(12)], "date and time in steps of 33"),
        ([f"{7 * 10**7 + 333333 * index}.jpg" for index in range(12)], "a clock of unknown unit in steps of 333333"),
    ],
)
def test_a_clock_that_tells_no_rate_gives_even_steps_and_names_the_option(names, remark):
    found = number_images(names)
    assert found.indices == list(range(12))
    assert found.clock == pytest.approx(list(range(12)))
    assert found.seconds is None
    assert remark in found.remarks[0]
    assert "--fps names it" in found.remarks[0]


def test_numbers_too_large_for_an_index_lose_what_they_share():
    found = number_images([f"{77 * 10**18 + number}.jpg" for number in (5, 6, 7, 9)])
    assert found.indices == [5, 6, 7, 9]
    assert "is too large for a frame number" in found.remarks[0]
    assert max(number_images([f"{number}.jpg" for number in range(10**9 - 3, 10**9)]).indices) == LARGEST_INDEX


def test_sparse_numbers_are_frames_and_said():
    found = number_images([f"{number}.jpg" for number in range(0, 400, 33)])
    assert found.indices == list(range(0, 400, 33))
    assert found.remarks == (
        "the numbers in the names rise by 33 and count frames; if they are milliseconds, give --fps 1000",
    )


def test_strays_are_left_out_and_said():
    found = number_images([*(f"{index}.jpg" for index in range(9)), "poster.jpg"])
    assert found.indices == list(range(9))
    assert found.remarks == ("1 image is not of the series *.jpg and left out, the first is poster.jpg",)


@pytest.mark.parametrize(
    ("names", "status", "reason"),
    [
        (["1.jpg", "001.jpg", "2.jpg"], "unreadable", r"two images have frame number 1: 001\.jpg and 1\.jpg"),
        (["1.jpg", "1.png", "2.jpg"], "unreadable", r"two images have frame number 1: 1\.jpg and 1\.png"),
        (["7.jpg", "07.jpg"], "unreadable", "two images have frame number 7"),
        ([f"cam{c}_{i:03d}.jpg" for c in "AB" for i in range(9)], "no_video", r"series, but camB_\*\.jpg \(9\), cam"),
        ([f"cam{c}_{i:03d}.jpg" for c in (1, 2) for i in range(9)], "no_video", r"2 numbered series \(cam1, cam2\)"),
        (["beach.jpg", "me 2.jpg", "mum3.jpg"], "no_video", "form no single numbered series"),
        ([f"IMG-202401{d:02d}-WA{d:04d}.jpg" for d in range(1, 9)], "no_video", "are of several days"),
        ([f"{h:02d}-00-0{s}-{f:02d}.jpg" for h in (10,) for s in range(4) for f in range(25)], "no_video", "series"),
        (["cover.jpg", "back.jpg"], "empty", r"holds no numbered image \(back\.jpg, cover\.jpg\)"),
        ([], "empty", "holds no numbered image"),
    ],
)  # fmt: skip
def test_what_is_no_series_is_refused_with_its_names(names, status, reason):
    with pytest.raises(InputError, match=reason) as caught:
        number_images(names)
    assert caught.value.status == status
