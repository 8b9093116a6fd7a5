"""The child processes of `vtc_lab.clips.reading`: each decodes one file and sends the frames that were asked for.

Native decoders crash, or loop for ever while holding the interpreter lock. Each has a process of its own, a copy of one
that has imported PyAV (longer than most reads take) and no torch; it ends itself after some seconds without progress.

A child says its number and is asked by a line of JSON. It answers with such lines: {"shape", "times"}, {"frame": n}
before the bytes of that frame for each n (again from 0 if a second reader starts over), {"reader"}; or {"error"}.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import importlib
import json
import math
import os
import re
import select
import signal
import socket
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import av
import numpy as np

PATIENCE = 2.5, 1.8  # seconds for a child with decord and for the one without after it: both give up within 5
LARGEST = 2**26  # pixels of a frame: 8192 x 8192, more than the levels of H.264 and HEVC allow
PIXELS = 40e6  # decord may decode so many between two signs of life, well under a second of work
BYTES = 5e8  # in a dense read decord decodes ahead without bound, so larger reads go to PyAV


class Refused(Exception):
    """The file or the request is at fault; the sentence goes to the user."""


class Watch:
    """Ends this process, without needing the interpreter lock, when `alive` is not called for too long."""

    patience, armed = PATIENCE[0], -math.inf

    def alive(self) -> None:
        """Put off the moment at which a decoder that hangs is ended."""
        if time.monotonic() - self.armed > 0.1:  # arming starts a thread: too slow for each of a million packets
            faulthandler.dump_traceback_later(self.patience, exit=True)
            self.armed = time.monotonic()


@dataclass
class Index:
    """The frames of a video in the order in which they are shown."""

    pts: list[int]  # presentation timestamps in units of the stream, increasing
    times: np.ndarray  # the same in seconds since the file's own start, as players count
    keys: list[int]  # pts of the frames at which decoding can start; empty where pts cannot be sought
    area: int  # pixels of a frame
    end: float  # when the last frame goes
    cut: bool  # the data break off before the end that the file states
    exact: bool  # decord finds the right frames in such a file
    torn: frozenset[int] = frozenset()  # pts of packets between which the container is damaged


watch = Watch()


def open_video(path: str, threads: bool = False) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a file and its main video stream; Refused says what the file is instead."""
    name = Path(path).name
    try:  # through a descriptor, so that no playlist can have other files opened; a title in Latin-1 is no damage
        only = {"fd": str(os.open(path, os.O_RDONLY)), "protocol_whitelist": "fd", "max_pixels": str(LARGEST)}
        container = av.open("fd:", options=only, metadata_errors="replace")
    except av.FFmpegError as error:
        words = f"{name} cannot be opened as a video ({error.strerror})"
        raise Refused(f"{words}: it is cut short or something else; fetch it again, or give an mp4 or mkv") from error
    stream, kind = container.streams.best("video"), container.format.name
    if kind.endswith("_pipe") or kind in ("image2", "tty"):
        raise Refused(f"{name} is a picture or a text ({kind}), not a video; give a file with moving pictures")
    cover = av.stream.Disposition.attached_pic
    if not isinstance(stream, av.VideoStream) or not stream.codec_context or stream.disposition & cover:
        kinds = " and ".join(sorted({other.type for other in container.streams} - {"video"})) or "nothing"
        raise Refused(f"{name} holds {kinds} but no video that can be decoded; give a file with moving pictures")
    wide, high = stream.codec_context.width, stream.codec_context.height
    if not 0 < wide * high * max(1, stream.sample_aspect_ratio or 1) <= LARGEST:
        raise Refused(f"{name} has frames too large, or of no size; give a video with 1 to {LARGEST} pixels a frame")
    # Pictures may grow on the way. Checksums in HEVC are compared; WMV's decoder says if bits are left over.
    heed = "crccheck+buffer" if stream.codec_context.name.startswith(("wmv", "msmpeg4")) else "crccheck"
    stream.codec_context.options = {"max_pixels": only["max_pixels"], "err_detect": heed}
    stream.thread_type = "AUTO" if threads else "NONE"  # with threads, an error also loses sound frames near it
    return container, stream


