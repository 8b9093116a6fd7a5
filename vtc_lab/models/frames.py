"""Tell which pictures of a prompt are the frames of a clip, for families whose clips are pictures in a row.

Only the words that the processor writes before a frame ("Frame1:") tell, so they are read with the model's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor
from transformers import AutoTokenizer

from vtc_lab.models.families import Family, Model
from vtc_lab.tokens import VTCError

SAY_CLIPS = "say which are frames with clips=[slice(first, last + 1), ...]"
Span = tuple[int, int, int]  # the prompt in which a picture is, and where its placeholders begin and end


def spans_of(places: Tensor, sizes: Sequence[int]) -> list[Span]:
    """Return where the placeholders of each picture are, from all `places` (B, N) and their number for each picture.

    >>> import torch
    >>> spans_of(torch.tensor([[0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 1, 1]]), [2, 2, 2])
    [(0, 1, 3), (0, 4, 6), (1, 4, 6)]
    """
    own = places.nonzero().cpu().split(list(sizes))
    return [(int(each[0, 0]), int(each[0, 1]), int(each[-1, 1]) + 1) for each in own]


def clips_of(model: Model, family: Family, ids: Tensor, spans: Sequence[Span]) -> list[list[int]]:
    """Return the pictures of each clip, counted through all prompts.

    Parameters
    ----------
    model : its tokenizer is loaded by its name, if that is needed.
    family : its `frame` tells what stands before a frame; without it all pictures of a prompt are one clip.
    ids : (B, N) the prompts.
    spans : as `spans_of` returns them.

    Source: what transformers' processors write.
    """
    if not family.frame:
        prompts = [prompt for prompt, *_ in spans]
        return [[n for n, one in enumerate(prompts) if one == prompt] for prompt in sorted(set(prompts))]
    pattern, tokenizer = re.compile(family.frame, re.DOTALL), _tokenizer(model, family)
    clips: list[list[int]] = []
    last, follows = (-1, 0, 0), False  # the picture before, and whether it was a frame
    for number, (prompt, begin, end) in enumerate(spans):
        same = prompt == last[0]
        found = pattern.search(tokenizer.decode(ids[prompt, last[2] if same else 0 : begin]))
        if not found and "first" not in pattern.groupindex:
            raise VTCError(
                f"{family.name}'s processor has cut up pictures; call it with do_image_splitting=False, or {SAY_CLIPS}"
            )
        if found and same and follows and not found.groupdict().get("first"):
            clips[-1].append(number)
        elif found:
            clips.append([number])
        last, follows = (prompt, begin, end), bool(found)
    return clips


def _tokenizer(model: Model, family: Family):
    name = str(getattr(model, "name_or_path", ""))
    try:
        return _load(name)
    except Exception as error:
        raise VTCError(
            f"{family.name}'s frames are told by the words before them, and there is no tokenizer in {name!r}; "
            f"{SAY_CLIPS}"
        ) from error


@lru_cache(maxsize=4)
def _load(name: str):
    return AutoTokenizer.from_pretrained(name, local_files_only=True)
