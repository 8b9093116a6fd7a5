"""Finding the clips of samples, listing those that are missing, and reading the part that a sample is about."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vtc_lab.clips.reading import VIDEOS, check_reading, read_clip, resolve, unfit
from vtc_lab.qa.samples import Part
from vtc_lab.tokens import Clip, VTCError, demand, plain

SUFFIXES = (*VIDEOS, ".MP4")
_PICTURES = (".jpg", ".jpeg", ".png")


def clip_finder(root: Path) -> Callable[..., Part]:
    """Return a function that looks for clips under a folder: by their possible names, places below it and suffixes.

    `clip` is the first path that is there. If none is, it is the first that was looked for, and `tried` has them all.

    >>> clip_finder(Path("data"))(("bikes",), ("videos", "clips"))
    {'clip': 'data/clips/bikes.mp4'}
    """

    @lru_cache(maxsize=4096)  # more videos than most benchmarks have, in a few megabytes
    def look(names: tuple[str, ...], places: tuple[str, ...], suffixes: tuple[str, ...] = SUFFIXES) -> Part:
        tried = list(dict.fromkeys(str(root / p / name) for p, name in product(places, _spellings(names, suffixes))))
        there = _first_there(tried)
        return {"clip": str(there)} if there else {"clip": tried[0], "tried": tried}

    return look


def read_sample_clip(sample: Part, frames: int | None = None, fps: float | None = None) -> Clip:
    """Read the part of a video that a sample is about.

    Parameters
    ----------
    sample : with `clip`, and `start` and `end` where its benchmark gives a range. A clip may also be a folder of
        numbered pictures with `picture_rate` of them a second (TVQA's in MVBench): picture n shows (n - 1) / rate
        seconds. That is our reading; MVBench's notebook takes n / rate.
    frames, fps : as for `read_clip`.

    Returns
    -------
    Clip. A range that ends after the video does ends with the video, as in MVBench's notebook. A Clip is given back
    as it is. If there is none, the error names every file that was looked for.

    Examples
    --------
    >>> sample = {"clip": "data/clips/bikes.mp4", "start": 4, "end": 5}
    >>> read_sample_clip(sample, fps=5).times.tolist()
    [4.0, 4.2, 4.4, 4.6, 4.8, 5.0]
    """
    demand(Mapping, sample)
    clip = sample.get("clip")
    if isinstance(clip, Clip):
        return clip
    path = _first_there(tried := sample.get("tried", [clip]))
    if path is None and "tried" in sample:
        raise VTCError(f"there is no clip {clip}; put it there, or where else it was looked for: {_listing(tried)}")
    start, end = sample.get("start"), sample.get("end")
    if path and path.is_dir():
        return _read_pictures(path, sample.get("picture_rate"), frames, fps, start, end)
    try:
        return read_clip(path or clip, frames, fps, start, end)
    except VTCError:
        if end is None:
            raise
        whole = read_clip(path or clip, frames, fps, start)
        if whole.times[-1] >= end:  # it was not the end that was wrong
            raise
        return whole


def check_clips(samples: Iterable[Part]) -> pd.DataFrame:
    """List the clips of some samples that are missing or not fetched yet, before a model is loaded.

    Parameters
    ----------
    samples : from `read_benchmark` or `read_samples`.

    Returns
    -------
    DataFrame with a row for each missing clip: clip (the path it should have), questions (how many need it) and looked
    (every file that was looked for, or why the one that is there cannot be read: a git-LFS pointer, say).

    Examples
    --------
    >>> check_clips([{"clip": "data/clips/bikes.mp4"}, {"clip": "/no/such.mp4"}])["clip"].tolist()
    ['/no/such.mp4']
    """
    known: dict[str, str] = {}
    questions: Counter[str] = Counter()
    for sample in samples:
        demand(Mapping, sample)
        clip = sample.get("clip")
        if isinstance(clip, Clip):
            continue
        if clip not in known:
            known[clip] = _missing(sample.get("tried", [clip]))
        questions[clip] += bool(known[clip])
    rows = [(plain(clip), number, plain(known[clip])) for clip, number in questions.items() if number]
    return pd.DataFrame(rows, columns=["clip", "questions", "looked"])


def _first_there(paths: Sequence[str]) -> Path | None:
    if not all(isinstance(path, str | os.PathLike) for path in paths):
        raise VTCError(f"the sample has no clip but {paths[0]!r:.60}; give it the path of one, or a Clip")
    return next((path for path in map(Path, paths) if os.path.exists(path)), None)  # Path.exists() raises OSError


def _spellings(names: Iterable[str], suffixes: tuple[str, ...]) -> Iterator[str]:
    """Names with each suffix; one that already has a suffix first as it is."""
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if dot and f".{ending}" in suffixes:
            yield name
            name = stem
        yield from (name + suffix for suffix in suffixes)


def _missing(tried: Sequence[str]) -> str:
    """The paths at which a clip was looked for, or why it cannot be read, or ""."""
    path = _first_there(tried)
    try:
        return _listing(tried) if path is None else unfit(path) if path.is_file() else ""
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"


def _listing(paths: Sequence[str]) -> str:
    """Paths below the folder that they share, and the suffixes of videos that some of them have.

    >>> _listing(["/a/b/1.mp4", "/a/b/1.avi", "/a/2.mp4", "/a/2.avi"])
    'b/1, 2 with .mp4|.avi below /a'
    """
    if len(paths) == 1:
        return str(paths[0])
    top = os.path.commonpath(map(os.path.dirname, paths))
    parts = [os.path.splitext(os.path.relpath(path, top)) for path in paths]
    names = dict.fromkeys(stem if suffix in SUFFIXES else stem + suffix for stem, suffix in parts)
    suffixes = dict.fromkeys(suffix for _, suffix in parts if suffix in SUFFIXES)
    return f"{', '.join(names)}{' with ' * bool(suffixes)}{'|'.join(suffixes)} below {top}"


def _read_pictures(
    folder: Path, rate: float | None, frames: int | None, fps: float | None, start: float | None, end: float | None
) -> Clip:
    # Imported here because it loads PyAV, which decodes videos in a process of its own.
    from vtc_lab.clips.decoder import LARGEST, Index, Refused, choose

    check_reading(frames, fps, start, end)
    files = (path for path in folder.iterdir() if path.suffix.lower() in _PICTURES and path.stem.isdecimal())
    pictures = sorted((int(path.stem), path) for path in files)
    if not rate or not pictures:
        what = "has no pictures named by a number" if rate else "is a folder and not a video"
        raise VTCError(f"{folder} {what}; give a video, or pictures such as 00001.jpg and their picture_rate")
    if not isinstance(rate, Real) or not 0 < rate < 1e9 or len({number for number, _ in pictures}) < len(pictures):
        raise VTCError(f"picture_rate={rate!r:.60} cannot be met in {folder}; give one above 0, one number a picture")
    times = np.array([(number - 1) / rate for number, _ in pictures])
    index = Index([], times, [], 0, float(times[-1]) + 1 / rate, cut=False, exact=True)
    images: list[np.ndarray] = []
    try:
        wanted = choose(folder.name, index, frames, fps, start, None if end is None else min(end, index.end))
        for n in wanted:
            with Image.open(resolve(pictures[n][1])) as image:
                if image.width * image.height > LARGEST or image.mode[0] in "IF":  # PIL clips 16 bits to 8
                    has = f"{image.size} pixels of mode {image.mode}; give 8 bits a channel, at most {LARGEST} pixels"
                    raise Refused(f"{pictures[n][1]} has {has}")
                images.append(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VTCError(f"{pictures[n][1]} cannot be read ({error}); fetch it again, or make it smaller") from error
    except Refused as error:
        raise VTCError(str(error)) from error
    if len({image.shape for image in images}) > 1:
        raise VTCError(f"the pictures in {folder} are not of one size; give those of one video")
    return Clip(np.stack(images), times[wanted], str(folder), "pictures")
