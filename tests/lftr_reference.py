"""LFTR written a second time, from its description and not from its code: loops over frames, patches and segments.

Slow on purpose, in float64, and sharing nothing with the package. Ties, everywhere: the earlier frame, the lower patch.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np


def split(
    grid: tuple[int, int, int], ratio: float | None, temporal_ratio: float | None, spatial_ratio: float | None
) -> tuple[int, int]:
    """K and T' when the ratios fix both."""
    frames, patches = grid[0], grid[1] * grid[2]
    along, across = temporal_ratio or 1, spatial_ratio or 1
    if ratio is None:
        count = max(1, round(frames / along))
        budget = count * patches
        if across != 1:
            budget = min(budget, max(1, round(frames * patches / (along * across))))
    else:
        budget = max(1, round(frames * patches / ratio))
        # With a spatial ratio every frame of the T' keeps N / spatial_ratio patches.
        count = round(frames / along) if temporal_ratio is not None else round(budget / (patches / across))
    while count * patches < budget:  # too few frames to hold K
        count += 1
    return budget, min(max(count, 1), frames, budget)


def lftr(
    values: np.ndarray,
    saliency: np.ndarray | None,
    budget: int,
    count: int,
    *,
    segments: str,
    temporal: str,
    granularity: str,
    significance: str,
    allocation: str,
    dropped: str,
    order: str,
) -> dict[str, np.ndarray]:
    """Tokens, anchor, assign and weight of a reduction of (T, h, w, D) values to K = budget in T' = count segments."""
    frames, height, width, channels = values.shape
    patches = height * width
    x = values.astype(float).reshape(frames, patches, channels)
    attention = None if saliency is None else saliency.astype(float).reshape(frames, patches)
    d = differences(x, granularity)
    cuts = [cut_frames(x, d, count, segments)] * patches
    if granularity == "patch":
        cuts = [cut_frames(x[:, [n]], d[:, [n]], count, segments) for n in range(patches)]

    # cell (s, n): the source frames of segment s at position n that time keeps
    cells = {}
    for n in range(patches):
        for s, members in enumerate(cuts[n]):
            cells[s, n] = [most_significant(members, d[:, n])] if temporal == "select" else members
    finite = [v for v in d.flatten() if np.isfinite(v)]
    importance = np.where(np.isfinite(d), d, max(finite, default=1.0))
    stage = spatial_first if order == "spatial-first" else temporal_first
    outputs = stage(
        x, attention, (height, width), d, importance, cells, budget, count, significance, allocation, dropped
    )
    return describe(x, outputs)


