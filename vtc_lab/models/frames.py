"""Which pictures of a prompt are the frames of a clip, for families whose clips are pictures one after the other.

Nothing in such a prompt says so but the text between its pictures: InternVL's processor writes "Frame1:", "Frame2:"
and so on before the frames of a clip, SmolVLM's their times, and LLaVA's users nothing, or always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby

from torch import Tensor

from vtc_lab.tokens import VTCError

Text = tuple[int, ...]
_NUMBER = 5  # tokens that a number or a time can differ in: all of "00:59" and "01:00" but the first digit


def spans_of(places: Tensor, sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Which prompt each picture is in, and where its placeholders begin and end.

    >>> import torch
    >>> spans_of(torch.tensor([[0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 1, 1]]), [2, 2, 2])
    [(0, 1, 3), (0, 4, 6), (1, 4, 6)]
    """
    own = places.nonzero().cpu().split(list(sizes))
    return [(int(each[0, 0]), int(each[0, 1]), int(each[-1, 1]) + 1) for each in own]


def group(ids: Tensor, spans: Sequence[tuple[int, int, int]], pieces: bool) -> list[list[int]]:
    """The clips of all prompts, as `clips_of` finds them in each; pictures are counted through all prompts."""
    clips = []
    for prompt in sorted({prompt for prompt, *_ in spans}):
        mine = [n for n, span in enumerate(spans) if span[0] == prompt]
        ends = [0, *(spans[n][2] for n in mine)]
        texts = [tuple(ids[prompt, end : spans[n][1]].tolist()) for n, end in zip(mine, ends, strict=False)]
        clips += [[mine[n] for n in clip] for clip in clips_of(texts, pieces)]
    return clips


def clips_of(texts: Sequence[Text], pieces: bool = False) -> list[list[int]]:
    """Group the pictures of a prompt into clips, by the text before each of them.

    Pictures with the same text between them, but for a number, are the frames of a clip. If that number begins again,
    so does another clip. A picture of which neither neighbour is such a one is no frame.

    Parameters
    ----------
    texts : the tokens before each of P pictures, back to the picture before it or the prompt's beginning.
    pieces : whether pictures can be pieces of one: if there is no text between them, or all texts differ.

    Returns
    -------
    For each clip its pictures, two or more, 0 to P - 1.

    Raises
    ------
    VTCError
        If no two texts between three or more pictures are the same, and they cannot be pieces of one.

    Source: our reading of what the families' processors write.

    Examples
    --------
    >>> frame, colon = 7, 8
    >>> clips_of([(1,), (frame, 1, colon), (frame, 2, colon), (frame, 3, colon), (frame, 1, colon), (frame, 2, colon)])
    [[1, 2, 3], [4, 5]]
    """
    usual = _usual(texts[1:], pieces)
    if len(usual) == 1 and len(texts) > 2 and pieces:
        return []
    if len(usual) == 1 and len(texts) > 2:
        raise VTCError(
            f"which of {len(texts)} pictures are frames cannot be told by the texts between them, which all differ; "
            "say it with clips=[slice(first, last + 1), ...]"
        )
    counted = len(set(usual)) > 1
    ending = min((_same_end(usual[0], link) for link in usual), default=0)
    frame = [not counted or _same_end(usual[0], text) >= ending for text in texts]
    clips, between = [], set(usual)
    for n, text in enumerate(texts):
        if n == 0 or text not in between or not (frame[n - 1] and frame[n]):
            clips.append([n])
            continue
        clip = clips[-1]
        before = [m for m in clip if texts[m] == text]
        if counted and before and before[-1] < n - 1:  # its number has been there, and others since
            begin = n - before[-1]
            clips[-1:] = [clip[:begin], clip[begin:]]
        clips[-1].append(n)
    return [clip for clip in clips if len(clip) > 1]


def _usual(links: Sequence[Text], pieces: bool) -> list[Text]:
    """Of the texts between pictures those between frames, which differ in no more than a number."""
    kinds: list[list[Text]] = []  # of texts between pictures
    digits: list[set[int]] = []  # what stands for one another in those of a kind
    order = []  # the kind of each
    for link in links:
        same = (n for n, kind in enumerate(kinds) if kind[0] == link)
        alike = (n for n, kind in enumerate(kinds) if _alike(kind[0], link, digits[n]))
        number = next(chain(same, alike), len(kinds))
        if number == len(kinds):
            kinds.append([])
            digits.append(set())
        kinds[number].append(link)
        order.append(number)
    # Frames follow each other; what stands between clips is rarer or longer.
    runs = [(len(list(run)), -len(kinds[n][0]), -n) for n, run in groupby(order) if kinds[n][0] or not pieces]
    return kinds[-max(runs)[2]] if runs else []


def _alike(one: Text, other: Text, digits: set[int]) -> bool:
    """Whether two texts differ in no more than a number, of which some digits are known; others are noted."""
    end = _same_end(one, other)
    begin = min(_same_end(one[::-1], other[::-1]), len(one) - end, len(other) - end)
    number, another = one[begin : len(one) - end], other[begin : len(other) - end]
    if not number or not another:  # "Frame1" and "Frame11", but not "Frame" and "the Frame"
        return end > 0 and digits.issuperset(number + another)
    if end == 0 or max(len(number), len(another)) > min(_NUMBER, begin + end - 1):
        return False
    digits.update(number, another)
    return True


def _same_end(one: Text, other: Text) -> int:
    """How many tokens two texts share at their ends."""
    count = 0
    while count < min(len(one), len(other)) and one[-count - 1] == other[-count - 1]:
        count += 1
    return count
