"""One image file -> its pixels: every kind is right, or refused by name."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from mbert import InputError
from mbert.pipeline.video.still import DamagedImage, read_header, read_still


@pytest.fixture(scope="module")
def rgb(face):
    return np.ascontiguousarray(face[20:84, 180:276])  # no side equals the other


@pytest.fixture(scope="module")
def gray(rgb):
    return np.asarray(Image.fromarray(rgb).convert("L"))


def written(path, image, **options):
    Image.fromarray(image).save(path, **options) if isinstance(image, np.ndarray) else image.save(path, **options)
    return path


KINDS = {  # name: (mode, options, largest mean difference)
    "rgb.png": ("RGB", {}, 0),
    "rgb.jpg": ("RGB", {"quality": 95}, 3),
    "rgb.bmp": ("RGB", {}, 0),
    "rgb.webp": ("RGB", {"lossless": True}, 0),
    "rgb.avif": ("RGB", {"quality": 95}, 3),
    "rgb.jp2": ("RGB", {}, 0),
    "rgb.tif": ("RGB", {}, 0),
    "lzw.tif": ("RGB", {"compression": "tiff_lzw"}, 0),
    "jpeg.tif": ("RGB", {"compression": "jpeg"}, 5),
    "gray.png": ("L", {}, 0),
    "gray.jpg": ("L", {"quality": 95}, 3),
    "gray.tif": ("L", {}, 0),
    "gray.jp2": ("L", {}, 0),
    "palette.png": ("P", {}, 0),
    "palette.tif": ("P", {}, 0),
    "palette.bmp": ("P", {}, 0),
    "bits.png": ("1", {}, 0),
    "bits.tif": ("1", {}, 0),
    "cmyk.jpg": ("CMYK", {"quality": 95}, 3),
    "cmyk.tif": ("CMYK", {}, 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_image_gives_its_pixels(name, rgb, tmp_path):
    mode, options, most = KINDS[name]
    image = Image.fromarray(rgb).convert(mode)
    still = read_still(written(tmp_path / name, image, **options))
    expected = np.asarray(image.convert("RGB" if still.pixels.ndim == 3 else "L"))
    assert still.pixels.shape == expected.shape
    assert np.abs(still.pixels.astype(int) - expected).mean() <= most
    assert (still.depths, still.orientation) == ((8,), 1)
    assert still.done == (("CMYK converted to RGB without a profile",) if mode == "CMYK" else ())


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_put_on_black_and_said(name, mode, rgb, tmp_path):
    image = Image.fromarray(rgb)
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    image.putalpha(Image.fromarray(alpha))
    still = read_still(written(tmp_path / name, image.convert(mode), **({"lossless": True} if "webp" in name else {})))
    expected = np.asarray(image.convert(mode).convert("RGB"))
    assert np.array_equal(still.pixels, expected)
    assert still.done == ()
    alpha[:20], alpha[20:30] = 0, 51
    image.putalpha(Image.fromarray(alpha))
    options = {"lossless": True, "exact": True} if "webp" in name else {}
    still = read_still(written(tmp_path / name, image.convert(mode), **options))
    assert still.done == ("transparent parts put on black",)
    assert still.pixels[:20].max() == 0
    assert np.abs(still.pixels[20:30] - expected[20:30] / 5).max() <= 1
    assert np.array_equal(still.pixels[30:], expected[30:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "deep.tif"])
def test_every_orientation_ends_upright(name, orientation, rgb, tmp_path):
    stored = Image.fromarray(rgb).transpose(INVERSE[orientation]) if orientation > 1 else Image.fromarray(rgb)
    path = tmp_path / name
    if name == "deep.tif":
        deep = np.asarray(stored).astype(np.uint16) << 8
        tifffile.imwrite(path, deep, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        stored.save(path, exif=exif, **({"lossless": True} if name == "a.webp" else {"quality": 98}))
    still = read_still(path)
    assert still.orientation == orientation
    pixels = still.pixels >> 8 if still.pixels.dtype == np.uint16 else still.pixels
    assert pixels.shape == rgb.shape
    assert np.abs(pixels.astype(int) - rgb).mean() < 3
    assert read_header(path).size == (rgb.shape[1], rgb.shape[0])


INVERSE = {  # how an upright picture is stored under each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def packed_tiff(gray, bits):
    """Samples of `bits` bits without a gap, as scientific cameras write them."""
    rows = [np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits :].ravel() for row in gray]
    data = b"".join(np.packbits(row).tobytes() for row in rows)
    height, width = gray.shape
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, 1)]
    entries += [(273, 10 + 9 * 12 + 4), (277, 1), (278, height), (279, len(data))]
    body = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 9) + body + b"\0\0\0\0" + data


def test_samples_of_more_than_eight_bits_come_as_they_are(rgb, gray, tmp_path):
    deep = gray.astype(np.uint16) * 16 + 5
    colour = rgb.astype(np.uint16) * 16 + 5
    cv2.imwrite(str(tmp_path / "gray.png"), deep)
    cv2.imwrite(str(tmp_path / "rgb.png"), colour[:, :, ::-1])
    tifffile.imwrite(tmp_path / "gray.tif", deep)
    tifffile.imwrite(tmp_path / "big.tif", deep, byteorder=">", bigtiff=True)
    tifffile.imwrite(tmp_path / "zip.tif", deep, compression="zlib", predictor=True)
    tifffile.imwrite(tmp_path / "rgb.tif", colour, photometric="rgb")
    for name in ("gray.png", "gray.tif", "big.tif", "zip.tif", "rgb.png", "rgb.tif"):
        still = read_still(tmp_path / name)
        assert np.array_equal(still.pixels, colour if "rgb" in name else deep), name
        assert still.depths == (8, 10, 12, 14, 16), name


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_depth_that_the_file_states_is_no_guess(bits, gray, tmp_path):
    deep = gray.astype(np.uint16) << (bits - 8)
    (tmp_path / "packed.tif").write_bytes(packed_tiff(deep, bits))
    still = read_still(tmp_path / "packed.tif")
    assert still.depths == (bits,)
    assert np.array_equal(still.pixels, deep)
    path = tmp_path / "stated.png"
    cv2.imwrite(str(path), deep)
    data = path.read_bytes()
    chunk = struct.pack(">I", 1) + b"sBIT" + bytes([bits])
    path.write_bytes(data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:])
    assert read_still(path).depths == (bits, 16)


@pytest.mark.parametrize(
    ("image", "options", "reason"),
    [
        (np.float32, {}, "samples of type float32, which state no range"),
        (np.float16, {}, "samples of type float16"),
        (np.int16, {}, "samples of type int16"),
        (np.uint32, {}, "samples of type uint32"),
        (np.uint16, {"photometric": "miniswhite"}, "white at 0 in 16 bits"),
    ],
)
def test_a_tiff_whose_range_nobody_knows_is_refused_by_name(image, options, reason, gray, tmp_path):
    tifffile.imwrite(tmp_path / "x7.tif", gray.astype(image), **options)
    with pytest.raises(InputError, match=rf"x7\.tif has {reason}.*: save it with 8 or 16 bits"):
        read_still(tmp_path / "x7.tif")


def test_a_tiff_of_several_images_or_of_planes_is_refused_by_name(gray, rgb, tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([gray] * 5), photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", np.stack([gray] * 5), imagej=True)
    for name in ("stack", "imagej"):
        with pytest.raises(InputError, match=rf"{name}\.tif holds 5 images; a frame is a file of its own"):
            read_still(tmp_path / f"{name}.tif")
    planes = np.moveaxis(rgb, 2, 0).astype(np.uint16)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match=r"planes\.tif has its colours in planes"):
        read_still(tmp_path / "planes.tif")
    Image.fromarray(rgb).convert("LAB").save(tmp_path / "lab.tif")
    with pytest.raises(InputError, match=r"lab\.tif has CIELAB colours"):
        read_still(tmp_path / "lab.tif")


def test_white_at_zero_is_turned_round(gray, tmp_path):
    tifffile.imwrite(tmp_path / "white.tif", gray, photometric="miniswhite")
    assert np.array_equal(read_still(tmp_path / "white.tif").pixels, 255 - gray)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.avif", "a.jp2"])
def test_a_damaged_image_is_said_to_be_one(name, rgb, tmp_path):
    path = written(tmp_path / name, rgb)
    path.write_bytes(b"no image at all")
    with pytest.raises(DamagedImage):
        read_still(path)
    assert read_header(path) is None


def box(kind, *content):
    data = b"".join(content)
    return struct.pack(">I", 8 + len(data)) + kind + data


def heic(path, rgb):
    """A HEIF image around one HEVC picture that ffmpeg encodes."""
    import av

    height, width = rgb.shape[:2]
    with av.open(str(path.with_suffix(".mp4")), "w") as file:
        try:
            stream = file.add_stream("libx265", rate=1, options={"crf": "5", "x265-params": "log-level=none"})
        except (av.error.FFmpegError, ValueError):
            pytest.skip("needs an encoder of HEVC")
        stream.width, stream.height, stream.pix_fmt, stream.codec_tag = width, height, "yuv420p", "hvc1"
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")), *stream.encode()):
            file.mux(packet)
    with av.open(str(path.with_suffix(".mp4"))) as file:
        stream = file.streams.video[0]
        sample = next(bytes(packet) for packet in file.demux(stream) if packet.size)
        config = box(b"hvcC", stream.codec_context.extradata)
    size = box(b"ispe", struct.pack(">III", 0, width, height))
    props = box(b"iprp", box(b"ipco", config, size), box(b"ipma", struct.pack(">IIHBBB", 0, 1, 1, 2, 0x81, 2)))
    about = box(b"infe", struct.pack(">IHH", 2 << 24, 1, 0), b"hvc1\0")
    inside = [
        box(b"hdlr", struct.pack(">II", 0, 0), b"pict", b"\0" * 13),
        box(b"pitm", struct.pack(">IH", 0, 1)),
        box(b"iinf", struct.pack(">IH", 0, 1), about),
    ]
    head = box(b"ftyp", b"heic\0\0\0\0mif1heic")

    def meta(offset):
        place = box(b"iloc", struct.pack(">IBBHHHHII", 0, 0x44, 0, 1, 1, 0, 1, offset, len(sample)))
        return box(b"meta", struct.pack(">I", 0), *inside, place, props)

    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", sample))
    return path


def test_heif_is_read_by_its_library_or_named(rgb, tmp_path, monkeypatch):
    path = heic(tmp_path / "IMG_1.HEIC", rgb)
    try:
        import pi_heif  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r"IMG_1\.HEIC is a HEIF image: pip install 'mbert\[heif\]'"):
            read_still(path)
        pytest.skip("needs pi-heif to read it")
    still = read_still(path)
    assert (read_header(path).size, still.pixels.shape) == ((rgb.shape[1], rgb.shape[0]), rgb.shape)
    assert np.abs(still.pixels.astype(int) - rgb).mean() < 8