def temporal_first(x, attention, shape, d, importance, cells, budget, count, significance, allocation, dropped):
    patches = x.shape[1]
    merged = np.zeros((count, patches, x.shape[2]))
    merged_attention = None if attention is None else np.zeros((count, patches))
    share = {}  # of each source token in its cell
    for (s, n), members in cells.items():
        for t, part in zip(members, proportions([importance[t, n] for t in members]), strict=True):
            share[t, n] = part
            merged[s, n] += part * x[t, n]
            if attention is not None:
                merged_attention[s, n] += part * attention[t, n]
    anchor = {cell: (most_significant(members, d[:, cell[1]]), cell[1]) for cell, members in cells.items()}
    scores = patch_scores(merged, merged_attention, shape, significance)
    if allocation == "global":
        every = [(s, n) for s in range(count) for n in range(patches)]
        kept = sorted(every, key=lambda cell: -scores[cell])[:budget]
    else:
        change = [np.mean([d[anchor[s, n]] for n in range(patches)]) for s in range(count)]
        sizes = [budget // count] * count
        for s in sorted(range(count), key=lambda s: -change[s])[: budget % count]:
            sizes[s] += 1
        kept = [(s, n) for s in range(count) for n in sorted(range(patches), key=lambda n: -scores[s, n])[: sizes[s]]]
    joined = {cell: [cell] for cell in kept}
    if dropped == "merge":
        for s, n in cells:
            here = sorted(m for r, m in kept if r == s)
            if (s, n) not in joined and here:
                joined[s, max(here, key=lambda m: cosine(merged[s, n], merged[s, m]))].append((s, n))
    outputs = []
    for cell, parts in joined.items():
        weights = {(t, n): share[t, n] / len(parts) for s, n in parts for t in cells[s, n]}
        outputs.append((anchor[cell], weights))
    return outputs


def spatial_first(x, attention, shape, d, importance, cells, budget, count, significance, allocation, dropped):
    cell_of = {(t, n): (s, n) for (s, n), members in cells.items() for t in members}
    scores = patch_scores(x, attention, shape, significance)
    frames, patches = x.shape[:2]
    rank = {}  # the place of a patch within its frame
    for t in range(frames):
        for place, n in enumerate(sorted(range(patches), key=lambda n: -scores[t, n])):
            rank[t, n] = place
    queue = sorted(sorted(cell_of), key=lambda token: -scores[token])
    if allocation == "per-frame":
        queue = sorted(queue, key=lambda token: rank[token])
    admitted = {}
    for token in queue:
        cell = cell_of[token]
        if cell not in admitted and len(admitted) == budget:
            break
        admitted.setdefault(cell, []).append(token)
    members = {cell: list(tokens) for cell, tokens in admitted.items()}
    if dropped == "merge":
        inside = {token for tokens in admitted.values() for token in tokens}
        for t in range(frames):
            here = [n for n in range(patches) if (t, n) in inside]
            for n in range(patches):
                if here and (t, n) not in inside:
                    nearest = max(here, key=lambda m, t=t, n=n: cosine(x[t, n], x[t, m]))
                    members[cell_of[t, nearest]].append((t, n))
    outputs = []
    for cell, tokens in members.items():
        anchor = min(admitted[cell], key=lambda token: (-d[token], token))
        parts = proportions([importance[token] for token in tokens])
        outputs.append((anchor, dict(zip(tokens, parts, strict=True))))
    return outputs


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
    if lengths == 0:
        return float(not a.any() and not b.any())
    return float((a * b).sum() / lengths)


def differences(x: np.ndarray, granularity: str) -> np.ndarray:
    """(T, N) d of each patch, or of its frame, infinite for the first frame."""
    frames, patches = x.shape[:2]
    d = np.zeros((frames, patches))
    for t in range(1, frames):
        for n in range(patches):
            d[t, n] = 1 - cosine(x[t, n], x[t - 1, n])
    if granularity == "frame":
        d[:] = d.mean(1, keepdims=True)
    d[0] = np.inf
    return d


def cut_frames(x: np.ndarray, d: np.ndarray, count: int, segments: str) -> list[list[int]]:
    """The frames of each of T' contiguous segments."""
    frames = len(x)
    if segments == "greedy":
        starts = sorted(sorted(range(frames), key=lambda t: -d[t, 0])[:count])
    else:
        # Every cut there is. Among equals the one whose last cut is the earliest, then the last but one, and so on.
        possible = [(0, *inner) for inner in combinations(range(1, frames), count - 1)]
        possible.sort(key=lambda starts: starts[::-1])
        starts = min(possible, key=lambda starts: round(deviation(x, starts), 9))
    ends = [*starts[1:], frames]
    return [list(range(a, b)) for a, b in zip(starts, ends, strict=True)]


def deviation(x: np.ndarray, starts: tuple[int, ...]) -> float:
    total = 0.0
    for a, b in zip(starts, [*starts[1:], len(x)], strict=True):
        total += ((x[a:b] - x[a:b].mean(0)) ** 2).sum()
    return total


def most_significant(members: list[int], d: np.ndarray) -> int:
    return max(members, key=lambda t: d[t])


def proportions(importance: list[float]) -> list[float]:
    total = sum(importance)
    if total == 0:
        return [1 / len(importance)] * len(importance)
    return [v / total for v in importance]


def patch_scores(x: np.ndarray, attention: np.ndarray | None, shape: tuple[int, int], kind: str) -> np.ndarray:
    """(T, N) significance of each patch."""
    frames, patches = x.shape[:2]
    height, width = shape
    scores = np.zeros((frames, patches))
    for t in range(frames):
        for n in range(patches):
            if kind == "attention":
                scores[t, n] = attention[t, n]
            elif kind == "distinct":
                scores[t, n] = 1 - cosine(x[t, n], x[t].mean(0))
            else:
                row, column = divmod(n, width)
                around = [(row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column)]
                inside = [r * width + c for r, c in around if 0 <= r < height and 0 <= c < width]
                alike = [cosine(x[t, n], x[t, m]) for m in inside]
                scores[t, n] = 1 - (sum(alike) / len(alike) if alike else 0)
    return scores


def describe(x: np.ndarray, outputs: list[tuple[tuple[int, int], dict]]) -> dict[str, np.ndarray]:
    frames, patches, channels = x.shape
    outputs = sorted(outputs, key=lambda output: output[0])
    tokens = np.zeros((len(outputs), channels))
    assign, weight = np.full(frames * patches, -1), np.zeros(frames * patches)
    for k, (_, weights) in enumerate(outputs):
        for (t, n), part in weights.items():
            assign[t * patches + n], weight[t * patches + n] = k, part
            tokens[k] += part * x[t, n]
    anchor = np.array([t * patches + n for (t, n), _ in outputs])
    return {"tokens": tokens, "anchor": anchor, "assign": assign, "weight": weight}


def joint(
    values: np.ndarray,
    saliency: np.ndarray | None,
    budget: int,
    *,
    significance: str,
    temporal: str,
    allocation: str,
    dropped: str,
) -> dict[str, np.ndarray]:
    """Anchor, assign and weight of the reduction that ranks all tokens by one significance in time and space."""
    frames, height, width, _ = values.shape
    places = [(t, y, x) for t in range(frames) for y in range(height) for x in range(width)]
    x = values.astype(float)

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        norms = np.linalg.norm(a), np.linalg.norm(b)
        like = 1.0 if not any(norms) else 0.0 if not all(norms) else float(a @ b) / norms[0] / norms[1]
        return max(0.0, round((1 - like) * 2**20) / 2**20)

    change = {(t, i, j): apart(x[t, i, j], x[t - 1, i, j]) if t else np.inf for t, i, j in places}
    strength = {}
    for t, i, j in places:
        beside = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        beside = [x[t, a, b] for a, b in beside if 0 <= a < height and 0 <= b < width]
        u = np.mean([apart(x[t, i, j], other) for other in beside]) if beside else 1.0
        factor = {"distinct": apart(x[t, i, j], x[t].mean((0, 1))) + 2**-10, "neighbours": 1.0}.get(significance)
        strength[t, i, j] = (u + 2**-10) * (saliency[t, i, j] if factor is None else factor)
    score = {}
    for t, i, j in places:
        v = 1.0
        if t and strength[t - 1, i, j] >= strength[t, i, j]:
            v = min(v, change[t, i, j])
        if t + 1 < frames and strength[t + 1, i, j] > strength[t, i, j]:
            v = min(v, change[t + 1, i, j])
        score[t, i, j] = strength[t, i, j] * (v + 2**-10) ** 0.25
    ranked = sorted(places, key=lambda place: -score[place])
    if allocation == "per-frame":
        means = [np.mean([score[place] for place in places if place[0] == t]) for t in range(frames)]
        more = sorted(range(frames), key=lambda t: -means[t])[: budget % frames]
        share = [budget // frames + (t in more) for t in range(frames)]
        kept = {place for t in range(frames) for place in [p for p in ranked if p[0] == t][: share[t]]}
    else:
        kept = set(ranked[:budget])
    home = {}
    for t, i, j in places:
        if (t, i, j) in kept:
            home[t, i, j] = (t, i, j)
        elif temporal == "merge" and change[t, i, j] <= 0.1 and (t - 1, i, j) in home:
            home[t, i, j] = home[t - 1, i, j]
    if dropped == "merge":
        for place in places:
            rivals = [other for other in places if other[0] == place[0] and other in kept]
            if place not in home and rivals:
                home[place] = min(rivals, key=lambda other: apart(x[place], x[other]))
    anchors = sorted(kept)
    assign = np.array([anchors.index(home[place]) if place in home else -1 for place in places])
    raw = np.array([score[place] for place in places])
    weight = np.array([0 if a < 0 else raw[n] / raw[assign == a].sum() for n, a in enumerate(assign)])
    return {"anchor": np.array([places.index(place) for place in anchors]), "assign": assign, "weight": weight}
