"""The subtitles of long videos, in seconds of their clips."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from vtc_lab.qa.records import records
from vtc_lab.tokens import VTCError

_ARROW = re.compile(r"\s*([\d:.,]+)\s*-->\s*([\d:.,]+)")

Line = tuple[float, float | None, str]


def read_subtitles(sample: Mapping[str, object]) -> list[tuple[float, float, str]]:
    """The subtitles of a sample of LongVideoBench or Video-MME, in seconds of its clip.

    Parameters
    ----------
    sample : from `read_benchmark`. LongVideoBench's files have the subtitles of the whole source video, of which the
        clip is a part, in one of two formats: {timestamp, text} or {start, end, line}. Video-MME's are .srt, and not
        every video has one.

    Returns
    -------
    List of (start, end, text) that overlap the clip, none if it has no subtitles. A line without an end lasts to the
    end of the clip. Marks such as <font ...> are left out.

    Raises
    ------
    VTCError
        If the sample is of another benchmark, or the file is missing or not as above.

    Examples
    --------
    >>> read_subtitles({"id": "q1"})
    Traceback (most recent call last):
    ...
    vtc_lab.tokens.VTCError: sample 'q1' has no subtitles; give one of longvideobench or video-mme
    """
    if "subtitles" not in sample:
        raise VTCError(f"sample {sample.get('id')!r} has no subtitles; give one of longvideobench or video-mme")
    path = Path(sample["subtitles"])
    if path.suffix == ".srt" and path.parent.is_dir() and not path.exists():
        return []
    if not path.is_file():
        archive = "subtitle.zip" if path.suffix == ".srt" else "subtitles.tar"
        raise VTCError(f"there are no subtitles {path}; extract {archive} next to the annotations")
    length, offset = sample.get("duration", float("inf")), sample.get("subtitles_from", 0.0)
    lines = []
    for start, end, text in _srt(path) if path.suffix == ".srt" else _json(path):
        start, end = start - offset, length if end is None else end - offset
        if start < length and end > 0:
            lines.append((start, end, text))
    return lines


def _json(path: Path) -> Iterator[Line]:
    for record in records(path):
        short = "timestamp" in record.fields
        try:
            start, end = record.need("timestamp") if short else (record.need("start"), record.get("end"))
            start, end = _seconds(start), None if end is None else _seconds(end)
        except (ValueError, TypeError) as error:
            if isinstance(error, VTCError):
                raise
            raise VTCError(f"{record.place} has no times ({error}); give seconds or h:mm:ss") from error
        yield start, end, record.text("text" if short else "line")


def _srt(path: Path) -> Iterator[Line]:
    """The blocks of a SubRip file: a number, "h:mm:ss,mmm --> h:mm:ss,mmm", lines of text, an empty line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VTCError(f"{path.name} is no UTF-8 text; give an .srt file") from error
    times: tuple[float, float] | None = None
    words: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if found := _ARROW.match(line):
            if times:  # two blocks with no empty line between them: the last line was this one's number
                yield *times, " ".join(words[:-1])
            try:
                times, words = (_seconds(found[1]), _seconds(found[2])), []
            except ValueError as error:
                raise VTCError(f"line {number} of {path.name} has no times ({error}); give h:mm:ss,mmm") from error
        elif line.strip():
            words.append(re.sub(r"<[^>]*>", "", line).strip())
        elif times:
            yield *times, " ".join(words)
            times = None


def _seconds(time: object) -> float:
    """Seconds of a number, of "h:mm:ss.sss" or of "h:mm:ss,sss"."""
    seconds = 0.0
    for part in str(time).replace(",", ".").split(":"):
        seconds = seconds * 60 + float(part)
    return seconds
