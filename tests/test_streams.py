"""Pictures and times of odd video files, through both decoders: which stream, which way up, which colours, when."""

import subprocess
from fractions import Fraction

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from mbert import ConfigError, InputError
from mbert.manifests.query import FrameCondition
from mbert.manifests.schema import ClipRow, FrameRow, PairRow, VideoRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.video.decode import VideoFile
from mbert.pipeline.video.decode_ffmpeg import FfmpegFile
from mbert.pipeline.video.timing import Clock
from mbert.shards.frames import CorpusFrames

STEP = 8


def ffmpeg(*words):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, words)], check=True)


def step_frames(num_frames, height=48, width=64):
    """Frame i is plain grey of level 20 + 8 i: its index can be read off its pixels."""
    return [np.full((height, width, 3), 20 + STEP * i, np.uint8) for i in range(num_frames)]


def levels(frames):
    return [round((float(frame.rgb().mean()) - 20) / STEP) for frame in frames]


def times(frames):
    return [frame.pts_seconds for frame in frames]


@pytest.fixture(params=[VideoFile, FfmpegFile])
def decode(request):
    def decode(path, **options):
        decoder = request.param(path, **options)
        frames = list(decoder)
        assert all(np.diff(times(frames)) > 0)
        return frames, decoder.info

    return decode


@pytest.fixture(scope="module")
def faces(face):
    """12 pictures of one face that drifts by parts of a pixel, each with noise of its own."""
    rng = np.random.default_rng(0)
    small = cv2.resize(face[:300, 80:380], (192, 192), interpolation=cv2.INTER_AREA).astype(float)
    shift = [np.float32([[1, 0, 0.4 * i], [0, 1, 0.2 * i]]) for i in range(12)]
    moved = [cv2.warpAffine(small, matrix, (192, 192), borderMode=cv2.BORDER_REFLECT) for matrix in shift]
    return [(each + rng.normal(0, 2, each.shape)).clip(0, 255).astype(np.uint8) for each in moved]


def ingest(folder, out, **options):
    """The rows of the videos of a folder by path, and the workspace."""
    workspace = Workspace(out)
    run_ingest(folder, workspace, IngestOptions(**options))
    return {row.path: row for row in read_rows(workspace.videos, VideoRow)}, workspace


def crops_of(workspace, video_id):
    return next(clip for clip in CorpusFrames(workspace) if clip.clip.video_id == video_id).images()


# Which stream


@pytest.fixture(scope="module")
def cover(tmp_path_factory):
    path = tmp_path_factory.mktemp("cover") / "cover.png"
    cv2.imwrite(str(path), np.full((40, 40, 3), 90, np.uint8))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "m4v"])
def test_cover_art_is_passed_over(decode, suffix, cover, tmp_path, write_video):
    video = write_video(tmp_path / "a.mp4", step_frames(8))
    path = tmp_path / f"b.{suffix}"
    disposition = ["-disposition:v:0", "attached_pic", "-disposition:v:1", "0"]
    ffmpeg("-i", cover, "-i", video, "-map", 0, "-map", 1, "-c:v:0", "mjpeg", "-c:v:1", "copy", *disposition, path)
    frames, info = decode(path)
    assert levels(frames) == list(range(8))
    assert info.codec == "h264"
    assert info.remarks[0].startswith(f"stream {info.stream} was taken")


def test_of_two_videos_the_default_is_taken_and_the_other_named(decode, tmp_path, write_video):
    one = write_video(tmp_path / "one.mp4", step_frames(4, 32, 32))
    two = write_video(tmp_path / "two.mp4", step_frames(8))
    flags = ["-disposition:v:0", "0", "-disposition:v:1", "default"]
    ffmpeg("-i", one, "-i", two, "-map", 0, "-map", 1, "-c", "copy", *flags, tmp_path / "a.mkv")
    frames, info = decode(tmp_path / "a.mkv")
    assert (len(frames), info.width, info.stream) == (8, 64, 1)
    assert "stream 1 was taken, the default; others: 0 (h264, 32x32)" in info.remarks
    ffmpeg("-i", two, "-i", one, "-map", 0, "-map", 1, "-c", "copy", *flags[:1], 0, *flags[2:3], 0, tmp_path / "b.mkv")
    frames, info = decode(tmp_path / "b.mkv")
    assert (len(frames), info.stream) == (8, 0)
    assert info.remarks[0].startswith("stream 0 was taken, the first")


