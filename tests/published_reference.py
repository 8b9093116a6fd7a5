"""The published methods written a second time, from their descriptions and not from their code.

Loops over frames, tokens and pairs, slow on purpose, in float64, and sharing nothing with the package. Ties,
everywhere: the earlier frame, the lower patch. Cosines are rounded to nine digits, so that equal ones tie.

Every method takes x (T, N, D), the saliency (T, N) or None, the shape (h, w) of a frame, a budget or None, and its
options. It returns its outputs, each a pair of the anchor (t, n) and the members {(t, n): weight}.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from lftr_reference import cosine, describe

Token = tuple[int, int]
Outputs = list[tuple[Token, dict[Token, float]]]


def reduce(name: str, values: np.ndarray, saliency: np.ndarray | None, budget: int | None, **options: object) -> dict:
    """Tokens, anchor, assign and weight of (T, h, w, D) values reduced by a method."""
    frames, height, width, channels = values.shape
    x = values.astype(float).reshape(frames, height * width, channels)
    attention = None if saliency is None else saliency.astype(float).reshape(frames, height * width)
    return describe(x, METHODS[name](x, attention, (height, width), budget, **options))


# --- what several methods need -----------------------------------------------------------------------------------


def like(a: np.ndarray, b: np.ndarray) -> float:
    return round(cosine(a, b), 9)


def backwards(x: np.ndarray) -> dict[Token, float]:
    """The cosine of each token, those of the first frame aside, to the same place one frame before."""
    return {(t, n): like(x[t, n], x[t - 1, n]) for t in range(1, len(x)) for n in range(x.shape[1])}


def shares(budget: int, parts: int) -> list[int]:
    """Whole numbers that differ by at most one, the larger ones spread evenly."""
    given, found = 0, []
    for part in range(1, parts + 1):
        found.append(part * budget // parts - given)
        given += found[-1]
    return found


def exact_shares(quota: list, budget: int, most: list[int], least: int = 0) -> list[Fraction]:
    """Shares of a budget in proportion to the quotas as far as least..most allow."""
    quota = [Fraction(q) for q in quota]
    full = [limit if q else least for q, limit in zip(quota, most, strict=True)]
    if sum(full) < budget:  # those of no quota share what the others cannot take
        none = [i for i, q in enumerate(quota) if not q]
        rest = exact_shares([1] * len(none), budget - sum(full) + least * len(none), [most[i] for i in none], least)
        shared = dict(zip(none, rest, strict=True))
        return [shared.get(i, Fraction(count)) for i, count in enumerate(full)]

    def at(scale: Fraction) -> list[Fraction]:
        return [min(max(scale * q, Fraction(least)), Fraction(limit)) for q, limit in zip(quota, most, strict=True)]

    low = high = Fraction(0)
    for high in sorted({bound / q for q, limit in zip(quota, most, strict=True) if q for bound in (least, limit)}):
        if sum(at(high)) >= budget:  # between two of these scales the sum grows evenly
            break
        low = high
    below, above = sum(at(low)), sum(at(high))
    return at(high if above == below else low + (high - low) * (budget - below) / (above - below))


def apportion(quota: list, budget: int, most: list[int], least: int = 0) -> list[int]:
    """Those shares in whole numbers: fractions go to the largest remainders, ties to the earlier."""
    exact = exact_shares(quota, budget, most, least)
    count = [math.floor(share) for share in exact]
    open_ = [i for i in range(len(exact)) if count[i] < most[i]]
    for i in sorted(open_, key=lambda i: count[i] - exact[i])[: budget - sum(count)]:
        count[i] += 1
    return count


def hand_out(quota: list[int], budget: int, start: list[float]) -> list[int]:
    """One by one to the part for which (number + start) / quota is least, none more than its quota."""
    count = [0] * len(quota)
    for _ in range(budget):
        open_ = [i for i in range(len(quota)) if count[i] < quota[i]]
        count[min(open_, key=lambda i: Fraction(count[i] + start[i]) / quota[i])] += 1
    return count


def salient(scores: np.ndarray, count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda n: -scores[n])[:count]


def scenes(x: np.ndarray, tau: float) -> list[list[int]]:
    """Cut where the cosine of adjacent frame means is among the 7 lowest or below tau."""
    mean = [frame.mean(0) for frame in x]
    alike = {t: like(mean[t], mean[t - 1]) for t in range(1, len(x))}
    cuts = set(sorted(alike, key=lambda t: alike[t])[:7]) | {t for t in alike if alike[t] < tau}
    found = [[0]]
    for t in range(1, len(x)):
        if t in cuts:
            found.append([])
        found[-1].append(t)
    return found


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(round(((a - b) ** 2).sum() / len(a), 12))


def peak_scores(rows: list[np.ndarray], neighbours: int) -> list[float]:
    """log(density * delta) of each row; a row is the nearest to itself."""
    number = len(rows)
    far = [[distance(a, b) for b in rows] for a in rows]
    density = []
    for i in range(number):
        near = sorted(far[i])[:neighbours]
        density.append(round(-sum(each**2 for each in near) / len(near), 9))
    scores = []
    for i in range(number):
        denser = [far[i][j] for j in range(number) if (-density[j], j) < (-density[i], i)]
        delta = min(denser) if denser else max(far[i])
        scores.append(round(density[i] + math.log(delta), 7) if delta else -math.inf)
    return scores


def density_peaks(rows: list[np.ndarray], count: int, neighbours: int) -> list[int]:
    scores = peak_scores(rows, neighbours)
    return sorted(sorted(range(len(rows)), key=lambda i: -scores[i])[:count])


def peak_clusters(rows: list[np.ndarray], count: int, neighbours: int) -> dict[int, list[int]]:
    """The density peaks, and which other rows are nearest to each."""
    clusters = {i: [] for i in density_peaks(rows, count, neighbours)}
    for i in range(len(rows)):
        if i not in clusters:
            clusters[min(clusters, key=lambda c, i=i: distance(rows[i], rows[c]))].append(i)
    return clusters


def most_diverse(rows: np.ndarray, count: int) -> list[int]:
    """Greedy max-min on cosine distance, in the order of picking; distances are rounded to 2^-20."""

    every = range(len(rows))
    far = [[round((1 - cosine(rows[i], rows[j])) * 2**20) / 2**20 for j in every] for i in every]
    picked = [max(every, key=lambda i: min((far[i][j] for j in every if j != i), default=0))]
    nearest = [far[i][picked[0]] for i in every]
    while len(picked) < count:
        picked.append(max((i for i in every if i not in picked), key=lambda i: nearest[i]))
        nearest = [min(nearest[i], far[i][picked[-1]]) for i in every]
    return picked


def itself(token: Token) -> tuple[Token, dict[Token, float]]:
    return token, {token: 1.0}


def mean_of(anchor: Token, members: list[Token]) -> tuple[Token, dict[Token, float]]:
    return anchor, {member: 1 / len(members) for member in members}


# --- the methods -------------------------------------------------------------------------------------------------


def tome(x, attention, shape, budget, scope="clip") -> Outputs:
    frames, patches = x.shape[:2]
    if scope == "clip":
        return match(x, [(t, n) for t in range(frames) for n in range(patches)], budget)
    outputs = []
    for t, share in enumerate(shares(budget, frames)):
        outputs += match(x, [(t, n) for n in range(patches)], share)
    return outputs


def match(x: np.ndarray, tokens: list[Token], budget: int) -> Outputs:
    groups = [(token, [token]) for token in tokens]  # the anchor and the members
    while len(groups) > budget:
        means = [np.mean([x[member] for member in members], 0) for _, members in groups]
        edges = []
        for i in range(0, len(groups), 2):
            alike = {j: like(means[i], means[j]) for j in range(1, len(groups), 2)}
            partner = max(alike, key=lambda j, alike=alike: alike[j])
            edges.append((-alike[partner], i, partner))
        edges = sorted(edges)[: min(len(groups) - budget, len(groups) // 2)]
        for _, i, partner in edges:
            groups[partner][1].extend(groups[i][1])
        gone = {i for _, i, _ in edges}
        groups = [group for i, group in enumerate(groups) if i not in gone]
    return [mean_of(anchor, members) for anchor, members in groups]


def visionzip(x, attention, shape, budget) -> Outputs:
    frames, patches = x.shape[:2]
    outputs = []
    for t, share in enumerate(shares(budget, frames)):
        contextual = round(share * 10 / 64)
        dominant = salient(attention[t], share - contextual)
        outputs += [itself((t, n)) for n in dominant]
        if not contextual:
            continue
        rest = [n for n in range(patches) if n not in dominant]
        guests = {target: [] for target in rest[:: len(rest) // contextual][:contextual]}
        for n in rest:
            if n not in guests:
                guests[max(guests, key=lambda target, n=n, t=t: like(x[t, n], x[t, target]))].append(n)
        for target, came in guests.items():  # the target plus the mean of those that came
            outputs.append(((t, target), {(t, target): 1.0, **{(t, n): 1 / len(came) for n in came}}))
    return outputs


def prumerge(x, attention, shape, budget, adaptive=False) -> Outputs:
    frames, patches = x.shape[:2]
    outputs = []
    for t in range(frames):
        order = salient(attention[t], patches)

        def strided(count: int, order=order) -> list[int]:
            return [n for n in range(0, patches, max(1, patches // count // 3)) if n not in order[:count]]

        if adaptive:
            low, high = np.quantile(attention[t], [0.25, 0.75])
            count = max(1, int((attention[t] > high + 1.5 * (high - low)).sum()))
            kept = order[:count] + strided(count)
            share = min(patches, len(kept) + 1)
        else:
            share = shares(budget, frames)[t]
            tried = range(1, math.ceil(patches / 4) + 1)
            count = min(tried, key=lambda c, share=share: abs(c + len(strided(c)) + 1 - share))
            wanted = share if share in (0, 1, patches) else share - 1
            grid = strided(count)
            room = max(0, wanted - count)
            if len(grid) > room:  # an even choice of them
                grid = [grid[i * len(grid) // room] for i in range(room)]
            kept = [*order[:count], *grid, *(n for n in order[count:] if n not in grid)][:wanted]
        if not share:
            continue
        loose = [n for n in range(patches) if n not in kept]
        groups = {n: [] for n in kept}
        left = []
        listed = {}
        for c in kept:
            others = [n for n in range(patches) if n != c]
            listed[c] = sorted(others, key=lambda n, c=c, t=t: -like(x[t, c], x[t, n]))[:32]
        for n in loose:
            listing = [c for c in sorted(kept) if n in listed[c]]
            if listing:
                groups[max(listing, key=lambda c, n=n, t=t: like(x[t, n], x[t, c]))].append(n)
            else:
                left.append(n)
        if share > 1 and loose:  # with a share of one there is no token for what is left over
            extra = min(loose, key=lambda n, t=t, kept=kept: max(like(x[t, n], x[t, c]) for c in kept))
            for members in groups.values():
                if extra in members:
                    members.remove(extra)
            added = {(t, n): attention[t, n] for n in {extra, *left}}
            outputs.append(((t, extra), added))
        for anchor, members in groups.items():
            outputs.append(((t, anchor), {(t, anchor): 1.0, **{(t, n): attention[t, n] for n in members}}))
    return outputs


def dycoke(x, attention, shape, budget, k=None) -> Outputs:
    frames, patches = x.shape[:2]
    thinned = [t for t in range(frames) if t % 4]
    if k is None:
        share = shares(budget - (frames - len(thinned)) * patches, len(thinned)) if thinned else []
    else:
        share = [int((1 - k) * patches)] * len(thinned)
    outputs = [itself((t, n)) for t in range(frames) if t % 4 == 0 for n in range(patches)]
    for t, count in zip(thinned, share, strict=True):
        other = {1: t - 1, 2: t - 2, 3: t - 1}[t % 4]
        lowest = sorted(range(patches), key=lambda n, t=t, other=other: like(x[t, n], x[other, n]))[:count]
        outputs += [itself((t, n)) for n in lowest]
    return outputs


def dtd(x, attention, shape, budget, tau=None, scope="clip") -> Outputs:
    alike = backwards(x)
    kept = [(0, n) for n in range(x.shape[1])]
    if tau is not None:
        kept += [token for token in alike if not alike[token] > tau]
    elif scope == "clip":
        kept += sorted(alike, key=lambda token: alike[token])[: budget - len(kept)]
    elif len(x) > 1:
        for t, count in enumerate(shares(budget - len(kept), len(x) - 1), 1):
            kept += sorted([(t, n) for n in range(x.shape[1])], key=lambda token: alike[token])[:count]
    return [itself(token) for token in kept]


def evs(x, attention, shape, budget) -> Outputs:
    return dtd(x, attention, shape, budget)


def vidcom2(x, attention, shape, budget) -> Outputs:
    patches = x.shape[1]
    share, likeness = vidcom2_scores(x, budget)
    outputs = []
    for t, count in enumerate(apportion(share, budget, [patches] * len(x), least=1)):
        outputs += [itself((t, n)) for n in sorted(range(patches), key=lambda n, t=t: likeness[t][n])[:count]]
    return outputs


def vidcom2_scores(x: np.ndarray, budget: int) -> tuple[list[float], list[list[float]]]:
    """Each frame's share of its patches, before scaling, and v + f of each patch."""
    frames, patches, channels = x.shape
    variance = x.reshape(-1, channels).var(0)
    steady = sorted(sorted(range(channels), key=lambda c: variance[c])[: max(1, channels // 2)])
    z = np.zeros((frames, patches, len(steady)))
    for t in range(frames):
        for n in range(patches):
            length = math.sqrt((x[t, n, steady] ** 2).sum())
            z[t, n] = x[t, n, steady] / length if length else 0

    def likeness(vector: np.ndarray, centre: np.ndarray) -> float:
        far = ((vector - centre) ** 2).sum()
        return sum(math.exp(-far / (2 * scale)) for scale in (1 / 8, 1 / 4, 1 / 2, 1, 2))

    clip = np.mean([z[t, n] for t in range(frames) for n in range(patches)], 0)
    v = [[likeness(z[t, n], clip) for n in range(patches)] for t in range(frames)]
    f = [[likeness(z[t, n], z[t].mean(0)) for n in range(patches)] for t in range(frames)]
    u = [-sum(row) / patches for row in v]
    raised = [math.exp((score - max(u)) / 0.01) for score in u]
    p = [value / sum(raised) for value in raised]
    share = [min(1, budget / (frames * patches) * (1 + value - sum(p) / frames)) for value in p]
    return share, [[round(v[t][n] + f[t][n], 9) for n in range(patches)] for t in range(frames)]


def divprune(x, attention, shape, budget) -> Outputs:
    patches = x.shape[1]
    return [itself(divmod(i, patches)) for i in most_diverse(x.reshape(-1, x.shape[2]), budget)]


def fastvid(x, attention, shape, budget, tau=0.9, context=0.4) -> Outputs:
    frames, patches = x.shape[:2]
    share = shares(budget, frames)
    merged = [int(context * count) for count in share]
    single = [count - some for count, some in zip(share, merged, strict=True)]
    outputs = []
    for scene in scenes(x, tau):
        hosts = scene[::-1][::4][::-1]  # the last frame and every 4th before it
        others = [t for t in scene if t not in hosts]
        room = [patches - single[t] for t in hosts]
        held = min(sum(merged[t] for t in scene), sum(room))
        centres = apportion([1] * len(hosts), held, room)
        over = sum(merged[t] for t in scene) - held
        if over:  # back to saliency in the other frames
            more = apportion([1] * len(others), over, [patches - single[t] for t in others])
            for t, count in zip(others, more, strict=True):
                single[t] += count
        kept = {(t, n) for t in scene for n in salient(attention[t], single[t])}
        outputs += [itself(token) for token in kept]
        rest = [(t, n) for t in scene for n in range(patches) if (t, n) not in kept]
        guests = {}
        for t, count in zip(hosts, centres, strict=True):
            loose = [token for token in rest if token[0] == t]
            if count:
                guests |= {loose[i]: [] for i in density_peaks([x[token] for token in loose], count, 4)}
        for token in rest:
            if guests and token not in guests:
                guests[max(guests, key=lambda anchor, token=token: like(x[token], x[anchor]))].append(token)
        for anchor, came in guests.items():
            own = max(1 / (len(came) + 1), 0.6)
            outputs.append((anchor, {anchor: own, **{token: (1 - own) / len(came) for token in came}}))
    return outputs


def holitom(x, attention, shape, budget, tau=None) -> Outputs:
    frames, patches = x.shape[:2]
    if tau is None:
        tau = 0.65 if frames * patches / budget >= 10 else 0.8
    alike = backwards(x)

    def still(first: int, last: int) -> list[int]:
        """Static positions of the window first..last."""
        links = range(first + 1, last + 1)
        return [n for n in range(patches) if links and all(alike[t, n] > tau for t in links)]

    static = {window: still(*window) for window in windows(frames, lambda i, j: len(still(i, j)) * (j - i))}
    # Taken apart where merging leaves too few: those of lowest mean cosine first.
    queue = []
    for first, last in static:
        for n in static[first, last]:
            queue.append((round(np.mean([alike[t, n] for t in range(first + 1, last + 1)]), 9), (first, last), n))
    for _, window, n in sorted(queue):
        if sum(len(s) + (patches - len(s)) * (last - first + 1) for (first, last), s in static.items()) >= budget:
            break
        static[window].remove(n)
    moving = []
    for (first, last), where in static.items():
        moving += [[n for n in range(patches) if n not in where]] * (last - first + 1)
    sizes = [*map(len, static.values()), *map(len, moving)]
    count = hand_out(sizes, budget, [0.5] * len(static) + [0] * len(moving))
    outputs = []
    for t, number in enumerate(count[len(static) :]):
        best = sorted(moving[t], key=lambda n, t=t: -attention[t, n])[:number]
        outputs += [itself((t, n)) for n in best]
    for ((first, last), where), number in zip(static.items(), count[: len(static)], strict=True):
        if not number:
            continue
        rows = [x[first : last + 1, n].mean(0) for n in where]
        clusters = peak_clusters(rows, number, min(7, number))
        length = last - first + 1
        for c, others in clusters.items():
            own = 0.6 if others else 1.0
            weight = {(t, where[c]): own / length for t in range(first, last + 1)}
            for i in others:
                weight |= {(t, where[i]): 0.4 / len(others) / length for t in range(first, last + 1)}
            outputs.append(((first, where[c]), weight))
    return outputs


def windows(frames: int, gain) -> list[tuple[int, int]]:
    """First and last frame of each window of the best cut there is; the shortest last window on ties, and so on."""
    best = {-1: (0, [])}
    for last in range(frames):
        found = [(best[first - 1][0] + gain(first, last), first) for first in range(last + 1)]
        value, first = max(found)
        best[last] = (value, [*best[first - 1][1], (first, last)])
    return best[frames - 1][1]


def sttm(x, attention, shape, budget, tau_s=None, tau_t=0.65, root=1) -> Outputs:
    if budget is not None:
        tau_s = sttm_thresholds(x, shape, budget, tau_t, root)[0]
    return sttm_at(x, shape, budget, tau_s, tau_t, root)


def sttm_thresholds(x: np.ndarray, shape: tuple[int, int], budget: int, tau_t: float, root: int = 1) -> list[float]:
    """Those tau_s, the smallest first, that leave at least K where the next smaller one leaves fewer.

    There can be several, because more nodes may join to fewer. Infinity leaves single patches, however few they
    join to.
    """
    tried = sorted({least for frame in x for tree in quadtrees(frame, shape, root) for least in splits(tree)})
    enough = []
    for tau in tried:
        nodes = sttm_nodes(x, shape, tau, root)
        enough.append(len({*traced(nodes, [pair for pair in meeting(x, nodes) if pair[0] >= tau_t])}) >= budget)
    enough.append(True)
    return [tau for i, tau in enumerate([*tried, math.inf]) if enough[i] and not (i and enough[i - 1])]


def sttm_nodes(x: np.ndarray, shape: tuple[int, int], tau: float, root: int = 1) -> list[tuple[int, dict]]:
    """The frame and the patches with their weights of each node, the earliest first patch first."""
    found = [
        (t, node) for t, frame in enumerate(x) for tree in quadtrees(frame, shape, root) for node in unsplit(tree, tau)
    ]
    return sorted(found, key=lambda node: (node[0], min(node[1])))


def sttm_at(x, shape, budget: int | None, tau_s: float, tau_t: float, root: int = 1) -> Outputs:
    nodes = sttm_nodes(x, shape, tau_s, root)
    outputs = []
    for group in sttm_groups(x, shape, nodes, budget, tau_t):
        members = {(nodes[i][0], n): share / len(group) for i in group for n, share in nodes[i][1].items()}
        outputs.append((min(members), members))
    return outputs


def sttm_groups(x, shape, nodes, budget, tau_t) -> list[list[int]]:
    pairs = meeting(x, nodes)
    joins = sorted((pair for pair in pairs if pair[0] >= tau_t), key=lambda pair: -pair[0])
    if budget is None:
        return components(len(nodes), joins)
    rest = [pair for pair in pairs if pair[0] < tau_t] + touching(x, nodes, shape)
    label = traced(nodes, joins)
    made = [(1, i, label[i]) for i in range(len(nodes))] if len({*label}) >= budget else []
    return components(len(nodes), made + joins + sorted(rest, key=lambda pair: -pair[0]), budget)


def traced(nodes: list, joins: list) -> list[int]:
    """Each node's earliest node: all joins pass the earlier of two on, until following twice leads no further."""
    label = [*range(len(nodes))]
    while True:
        before = [*label]
        for _, i, j in joins:
            for node in (i, j):
                label[node] = min(label[node], before[i], before[j])
        label = [label[at] for at in label]
        if label == [label[at] for at in label]:
            return label


def quadtrees(frame: np.ndarray, shape: tuple[int, int], root: int) -> list[tuple]:
    """The nodes of the root level: the mean, the patches with their weights, the least cosine of a child, children."""
    height, width = shape
    level = {
        (y, x): (frame[y * width + x], {y * width + x: 1.0}, math.inf, []) for y in range(height) for x in range(width)
    }
    levels, sides = [level], shape
    while 2 not in sides and max(sides) > 1:
        homes = {}
        for (y, x), node in level.items():  # a lone first row or column where a side is odd
            homes.setdefault(((y + sides[0] % 2) // 2, (x + sides[1] % 2) // 2), []).append(node)
        level = {}
        for place, children in homes.items():
            mean = np.mean([child[0] for child in children], 0)
            patches = {n: share / len(children) for child in children for n, share in child[1].items()}
            least = children[0][2] if len(children) == 1 else min(like(child[0], mean) for child in children)
            level[place] = (mean, patches, least, children)
        sides = tuple(-(-side // 2) for side in sides)
        levels.append(level)
    return [*levels[max(0, len(levels) - 1 - root)].values()]


def splits(node: tuple) -> list[float]:
    """The least cosines of all nodes that can be split."""
    *_, least, children = node
    return [least, *(each for child in children for each in splits(child))] if least < math.inf else []


def unsplit(node: tuple, tau: float) -> list[dict]:
    """The patches of each node that is not split, from the root down."""
    _, patches, least, children = node
    return [patches] if least >= tau or not children else [each for child in children for each in unsplit(child, tau)]


def node_means(x: np.ndarray, nodes: list) -> list[np.ndarray]:
    return [sum(share * x[t, n] for n, share in node.items()) for t, node in nodes]


def meeting(x: np.ndarray, nodes: list) -> list[tuple[float, int, int]]:
    """Nodes of consecutive frames that overlap, with the cosine of their means."""
    means = node_means(x, nodes)
    found = []
    for i, (t, a) in enumerate(nodes):
        for j, (s, b) in enumerate(nodes):
            if s == t + 1 and not {*a}.isdisjoint(b):
                found.append((like(means[i], means[j]), i, j))
    return found


def touching(x: np.ndarray, nodes: list, shape: tuple[int, int]) -> list[tuple[float, int, int]]:
    """Nodes of one frame with patches side by side, with the cosine of their means."""
    means = node_means(x, nodes)
    found = []
    for i, (t, a) in enumerate(nodes):
        beside = {n + 1 for n in a if (n + 1) % shape[1]} | {n + shape[1] for n in a}
        beside |= {n - 1 for n in a if n % shape[1]} | {n - shape[1] for n in a}
        for j, (s, b) in enumerate(nodes):
            if i < j and s == t and not beside.isdisjoint(b):
                found.append((like(means[i], means[j]), i, j))
    return found


def components(count: int, joins: list, stop: int | None = None) -> list[list[int]]:
    """Groups of nodes after the joins in their order, or as many of them as it takes to be left with `stop` groups."""
    group = {i: [i] for i in range(count)}
    left = count
    for _, i, j in joins:
        if left == stop:
            break
        if group[i] is not group[j]:
            group[i] += group[j]
            for k in group[j]:
                group[k] = group[i]
            left -= 1
    return [list(members) for members in {id(members): members for members in group.values()}.values()]


def framefusion(x, attention, shape, budget, threshold=None) -> Outputs:
    frames, patches = x.shape[:2]
    alike = backwards(x)
    if threshold is None:
        joined = sorted(alike, key=lambda token: -alike[token])[: frames * patches - budget]
    else:
        joined = [token for token in alike if alike[token] > threshold]
    outputs = []
    for n in range(patches):
        runs = [[(0, n)]]
        for t in range(1, frames):
            if (t, n) in joined:
                runs[-1].append((t, n))
            else:
                runs.append([(t, n)])
        outputs += [mean_of(run[0], run) for run in runs]
    return outputs


def flashvid(x, attention, shape, budget, tau=0.9, link=0.8, alone=0.7) -> Outputs:
    frames, patches = x.shape[:2]
    share = shares(budget, frames)
    picks = math.ceil(alone * (budget // frames))
    single = share if alone and picks == budget // frames else [picks] * frames
    outputs, trees, quota = [], {}, {}
    for scene in scenes(x, tau):
        kept = set()
        for t in scene:
            worth = []
            for n in range(patches):
                relevance = np.mean([x[t, n] @ x[s].mean(0) for s in scene])
                worth.append(attention[t, n] * relevance)
            kept |= {(t, n) for n in worthy(x[t], worth, single[t])}
        outputs += [itself(token) for token in kept]
        rest = [(t, n) for t in scene for n in range(patches) if (t, n) not in kept]
        links = []
        for t, n in rest:
            before = [token for token in rest if token[0] == t - 1]
            if before:
                alike = {token: like(x[t, n], x[token]) for token in before}
                best = max(before, key=lambda token, alike=alike: alike[token])
                if alike[best] >= link:
                    links.append((alike[best], (t, n), best))
        count = sum(share[t] - single[t] for t in scene)
        links = sorted(links, key=lambda edge: -edge[0])[: len(rest) - count]  # the weakest are cut
        parent = {token: best for _, token, best in links}
        found = {}
        for token in rest:
            base = token
            while base in parent:
                base = parent[base]
            found.setdefault(base, []).append(token)
        for t in scene:
            trees[t] = [members for base, members in sorted(found.items()) if base[0] == t]
            quota[t] = Fraction(len(trees[t]) * len(scene), max(1, len(found)))
    given = [0] * frames
    for _ in range(budget - sum(single)):
        open_ = [t for t in range(frames) if given[t] < len(trees[t])]
        given[min(open_, key=lambda t: given[t] / quota[t])] += 1
    for t, number in enumerate(given):
        if not number:
            continue
        means = [np.mean([x[token] for token in members], 0) for members in trees[t]]
        for c, others in peak_clusters(means, number, min(7, number)).items():
            weight = {}
            for i in (c, *others):
                weight |= {token: 1 / len(trees[t][i]) / (1 + len(others)) for token in trees[t][i]}
            outputs.append((min(trees[t][c]), weight))
    return outputs


def worthy(rows: np.ndarray, worth: list[float], count: int) -> list[int]:
    """Greedy max-min: cosine distance times worth, to the picked ones, at first to all others of the frame."""
    every = range(len(rows))
    far = [[1 - like(rows[i], rows[j]) for j in every] for i in every]
    picked = []
    while len(picked) < count:
        scores = {}
        for i in every:
            if i not in picked:
                others = picked or [j for j in every if j != i]
                scores[i] = min((far[i][j] * worth[i] for j in others), default=math.inf)
        picked.append(max(scores, key=lambda i: scores[i]))
    return picked


def scaled(scores: list[float]) -> list[float]:
    """From 0 to 1; all 0 if they are equal up to rounding."""
    low, high = min(scores), max(scores)
    if high - low <= 1e-6 * max(map(abs, scores)):
        return [0.0 for _ in scores]
    return [(score - low) / (high - low) for score in scores]


def ttf(x, attention, shape, budget, tau=None) -> Outputs:
    frames, patches = x.shape[:2]
    whole = x.mean((0, 1))
    first = max(range(frames), key=lambda t: like(x[t].mean(0), whole))
    best = {}
    for t, n in np.ndindex(frames, patches):
        if t != first:
            around = [
                m for m in range(patches) if max(abs(a - b) for a, b in zip(*places(shape, n, m), strict=True)) <= 1
            ]
            seen = max(around, key=lambda m, t=t, n=n: like(x[t, n], x[first, m]))
            best[t, n] = (like(x[t, n], x[first, seen]), seen)
    if tau is None:
        kept = sorted(best, key=lambda token: best[token][0])[: budget - patches]
    else:
        kept = [token for token in best if best[token][0] <= tau]
    groups = {n: {(first, n): 1.0} for n in range(patches)}
    for token in best.keys() - set(kept):
        groups[best[token][1]][token] = 0.0
    return [itself(token) for token in kept] + [((first, n), members) for n, members in groups.items()]


def places(shape: tuple[int, int], *patches: int) -> list[tuple[int, int]]:
    """Row and column of each patch."""
    return [divmod(n, shape[1]) for n in patches]


def v_cast(x, attention, shape, budget) -> Outputs:
    frames, patches = x.shape[:2]
    f = [frame.mean(0) / np.linalg.norm(frame.mean(0)) for frame in x]
    bend = [1 - like(f[t] - f[t - 1], f[t + 1] - f[t]) if 0 < t < frames - 1 else 1 for t in range(frames)]
    raised = [math.exp(c / 0.7) for c in bend]
    least = 1 if budget >= frames else 0
    count = apportion(raised, budget - least * frames, [patches - least] * frames)
    outputs = []
    for t, more in enumerate(count):
        strong = scaled([np.linalg.norm(v) for v in x[t]])
        outputs += [
            itself((t, n)) for n in salient([1 - like(x[t, n], f[t]) + strong[n] for n in range(patches)], least + more)
        ]
    return outputs


def stc(x, attention, shape, budget, alpha=0.5, window=8) -> Outputs:
    frames, patches = x.shape[:2]
    outputs = []
    for t, share in enumerate(shares(budget, frames)):
        odd = [1 - like(v, x[t].mean(0)) for v in x[t]]
        score = odd
        if t:
            past = x[max(0, t - window) : t].mean((0, 1))
            score = [alpha * (1 - like(v, past)) + (1 - alpha) * o for v, o in zip(x[t], odd, strict=True)]
        outputs += [itself((t, n)) for n in salient([round(s, 9) for s in score], share)]
    return outputs


def st_simdiff(x, attention, shape, budget, tau_sim=0.8, tau_diff=0.2) -> Outputs:
    frames, patches = x.shape[:2]
    tokens = list(np.ndindex(frames, patches))
    edges = {}
    for t, n in tokens:
        y, column = divmod(n, shape[1])
        beside = [(t - 1, n)] * (t > 0) + [(t, n - 1)] * (column > 0) + [(t, n - shape[1])] * (y > 0)
        edges |= {(other, (t, n)): like(x[t, n], x[other]) for other in beside}
    events = {token for (other, token), alike in edges.items() if other[0] < token[0] and alike < tau_diff}
    number = {token: i for i, token in enumerate(tokens)}
    joins = [(alike, number[a], number[b]) for (a, b), alike in edges.items() if alike >= tau_sim]
    communities = []
    for group in components(len(tokens), joins):
        members = [tokens[i] for i in sorted(group)]
        central = {a: round(np.mean([cosine(x[a], x[b]) for b in members]), 9) for a in members}
        communities.append((round(np.mean([*central.values()]), 9), members, central))
    dropped = set()
    for _, members, central in sorted(communities, key=lambda each: (-each[0], each[1][0])):
        if len(members) > 1:
            quota = math.ceil(Fraction(len(tokens) - budget, len(tokens)) * len(members))
            least = sorted(members, key=lambda token, central=central: -central[token])[len(members) - quota :]
            gone = set(least) - events
            if len(dropped) + len(gone) > len(tokens) - budget:
                break
            dropped |= gone
    closest = {token: max([alike for pair, alike in edges.items() if token in pair], default=0) for token in tokens}
    rest = [token for token in tokens if token not in dropped]
    return [itself(token) for token in sorted(rest, key=lambda token: (token not in events, closest[token]))[:budget]]


def unicomp(x, attention, shape, budget, frame=0.005, patch=0.2) -> Outputs:
    frames, patches = x.shape[:2]
    groups = [[0]]
    for t in range(1, frames):
        near = 1 - like(x[t].mean(0), x[groups[-1][0]].mean(0)) <= frame
        if near and len(groups[-1]) < frames * patches // budget + 1:
            groups[-1].append(t)
        else:
            groups.append([t])
    while len(groups) * patches < budget:
        longest = max(range(len(groups)), key=lambda g: len(groups[g]))
        half = math.ceil(len(groups[longest]) / 2)
        groups[longest : longest + 1] = [groups[longest][:half], groups[longest][half:]]
    fused = [x[group].mean(0) for group in groups]
    number = len(groups)
    s = [np.mean([cosine(a.mean(0), b.mean(0)) for b in fused]) for a in fused]
    raised = [math.exp((np.mean(s) - each) * math.sqrt(number)) for each in s]
    most = min(patches, max(1, 2 * (budget // number)))
    count = [min(most, math.floor(budget * each / sum(raised) + 1e-9)) for each in raised]
    count = [a + b for a, b in zip(count, evenly(budget - sum(count), [most - c for c in count]), strict=True)]
    unique, heard = [], []
    for rows in fused:
        mean = [round(np.mean([cosine(a, b) for b in rows]), 9) for a in rows]
        unique.append(mean)
        picked = {}  # each with itself and those that it keeps from being picked
        for n in sorted(range(patches), key=lambda n, mean=mean: mean[n]):
            by = [c for c in picked if 1 - like(rows[n], rows[c]) < patch]
            if by:
                picked[by[0]].append(n)
            else:
                picked[n] = [n]
        heard.append(picked)
    count = [min(c, len(picked)) for c, picked in zip(count, heard, strict=True)]
    spare = min(budget, sum(map(len, heard))) - sum(count)
    more = evenly(spare, [len(picked) - c for c, picked in zip(count, heard, strict=True)])
    stay = [dict([*picked.items()][: c + m]) for picked, c, m in zip(heard, count, more, strict=True)]
    others = [(unique[g][n], g, n) for g in range(number) for n in range(patches) if n not in heard[g]]
    for _, g, n in sorted(others)[: budget - sum(map(len, stay))]:
        for members in stay[g].values():
            if n in members:
                members.remove(n)
        stay[g][n] = [n]
    outputs = []
    for group, kept in zip(groups, stay, strict=True):
        for n, members in kept.items():
            weight = {m: (0.5 / len(members) + 0.5 * (m == n)) / len(group) for m in members}
            outputs.append(((group[0], n), {(t, m): part for m, part in weight.items() for t in group}))
    return outputs


def evenly(budget: int, most: list[int]) -> list[int]:
    """Equal shares as far as each can take them."""
    return apportion([1] * len(most), budget, most)


def unified(x, attention, shape, budget, tau=0.7, clusters=0.3) -> Outputs:
    tokens = list(np.ndindex(x.shape[:2]))
    merged = round(clusters * budget)
    queue = sorted(tokens, key=lambda token: -attention[token])
    kept = []
    for token in queue:
        if len(kept) < budget - merged and all(like(x[token], x[other]) < tau for other in kept):
            kept.append(token)
    kept += [token for token in queue if token not in kept][: budget - merged - len(kept)]
    rest = [token for token in tokens if token not in kept]
    return [itself(token) for token in kept] + clustered([(token, [token]) for token in rest], x, merged)


def clustered(groups: list[tuple[Token, list[Token]]], x: np.ndarray, count: int) -> Outputs:
    """Groups of tokens, each with its anchor, in so many clusters by density peaks (k = 7) of their means."""
    if not count:
        return []
    rows = [np.mean([x[token] for token in members], 0) for _, members in groups]
    centres = density_peaks(rows, count, 7)
    members = {i: [] for i in centres}
    for i in range(len(rows)):
        home = i if i in members else min(centres, key=lambda c, i=i: distance(rows[i], rows[c]))
        members[home] += groups[i][1]
    return [mean_of(groups[i][0], tokens) for i, tokens in members.items()]


def prunevid(x, attention, shape, budget, tau=0.8, cluster_ratio=None) -> Outputs:
    frames, patches = x.shape[:2]
    alike, static = {}, {}
    for segment in segments_of_runs(x):
        first, last = segment[0], segment[-1]
        for n in range(patches) if len(segment) > 1 else ():
            pairs = [cosine(x[a, n], x[b, n]) for a in segment for b in segment if a != b]
            alike[first, last, n] = round(np.mean(pairs), 9)
        static[first, last] = [n for n in range(patches) if alike.get((first, last, n), -2) > tau]
    queue = sorted((alike[first, last, n], first, last, n) for (first, last), some in static.items() for n in some)
    for _, first, last, n in queue if budget else ():
        if sum(len(s) + (patches - len(s)) * (b - a + 1) for (a, b), s in static.items()) >= budget:
            break
        static[first, last].remove(n)
    sets = [[((a, n), [(t, n) for t in range(a, b + 1)]) for n in some] for (a, b), some in static.items()]
    for (first, last), some in static.items():
        moving = [n for n in range(patches) if n not in some]
        sets += [[((t, n), [(t, n)]) for n in moving] for t in range(first, last + 1)]
    sizes = [*map(len, sets)]
    if cluster_ratio is not None:
        count = [max(1, math.floor(cluster_ratio * size)) if size > 14 else size for size in sizes]
    else:
        large = [i for i, size in enumerate(sizes) if size > 14]
        left = budget - sum(size for size in sizes if size <= 14)
        count = sizes[:]
        if large and left >= len(large):
            big = [sizes[i] for i in large]
            for i, share in zip(large, apportion(big, left, big, least=1), strict=True):
                count[i] = share
        else:
            count = apportion(sizes, budget, sizes)
    return [output for some, number in zip(sets, count, strict=True) for output in clustered(some, x, number)]


def segments_of_runs(x: np.ndarray) -> list[list[int]]:
    frames = len(x)
    rows = [frame.mean(0) for frame in x]
    centres = density_peaks(rows, max(1, frames // 4), 7)
    label = [t if t in centres else min(centres, key=lambda c, t=t: distance(rows[t], rows[c])) for t in range(frames)]
    runs = [[0]]
    for t in range(1, frames):
        if label[t] == label[t - 1]:
            runs[-1].append(t)
        else:
            runs.append([t])
    longest = [max((run for run in runs if label[run[0]] == name), key=len) for name in {*label}]
    stay = sorted(run for run in longest if len(run) > 1) or [[*range(frames)]]
    found = {run[0]: [*run] for run in stay}
    for t in range(frames):
        if not any(t in run for run in stay):
            beside = [run for run in stay if run[-1] < t][-1:] + [run for run in stay if run[0] > t][:1]
            found[max(beside, key=len)[0]].append(t)
    return [sorted(members) for members in found.values()]


def gleanvid(x, attention, shape, budget) -> Outputs:
    frames, patches = x.shape[:2]
    mean = x.mean((0, 1))
    main = np.linalg.svd(x.reshape(-1, x.shape[2]) - mean, full_matrices=False)[2][0]
    clean = x - ((x - mean) @ main)[..., None] * main
    cell = [[m for m in range(patches) if same_cell(shape, n, m)] for n in range(patches)]
    novelty = np.zeros(frames)
    for t, n in np.ndindex(frames, patches):
        z = clean[t, cell[n]].mean(0)
        square = z @ z
        if t:
            before = np.array([clean[s, cell[n]].mean(0) for s in range(t)])
            gram, b = before @ before.T, before @ z
            square -= b @ np.linalg.inv(gram + 1e-4 * np.trace(gram) / t * np.eye(t)) @ b
        novelty[t] += math.sqrt(max(square, 0))
    gini = (
        2 * sum(i * each for i, each in enumerate(sorted(novelty), 1)) / (frames * novelty.sum())
        - (frames + 1) / frames
    )
    a = 0.6 - 0.4 * gini
    quota = [a * budget / frames + (1 - a) * budget * each / novelty.sum() for each in novelty]
    outputs, span = [], np.zeros((0, x.shape[2]))
    for t, count in enumerate(apportion(quota, budget, [patches] * frames)):
        near = [like(x[t, n], x[t, cell[n]].mean(0)) - like(x[t, n], x[t].mean(0)) for n in range(patches)]
        u = [math.log(1 + math.exp(4 * each)) / 4 for each in near]
        residual = clean[t] - clean[t] @ span.T @ span
        far = [
            np.linalg.norm(residual[n]) if residual[n] @ residual[n] > 1e-5 * (v @ v) else 0
            for n, v in enumerate(clean[t])
        ]
        score = [round(a + b, 6) for a, b in zip(scaled(u), scaled(far), strict=True)]
        kept = salient(score, count)
        outputs += [itself((t, n)) for n in kept]
        fresh = [residual[n] for n in sorted(kept) if far[n]]
        if fresh:
            basis, triangle = np.linalg.qr(np.array(fresh).T)
            strength = np.abs(np.diag(triangle))
            span = np.concatenate([span, basis.T[strength > 1e-4 * strength.max()]])
    return outputs


def same_cell(shape: tuple[int, int], n: int, m: int) -> bool:
    (a, b), (c, d) = places(shape, n, m)
    return a // 2 == c // 2 and b // 2 == d // 2


def earlytom(x, attention, shape, budget, tau=0.8) -> Outputs:
    frames, patches = x.shape[:2]
    parts = earlytom_parts(x, tau, (frames * patches - budget) // patches)
    merged = [sum(part * x[t] for t, part in some.items()) for some in parts]
    worth = [sum(part * attention[t] for t, part in some.items()) for some in parts]
    kept = earlytom_kept(worth, ends_and_middles(merged, tau, alike), budget)
    return [
        ((min(some), n), {(t, n): part for t, part in some.items()})
        for some, mine in zip(parts, kept, strict=True)
        for n in mine
    ]


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """Mean patch cosine of two frames."""
    return round(np.mean([cosine(v, w) for v, w in zip(a, b, strict=True)]), 9)


def earlytom_parts(x: np.ndarray, tau: float, most: int) -> list[dict[int, float]]:
    """For each frame that is left, the frames that it is made of and their shares."""
    pairs = []
    for segment in ends_and_middles(x, tau, alike):
        middle, bar = segment[1:-1], alike(x[segment[0]], x[segment[-1]])
        while len(middle) > 1:
            i = middle.pop(0)
            s, after = alike(x[i], x[i + 1]), alike(x[i + 1], x[i + 2])
            if s > max(bar, after, 0):
                pairs.append((s, max(after, 0), i))
                middle.pop(0)
    parts = {t: {t: 1.0} for t in range(len(x))}
    for s, after, i in sorted(pairs, key=lambda pair: -pair[0])[:most]:
        parts[i] = {i: s / (s + after), i + 1: after / (s + after)}
        del parts[i + 1]
    return list(parts.values())


def earlytom_kept(worth: list, segments: list[list[int]], budget: int) -> list[list[int]]:
    """The patches that stay of each frame."""
    share, patches, kept = shares(budget, len(worth)), len(worth[0]), [[] for _ in worth]
    for segment in segments:
        for i in segment:
            kept[i] = salient(worth[i], share[i])
            if i not in (segment[0], segment[-1]):
                windows = [[n for n in range(patches) if n * share[i] // patches == k] for k in range(share[i])]
                kept[i] = [max(window, key=lambda n, i=i: worth[i][n]) for window in windows]
    return kept


def ends_and_middles(frames: list, tau: float, alike) -> list[list[int]]:
    """Frames of each segment."""
    found, average = [[0]], 1.0
    for t in range(1, len(frames)):
        average = 0.9 * alike(frames[found[-1][0]], frames[t]) + 0.1 * average
        if average < tau or len(found[-1]) == 5:
            found.append([])
            average = 1.0
        found[-1].append(t)
    return found


METHODS = {
    "tome": tome,
    "visionzip": visionzip,
    "prumerge": prumerge,
    "dycoke": dycoke,
    "dtd": dtd,
    "evs": evs,
    "vidcom2": vidcom2,
    "divprune": divprune,
    "fastvid": fastvid,
    "holitom": holitom,
    "sttm": sttm,
    "framefusion": framefusion,
    "flashvid": flashvid,
    "ttf": ttf,
    "v-cast": v_cast,
    "stc": stc,
    "st-simdiff": st_simdiff,
    "unicomp": unicomp,
    "unified": unified,
    "prunevid": prunevid,
    "gleanvid": gleanvid,
    "earlytom": earlytom,
}
