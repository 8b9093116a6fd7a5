"""The generated world: the same from the same seed, flat, and with answers that the pixels bear out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vtc_lab.tokens import VTCError
from vtc_lab.toy.questions import ANSWERS, NEED_TIME, SPLITS, make_clip, questions, scene_of
from vtc_lab.toy.world import COLOURS, DOT, FLASH, HEADINGS, PILLAR, RELATIONS, SHAPES, Scene

DATA = Path(__file__).resolve().parent.parent / "data" / "shapes_qa"
SEEDS = range(10_000, 10_600)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Scene, list[tuple]]]:
    drawn = [scene_of(seed) for seed in SEEDS]
    return [(scene, questions(scene, rng)) for scene, rng in drawn]


def test_same_seed_same_clip_and_samples() -> None:
    (first, asked), (again, asked_again), (other, _) = make_clip(5), make_clip(5), make_clip(6)
    assert first.sha256 == again.sha256 != other.sha256
    assert asked == asked_again


@pytest.mark.parametrize("frames", [8, 11, 32])
def test_length_can_be_asked_for(frames: int) -> None:
    clip, samples = make_clip(3, frames)
    assert clip.frames.shape == (frames, 112, 112, 3)
    assert len(samples) >= 4


def test_bad_arguments_are_named() -> None:
    with pytest.raises(VTCError, match="-1"):
        make_clip(-1)
    with pytest.raises(VTCError, match="33 frames"):
        make_clip(0, 33)


def test_samples_have_the_fields_of_the_shipped_file() -> None:
    for seed in SEEDS[:50]:
        clip, samples = make_clip(seed)
        kinds = [sample["kind"] for sample in samples]
        assert 8 <= len(clip) <= 32 and len(set(kinds)) == len(kinds)
        for sample in samples:
            assert set(sample) == {"clip", "question", "answer", "kind", "candidates", "evidence", "frames"}
            assert sample["frames"] == len(clip)
            assert sample["answer"] in sample["candidates"] == ANSWERS[sample["kind"]]


def test_splits_share_no_seed() -> None:
    ranges = sorted(SPLITS.values(), key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in zip(ranges, ranges[1:], strict=False))


def test_answers_of_a_kind_are_equally_frequent(scenes: list) -> None:
    for kind, answers in ANSWERS.items():
        # One question a clip: those of the same clip are not independent.
        one_each = [next((a for k, _, a, _ in asked if k == kind), None) for _, asked in scenes]
        counts = Counter(filter(None, one_each))
        assert stats.chisquare([counts[answer] for answer in answers]).pvalue > 1e-3, (kind, counts)


def test_order_and_relation_are_asked_both_ways(scenes: list) -> None:
    counts = Counter(answer for _, asked in scenes for kind, _, answer, _ in asked if kind == "order")
    assert counts["before"] == counts["after"] > 0


@pytest.mark.slow
def test_every_answer_is_borne_out_by_the_pixels(scenes: list) -> None:
    checked = Counter()
    for scene, asked in scenes:
        for kind, question, answer, _ in asked:
            assert _from_pixels(scene, kind, question) == answer, (kind, question)
            checked[kind] += 1
    assert set(checked) == set(ANSWERS) and min(checked.values()) > 100


def test_the_middle_frame_does_not_tell_how_two_objects_end(scenes: list) -> None:
    table = np.zeros((4, 4))
    names = list(RELATIONS)
    for scene, _ in scenes:
        if scene.relation:
            apart = scene.position[0, scene.middle] - scene.position[1, scene.middle]
            table[names.index(_relation(apart)), names.index(scene.relation)] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_the_middle_frame_does_not_tell_the_heading_or_the_fate(scenes: list) -> None:
    by_heading, by_fate = {}, {}
    for scene, _ in scenes:
        for i, heading in enumerate(scene.heading):
            by_fate.setdefault(scene.fate[i], []).append(scene.radius[i, scene.middle])
            if heading:
                by_heading.setdefault(heading, []).append(scene.position[i, scene.middle])
    for axis in (0, 1):
        assert stats.kruskal(*[np.array(places)[:, axis] for places in by_heading.values()]).pvalue > 1e-3
    assert set(by_heading) == set(HEADINGS)
    assert stats.kruskal(*by_fate.values()).pvalue > 1e-3


def test_the_flash_is_brief_and_not_in_the_middle(scenes: list) -> None:
    lasting = [(scene.owner == FLASH).any((1, 2)) for scene, _ in scenes]
    for shown in lasting:
        assert shown.sum() in range(2, max(2, len(shown) // 4) + 1) or not shown.any()
    assert not any(shown[scene.middle] for shown, (scene, _) in zip(lasting, scenes, strict=True))


def test_most_of_a_frame_is_background_and_most_clips_are_long(scenes: list) -> None:
    cells = [(scene.owner < FLASH + 1).reshape(-1, 14, 8, 14, 8).any((2, 4)) for scene, _ in scenes]
    pillar = [(scene.owner == PILLAR).reshape(-1, 14, 8, 14, 8).any((2, 4)) for scene, _ in scenes]
    shown = np.concatenate([(a & ~b).mean((1, 2)) for a, b in zip(cells, pillar, strict=True)])
    assert 0.03 < shown.mean() < 0.08
    assert np.mean([len(scene.frames) >= 16 for scene, _ in scenes]) > 0.5


def test_a_quarter_of_the_clips_has_a_cut_before_the_middle(scenes: list) -> None:
    cuts = [scene for scene, _ in scenes if scene.cut]
    assert 0.15 < len(cuts) / len(scenes) < 0.35
    steps = [abs(np.diff(scene.frames.astype(int), axis=0)).mean((1, 2, 3)) for scene in cuts]
    assert np.mean([step.argmax() == scene.cut - 1 for step, scene in zip(steps, cuts, strict=True)]) > 0.95
    assert all(2 <= scene.cut <= scene.middle for scene in cuts)
    across = [
        min(firsts) < scene.cut <= max(firsts)
        for scene, asked in scenes
        for kind, *_, things in asked
        if kind == "order" and (firsts := [scene.start[i] for i in things])
    ]
    assert sum(across) > 20


def test_the_dot_fits_into_a_few_pixels(scenes: list) -> None:
    sizes = [(scene.owner == DOT).sum((1, 2)).max() for scene, _ in scenes if scene.dot is not None]
    assert sizes and max(sizes) <= 9


# --- an independent reading of the picture: only frames and the owner of each pixel are looked at ---


def _from_pixels(scene: Scene, kind: str, question: str) -> str:
    """The answer from pixel counts, mean places and mean colours."""
    area = np.stack([(scene.owner == i).sum((1, 2)) for i in range(len(scene.shape))])
    colours = [_hue(scene, i, int(area[i].argmax())) for i in range(len(area))]
    places = sorted((question.find(word), i) for i in range(len(area)) for word in _words(scene, colours, i))
    asked = [i for place, i in places if place >= 0]
    if kind == "count":
        return ("one", "two", "three")[int((area.max(1) > 0).sum()) - 1]
    if kind in ("event", "detail"):
        who = FLASH if kind == "event" else DOT
        return _hue(scene, who, int((scene.owner == who).sum((1, 2)).argmax()))
    if kind == "colour":
        return colours[asked[0]]
    if kind == "shape":
        return SHAPES[scene.shape[asked[0]]]
    if kind == "order":
        first, second = ((area[i] > 0).argmax() for i in asked)
        return "before" if first < second else "after"
    if kind == "spatial":
        return _relation(_place(scene, asked[0], -1) - _place(scene, asked[1], -1))
    if kind == "direction":
        return _direction(scene, asked[0], area[asked[0]])
    return _fate(scene, asked[0], area[asked[0]])


def _words(scene: Scene, colours: list[str], i: int) -> tuple[str, str]:
    return f"the {colours[i]} object", f"the {SHAPES[scene.shape[i]]}"


def _hue(scene: Scene, who: int, t: int) -> str:
    """The named colour nearest in direction, which brightness does not change, to that of the pixels."""
    pixels = scene.frames[t][scene.owner[t] == who].astype(float)
    palette = np.array(list(COLOURS.values()), float)
    mean = pixels.mean(0)
    score = palette @ mean / np.linalg.norm(palette, axis=1)
    return list(COLOURS)[int(score.argmax())]


def _place(scene: Scene, i: int, t: int) -> np.ndarray:
    return np.argwhere(scene.owner[t] == i).mean(0)


def _relation(apart: np.ndarray) -> str:
    """Where something is that lies (y, x) away."""
    return max(RELATIONS, key=lambda name: float(np.dot(RELATIONS[name], apart)))


def _direction(scene: Scene, i: int, area: np.ndarray) -> str:
    whole = np.flatnonzero(area >= 0.3 * np.median(area[area > 0]))
    whole = whole[whole >= scene.cut]
    path = _place(scene, i, whole[-1]) - _place(scene, i, whole[0])
    if abs(path).max() < 5.5:
        return "nowhere"
    return max(("left", "right", "up", "down"), key=lambda name: float(np.dot(HEADINGS[name], path)))


def _fate(scene: Scene, i: int, area: np.ndarray) -> str:
    if not area[-1]:
        return "leaves"
    middle, last = (scene.frames[t][scene.owner[t] == i].mean() for t in (scene.middle, -1))
    if last < 0.66 * middle:
        return "darkens"
    before = max(_extent(scene, i, t) for t in range(scene.middle + 1) if area[t])
    growth = max(_extent(scene, i, t) for t in (-2, -1) if area[t]) / before
    return "grows" if growth > 1.2 else "shrinks" if growth < 0.8 else "nothing"


def _extent(scene: Scene, i: int, t: int) -> float:
    """Half of the larger side of the box around an object."""
    return float(np.ptp(np.argwhere(scene.owner[t] == i), axis=0).max()) / 2


# --- what is shipped ---


@pytest.fixture(scope="module")
def shipped() -> list[dict]:
    return [json.loads(line) for line in (DATA / "qa.jsonl").read_text().splitlines()]


def test_shipped_set_is_large_flat_and_small_on_disk(shipped: list[dict]) -> None:
    assert len({sample["clip"] for sample in shipped}) >= 300 and len(shipped) >= 1500
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= 20e6
    for kind, answers in ANSWERS.items():
        counts = Counter(sample["answer"] for sample in shipped if sample["kind"] == kind)
        assert set(counts) == set(answers) and len(set(counts.values())) == 1


@pytest.mark.slow
def test_shipped_lines_are_what_their_seed_makes(shipped: list[dict]) -> None:
    decord = pytest.importorskip("decord")
    by_clip = {}
    for sample in shipped:
        by_clip.setdefault(sample["clip"], []).append(sample)
    for name, samples in by_clip.items():
        seed = int(Path(name).stem)
        assert seed in SPLITS["test"]
        clip, made = make_clip(seed)
        known = json.loads(json.dumps([sample | {"clip": name} for sample in made]))
        assert all(sample in known for sample in samples)
        reader = decord.VideoReader(str(DATA / name), num_threads=1)
        frames = reader.get_batch(range(len(reader))).asnumpy()
        assert frames.shape == clip.frames.shape
        assert abs(frames.astype(int) - clip.frames).mean() < 5


def test_card_shows_the_prior_of_every_kind(shipped: list[dict]) -> None:
    card = (DATA / "README.md").read_text()
    counts = Counter(sample["kind"] for sample in shipped)
    for kind, answers in ANSWERS.items():
        timely = "yes" if kind in NEED_TIME else "no"
        assert f"| {kind} | {counts[kind]} | {timely} | {1 / len(answers):.1%} |" in card
