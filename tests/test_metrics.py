"""Metrics equal their definitions, hand-computed values and the libraries that share the definition."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from affekt import metrics
from affekt.errors import InputError
from affekt.metrics import ccc, pcc, rmse
from checklist import row

P = np.array([0, 0.1, 0.2, 0.3, 0.4])
Q = np.array([0, 0.2, 0.1, 0.4, 0.3])

# Multiples of 1/64: exact sums, so that "constant" means constant.
numbers = st.integers(-640, 640).map(lambda i: i / 64)
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40).map(lambda rows: np.array(rows).T)


@row("zhang", 1)
def test_golden_values() -> None:
    assert ccc(P, Q) == pytest.approx(0.8, abs=1e-12)
    assert pcc(P, Q) == pytest.approx(0.8, abs=1e-12)
    assert rmse(P, Q) == pytest.approx(0.0894427, abs=1e-7)
    assert ccc(P, P + 0.1) == pytest.approx(0.8, abs=1e-12)
    assert pcc(P, P + 0.1) == pytest.approx(1, abs=1e-12)
    assert ccc(P, 2 * P) == pytest.approx(0.5714286, abs=1e-7)
    assert pcc(P, 2 * P) == pytest.approx(1, abs=1e-12)
    assert ccc(P, P) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n", [5, 96, 300])
def test_identity_under_each_choice_of_moments(n: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(n)
    assert ccc(x, x) == pytest.approx(1, abs=1e-12)
    assert ccc(x, x, bias="sample") == pytest.approx(1, abs=1e-12)
    assert ccc(x, x, bias="mixed") == pytest.approx((n - 1) / n, abs=1e-12)


def test_sample_moments_differ_where_there_is_an_offset() -> None:
    y = P + 0.1
    var = np.var(P, ddof=1)
    assert ccc(P, y, bias="sample") == pytest.approx(2 * var / (2 * var + 0.01))
    assert ccc(P, y, bias="sample") > ccc(P, y)


@given(pairs)
def test_agreement_with_numpy_by_definition(pair: np.ndarray) -> None:
    p, t = pair
    assert rmse(p, t) == pytest.approx(math.sqrt(((p - t) ** 2).mean()), abs=1e-12)
    if np.ptp(p) > 0 and np.ptp(t) > 0:
        c = np.cov(p, t, bias=True)
        expected = 2 * c[0, 1] / (c[0, 0] + c[1, 1] + (p.mean() - t.mean()) ** 2)
        assert ccc(p, t) == pytest.approx(expected, abs=1e-10)
        assert pcc(p, t) == pytest.approx(np.corrcoef(p, t)[0, 1], abs=1e-10)


@row("zhang", 1)
@given(pairs, st.floats(0.01, 100), st.floats(-100, 100))
def test_properties_of_ccc(pair: np.ndarray, gain: float, offset: float) -> None:
    p, t = pair
    value = ccc(p, t)
    assert -1 <= value <= 1
    assert abs(value) <= abs(pcc(p, t)) + 1e-12
    assert ccc(t, p) == pytest.approx(value, abs=1e-12)
    assume(np.ptp(p) > 0 and np.ptp(t) > 0)
    # One common map of both changes nothing; CCC = 1 / (1 + MSE / (2 cov)).
    assert ccc(gain * p + offset, gain * t + offset) == pytest.approx(value, abs=1e-6)
    cov = np.cov(p, t, bias=True)[0, 1]
    if abs(cov) > 1e-3:
        assert value == pytest.approx(1 / (1 + rmse(p, t) ** 2 / (2 * cov)), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e200])
def test_scale_does_not_break_the_arithmetic(scale: float) -> None:
    assert ccc(P * scale, Q * scale) == pytest.approx(0.8, abs=1e-12)
    assert pcc(P * scale, Q * scale) == pytest.approx(0.8, abs=1e-12)


def test_a_large_offset_does_not_break_the_arithmetic() -> None:
    assert ccc(P + 1e6, Q + 1e6) == pytest.approx(0.8, abs=1e-6)
    assert pcc(P + 1e6, Q + 1e6) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7])
def test_constants(value: float) -> None:
    flat = np.full(7, value)
    varied = np.arange(7.0)
    assert ccc(flat, varied) == 0.0
    assert ccc(varied, flat) == 0.0
    assert ccc(flat, flat + 1, undefined="raise") == 0.0
    assert ccc(flat, flat) == 0.0
    assert math.isnan(ccc(flat, flat, undefined="nan"))
    with pytest.raises(InputError, match="undefined: pred or target does not vary"):
        ccc(flat, flat, undefined="raise")
    assert pcc(flat, varied) == 0.0
    assert math.isnan(pcc(flat, varied, undefined="nan"))
    with pytest.raises(InputError, match="undefined"):
        pcc(flat, varied, undefined="raise")
    assert rmse(flat, flat) == 0.0
    assert ccc([value], [value]) == 0.0


@given(pairs, st.data())
def test_masked_steps_do_not_exist(pair: np.ndarray, data: st.DataObject) -> None:
    p, t = pair
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(p), max_size=len(p))))
    assume(mask.any())
    junk_p, junk_t = np.where(mask, p, np.nan), np.where(mask, t, np.inf)
    for metric in (ccc, pcc, rmse):
        assert metric(junk_p, junk_t, mask=mask) == pytest.approx(metric(p[mask], t[mask]), abs=1e-12)


def test_not_finite_values_are_an_error_where_they_count() -> None:
    bad = np.array([0, np.nan, 1.0])
    for metric in (ccc, pcc, rmse):
        with pytest.raises(InputError, match=r"pred must be finite; got 1 NaN or Inf value.*index 1"):
            metric(bad, np.arange(3.0))
        with pytest.raises(InputError, match="target must be finite"):
            metric(np.arange(3.0), np.array([0, 1, np.inf]))
        with pytest.raises(InputError, match="mask must leave at least one"):
            metric(P, Q, mask=np.zeros(5, bool))
        with pytest.raises(InputError, match="mask must be boolean"):
            metric(P, Q, mask=np.ones(5))
        with pytest.raises(InputError, match="must have the same shape"):
            metric(P, Q[:4])
        with pytest.raises(InputError, match="must not be empty"):
            metric([], [])
        with pytest.raises(InputError, match="pred must be an array of numbers"):
            metric(["a", "b"], [1, 2])


def test_dimensions_are_separate(rng: np.random.Generator) -> None:
    p, t = rng.standard_normal((2, 50, 3))
    mask = rng.random((50, 3)) < 0.8
    for metric in (ccc, pcc, rmse):
        got = metric(p, t, mask=mask)
        assert got.shape == (3,)
        assert got.tolist() == [metric(p[:, d], t[:, d], mask=mask[:, d]) for d in range(3)]
        shared = metric(p, t, mask=mask[:, 0])
        assert shared[2] == metric(p[:, 2], t[:, 2], mask=mask[:, 0])


def test_reductions_by_hand(rng: np.random.Generator) -> None:
    p, t = rng.standard_normal((2, 25))
    sessions = np.array(["a"] * 10 + ["b"] * 15)
    both = [ccc(p[:10], t[:10]), ccc(p[10:], t[10:])]
    assert ccc(p, t, reduction="per_session", sessions=sessions) == pytest.approx(np.mean(both))
    parts = [slice(0, 4), slice(3, 7), slice(6, 10), slice(10, 14), slice(13, 17), slice(16, 20)]
    parts += [slice(19, 23), slice(21, 25)]  # the last is aligned to the end
    windowed = [ccc(p[s], t[s]) for s in parts]
    got = ccc(p, t, reduction="windowed", window=4, hop=3, sessions=sessions)
    assert got == pytest.approx(np.mean(windowed))
    assert ccc(p, t, reduction="windowed", window=99) == pytest.approx(ccc(p, t))
    # Sessions need not be contiguous.
    order = rng.permutation(25)
    assert ccc(p[order], t[order], reduction="per_session", sessions=sessions[order]) == pytest.approx(
        np.mean(both)
    )


def test_constant_targets_are_left_out_of_means_only(rng: np.random.Generator) -> None:
    p = rng.standard_normal(20)
    t = np.concatenate([rng.standard_normal(10), np.full(10, 0.3)])
    sessions = ["a"] * 10 + ["b"] * 10
    alone = ccc(p[:10], t[:10])
    assert ccc(p, t, reduction="per_session", sessions=sessions) == pytest.approx(alone)
    assert ccc(p, t) != pytest.approx(alone)
    flat = np.concatenate([np.full(10, 1.0), p[10:]])
    # A flat prediction of a varying target is a failure that counts.
    assert ccc(flat, t, reduction="per_session", sessions=sessions) == 0.0
    half = np.concatenate([p[:10], np.full(10, 1.0)])
    moving = rng.standard_normal(20)
    assert pcc(half, moving, reduction="per_session", sessions=sessions) == pytest.approx(
        pcc(half[:10], moving[:10]) / 2
    )
    assert math.isnan(pcc(half, moving, reduction="per_session", sessions=sessions, undefined="nan"))
    assert rmse(p, t, reduction="per_session", sessions=sessions) == pytest.approx(
        (rmse(p[:10], t[:10]) + rmse(p[10:], t[10:])) / 2
    )


def test_reductions_need_their_arguments() -> None:
    with pytest.raises(InputError, match="sessions must be given"):
        ccc(P, Q, reduction="per_session")
    with pytest.raises(InputError, match="window must be given"):
        ccc(P, Q, reduction="windowed")
    with pytest.raises(InputError, match="window and hop are for"):
        ccc(P, Q, window=3)
    with pytest.raises(InputError, match="sessions must have one value per item, 5"):
        ccc(P, Q, reduction="per_session", sessions=["a"])
    with pytest.raises(InputError, match="reduction must be one of"):
        ccc(P, Q, reduction="mean")
    with pytest.raises(InputError, match="bias must be one of"):
        ccc(P, Q, bias="unbiased")


def test_classification_by_hand() -> None:
    target = ["a", "a", "a", "a", "b", "b", "c", "c", "c", "c"]
    pred = ["a", "a", "a", "b", "b", "d", "c", "c", "a", "a"]
    assert metrics.recall(pred, target) == {"a": 0.75, "b": 0.5, "c": 0.5}
    assert metrics.uar(pred, target) == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert metrics.war(pred, target) == pytest.approx(0.6)
    f1 = [6 / (6 + 2 + 1), 2 / (2 + 1 + 1), 4 / (4 + 0 + 2), 0]
    assert metrics.macro_f1(pred, target) == pytest.approx(np.mean(f1))
    assert metrics.macro_f1(pred, target, labels=list("abcde")) == pytest.approx(np.sum(f1) / 5)
    counts = metrics.confusion_matrix(pred, target)
    assert counts.tolist() == [[3, 1, 0, 0], [0, 1, 0, 1], [2, 0, 2, 0], [0, 0, 0, 0]]
    shares = metrics.confusion_matrix(pred, target, labels=list("dcba"), normalize=True)
    assert shares.tolist() == [[0, 0, 0, 0], [0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0], [0, 0, 0.25, 0.75]]


classes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50)


@given(classes, st.data())
def test_classification_properties(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    p, t = np.array(rows).T
    counts = metrics.confusion_matrix(p, t, labels=range(5))
    assert counts.sum() == len(p)
    assert metrics.war(p, t) == pytest.approx(np.trace(counts) / len(p))
    present = counts.sum(axis=1) > 0
    shares = metrics.confusion_matrix(p, t, labels=range(5), normalize=True)
    assert metrics.uar(p, t) == pytest.approx(np.diag(shares)[present].mean())
    assert metrics.uar(t, t) == metrics.war(t, t) == metrics.macro_f1(t, t) == 1
    names = np.array(list("zyxwv"))
    assert metrics.macro_f1(names[p], names[t]) == pytest.approx(metrics.macro_f1(p, t))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(p), max_size=len(p))))
    if mask.any():
        assert metrics.uar(p, t, mask=mask) == metrics.uar(p[mask], t[mask])


def test_uar_is_balanced_accuracy(rng: np.random.Generator) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    t = rng.integers(0, 8, 300)
    p = np.where(rng.random(300) < 0.5, t, rng.integers(0, 8, 300))
    assert metrics.uar(p, t) == pytest.approx(sklearn_metrics.balanced_accuracy_score(t, p))


def test_bad_classes_are_named() -> None:
    with pytest.raises(InputError, match=r"labels lacks class\(es\) that occur: c"):
        metrics.uar(["a", "c"], ["a", "b"], labels=["a", "b"])
    with pytest.raises(InputError, match="lists of one length"):
        metrics.war([1, 2], [1])
    with pytest.raises(InputError, match="lists of one length"):
        metrics.war([], [])
    with pytest.raises(InputError, match="must hold classes, not continuous"):
        metrics.war([0.5, 1.0], [0, 1])
    with pytest.raises(InputError, match="same kind of class"):
        metrics.war([0, 1], ["0", "1"])
    with pytest.raises(InputError, match="must have a class for every item"):
        metrics.uar(np.array(["a", None], dtype=object), ["a", "b"])
    with pytest.raises(InputError, match="labels must be different"):
        metrics.uar(["a"], ["a"], labels=["a", "a"])


def test_by_group() -> None:
    got = metrics.by_group(metrics.war, [1, 1, 0, 0], [1, 0, 0, 0], ["x", "x", "y", "y"])
    assert got == {"x": 0.5, "y": 1.0}
    mask = np.array([True, False, False, False])
    assert metrics.by_group(metrics.war, [1, 1, 0, 0], [1, 0, 0, 0], list("xxyy"), mask=mask) == {"x": 1.0}


def test_descriptions_name_the_definition() -> None:
    assert metrics.describe("ccc") == (
        "concordance correlation coefficient (Lin), 1/N moments, all recordings concatenated"
    )
    assert "windows of 300 steps, hop 200" in metrics.describe(
        "pcc", reduction="windowed", window=300, hop=200
    )
    assert metrics.describe("uar").startswith("unweighted average recall")


def test_mean_interval_against_tables_and_published_spread() -> None:
    # Ten values, t(0.975, 9) = 2.262157.
    x = np.array([4.1, 3.9, 4.4, 4.0, 4.2, 3.8, 4.3, 4.1, 4.0, 4.2])
    got = metrics.mean_interval(x)
    sd = math.sqrt(((x - x.mean()) ** 2).sum() / 9)
    assert got.sd == pytest.approx(sd)
    assert got.high - got.mean == pytest.approx(2.262157 * sd / math.sqrt(10), rel=1e-6)
    assert got.mean - got.low == pytest.approx(got.high - got.mean)
    assert metrics.mean_interval(x, level=0.5).high < got.high
    one = metrics.mean_interval([0.7])
    assert (one.mean, one.low, one.high, one.n) == (0.7, -math.inf, math.inf, 1)
    assert metrics.mean_interval([0.1] * 3)[:4] == pytest.approx((0.1, 0.1, 0.1, 0.0))
    for level in (0, 1, 1.5):
        with pytest.raises(InputError, match="level must lie between 0 and 1"):
            metrics.mean_interval(x, level=level)
    with pytest.raises(InputError, match="values must be finite"):
        metrics.mean_interval([1.0, math.nan])


def test_mean_interval_covers_as_often_as_it_says(rng: np.random.Generator) -> None:
    hits = 0
    for _ in range(2000):
        interval = metrics.mean_interval(rng.standard_normal(6) + 3, level=0.9)
        hits += interval.low <= 3 <= interval.high
    assert 0.88 < hits / 2000 < 0.92


def test_bootstrap_draws_whole_groups(rng: np.random.Generator) -> None:
    groups = np.repeat(np.arange(12), 20)
    skill = rng.uniform(0.2, 0.9, 12)  # groups differ, items within one do not
    target = rng.integers(0, 2, 240)
    pred = np.where(rng.random(240) < skill[groups], target, 1 - target)
    got = metrics.bootstrap_interval(metrics.war, pred, target, groups, resamples=300, seed=1)
    assert got == metrics.bootstrap_interval(metrics.war, pred, target, groups, resamples=300, seed=1)
    assert got != metrics.bootstrap_interval(metrics.war, pred, target, groups, resamples=300, seed=2)
    assert got.low < got.mean < got.high
    assert got.mean == metrics.war(pred, target)
    assert got.n == 12
    items = metrics.bootstrap_interval(metrics.war, pred, target, np.arange(240), resamples=300, seed=1)
    assert got.sd > 1.2 * items.sd
    per_group = np.array(list(metrics.by_group(metrics.war, pred, target, groups).values()))
    assert got.sd == pytest.approx(per_group.std(ddof=1) / math.sqrt(12), rel=0.2)
    with pytest.raises(InputError, match="at least 2 different values"):
        metrics.bootstrap_interval(metrics.war, pred, target, np.zeros(240))


@pytest.mark.parametrize("metric", [metrics.uar, metrics.war, metrics.macro_f1])
def test_bootstrap_from_sums_is_the_metric_on_the_items_drawn(metric, rng: np.random.Generator) -> None:
    names = np.array(["ä", "b", "c"], dtype=object)
    pred, target, groups = names[rng.integers(0, 3, 90)], names[rng.integers(0, 2, 90)], np.arange(90) // 15
    fast = metrics.bootstrap_interval(metric, pred, target, groups, resamples=50)
    slow = metrics.bootstrap_interval(lambda p, t: metric(p, t), pred, target, groups, resamples=50)
    assert fast == pytest.approx(slow)


@pytest.mark.parametrize("metric", [metrics.ccc, metrics.pcc, metrics.rmse])
def test_bootstrap_from_moments_is_the_metric_on_the_items_drawn(metric, rng: np.random.Generator) -> None:
    target = 100 + rng.normal(size=90)
    pred, groups = target + rng.normal(size=90), np.arange(90) // 15
    fast = metrics.bootstrap_interval(metric, pred, target, groups, resamples=50)
    slow = metrics.bootstrap_interval(lambda p, t: metric(p, t), pred, target, groups, resamples=50)
    assert fast == pytest.approx(slow)


def some_probabilities(rng, n=200, classes=4):
    prob = rng.dirichlet(np.full(classes, 0.7), n)
    return prob, np.array([rng.choice(classes, p=row) for row in prob])


def ece_by_hand(prob, target, edges):
    """Guo et al. 2017, item by item: bins open below, closed above."""
    items = [(p.max(), p.argmax() == t) for p, t in zip(prob, target, strict=True)]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = [item for item in items if low < item[0] <= high]
        if inside:
            confidence, hits = np.mean(inside, axis=0)
            total += len(inside) / len(prob) * abs(hits - confidence)
    return total


def test_probability_scores_are_those_of_a_plain_calculation(rng):
    sklearn = pytest.importorskip("sklearn.metrics")
    prob, target = some_probabilities(rng)
    assert metrics.nll(prob, target) == pytest.approx(sklearn.log_loss(target, prob), rel=1e-12)
    misses = [sum((row[k] - (k == t)) ** 2 for k in range(4)) for row, t in zip(prob, target, strict=True)]
    assert metrics.brier(prob, target) == pytest.approx(np.mean(misses), rel=1e-12)
    for bins in (1, 10, 15):
        by_hand = ece_by_hand(prob, target, np.linspace(0, 1, bins + 1))
        assert metrics.ece(prob, target, bins=bins) == pytest.approx(by_hand, rel=1e-12)
    order = np.argsort(prob.max(1))
    parts = [
        abs(np.mean(prob[part].argmax(1) == target[part]) - prob[part].max(1).mean()) * len(part) / 200
        for part in np.array_split(order, 15)
    ]
    assert metrics.ece(prob, target, scheme="mass") == pytest.approx(sum(parts), rel=1e-12)
    keep = rng.random(200) < 0.5
    for score in (metrics.nll, metrics.brier, metrics.ece):
        assert score(prob, target, mask=keep) == score(prob[keep], target[keep])


def test_probability_scores_at_their_ends():
    sure = np.eye(3)[[0, 1, 2, 2]]
    right, wrong = np.array([0, 1, 2, 2]), np.array([1, 2, 0, 0])
    assert metrics.nll(sure, right) == metrics.brier(sure, right) == metrics.ece(sure, right) == 0
    assert metrics.brier(sure, wrong) == 2
    assert metrics.ece(sure, wrong) == 1
    assert metrics.nll(sure, wrong) == pytest.approx(-np.log(1e-12))
    assert metrics.nll(np.full((4, 3), 1 / 3), right) == pytest.approx(np.log(3))


def test_reliability_bins_hold_every_item_once(rng):
    prob, target = some_probabilities(rng, 97)
    for scheme in ("width", "mass"):
        edges, confidence, hits, counts = metrics.reliability(prob, target, scheme=scheme)
        assert counts.sum() == 97
        assert len(edges) == 16
        assert np.isnan(confidence[counts == 0]).all()
        full = counts > 0
        assert ((edges[:-1] <= confidence) & (confidence <= edges[1:]))[full].all()
        assert (counts[full] @ hits[full]) == pytest.approx((prob.argmax(1) == target).sum())
    assert counts.max() - counts.min() <= 1
    few = metrics.reliability(prob[:4], target[:4], scheme="mass")
    assert few[3].tolist() == [1] * 4 + [0] * 11


def test_probability_scores_resample_quickly_to_the_same(rng):
    prob, target = some_probabilities(rng, 60)
    groups = rng.integers(0, 6, 60)
    for score in (metrics.nll, metrics.brier, metrics.ece):
        quick = metrics.bootstrap_interval(score, prob, target, groups, resamples=50)
        slow = metrics.bootstrap_interval(functools.partial(score), prob, target, groups, resamples=50)
        np.testing.assert_allclose(quick, slow, rtol=1e-12)


def test_interval_coverage_counts_and_knows_the_normal(rng):
    assert metrics.interval_coverage([0, 0, 0, 0], [0.5, -1, 1.01, 3], 1.0) == 0.5
    assert metrics.interval_coverage([0, 0], [1, 1], [0.4, 0.6], width=2) == 0.5
    assert metrics.interval_coverage([0, 9], [1, 1], 1.0, mask=np.array([True, False])) == 1
    error = rng.normal(size=200_000) * 0.3
    for width, share in ((1, 0.6827), (1.96, 0.95)):
        found = metrics.interval_coverage(np.zeros(200_000), error, 0.3, width=width)
        assert found == pytest.approx(share, abs=0.004)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.nll([[0.5, 0.4]], [0]), "prob must hold .* sums 0.9 to 0.9"),
        (lambda: metrics.nll([[1.5, -0.5]], [0]), "non-negative"),
        (lambda: metrics.nll([[np.nan, 1.0]], [0]), "prob"),
        (lambda: metrics.brier([[0.5, 0.5]], [2]), "class numbers from 0 to 1"),
        (lambda: metrics.brier([[0.5, 0.5]], [0.0]), "class numbers"),
        (lambda: metrics.ece([[0.5, 0.5]], [0, 1]), "one class number per item, 1"),
        (lambda: metrics.ece([[0.5, 0.5]], [0], bins=0), "bins"),
        (lambda: metrics.ece([[0.5, 0.5]], [0], scheme="equal"), "scheme"),
        (lambda: metrics.ece([[0.5, 0.5]], [0], mask=np.array([False])), "at least one"),
        (lambda: metrics.interval_coverage([0.0], [0.0], 0.0), "sd must be positive"),
        (lambda: metrics.interval_coverage([0.0, 1.0], [0.0, 1.0], [1.0]), r"sd must be a number or \(2,\)"),
        (lambda: metrics.interval_coverage([0.0], [0.0], 1.0, width=-1), "width must be positive"),
    ],
)
def test_calibration_measures_name_what_is_wrong(call, words):
    with pytest.raises(InputError, match=words):
        call()


# Tests of significance ------------------------------------------------------------------------------------

# Accuracy per subject, EEG and face (Zhang 2023, table 4.1).
# fmt: off
EEG = [0.6034, 0.5015, 0.6113, 0.5754, 0.5444, 0.5577, 0.2254, 0.5794, 0.4797, 0.2801, 0.5097, 0.5415,
       0.5963, 0.6156, 0.5214, 0.6150, 0.4893, 0.5058, 0.6293, 0.5809, 0.5677, 0.5118, 0.2922, 0.5233]
FACE = [0.5235, 0.7169, 0.5837, 0.6057, 0.5121, 0.6572, 0.4174, 0.5932, 0.4360, 0.4217, 0.6083, 0.5131,
        0.6226, 0.5755, 0.5233, 0.5211, 0.5711, 0.5266, 0.6685, 0.5299, 0.5424, 0.4880, 0.2296, 0.5203]
# fmt: on


@row("zhang", 16)
def test_mean_and_sd_over_folds_are_those_of_a_published_table() -> None:
    for values, mean, sd in ((EEG, 0.5191, 0.1075), (FACE, 0.5378, 0.0992)):
        found = metrics.mean_interval(values)
        assert (round(found.mean, 4), round(found.sd, 4)) == (mean, sd)


@row("zhang", 36)
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_paired_t_and_shapiro_against_scipy(alternative: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    for a, b in ((EEG, FACE), (FACE, EEG), (EEG[:2], FACE[:2])):
        found, theirs = (
            metrics.paired_t(a, b, alternative=alternative),
            stats.ttest_rel(a, b, alternative=alternative),
        )
        assert found.statistic == pytest.approx(theirs.statistic, rel=1e-12)
        assert found.p == pytest.approx(theirs.pvalue, rel=1e-10)
        assert found.n == len(a)
    differences = np.subtract(EEG, FACE)
    assert metrics.shapiro_wilk(differences)[:2] == pytest.approx(
        tuple(stats.shapiro(differences)), rel=1e-12
    )


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20), numbers)
def test_paired_t_by_its_symmetries(rows: list[tuple[float, float]], offset: float) -> None:
    pytest.importorskip("scipy.stats")
    a, b = np.array(rows).T
    both, up, down = (metrics.paired_t(a, b, alternative=x) for x in ("two-sided", "greater", "less"))
    assert metrics.paired_t(b, a, alternative="less").p == pytest.approx(up.p, abs=1e-12)
    assert metrics.paired_t(a + offset, b + offset).p == pytest.approx(both.p, abs=1e-9)
    if (a == b).all():
        assert (both.p, up.p, down.p, both.statistic) == (1, 1, 1, 0)
    else:
        assert up.p + down.p == pytest.approx(1)
        assert both.p == pytest.approx(2 * min(up.p, down.p))
    if np.ptp(a - b) == 0 and a[0] > b[0]:
        assert (up.p, down.p, both.p, both.statistic) == (0, 1, 0, math.inf)


@row("zhang", 36)
def test_stars_at_their_boundaries() -> None:
    wanted = {0.0: "***", 0.001: "***", 0.0011: "**", 0.01: "**", 0.0101: "*", 0.05: "*", 0.0501: "", 1.0: ""}
    assert {p: metrics.stars(p) for p in wanted} == wanted


def test_bad_input_of_tests_is_named() -> None:
    for call, wanted in (
        (lambda: metrics.paired_t([1.0], [2.0]), "at least 2 pairs, got 1"),
        (lambda: metrics.paired_t([1.0, 2.0], [2.0]), "a and b must have the same length"),
        (lambda: metrics.paired_t([1.0, np.nan], [2.0, 1.0]), "a must be finite"),
        (lambda: metrics.paired_t([1.0, 2.0], [2.0, 1.0], alternative="more"), "alternative must be one of"),
        (lambda: metrics.shapiro_wilk([1.0, 2.0]), "3 to 5000, not all equal; got 2"),
        (lambda: metrics.shapiro_wilk([1.0] * 4), "not all equal"),
        (lambda: metrics.stars(1.5), r"p must lie in \[0, 1\], got 1.5"),
        (lambda: metrics.stars(math.nan), "p must be a finite number"),
    ):
        with pytest.raises(InputError, match=wanted):
            call()
