"""Find and read clips.

decord reads where it is exact, PyAV everywhere else, both in a process of its own for each file (`decoder.py`), so that
no file can hang or crash a notebook.
"""

from __future__ import annotations

import json
import operator
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from io import BufferedReader
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtc_lab.tokens import Clip, VTCError, demand, plain

ROOT = Path(__file__).resolve().parents[2]  # the repository, where relative paths are looked for as well
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
_POINTER = b"version https://git-lfs.github.com/spec/"
_home: _Home | None = None  # which decodes, see `_started`


def find_clips(folder: str | os.PathLike | None = None) -> list[Path]:
    """Return the video files in a folder, or those that come with the repository, by name.

    Parameters
    ----------
    folder : looked for in the current folder and then in the repository; None for the clips of the repository.

    Returns
    -------
    list of Path; without a folder it is empty where the package was installed without its repository.

    Examples
    --------
    >>> "bikes.mp4" in [path.name for path in find_clips()]
    True
    """
    if folder is None:
        return sorted((ROOT / "data" / "clips").glob("*.mp4"))
    place = next((place for place in (given_path(folder), ROOT / folder) if place.is_dir()), None)
    found = sorted(path for path in place.glob("*") if path.suffix.lower() in VIDEOS) if place else []
    if not found:
        words = f"there is no video in {place}" if place else f"there is no folder {folder}"
        raise VTCError(f"{words}; give one that holds some, as {', '.join(VIDEOS)}")
    return found


def given_path(path: str | os.PathLike) -> Path:
    """Return what a user gave as a path, with "~" expanded; a VTCError says why nothing can be there."""
    try:
        place = Path(path).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            place.stat()
        return place
    except (OSError, TypeError, RuntimeError, ValueError) as error:  # closed, too long, no path, no user
        reason = f"be read ({error.strerror})" if isinstance(error, OSError) else f"be a path ({error})"
        raise VTCError(f"{plain(path)} cannot {reason}; give a str or a Path that you may read") from error


def resolve(path: str | os.PathLike) -> Path:
    """Return the absolute path of a readable file, looked for in the current folder and then in the repository."""
    asked = given_path(path)
    try:
        found = next((place for place in (Path.cwd() / asked, ROOT / asked) if place.exists()), None)
        if found is None:
            places = " or in ".join(dict.fromkeys([str(Path.cwd()), str(ROOT)]))
            raise VTCError(f"there is no file {path}; give a whole path, or one that starts in {places}")
        if words := unfit(found):
            raise VTCError(words)
        if not found.stat().st_size:
            raise VTCError(f"{path} is empty, it has 0 bytes; fetch it again or give another file")
        return found
    except OSError as error:
        raise VTCError(f"{path} cannot be read ({error.strerror}); give a file that you may read") from error