def test_a_file_of_nothing_but_a_cover_is_no_video(decode, cover, tmp_path):
    path = tmp_path / "a.m4a"
    sound = ["-f", "lavfi", "-i", "sine=duration=0.2"]
    ffmpeg(*sound, "-i", cover, "-map", 0, "-map", 1, "-c:v", "mjpeg", "-disposition:v", "attached_pic", path)
    with pytest.raises(InputError, match="only an attached picture"):
        decode(path)


def test_streams_of_the_cases(decode, cases):
    taken = {path.name: decode(path) for path in sorted((cases / "cover").iterdir())}
    assert {name: info.stream for name, (_, info) in taken.items()} == {
        "covr_first.mp4": 1, "covr_last_ok.mp4": 0, "jpeg_track_first.mkv": 1, "two_streams.mkv": 1,
    }  # fmt: skip
    assert {(len(frames), info.width) for frames, info in taken.values()} == {(30, 288)}


# Times


def test_joined_streams_go_on_in_time(decode, tmp_path, write_video):
    """The second begins again at its own start, the third far ahead: a splice in a transport stream."""
    parts = [
        write_video(tmp_path / f"{number}.ts", step_frames(6), fps=25, output_ts_offset=offset)
        for number, offset in enumerate([0, 0, 3600])
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, info = decode(path)
    assert levels(frames) == [*range(6)] * 3
    assert np.diff(times(frames)) == pytest.approx(np.full(17, 1 / 25), abs=1e-6)
    assert [remark for remark in info.remarks if "continued from the frame before" in remark]


def test_joined_streams_of_the_cases(decode, cases):
    frames, info = decode(cases / "restart_ts" / "twice.ts")
    assert np.diff(times(frames)) == pytest.approx(np.full(59, 1 / 30), abs=1e-6)
    assert "time starts again (1x, first at frame 30): continued from the frame before" in info.remarks


def put_right(seconds, **options):
    clock = Clock(step=0.1, **options)
    return [round(time, 3) for time, _ in clock.put_right([(each, "picture") for each in seconds])], clock.remarks


def test_the_clock():
    assert put_right([5.0, 5.1, 5.3]) == ([5.0, 5.1, 5.3], [])
    found, remarks = put_right([0.0, 0.1, 7.0, 0.3, 0.4])
    assert found == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert remarks == ["times that do not fit between their neighbours: 1, the first at frame 2; replaced"]
    assert put_right([0.0, 0.1, 0.1, 0.2])[0] == [0.0, 0.1, 0.15, 0.2]
    assert put_right([1.0, 1.1, 0.0, 0.1, 0.05, 0.2])[0] == [1.0, 1.1, 1.2, 1.3, 1.35, 1.4]
    found, remarks = put_right([0.0, None, None, 0.3])
    assert found == [0.0, 0.1, 0.2, 0.3]
    assert remarks == ["frames without a time: 2, the first is frame 1; they follow at the nominal rate"]
    found, remarks = put_right([0.0, 20.0, 20.1])
    assert found == [0.0, 20.0, 20.1]
    assert remarks == ["time jumps forward (1x, first at frame 1, by up to 20 s): kept"]
    assert put_right([0.0, 20.0, 20.1], is_spliced=True)[0] == [0.0, 0.1, 0.2]
    assert put_right([3.0, 9.0, 1.0], has_times=False) == ([0.0, 0.1, 0.2], [])
    assert put_right([8.0, 8.8], slowdown=8)[0] == [1.0, 1.1]


@pytest.mark.parametrize(("captured", "played", "slowdown"), [(240, 30, 8), (120, 25, 4.8), (30, 30, 1), (30, 24, 1)])
def test_the_rate_of_capture_gives_true_times(decode, captured, played, slowdown, tmp_path, write_video):
    tags = {"movflags": "use_metadata_tags", "metadata": f"com.android.capture.fps={captured}.000000"}
    path = write_video(tmp_path / "a.mp4", step_frames(12), fps=played, **tags)
    frames, info = decode(path)
    assert info.slowdown == pytest.approx(slowdown, rel=1e-3)
    assert np.diff(times(frames)) == pytest.approx(np.full(11, 1 / played / slowdown), rel=1e-3)
    assert any("times are divided by" in remark for remark in info.remarks) == (slowdown != 1)


def test_a_given_rate_counts_before_that_of_the_file(decode, cases, tmp_path, write_video):
    frames, info = decode(cases / "slowmo" / "slow.mp4")
    assert (info.slowdown, times(frames)[1]) == (8, pytest.approx(1 / 240))
    frames, info = decode(cases / "slowmo" / "slow.mp4", rate=120)
    assert (info.slowdown, times(frames)[1]) == (4, pytest.approx(1 / 120))
    frames, info = decode(write_video(tmp_path / "a.mkv", step_frames(5), fps=25), rate=200)
    assert info.slowdown == 8
    assert info.fps == pytest.approx(200, rel=0.02)
    with pytest.raises(ConfigError, match="rate is -1 pictures per second"):
        IngestOptions(rate=-1)


RAW = {
    "h264": ("a.h264", {"bf": 2}, 30),
    "hevc": ("a.hevc", {"vcodec": "libx265", "x265-params": "log-level=none"}, 30),
    "mjpeg": ("a.mjpeg", {"vcodec": "mjpeg", "q:v": 2, "pix_fmt": "yuvj420p"}, None),
    "vp8": ("a.ivf", {"vcodec": "libvpx", "deadline": "realtime"}, 30),
    "y4m": ("a.y4m", {}, 30),
}


@pytest.mark.parametrize("kind", RAW)
def test_raw_streams_run_at_their_rate_or_say_that_it_is_assumed(decode, kind, tmp_path, write_video):
    name, options, rate = RAW[kind]
    if name.endswith("y4m"):
        options = {"crf": None}
    path = write_video(tmp_path / name, step_frames(10), fps=30, **{k: v for k, v in options.items() if v is not None})
    frames, info = decode(path)
    assert levels(frames) == list(range(10))
    assert np.diff(times(frames)) == pytest.approx(np.full(9, 1 / (rate or 25)), rel=1e-3)
    assert any("taken for 25 pictures per second (--rate)" in remark for remark in info.remarks) == (rate is None)
    frames, _ = decode(path, rate=100)
    assert np.diff(times(frames)) == pytest.approx(np.full(9, 1 / 100), rel=2e-3)


# Pixels


@pytest.mark.parametrize("aspect", ["0:1", "1000:1", "1:90"])
def test_an_aspect_that_cannot_be_right_is_square(decode, aspect, tmp_path, write_video):
    path = write_video(tmp_path / "a.mkv", step_frames(3), vf=f"setsar={aspect.replace(':', '/')}")
    _, info = decode(path)
    assert (info.width, info.height, info.aspect) == (64, 48, 1.0)


def test_an_aspect_that_is_absurd_is_named(decode, tmp_path, write_video):
    _, info = decode(write_video(tmp_path / "a.mp4", step_frames(3), vf="setsar=9/1"))
    assert info.remarks == ["pixels of 9:1 cannot be right: they are taken for square"]


def test_filters_see_pixels_as_stored_and_what_they_give_is_made_square(tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", step_frames(3), vf="setsar=2")
    decoder = FfmpegFile(path, filters="crop=32:48")
    frames = list(decoder)
    assert frames[0].size == (64, 48) == (decoder.info.width, decoder.info.height)
    decoder = FfmpegFile(path, filters="scale=iw*sar:ih,setsar=1")
    assert [frame.size for frame in decoder] == [(128, 48)] * 3
    assert decoder.info.aspect == 1


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_crops_of_wide_pixels_are_those_of_square_ones(decoder, cases, tmp_path):
    rows, workspace = ingest(cases / "sar", tmp_path, decoder=decoder)
    wide, square = rows["sar16_11.mp4"], rows["square.mp4"]
    assert (wide.width, wide.height, wide.aspect) == (288, 288, pytest.approx(16 / 11))
    one, other = (crops_of(workspace, row.video_id) for row in (wide, square))
    assert np.abs(one.astype(float) - other).mean() < 6  # of crops 1.45 times too narrow: 30


def test_hd_without_tags_is_bt709_and_sd_bt601(decode, tmp_path, write_video):
    colour = (190, 110, 60)
    for size, matrix in [((720, 1280), "bt709"), ((480, 640), "smpte170m")]:
        graph = f"scale=out_color_matrix={matrix},setparams=colorspace=unknown"
        frames, info = decode(write_video(tmp_path / "a.mp4", [np.full((*size, 3), colour, np.uint8)] * 2, vf=graph))
        assert info.colour.matrix is None
        assert np.abs(frames[1].rgb()[8, 8].astype(int) - colour).max() <= 3


TRANSFERS = {"hlg": "arib-std-b67", "pq": "smpte2084"}


@pytest.mark.parametrize("nits", [100, 203])
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_hdr_looks_like_the_sdr_that_it_was_made_from(decode, transfer, nits, faces, tmp_path, write_video):
    picture = [np.ascontiguousarray(faces[0][:, :, ::-1][:, :, ::-1])] * 2
    picture = [np.where(np.indices(image.shape[:2]).sum(0)[..., None] < 40, 255, image) for image in picture]  # a white
    sdr = write_video(
        tmp_path / "sdr.mp4",
        picture,
        vf="scale=out_color_matrix=bt709,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv",
        crf=6,
    )
    path = tmp_path / "hdr.mkv"
    graph = f"zscale=t={TRANSFERS[transfer]}:p=bt2020:m=bt2020nc:r=tv:npl={nits},format=yuv420p10le"
    ffmpeg("-i", sdr, "-vf", graph, "-c:v", "libx265", "-x265-params", "log-level=none", "-crf", 6, path)
    expected, (frames, info) = decode(sdr)[0], decode(path)
    assert (info.colour.transfer, info.colour.primaries) == (TRANSFERS[transfer], "bt2020")
    assert (info.colour.matrix, info.colour.range, info.is_tone_mapped) == ("bt2020nc", "limited", True)
    assert info.remarks == [f"HDR ({transfer.upper()}) was tone-mapped, {nits} nits to white"]
    one, other = (cv2.cvtColor(each[1].rgb(), cv2.COLOR_RGB2GRAY).astype(float) for each in (frames, expected))
    assert abs(one.mean() - other.mean()) < 3
    assert np.abs(one - other).mean() < 5
    box = (32, 40, 96, 120)
    assert np.array_equal(frames[1].part(box).rgb(), frames[1].rgb()[40:120, 32:96])


def test_highlights_are_compressed_and_grow_with_the_light(tmp_path, decode):
    path = tmp_path / "a.mkv"
    ramp = "color=gray:s=256x64:r=10:d=0.3,format=yuv420p10le,geq=lum='64+876*X/255':cb=512:cr=512"
    tags = "setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv"
    ffmpeg("-f", "lavfi", "-i", f"{ramp},{tags}", "-c:v", "ffv1", path)
    frames, info = decode(path)
    row = frames[0].rgb()[32, :, 1].astype(int)
    assert info.remarks == ["HDR (PQ) was tone-mapped, 203 nits to white"]
    assert all(np.diff(row) >= 0)
    assert 215 < row[round(0.58 * 255)] < 250  # 203 nits lie at 58 % of the signal
    assert row[-1] == 255 > row[round(0.7 * 255)]


def test_crops_of_hdr_are_those_of_sdr(cases, tmp_path):
    rows, workspace = ingest(cases / "hlg", tmp_path)
    hlg, sdr = rows["hlg.mov"], rows["sdr.mp4"]
    assert (hlg.transfer, hlg.tone_mapped, sdr.tone_mapped) == ("arib-std-b67", True, False)
    one, other = (crops_of(workspace, row.video_id).mean() for row in (hlg, sdr))
    assert one == pytest.approx(other, abs=5)
    # What was done is there to be asked for.
    videos, clips = read_table(workspace.videos, VideoRow), read_table(workspace.clips, ClipRow)
    _, twin = twin_paths(workspace.frames, hlg.shard)
    frames = read_table(twin, FrameRow)
    asked = (
        "transfer = 'arib-std-b67' AND tone_mapped AND range = 'limited' AND aspect = 1 AND stream = 0 AND NOT mirrored"
    )
    asked += " AND turned = 0 AND rate = 1 AND true_fps <= fps AND NOT repeated AND stereo IS NULL"
    assert FrameCondition(asked, clips, videos).mask(frames).any()


def test_colours_that_cannot_be_shown_are_refused_by_name(decode, tmp_path, write_video):
    path = tmp_path / "ictcp.mp4"
    plain = write_video(tmp_path / "a.mp4", step_frames(3))
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", "h264_metadata=matrix_coefficients=14", path)
    with pytest.raises(InputError, match="its colours are in the matrix ictcp"):
        decode(path)


# Sizes

# FFmpeg's decoders of older codecs drop the picture that they hold when the size changes.
HEVC = {"fps": 25, "vcodec": "libx265", "x265-params": "log-level=none"}


def test_a_clip_ends_where_the_size_changes(faces, tmp_path, write_video):
    sizes = [(192, 192), (192, 192), (160, 160), (256, 192)]
    parts = [
        write_video(tmp_path / f"{i}.ts", [cv2.resize(each, size) for each in faces], **HEVC).read_bytes()
        for i, size in enumerate(sizes)
    ]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.ts").write_bytes(b"".join(parts))
    (row,), workspace = ingest(tmp_path / "videos", tmp_path / "out")[0].values(), Workspace(tmp_path / "out")
    clips = read_rows(workspace.clips, ClipRow)
    assert [(clip.first_frame, clip.last_frame) for clip in clips] == [(0, 23), (24, 35), (36, 47)]
    assert [clip.face_px / clips[0].face_px for clip in clips[:2]] == pytest.approx([1, 160 / 192], abs=0.03)
    assert "the size changes to 160x160 at frame 24, to 256x192 at frame 36: clips end there" in row.reason


def test_both_decoders_follow_a_turn_that_keeps_the_number_of_bytes(decode, tmp_path, write_video):
    parts = [
        write_video(tmp_path / f"{i}.ts", step_frames(5, *size), **HEVC) for i, size in enumerate([(48, 64), (64, 48)])
    ]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, _ = decode(tmp_path / "a.ts")
    assert [frame.size for frame in frames] == [(64, 48)] * 5 + [(48, 64)] * 5
    assert levels(frames) == [*range(5)] * 2


def test_a_size_change_of_the_cases(cases, tmp_path):
    rows, workspace = ingest(cases / "res_change", tmp_path, decoder="ffmpeg")
    assert [(clip.first_frame, clip.last_frame) for clip in read_rows(workspace.clips, ClipRow)] == [(0, 14), (15, 29)]
    assert "to 324x324 at frame 15" in rows["c.ts"].reason


# Which way up, and two eyes


def test_a_recording_on_its_head_is_turned_and_no_other(media, tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("grid_swiz3n.mpg", "latentsync_demo1_hevc.mp4"):
        for way, graph in (("up", "null"), ("down", "hflip,vflip")):
            path = tmp_path / "videos" / f"{way}_{name[:4]}.mkv"
            ffmpeg("-i", media / "videos" / name, "-t", 0.5, "-an", "-vf", f"scale=360:-2,{graph}", "-crf", 12, path)
    rows, workspace = ingest(tmp_path / "videos", tmp_path / "out")
    assert {path: row.turned for path, row in rows.items()} == {
        "down_grid.mkv": 180, "down_late.mkv": 180, "up_grid.mkv": 0, "up_late.mkv": 0,
    }  # fmt: skip
    assert rows["down_grid.mkv"].reason == "stood on its head, without a flag: turned by 180 degrees"
    one, other = (crops_of(workspace, rows[f"{way}_grid.mkv"].video_id) for way in ("up", "down"))
    assert np.abs(one.astype(float) - other).mean() < 6


@pytest.mark.parametrize("packing", ["full", "half", "told", "told above"])
def test_of_stereo_one_eye_is_taken(packing, faces, tmp_path, write_video):
    axis = 0 if packing == "told above" else 1
    both = [np.concatenate([each, np.roll(each, 4, axis=1)], axis=axis) for each in faces]
    if packing == "half":
        both = [cv2.resize(each, (192, 192), interpolation=cv2.INTER_AREA) for each in both]
    mode = {"told": "left_right", "told above": "top_bottom"}.get(packing, "mono")
    write_video(tmp_path / "videos" / "a.mkv", both, **{"metadata:s:v": f"stereo_mode={mode}"})
    rows, workspace = ingest(tmp_path / "videos", tmp_path / "out")
    row = rows["a.mkv"]
    assert row.stereo == ("one above the other" if axis == 0 else "side by side")
    assert (row.width, row.height, row.aspect) == (192, 192, 2 if packing == "half" else 1)
    assert "the picture of one eye was taken" in row.reason
    assert [clip.num_frames for clip in read_rows(workspace.clips, ClipRow)] == [12]


def test_eyes_that_are_interleaved_are_refused_by_name(decode, tmp_path, write_video):
    path = write_video(tmp_path / "a.mkv", step_frames(3), **{"metadata:s:v": "stereo_mode=checkerboard_lr"})
    with pytest.raises(InputError, match="stereo whose two pictures are interleaved"):
        decode(path)


# Repeated pictures


def test_pairs_of_one_picture_are_not_made(faces, tmp_path, write_video):
    pictures = [*faces, *faces[-2::-1]]
    write_video(tmp_path / "videos" / "a.mp4", [each for each in pictures for _ in range(3)], fps=30, crf=20)
    rows, workspace = ingest(tmp_path / "videos", tmp_path / "out")
    assert rows["a.mp4"].true_fps == pytest.approx(10, abs=0.6)
    assert "67% of the frames repeat the picture before" in rows["a.mp4"].reason
    run_shard(workspace, PairOptions(min_delta_ms=30, max_delta_ms=130, pairs_per_second=60))
    pairs = [pair for twin in workspace.pairs.glob("0*.parquet") for pair in read_rows(twin, PairRow)]
    assert pairs
    assert all(pair.t0 // 3 < pair.t1 // 3 for pair in pairs)
    assert {pair.t0 % 3 for pair in pairs} | {pair.t1 % 3 for pair in pairs} == {0}
    assert Fraction(pairs[0].delta_seconds).limit_denominator(100) == Fraction(1, 10)
