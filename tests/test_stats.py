"""Intervals and paired tests against plain references, hand-made values and simulated truth."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_sweep import made_up_sweep

from vtc_lab.sweeps import tidy
from vtc_lab.sweeps.run import summary
from vtc_lab.sweeps.stats import bootstrap_interval, compare
from vtc_lab.tokens import VTCError


def answers(**columns: object) -> pd.DataFrame:
    """A table of one label with ratio 1 and 4, a question a row."""
    before, after, clips = columns["before"], columns["after"], columns["clips"]
    rows = {"label": "lftr", "clip": list(clips) * 2, "sample": list(range(len(before))) * 2}
    return pd.DataFrame(rows | {"ratio": np.repeat([1, 4], len(before)), "right": np.r_[before, after].astype(float)})


def test_means_counts_and_intervals_match_a_loop_over_resamples(monkeypatch):
    monkeypatch.setattr(tidy, "DRAWS", 30)
    table = made_up_sweep(["lftr", "random"], clips=9, gaps={("random", 16): "minimum"})
    table.loc[table.index[:7], ["right", "status"]] = [None, "error"]
    found = bootstrap_interval(table)
    clips = sorted(table["clip"].unique())
    weights = np.random.default_rng(0).multinomial(len(clips), np.full(len(clips), 1 / len(clips)), size=30)
    for row in found.itertuples():
        mine = table[(table.label == row.label) & (table.ratio == row.ratio)]
        known = mine[mine.status == "ok"]
        assert row.n == len(known) and row.missing == len(mine) - len(known) and row.clips == known["clip"].nunique()
        if not row.n:
            assert np.isnan([row.mean, row.low, row.high]).all()
            continue
        assert row.mean == pytest.approx(known.right.astype(float).mean())
        rights = [known.right[known["clip"] == clip].to_numpy(float) for clip in clips]
        means = [
            np.concatenate([rights[at] for at in np.arange(len(clips)).repeat(weight)]).mean() for weight in weights
        ]
        assert (row.low, row.high) == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert found.missing.sum() == 7 + 36 and (found["value"] == "right").all()
    assert found[found.ratio == 8].kept.unique().tolist() == [112.0]


def test_a_failed_row_is_missing_even_if_it_carries_a_number():
    table = made_up_sweep(["uniform"], [1], clips=3)
    table.loc[0, "status"] = "error"
    assert table.right.notna().all()
    assert bootstrap_interval(table)[["n", "missing", "of"]].values.tolist() == [[11, 1, 11]]


def test_rows_that_no_setting_answered_are_told_from_those_that_others_did():
    table = made_up_sweep(["lftr", "uniform"], [1, 4], clips=3)
    table.loc[table["clip"] == "clips/001.mp4", "status"] = "error"
    table.loc[table.index[(table["clip"] == "clips/002.mp4") & (table.ratio == 4)][:4], "status"] = "minimum"
    found = bootstrap_interval(table)
    assert found[["label", "ratio", "n", "missing", "of"]].values.tolist() == [
        ["lftr", 1, 8, 4, 8],
        ["lftr", 4, 6, 6, 8],
        ["uniform", 1, 8, 4, 8],
        ["uniform", 4, 6, 6, 8],
    ]


def test_interval_covers_the_truth_as_often_as_it_says_only_if_clips_are_kept_together(monkeypatch):
    rng = np.random.default_rng(0)
    datasets, clips, questions = 400, 40, 6
    chance = rng.beta(1.5, 0.5, size=(datasets, clips, 1))  # of a right answer: 0.75 on average, clips differ
    right = rng.random((datasets, clips, questions)) < chance
    dataset, clip, question = (axis.ravel() for axis in np.indices(right.shape))
    table = pd.DataFrame({"label": "lftr", "dataset": dataset, "clip": clip, "right": right.ravel()})
    table["sample"] = clip * questions + question
    covered = {}
    monkeypatch.setattr(tidy, "DRAWS", 400)
    for cluster in ("clip", "sample"):
        found = bootstrap_interval(table.assign(clip=table[cluster]), by="dataset")
        covered[cluster] = ((found.low <= 0.75) & (found.high >= 0.75)).mean()
    assert 0.91 <= covered["clip"] <= 0.975
    assert covered["sample"] < 0.85


def test_groups_share_their_resamples():
    table = made_up_sweep(["lftr"], [4])
    twice = pd.concat([table, table.assign(label="copy")])
    low, high = bootstrap_interval(twice)[["low", "high"]].to_numpy().T
    assert low[0] == low[1] and high[0] == high[1]


def test_fewer_than_six_clips_have_a_mean_and_no_interval_whether_a_group_or_the_table_is_of_them():
    table = made_up_sweep(["lftr", "uniform"], [4], clips=6)
    table = table[(table.label == "lftr") | (table["clip"] < "clips/005.mp4")]
    found = bootstrap_interval(table).set_index("label")
    assert found.loc["uniform", ["low", "high"]].isna().all() and 0 <= found.loc["uniform", "mean"] <= 1
    assert found.loc["lftr", ["low", "high"]].notna().all()
    alone = bootstrap_interval(made_up_sweep(["lftr"], [4], clips=1)).iloc[0]
    assert (alone.n, alone.clips) == (4, 1) and np.isnan([alone.low, alone.high]).all() and 0 <= alone["mean"] <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["right", "kl"]))
def test_the_order_of_rows_does_not_matter(seed, value):
    table = made_up_sweep(clips=8, seed=seed)
    shuffled = table.sample(frac=1, random_state=seed)
    keys = ["label", "ratio"]
    first, second = (bootstrap_interval(t, value).sort_values(keys, ignore_index=True) for t in (table, shuffled))
    pd.testing.assert_frame_equal(first, second)
    assert (first.low <= first.high).all()


@pytest.mark.slow
def test_mcnemar_is_the_exact_binomial():
    before = [1] * 10 + [0] * 5
    after = [0] * 8 + [1] * 2 + [1] + [0] * 4
    (row,) = compare(answers(before=before, after=after, clips=range(15))).itertuples()
    assert (row.n, row.gained, row.lost, row.missing) == (15, 1, 8, 0)
    assert row.difference == pytest.approx(-7 / 15)
    assert row.p_mcnemar == pytest.approx(2 * (1 + 9) / 2**9)
    assert row.low < row.difference < row.high < 0


@pytest.mark.slow
def test_permutation_flips_whole_clips_exactly_where_it_can():
    rng = np.random.default_rng(1)
    clips = np.repeat(range(8), 3)
    before, after = rng.integers(0, 2, (2, 24))
    (row,) = compare(answers(before=before, after=after, clips=clips)).itertuples()
    sums = [(after - before)[clips == clip].sum() for clip in range(8)]
    flipped = [abs(np.dot(signs, sums)) for signs in itertools.product([-1, 1], repeat=8)]
    assert row.p_permutation == pytest.approx(np.mean([total >= abs(sum(sums)) for total in flipped]))


@pytest.mark.slow
def test_permutation_agrees_with_random_flips_of_another_generator():
    table = made_up_sweep(["lftr", "uniform"], [1, 4], clips=40)
    found = compare(table, "lftr")
    wide = table[table.ratio == 4].pivot_table(index=["clip", "sample"], columns="label", values="right").astype(float)
    sums = (wide.uniform - wide.lftr).groupby("clip").sum().to_numpy()
    flips = np.random.default_rng(99).choice([-1, 1], size=(20000, 40)) @ sums
    assert found.p_permutation.item() == pytest.approx((np.abs(flips) >= abs(sums.sum())).mean(), abs=0.015)


@pytest.mark.slow
def test_under_the_null_permutation_keeps_its_level_and_mcnemar_does_not():
    """300 labels that are as good as the reference, whose answers of one clip go wrong or right together."""
    rng = np.random.default_rng(0)
    labels, clips, questions = 300, 24, 5
    shift = rng.choice([-1, 0, 1], p=[0.3, 0.4, 0.3], size=(labels, clips, 1))
    shift = shift * (rng.random((labels, clips, questions)) < 0.8)
    before = np.where(shift < 0, 1, np.where(shift > 0, 0, 1))
    label, clip, question = (axis.ravel() for axis in np.indices(shift.shape))
    rows = {"label": np.char.add("m", label.astype(str)), "clip": clip, "sample": clip * questions + question}
    # The reference differs from label to label, so each brings its own in as one more sample.
    rows["sample"] += 1000 * label
    after = pd.DataFrame(rows | {"ratio": 4, "right": (before + shift).ravel().astype(float)})
    full = pd.DataFrame(rows | {"ratio": 1, "right": before.ravel().astype(float)})
    found = compare(pd.concat([full, after]), permutations=999)
    assert len(found) == labels and (found.n == clips * questions).all()
    assert 0.02 <= (found.p_permutation <= 0.05).mean() <= 0.08
    assert (found.p_mcnemar <= 0.05).mean() > 0.2
    assert (found.p_holm <= 0.05).sum() <= 1


@pytest.mark.slow
def test_holm_by_hand():
    found = compare(made_up_sweep(["lftr", "tome", "uniform"], [1, 2, 4], clips=16), permutations=500)
    p = found.p_permutation.to_numpy()
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))).clip(max=1)
    assert found.p_holm.to_numpy()[order] == pytest.approx(steps)
    assert len(p) == 6 and p.min() < 0.05 < p.max()


@pytest.mark.slow
def test_pairs_that_lack_a_side_are_missing_and_not_compared():
    table = made_up_sweep(["lftr", "dycoke", "uniform"], [1, 4, 8], clips=6, gaps={("dycoke", 8): "minimum"})
    gone = (table.label == "uniform") & (table.ratio == 4) & (table["clip"] == "clips/000.mp4")
    found = compare(table[~gone]).set_index(["label", "ratio"])
    assert found.loc[("uniform", 4), ["n", "missing"]].tolist() == [20, 4]
    minimum = found.loc[("dycoke", 8)]
    assert minimum[["n", "missing", "gained", "lost"]].tolist() == [0, 24, 0, 0]
    assert minimum[["difference", "p_mcnemar", "p_permutation", "p_holm"]].isna().all()
    assert found.p_holm.notna().sum() == 5
    against = compare(table[~gone], "dycoke").set_index(["label", "ratio"])
    assert against.loc[("lftr", 8), ["n", "missing"]].tolist() == [0, 24]


@pytest.mark.slow
def test_exchanging_the_sides_changes_the_sign():
    table = made_up_sweep(["lftr", "uniform"], [1, 2, 4])
    forth, back = compare(table, "lftr"), compare(table, "uniform")
    assert forth.difference.to_list() == pytest.approx((-back.difference).to_list())
    assert forth.gained.to_list() == back.lost.to_list()
    assert forth.p_permutation.to_list() == pytest.approx(back.p_permutation.to_list())
    everything = compare(table)
    assert set(everything.label) == {"lftr", "uniform"} and set(everything.ratio) == {2, 4}


@pytest.mark.slow
def test_seeds_are_averaged_and_do_not_become_samples():
    table = made_up_sweep(["lftr", "random"], [1, 4], clips=10)
    again = table[table.label == "random"].assign(seed=1, right=True)
    one, two = compare(table, "lftr"), compare(pd.concat([again, table]), "lftr")
    assert two.n.item() == one.n.item() == 40
    assert (two.gained.item(), two.lost.item(), two.p_mcnemar.item()) == (
        one.gained.item(),
        one.lost.item(),
        one.p_mcnemar.item(),
    )
    reference = table[(table.label == "lftr") & (table.ratio == 4)].right.astype(float).mean()
    assert two.difference.item() == pytest.approx((one.difference.item() + 1 - reference) / 2)


@pytest.mark.slow
def test_values_that_are_not_true_or_false_have_no_mcnemar():
    found = compare(made_up_sweep(), "uniform", "kl")
    assert found.p_mcnemar.isna().all() and found.p_permutation.notna().all()
    assert (found.gained + found.lost == found.n).all()


def free_budgets() -> pd.DataFrame:
    """A sweep with a label whose options make another budget for each clip; one of its clips failed."""
    table = made_up_sweep(["lftr", "uniform"], [1, 2, 8], clips=6)
    free = table[(table.label == "lftr") & (table.ratio == 8)].assign(label="lftr (min_fidelity=0.9)")
    free["kept"] = 100.0 + 20 * free["clip"].str[-5].astype(int)
    free["ratio"] = free.total / free.kept
    failed = free["clip"] == "clips/005.mp4"
    free.loc[failed, ["kept", "ratio", "right", "status"]] = [np.nan, np.nan, np.nan, "error"]
    return pd.concat([table, free], ignore_index=True)


@pytest.mark.slow
def test_a_label_with_a_budget_of_its_own_for_each_clip_is_one_point():
    found = bootstrap_interval(free_budgets()).set_index("label").loc["lftr (min_fidelity=0.9)"]
    assert found.ratio == pytest.approx(896 / 140) and found.kept == 140
    assert (found.n, found.clips, found.missing, found.of) == (20, 5, 4, 24)
    assert compare(free_budgets()).label.value_counts().to_dict() == {
        "lftr": 2,
        "uniform": 2,
        "lftr (min_fidelity=0.9)": 1,
    }


def test_kept_and_total_are_of_the_rows_that_the_mean_is_of():
    table = made_up_sweep(["dtd", "uniform"], [1, 8], clips=6)
    table["total"] = np.where(table["clip"] < "clips/003.mp4", 800, 400)
    table["kept"] = table["total"] / table.ratio
    minimum = (table.label == "dtd") & (table.ratio == 8) & (table["total"] == 400)
    table.loc[minimum, ["kept", "right", "status"]] = [np.nan, None, "minimum"]
    table.loc[(table.label == "uniform") & (table.ratio == 1), "right"] = None  # with numbers in kept and total
    found = bootstrap_interval(table).set_index(["label", "ratio"])[["n", "kept", "total"]]
    assert found.loc[("dtd", 8)].tolist() == [12, 100, 800]
    assert found.loc[("uniform", 8)].tolist() == [24, 75, 600]
    assert found.loc[("uniform", 1)].isna().tolist() == [False, True, True]


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["right", "kl"])
def test_a_table_read_back_from_csv_gives_the_same_and_samples_without_a_clip_are_missing(value, tmp_path):
    table = made_up_sweep(["lftr", "uniform"], [1, 4], clips=4)
    gone = table["clip"] == "clips/001.mp4"
    table.loc[gone, ["clip", "status", "error", "kind"]] = ["", "error", "no such clip", ""]
    table.loc[gone, ["right", "kl", "kept"]] = [None, np.nan, np.nan]
    table.to_csv(tmp_path / "sweep.csv", index=False)
    back = pd.read_csv(tmp_path / "sweep.csv")
    assert back["clip"].isna().sum() == 16
    for call in (bootstrap_interval, compare):
        pd.testing.assert_frame_equal(call(back, value=value), call(table, value=value))
    found = bootstrap_interval(back, value)
    assert found[["n", "clips", "missing", "of"]].to_numpy().tolist() == [[12, 3, 4, 12]] * 4
    without = bootstrap_interval(table[~gone], value)  # a clip without a name is not drawn
    pd.testing.assert_frame_equal(found[["mean", "low", "high"]], without[["mean", "low", "high"]])
    assert summary(back)[1] == summary(table)[1]
    fine = back[back.status == "ok"].assign(error=np.nan)
    assert summary(fine)[1] == "48 results: 48 ok, 0 at budgets that a method cannot keep, 0 failed"


def test_a_letter_that_takes_too_many_answers_is_told():
    """Under one setting of three; in another the samples' own answers are that letter as often, and one is small."""
    right = ["D", "A", "B", "C"] * 10
    table = made_up_sweep(["lftr"], [1], clips=1)[:1]
    table = pd.concat([table] * 40, ignore_index=True).assign(answer=right, letter=right)
    worse = table.assign(ratio=10, letter=["D"] * 18 + ["A", "B", "C"] * 7 + [""])
    alike = table.assign(label="uniform", answer="D", letter="D")
    counts, sentence = summary(pd.concat([table, worse, alike, worse[:19].assign(label="pool")]))
    assert sentence.split("; ")[1:] == ["one letter takes 45% of the answers: lftr at 10x says D in 46%, right in 26%"]
    assert counts.loc["lftr", [*"ABCD"]].tolist() == [17, 17, 17, 28] and counts.loc["all", "D"] == 86
    assert summary(table)[1] == "40 results: 40 ok, 0 at budgets that a method cannot keep, 0 failed"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: bootstrap_interval([1]), "a list; give a DataFrame"),
        (lambda t: bootstrap_interval(t.iloc[:0]), "no rows"),
        (lambda t: bootstrap_interval(t, "rihgt"), "no column 'rihgt'; did you mean 'right'"),
        (lambda t: bootstrap_interval(t, "said"), "'said' does not hold numbers"),
        (lambda t: bootstrap_interval(t, by=["label", "kidn"]), "no column 'kidn'; did you mean 'kind'"),
        (lambda t: bootstrap_interval(t.drop(columns=["label", "method"])), "no column 'label'"),
        (lambda t: compare(t, permutations=0), "permutations is 0; it must be a whole number of 1 to 1,000,000"),
        (lambda t: bootstrap_interval(t.assign(clip="")), "'clip' is empty in 180 rows with a result"),
        (
            lambda t: compare(t.assign(model=np.where(t.ratio == 1, "b", "a"))),
            r"results of 2 models, 'a' and 'b'; choose the rows of one, such as table\[table.model == 'a'\]",
        ),
        (lambda t: summary(None), "the table has no column 'error'; give the DataFrame that vtc.sweep returns"),
        (lambda t: summary(t.drop(columns="label")), "the table has no column 'label'"),
        (lambda t: compare(t.assign(ratio="2x")), "'ratio' does not hold numbers"),
        (lambda t: bootstrap_interval(t, by=[]), r"by is \[\]; name one column"),
        (lambda t: bootstrap_interval(pd.concat([t, t[["right"]]], axis=1)), "has column .right. twice"),
        (lambda t: bootstrap_interval(t.assign(status="fine")), "none of the 180 rows has a result in column 'right'"),
        (
            lambda t: bootstrap_interval(t.assign(clip=t["clip"].where(t.index > 3))),
            "'clip' is empty in 4 rows with a result",
        ),
        (lambda t: bootstrap_interval(t.assign(kl=np.inf), "kl"), "'kl' holds infinite numbers"),
        (lambda t: compare(t, "lfrt"), "reference is 'lfrt'; did you mean 'lftr'"),
        (lambda t: compare(t[t["clip"] == "clips/000.mp4"]), "of one clip; paired tests need two or more"),
        (lambda t: compare(t[t.ratio > 1]), "no result at ratio 1"),
        (lambda t: compare(t[t.ratio == 1]), "nothing to compare with 'everything'"),
        (lambda t: compare(t.drop(columns="sample")), "no column 'sample'"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(VTCError, match=words) as caught:
        call(made_up_sweep(clips=3))
    assert "\n" not in str(caught.value)