def unfit(path: Path) -> str:
    """Return why a file's bytes are not to be read, or "": a pipe would wait for ever, a git-LFS pointer is no data."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        return f"{path} is a {'folder' if stat.S_ISDIR(mode) else 'pipe or a device'}; give a file"
    with path.open("rb") as file:
        if file.read(len(_POINTER)) != _POINTER:
            return ""
    return f"{path} is a git-LFS pointer and not the file itself; fetch that with `git lfs pull` in its repository"


def read_clip(
    path: str | os.PathLike,
    frames: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Clip:
    """Read some frames of a video file, evenly spaced.

    Times are presentation timestamps in seconds from the start of the file, as players show them, and right where the
    frame rate varies. Frames are chosen from those with start <= time <= end.

    Parameters
    ----------
    path : the video; a relative path is looked for in the current folder and then in the repository.
    frames : how many, at least 1. Of n frames in the range those at `linspace(0, n - 1, frames)`, rounded, are
        taken: first and last are among them, and one frame alone is the first.
    fps : or how many per second, above 0. At each tick, counted from the first frame of the range, the frame nearest
        in time is taken, once if it is nearest to several. With neither, 16 frames, or all if there are fewer.
    start, end : the range in seconds; the whole file if not given.

    Returns
    -------
    Clip, turned and mirrored as the file says, with square pixels; its `reader` is "decord ..." or "PyAV ...". decord
    reads up to 500 MB of MP4, MOV, MKV and WebM, where it finds each frame exactly: closed groups of pictures from 0
    on, nothing cut, no VP9. A VTCError says why a file cannot be read, where it is damaged, or which frames it has.

    Examples
    --------
    >>> clip = read_clip("data/clips/bikes.mp4", frames=4)
    >>> clip.frames.shape, clip.times.tolist()
    ((4, 272, 640, 3), [0.0, 3.32, 6.64, 9.96])
    >>> read_clip("data/clips/bikes.mp4", fps=5, start=4, end=5).times.tolist()
    [4.0, 4.2, 4.4, 4.6, 4.8, 5.0]
    """
    begun = time.perf_counter()
    what = check_reading(frames, fps, start, end)
    found = resolve(path)
    for decord in (True, False):
        if result := _decode({"path": str(found), "decord": decord, "what": what}):
            return Clip(result[0], result[1], str(path), result[2], time.perf_counter() - begun)
    raise VTCError(f"{found.name} makes readers wait or crash: its disk is slow or it is no video; try a local copy")


def one_each(clip: Clip, count: int) -> Clip:
    """Return the frames to show beside tokens that are of several frames each: the first of each group.

    Parameters
    ----------
    clip : F frames.
    count : T, the frames of the tokens' grid: F, or F / 2 rounded up where a token is of two frames (Qwen).

    Returns
    -------
    Clip of T frames, the same one if it has as many.

    Examples
    --------
    >>> one_each(Clip(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5.0)), 3).times.tolist()
    [0.0, 2.0, 4.0]
    """
    demand(Clip, clip)
    step = -(-len(clip) // min(max(1, operator.index(count)), len(clip)))  # rounded up
    part = clip if step == 1 else replace(clip, frames=clip.frames[::step], times=clip.times[::step])
    if len(part) != count:
        raise VTCError(f"{len(clip)} frames are not {count} groups of one size; give the clip that the tokens are of")
    return part


def check_reading(
    frames: int | None, fps: float | None, start: float | None = None, end: float | None = None
) -> dict[str, float | None]:
    """Return these arguments of `read_clip` as plain numbers; a VTCError names the one that cannot be met."""
    if frames is not None and fps is not None:
        raise VTCError(f"frames={frames} and fps={fps} were both given; give one of them")
    given = {"frames": frames, "fps": fps, "start": start, "end": end}
    for word, value, kind, least, right in (
        ("frames", frames, Integral, 1, "a whole number of at least 1"),
        ("fps", fps, Real, sys.float_info.min, "a number above 0"),
        ("start", start, Real, 0, "seconds, 0 or more"),
        ("end", end, Real, 0, "seconds, 0 or more"),
    ):
        if value is None:
            continue
        if not isinstance(value, kind) or not least <= value <= sys.float_info.max:  # nor NaN
            raise VTCError(f"{word}={value!r:.60} cannot be met; give {right}")
        given[word] = int(value) if word == "frames" else float(value)
    return given


class _Home(NamedTuple):
    """A process that makes a child for each file, and ends when the socket to it is closed."""

    of: tuple  # the process that started it, and its environment
    socket: socket.socket
    message: bytes = b"-"  # b"d" once it may import decord, which has worked in a child


def _started() -> _Home:
    """Return the process for files, started where there is none, or where this one's environment has changed."""
    global _home
    of, old = (os.getpid(), frozenset(os.environ.items())), _home
    if old is None or old.of != of:
        here, there = socket.socketpair()
        # -P keeps our own modules beside the script out of its imports; a session of its own keeps Ctrl-C here. With
        # the threads of numpy's BLAS it could not be copied.
        command = [sys.executable, "-P", str(Path(__file__).with_name("decoder.py"))]
        how: dict[str, Any] = {"env": os.environ | {"OPENBLAS_NUM_THREADS": "1"}, "start_new_session": True}
        with there:
            subprocess.call(command, stdin=there.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how)
        _home = new = _Home(of, here)
        if old:
            old.socket.close()
        return new
    return old


def _decode(request: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Return frames, times and reader from a child process, or None if it died before it had finished."""
    global _home
    for _ in range(2):
        home, result = _started(), None
        with suppress(ConnectionError):
            result = _answered(home, request)
        if result and result[2].startswith("decord"):
            _home = home._replace(message=b"d")
        if result or not _ended(home):
            return result
        home.socket.close()  # somebody has ended the process that makes the children
        _home = None
    return None


def _ended(home: _Home) -> bool:
    try:
        return not home.socket.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _answered(home: _Home, request: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, str] | None:
    (data, its_data), (alarm, its_alarm) = socket.socketpair(), socket.socketpair()
    with data, alarm, tempfile.TemporaryFile() as errors:
        with its_data, its_alarm, suppress(OSError):  # of nobody at home: then `data` has no other end
            ends = [its_data.fileno(), its_alarm.fileno(), errors.fileno()]
            socket.send_fds(home.socket, [home.message], ends)
        child = 0
        try:
            data.sendall(json.dumps(request).encode() + b"\n")
            with data.makefile("rb") as stream:
                child = int(stream.readline() or 0)
                result = _receive(stream)
                child = 0
                return result
        finally:  # an interrupted child ends at once, and then its end of the socket is closed
            with suppress(OSError):
                alarm.shutdown(socket.SHUT_RDWR)
                while data.recv(1 << 16):
                    pass
                for _ in range(1000 if child else 0):  # until there is no such process: it closes its files before
                    os.kill(child, 0)
                    time.sleep(0.001)


def _receive(stream: BufferedReader) -> tuple[np.ndarray, np.ndarray, str] | None:
    frames, times = np.empty((0, 0)), np.empty(0)
    while (line := stream.readline()).endswith(b"\n"):
        message = json.loads(line)
        if "error" in message:
            raise VTCError(message["error"])
        if "shape" in message:
            try:
                frames, times = np.empty(message["shape"], np.uint8), np.array(message["times"])
            except MemoryError as error:
                raise VTCError(f"{error}; ask for fewer frames") from error
        elif "frame" in message:
            space = memoryview(frames[message["frame"]]).cast("B")
            while space and (got := stream.readinto(space)):
                space = space[got:]
        else:
            return frames, times, message["reader"]
    return None
