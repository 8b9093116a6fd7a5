"""Read 500 bad clips, and a whole one of every kind, and sort what comes of each.

    python benchmarks/corpus.py               # `make corpus`
    python benchmarks/corpus.py --share 0.08  # about 40 files
    python benchmarks/corpus.py --keep bad/   # keeps the files that gave anything but frames or an error

A frame is right if it is within 10 grey levels, on average over its pixels, of the frame that the whole file shows at
that time. Everything is drawn with a seed, so the corpus is the same each time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from vtc_lab.clips.reading import find_clips, read_clip
from vtc_lab.tokens import Clip, VTCError

RIGHT, SAID, WRONG, OTHER, HANG = OUTCOMES = (
    "right", "an error in one sentence", "wrong frames in silence", "another exception", "hang",
)  # fmt: skip
LEVELS, PATIENCE = 10, 30.0
COUNT, WIDTH, HEIGHT, RATE = 40, 96, 64, 25
MADE = {  # file: codec, pixel format, options of the codec, of the container
    "front.mp4": ("libx264", "yuv420p", {"g": "12"}, {"movflags": "faststart"}),
    "open.mp4": ("libx264", "yuv420p", {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}, {}),
    "refresh.mp4": ("libx264", "yuv420p", {"g": "12", "x264-params": "intra-refresh=1"}, {}),
    "hevc.mp4": (
        "libx265",
        "yuv420p",
        {"x265-params": "log-level=none:pools=none:frame-threads=1:crf=12:keyint=12:open-gop=1"},
        {},
    ),
    "clip.mkv": ("libx264", "yuv420p", {"g": "12"}, {}),
    "clip.webm": ("libvpx-vp9", "yuv420p", {"g": "12", "deadline": "good", "cpu-used": "5"}, {}),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "12", "deadline": "good", "cpu-used": "5"}, {}),
    "clip.mov": ("mjpeg", "yuvj420p", {}, {}),
    "part2.mp4": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}, {}),
    "clip.avi": ("mpeg4", "yuv420p", {"g": "12"}, {}),
    "h264.avi": ("libx264", "yuv420p", {"g": "12", "bf": "2"}, {}),
    "clip.ts": ("libx264", "yuv420p", {"g": "12"}, {}),
    "mpeg4.ts": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}, {}),
    "clip.mpg": ("mpeg2video", "yuv420p", {"g": "12", "bf": "2"}, {}),
    "clip.wmv": ("wmv2", "yuv420p", {"g": "12"}, {}),
    "clip.flv": ("libx264", "yuv420p", {"g": "12"}, {}),
    "clip.gif": ("gif", "rgb8", {}, {}),
}


@dataclass
class Case:
    """One file; `right` reads what the whole file shows; None where no frame can be right."""

    kind: str
    path: Path
    right: Callable[[], Clip] | None


def make(path: Path, codec: str, pixels: str, options: dict, mux: dict, size: tuple[int, int], aspect: int = 1) -> Path:
    """Write 40 frames in which a bright bar moves over a slope."""
    wide, high = size
    with av.open(str(path), "w", options={**mux, "fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = wide, high, pixels
        if codec not in ("gif", "mpeg4", "mpeg2video"):
            stream.codec_context.time_base = Fraction(1, 1000 if path.suffix == ".flv" else RATE)
        stream.codec_context.bit_rate = 2_000_000
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        stream.options = options
        for number in range(COUNT):
            picture = np.tile(np.linspace(40, 160, wide), (high, 1))
            bar = wide // 6 + 1
            at = number * max(1, wide // COUNT) % max(1, wide - bar)
            picture[:, at : at + bar] = 60 + 4 * number
            picture[: high // 3, : wide // 2] = 6 * number
            frame = av.VideoFrame.from_ndarray(np.stack([picture.astype(np.uint8)] * 3, axis=-1), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def whole(path: Path, aspect: int = 1) -> Clip:
    """Read a healthy file with PyAV alone, every frame in its order, at the times of the packets."""
    with av.open(str(path)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
        frames = [np.asarray(image.resize((image.width * aspect, image.height))) for image in images]
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        avi = container.format.name == "avi"
        stamps = sorted(packet.dts if avi else packet.pts for packet in packets)
        start = (container.start_time or 0) / av.time_base
        times = np.array([float(stamp * packets[0].time_base) for stamp in stamps]) - start
    return Clip(np.stack(frames), times[: len(frames)], str(path))


def cases(folder: Path, seed: int) -> Iterator[Case]:
    """Yield every case in the same order each time; a file lives until the next one is asked for."""
    rng = np.random.default_rng(seed)
    numbers = iter(range(10_000))

    def write(kind: str, suffix: str, data: bytes, right: Callable[[], Clip] | None) -> Case:
        path = folder / f"{kind.replace(' ', '_')}_{next(numbers)}{suffix}"
        path.write_bytes(data)
        return Case(kind, path, right)

    def flip(data: bytes, low: int = 0) -> bytes:
        bit = int(rng.integers(8 * low, 8 * len(data)))
        return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]

    def zero(data: bytes, count: int, low: int = 0) -> bytes:
        at = int(rng.integers(low, len(data) - count))
        return data[:at] + bytes(count) + data[at + count :]

    sources = []
    for name, how in MADE.items():
        path = make(folder / name, *how, (WIDTH, HEIGHT))
        sources.append((path.suffix, path.read_bytes(), cache(partial(whole, path))))
        yield Case("whole, of every kind", path, sources[-1][2])
    for clip in find_clips():
        data, right = clip.read_bytes(), cache(partial(read_clip, clip))
        media = data.index(b"mdat") + 4
        yield Case("whole, shipped", clip, right)
        for _ in range(30):
            yield write("shipped, one bit flipped", ".mp4", flip(data, media), right)
        for count in (64, 512):
            yield write("shipped, a run zeroed", ".mp4", zero(data, count, media), right)
        yield write("shipped, cut", ".mp4", data[: int(len(data) * rng.uniform(0.05, 0.98))], right)
    for suffix, data, right in sources:
        for _ in range(4):
            yield write("one bit flipped", suffix, flip(data, min(600, len(data) // 4)), right)
        for count in (16, 200):
            yield write("a run zeroed", suffix, zero(data, count, min(600, len(data) // 4)), right)
        for share in (0.2, 0.6, 0.97):
            yield write("cut", suffix, data[: int(len(data) * share)], right)
        yield write("renamed", ".mkv" if suffix != ".mkv" else ".gif", data, right)
        half = len(data) // 2
        yield write("a part missing", suffix, data[: half - 300] + data[half:], right)
        yield write("header damaged", suffix, zero(data[:120], 12) + data[120:], right)
    sound = "RIFF$\0\0\0WAVEfmt \20\0\0\0\1\0\1\0\0\4\0\0\0\4\0\0\1\0\10\0data".encode("latin-1") + bytes(2000)
    playlists = {
        ".m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfront.mp4\n#EXT-X-ENDLIST\n",
        ".ffconcat": "ffconcat version 1.0\nfile front.mp4\n",
        ".sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        ".mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>\n',
        ".m3u": f"#EXTM3U\n{folder / 'front.mp4'}\n",
    }
    for suffix, text in playlists.items():
        for name in (suffix, ".mp4"):
            yield write("a playlist", name, text.encode(), None)
    others = {".txt": b"hello\n" * 99, ".zip": b"PK\5\6" + bytes(18), ".wav": sound, ".npy": b"\x93NUMPY" + bytes(500)}
    for suffix, data in others.items():
        yield write("no video", suffix, data, None)
        yield write("no video", ".mp4", data, None)
    for suffix in (".png", ".jpg", ".tiff", ".bmp"):
        Image.new("RGB", (64, 48)).save(folder / f"x{suffix}")
        yield write("no video", ".mp4", (folder / f"x{suffix}").read_bytes(), None)
    for count in (0, 1, 7, 5000):
        yield write("no video", ".mp4", rng.bytes(count), None)
    for size in ((2, 2), (4, 400), (400, 4), (18, 34), (98, 66), (130, 50), (1000, 30), (16, 16)):
        path = make(folder / f"odd_{size[0]}x{size[1]}.mp4", "libx264", "yuv420p", {"crf": "10"}, {}, size)
        yield Case("odd sizes", path, partial(whole, path))
    for aspect in (2, 3):
        path = make(folder / f"wide_{aspect}.mp4", "libx264", "yuv420p", {"crf": "10"}, {}, (WIDTH, HEIGHT), aspect)
        yield Case("odd sizes", path, partial(whole, path, aspect))
    first = sources[0][1]
    boxes = {"tkhd": 84, "mdhd": 16, "stts": 12, "stsz": 12, "stco": 12, "ctts": 12, "avcC": 5}
    for box, offset in boxes.items():
        for value in (0, 0xFFFFFFFF, 15000 << 16):
            at = first.find(box.encode())
            if at > 0:
                at += offset
                changed = first[:at] + value.to_bytes(4, "big") + first[at + 4 :]
                yield write("wrong headers", ".mp4", changed, sources[0][2])
    gif = sources[-1][1]
    yield write("too large", ".gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], None)
    Image.new("L", (15000, 15000)).save(folder / "large.gif", save_all=True, append_images=[Image.new("L", (9, 9))])
    yield Case("too large", folder / "large.gif", None)
    for kind in ("fifo", "socket", "folder", "zero", "loop"):
        path = folder / f"{kind}.mp4"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            place = socket.socket(socket.AF_UNIX)
            place.bind(str(path))
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if kind == "zero" else path)
        yield Case("no regular file", path, None)


def outcome(case: Case) -> tuple[str, str]:
    """Read one file; return one of OUTCOMES and what was said."""
    got: list[Clip | Exception] = []

    def read() -> None:
        try:
            got.append(read_clip(case.path))
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not got:
        return HANG, ""
    clip, right = got[0], case.right and case.right()
    if isinstance(clip, VTCError) and not re.search(r"\n|[.!?] [A-Z]", str(clip).replace(str(case.path), "")):
        return SAID, str(clip)
    if isinstance(clip, Exception):
        return OTHER, f"{type(clip).__name__}: {clip}"
    if right is None or clip.frames.shape[1:] != right.frames.shape[1:]:
        return WRONG, f"frames of {clip.frames.shape[1:]}"
    nearest = np.abs(clip.times[:, None] - right.times).argmin(axis=1)
    late = np.abs(clip.times - right.times[nearest]).max()
    far = np.abs(clip.frames.astype(int) - right.frames[nearest]).mean(axis=(1, 2, 3)).max()
    good = late < 2e-3 and far <= LEVELS
    return RIGHT if good else WRONG, f"{far:.1f} levels and {late:.3f} s away, by {clip.reader}"


def run(share: float = 1.0, seed: int = 0, keep: Path | None = None) -> dict[str, Counter[str]]:
    """Return the outcomes of each kind; of the kinds with many files only a share is read."""
    table: dict[str, Counter[str]] = {}
    place = Path(tempfile.mkdtemp(prefix="corpus-"))
    try:
        seen: Counter[str] = Counter()
        for case in cases(place, seed):
            seen[case.kind] += 1
            if int(seen[case.kind] * share) > int((seen[case.kind] - 1) * share):
                what, words = outcome(case)
                table.setdefault(case.kind, Counter())[what] += 1
                if what in (WRONG, OTHER, HANG) or case.kind.startswith("whole") and what != RIGHT:
                    print(f"{case.path.name}: {what}, {words}", flush=True)
                    if keep and case.path.is_file():
                        keep.mkdir(exist_ok=True)
                        shutil.copy(case.path, keep)
            if case.path.name.rpartition("_")[2].split(".")[0].isdecimal():
                case.path.unlink()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return table


def main() -> None:
    """Print a table with a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the files of each kind that are read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files with another outcome")
    asked, began = parser.parse_args(), time.monotonic()
    table = run(asked.share, asked.seed, asked.keep)
    print(f"| files | number | {' | '.join(OUTCOMES)} |", "|---" * (len(OUTCOMES) + 2) + "|", sep="\n")
    for kind, counts in [*table.items(), ("all", sum(table.values(), Counter()))]:
        print(f"| {kind} | {counts.total()} | {' | '.join(str(counts[what]) for what in OUTCOMES)} |")
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(any(counts[what] for counts in table.values() for what in (OTHER, HANG)))


if __name__ == "__main__":
    main()