def pictures(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Yield every frame from here on in the order in which it is shown; skip what cannot be decoded."""
    for packet in container.demux(stream):
        watch.alive()
        with contextlib.suppress(av.FFmpegError):
            yield from packet.decode()


def clean(packet: av.Packet, codec: av.VideoCodecContext) -> bool:
    """Return True if a key packet of MP4 or Matroska needs nothing before it; in H.264, if it has an IDR picture."""
    setup, data, at = codec.extradata or b"", bytes(packet), 0
    if codec.name != "h264" or setup[:1] != b"\1":
        return codec.name in ("mpeg4", "vp8", "mjpeg")
    size = int.from_bytes(setup[4:5]) % 4 + 1
    while at + size < len(data) and data[at + size] & 31 != 5:
        at += size + int.from_bytes(data[at : at + size])
    return at + size < len(data)


def matrix(frame: av.VideoFrame | None) -> list[int]:
    """Return how a frame is to be shown: x' = a x + c y and y' = b x + d y, as [a, b, c, d]."""
    side: Any = frame and frame.side_data.get("DISPLAYMATRIX")
    return np.frombuffer(bytes(side), np.int32)[[0, 1, 3, 4]].tolist() if side else [1, 0, 0, 1]


def track_length(path: str, stream: av.VideoStream) -> float:
    """Return the seconds that an MP4's track header states, which FFmpeg ignores, or 0 where it states none."""
    size, kind, scale, ticks = 8, b"", 0, 0
    with open(path, "rb") as file:
        while size >= 8 and kind != b"moov":
            file.seek(size - 8, 1)
            size, kind = int.from_bytes(file.read(4)), file.read(4)
        boxes = re.split(b"(?=mvhd\0|tkhd\0)", file.read(min(size, LARGEST)))
    for box in boxes[1:]:
        number = int.from_bytes(box[16:20])
        if box.startswith(b"mvhd"):
            scale = number
        elif number == stream.id:
            ticks = int.from_bytes(box[24:28])
    # All ones are an unknown length, and some writers count in units of the stream.
    return ticks / scale if scale and ticks not in (2**32 - 1, stream.duration) else 0


def scan(path: str) -> Index:
    """Index a file from its packets; nothing is decoded, unless the container has no presentation timestamps."""
    container, stream = open_video(path)
    kind, codec, packets, latest, torn = container.format.name, stream.codec_context, [], 0.0, False
    avi, exact, bad, quiet = kind == "avi", kind.startswith(("mov", "matroska")), list[Any](), os.fstat(2).st_size
    for packet in container.demux():
        watch.alive()
        pts = packet.dts if avi else packet.pts  # AVI has none, and a guess stands there
        if packet.size and pts is not None and not packet.is_corrupt:
            latest = max(latest, float((pts + (packet.duration or 0)) * packet.time_base))
        if packet.size and packet.stream.index == stream.index:
            torn = packet.is_corrupt  # only the last one tells: broadcasts begin with damaged packets
            packets.append((pts, packet.is_keyframe, packet.is_discard))
            if (said := os.fstat(2).st_size) > quiet:
                bad, quiet = [*bad, *(pts for pts, _, _ in packets[-2:] if not torn)], said
            exact = exact and (not packet.is_keyframe or clean(packet, codec))
    torn |= kind == "gif" and not Path(path).read_bytes().rstrip(b"\0").endswith(b"\0;")
    if torn:
        packets.pop()
    if not packets:
        raise Refused(f"{Path(path).name} breaks off before its first frame; fetch it again or give another file")

    first = next((n for n, (_, key, _) in enumerate(packets) if key), 0)
    decoded = [pts for pts, _, _ in packets[first:] if pts is not None]
    keys = sorted(pts for pts, key, _ in packets if key and pts is not None)
    exact &= not (torn or first or any(discard for *_, discard in packets)) and stream.sample_aspect_ratio in (None, 1)
    a, b, c, d = matrix(next(pictures(*open_video(path)), None)) if exact else (0, 0, 0, 0)
    exact &= a * d > b * c  # decord neither mirrors nor stretches
    if avi or len(decoded) < len(packets) - first:
        stamps: list[Any] = [frame.pts for frame in pictures(*open_video(path))]
        shown, keys = sorted(stamps)[: -1 if torn else None] if None not in stamps else [], []
        shown = sorted(decoded) if avi and len(stamps) - torn == len(decoded) == len(packets) else shown
    else:
        kept = {pts for pts, _, discard in packets[first:] if pts is not None and not discard}
        shown = sorted(pts for pts in kept if pts >= decoded[0])
        # Open groups of pictures and streams that do not start at 0 make decord return other frames than asked for.
        exact &= len(shown) == len(decoded) and shown[0] == 0
        exact = exact and all(shown[n] == pts for n, (pts, key, _) in enumerate(packets) if key)
    if not shown or not stream.time_base:
        raise Refused(f"{Path(path).name} has no frames with timestamps; convert it to mp4 or mkv")

    start, stated = (container.start_time or 0) / av.time_base, (container.duration or 0) / av.time_base
    if avi and stream.average_rate:
        stated = float(stream.frames / stream.average_rate)  # its duration is guessed from the size of what is there
    times = np.array(shown) * stream.time_base.numerator / stream.time_base.denominator - start
    gap = np.median(np.diff(times)) if len(times) > 1 else 0
    told = track_length(path, stream) if kind.startswith("mov") else 0
    ends = times[-1] + start + gap, float((stream.duration or 0) * stream.time_base)
    if told > 10 * max(ends):
        words = f"{Path(path).name} ends at {ends[0]:.3g} s by its frames and at {told:.3g} s by its header"
        raise Refused(f"{words}, so its time scale is damaged; fetch it again or give another file")
    # Other containers do not state their duration exactly.
    cut = kind.startswith(("mov", "matroska", "avi")) and stated - latest + start > max(0.1, 2 * gap)
    area, end = codec.width * codec.height, max(times[-1], latest - start, stated)
    return Index(shown, times, keys, area, end, torn or cut, exact and not cut and not bad, frozenset(bad))


def seconds(value: float) -> float:
    """Round down to milliseconds, so that a proposed end lies within the file."""
    return math.floor(value * 1000 + 1e-6) / 1000


def choose(
    name: str, index: Index, frames: int | None, fps: float | None, start: float | None, end: float | None
) -> list[int]:
    """Return the positions of the frames that were asked for."""
    last = seconds(index.times[-1])
    for word, value in (("start", start), ("end", end)):
        if value is not None and value > index.end + 1e-3:
            raise Refused(f"{name} runs from 0.0 to {seconds(index.end)} s; {word}={value} lies outside")
    if index.cut and (end is None or end > index.times[-1] + 1e-3):
        raise Refused(f"{name} is cut short, its frames end at {last} s; fetch it again, or give end={last}")
    low, high = start or min(0.0, index.times[0]), index.end if end is None else end
    inside = np.flatnonzero((index.times >= low - 1e-6) & (index.times <= high + 1e-6))
    count, span = len(inside), f"between {max(low, 0.0)} and {seconds(high)} s"
    if not count:
        raise Refused(f"{name} has no frame {span}, its last is at {last} s; widen start and end")
    if fps is None:
        wanted = min(16, count) if frames is None else frames
        if wanted > count:
            raise Refused(f"{name} has {count} frames {span}; ask for 1 to {count}, not {wanted}")
        return inside[np.linspace(0, count - 1, wanted).round().astype(int)].tolist()
    times = index.times[inside]
    length = times[-1] - times[0]
    if length * fps >= count:
        most = math.floor((count - 1) / length * 100) / 100
        raise Refused(f"{name} has {count} frames {span}; ask for at most fps={most}, not {fps}")
    ticks = times[0] + np.arange(math.floor(length * fps + 1e-6) + 1) / fps
    return inside[np.unique(np.searchsorted((times[1:] + times[:-1]) / 2, ticks))].tolist()


def by_decord(decord: ModuleType, path: str, index: Index, wanted: list[int]) -> Iterator[np.ndarray]:
    """Read with get_batch, in steps so short that a hang cannot pass for work."""
    video = decord.VideoReader(path)
    known = video.get_frame_timestamp(wanted)[:, 0]
    if len(video) != len(index.pts) or not np.allclose(known, index.times[wanted] - index.times[0], atol=1e-3):
        raise ValueError("decord counts other frames")
    keys, here, step = list(video.get_key_indices()), -1, max(1, int(PIXELS / index.area))
    quiet = os.fstat(2).st_size  # decord conceals damage and only says so on stderr, which the parent made a file
    for target in wanted:
        start = max(here, keys[bisect_right(keys, target) - 1])
        for stone in (*range(start + step, target, step), target):
            watch.alive()
            frame = video.get_batch([stone])
        if os.fstat(2).st_size > quiet:
            raise ValueError("decord found damage")
        yield frame.asnumpy()[0]
        here = target


def by_pyav(path: str, index: Index, wanted: list[int], seek: bool, threads: bool) -> Iterator[np.ndarray]:
    """Read the frames by their timestamps, from the key frame before each or, without seek, from the first of all."""
    container, stream = open_video(path, threads)
    codec = stream.codec_context
    known = codec.name == "vp9" and "libvpx-vp9" in av.codecs_available
    twice = known and codec.format and codec.format.components[0].bits == 8
    aspect, order, broken = stream.sample_aspect_ratio or 1, dict[Any, int](), math.inf

    def stamped(start: float) -> Iterator[tuple[Any, av.VideoFrame | None]]:
        """Yield (timestamp, frame) from a key frame on; `broken` is the place in `order` of the first bad packet."""
        nonlocal broken
        broken, count, quiet = math.inf, iter(index.pts), os.fstat(2).st_size
        held, waiting, frames = list[tuple[Any, av.VideoFrame]](), dict[float, int](), list[av.VideoFrame]()
        order.clear()
        # FFmpeg's own decoder of VP9 conceals what libvpx complains of.
        second = av.CodecContext.create("libvpx-vp9", "r") if twice else None
        for packet in container.demux(stream):
            watch.alive()
            pts = -math.inf if packet.pts is None else packet.pts
            if index.keys and pts != start and start not in order:
                continue  # not there yet, or behind it after a seek
            if packet.size:
                order[pts] = waiting[pts] = len(order)
            frames, whole = [], not packet.is_corrupt
            before = quiet if threads else os.fstat(2).st_size  # threads may tell late; containers were heard by scan
            with contextlib.suppress(av.FFmpegError):
                frames = packet.decode() if whole else []
                if second and whole:
                    second.decode(packet)
            quiet = os.fstat(2).st_size
            # What is shown before the key frame at which decoding starts may lack its references.
            bad = quiet > before or packet.pts in index.torn or not whole
            if bad and (pts >= start or not packet.size):
                broken = min(broken, len(order) - whole)
            for frame in frames:
                if frame.is_corrupt and (frame.pts is None or frame.pts >= start):
                    broken = min(broken, order.get(frame.pts, 0))
                held.append((frame.pts if index.keys else next(count, math.inf), frame))
            # Some only turn out corrupt when they are shown; those that refer to them, 16 at most, wait for that.
            waiting = {pts: at for pts, at in waiting.items() if not held or pts > held[-1][0]}
            first = min(waiting.values(), default=math.inf) if index.keys else -1
            while held and (len(held) > 16 or order.get(held[0][0], 0) < first):
                yield held.pop(0)
        yield from [*held, (math.inf, None)]

    stamps, here, frame = stamped(min(index.keys, default=-math.inf)), -math.inf, None
    size: dict[str, Any] = {}
    for target in (index.pts[at] for at in wanted):
        n = bisect_right(index.keys, target) - 1
        if seek and n > 0 and index.keys[n] > here:
            container.seek(index.keys[n - container.format.name.startswith("mpeg")], stream=stream)  # may end behind it
            stamps = stamped(index.keys[n])
        while here < target:
            here, frame = next(stamps)
        last = order.get(target, 0) if index.keys and not threads else len(order) - 1
        if frame is None or here != target or frame.is_corrupt or last >= broken:
            raise ValueError("this frame cannot be decoded")
        size = size or {"width": max(1, round(frame.width * aspect)), "height": frame.height}
        picture, (a, b, c, d) = frame.to_ndarray(format="rgb24", **size), matrix(frame)
        picture, a, d = (picture.swapaxes(0, 1), c, b) if abs(b) > abs(a) else (picture, a, d)
        yield np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def serve(out: BinaryIO, path: str, decord: bool, what: dict[str, Any]) -> None:
    """Answer one request: by decord where it is exact, else or where it fails by PyAV, seeking and then without."""

    def tell(**message: object) -> None:
        out.write(json.dumps(message).encode() + b"\n")

    library = None
    if decord:
        with contextlib.suppress(Exception):  # there is no wheel for ARM; a broken one may raise anything
            library = importlib.import_module("decord")
            library.logging.set_level(library.logging.INFO)  # at which it tells what it conceals
    began = time.monotonic()
    os.pread(os.open(path, os.O_RDONLY), 1, 0)  # cannot loop, so it may take its time
    watch.patience = PATIENCE[not decord] + 4 * (time.monotonic() - began)
    watch.alive()
    index = scan(path)
    wanted = choose(Path(path).name, index, **what)
    watch.patience += 4 * (time.monotonic() - began)  # a slow disk slows every step
    seeks = ((True, True), (True, False), (False, False))[0 if index.keys else 2 :]  # what threads tell may be of later
    ways = [(f"PyAV {av.__version__}", by_pyav(path, index, wanted, *how)) for how in seeks]
    if library and index.exact and 3 * index.area * len(wanted) <= BYTES:
        ways.insert(0, (f"decord {library.__version__}", by_decord(library, path, index, wanted)))
    shape = None
    for reader, frames in ways:
        done = 0
        try:
            for frame in frames:
                if shape is None:
                    shape = frame.shape
                    tell(shape=[len(wanted), *shape], times=index.times[wanted].tolist())
                if frame.shape != shape:
                    raise ValueError("the size changed")
                tell(frame=done)
                out.write(frame.data)
                done += 1
            return tell(reader=reader)
        except Exception:  # native readers raise anything; the next one may do better
            continue
    at = seconds(index.times[wanted[done]])
    raise Refused(f"{Path(path).name} is damaged near {at} s; fetch it again, or leave that out with start and end")


def answer(data: int, alarm: int, errors: int) -> None:
    """Answer the request on one socket; end when another, on which nothing is ever sent, is shut at its other end."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # ends a process at once, whoever holds the interpreter lock
    fcntl.fcntl(alarm, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(alarm, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([alarm], [], [], 0)[0]:  # shut before that was set
        return
    # What native libraries print may not get between the frames. It goes to a file, of which by_pyav takes note.
    os.dup2(os.dup2(errors, 1), 2)
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)
    os.write(data, b"%d\n" % os.getpid())
    out = os.fdopen(os.dup(data), "wb")
    try:
        serve(out, **json.loads(os.fdopen(data, "rb").readline()))
    except Refused as error:
        out.write(json.dumps({"error": str(error)}).encode() + b"\n")
    out.flush()


def main() -> None:
    """Make a child for each message on standard input, a socket, which brings what `answer` takes."""
    if os.fork():  # the reader's process has no child that it could meet in os.wait()
        os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody collects the children
    np.median([0.0])  # so that what numpy only imports now is there in every copy
    home = socket.socket(fileno=0)
    while True:
        message, given, *_ = socket.recv_fds(home, 1, 3)
        if not message:  # whoever reads is gone
            os._exit(0)
        if message == b"d":  # it did so in a child and can be trusted
            importlib.import_module("decord")
        if not os.fork():
            try:
                answer(*given)
            finally:
                os._exit(0)  # decord's destructor is one of the places where it hangs
        for each in given:
            os.close(each)


if __name__ == "__main__":
    main()
