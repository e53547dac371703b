"""Traces of several annotators together, their delays, and labels refined by a tag."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from affekt import data, metrics
from affekt.errors import InputError
from checklist import row


def latent(rng, time=400, rate=16.0):
    """A smooth trace in about [-1, 1]."""
    t = np.arange(time) / rate
    return sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in (0.05, 0.11, 0.23)) / 3


def late(trace, steps):
    return np.concatenate([np.repeat(trace[:1], steps), trace])[: len(trace)]


@row("zhang", 48)
def test_delays_are_found_by_correlation_and_taken_back(rng):
    rate, planted = 16.0, np.array([0.0, 0.25, 0.4375, 1.5])
    truth = latent(rng)
    traces = np.stack([late(truth, round(d * rate)) for d in planted]) + 0.02 * rng.normal(size=(4, 400))
    found = data.reaction_delays(traces, truth, rate)
    np.testing.assert_allclose(found, planted, atol=1 / rate)
    gaps = traces.copy()
    gaps[:, 100:130] = np.nan
    np.testing.assert_allclose(data.reaction_delays(gaps, truth, rate), planted, atol=1 / rate)
    exact = np.stack([late(truth, round(d * rate)) for d in planted])
    back = data.advance_traces(exact, planted, rate)
    for k, d in enumerate(planted):
        steps = round(d * rate)
        np.testing.assert_array_equal(back[k, : 400 - steps], truth[: 400 - steps])
        np.testing.assert_array_equal(back[k, 400 - steps :], np.repeat(exact[k, -1], steps))
    np.testing.assert_array_equal(data.advance_traces(exact, 0.25, rate)[0, :396], truth[4:])


@row("zhang", 48)
def test_ewe_weighs_by_agreement_and_centring_moves_means(rng):
    truth = latent(rng)
    traces = np.stack([truth + 0.05 * rng.normal(size=400) for _ in range(4)])
    traces[1] += 0.3
    traces[3] = 0.3 * rng.normal(size=400)  # follows nothing
    plain, ewe, centred = (data.fuse_traces(traces, how) for how in ("mean", "ewe", "ccc"))
    np.testing.assert_allclose(plain.values, traces.mean(0), atol=1e-12)
    r = [max(0, np.corrcoef(traces[k], np.delete(traces, k, 0).mean(0))[0, 1]) for k in range(4)]
    np.testing.assert_allclose(ewe.weights, r / np.sum(r), atol=1e-12)
    np.testing.assert_allclose(ewe.values, np.average(traces, axis=0, weights=r), atol=1e-12)
    assert ewe.weights[3] < 0.1
    assert metrics.pcc(ewe.values, truth) > metrics.pcc(plain.values, truth)
    a = np.array([max(0, np.mean([metrics.ccc(traces[k], o) for o in np.delete(traces, k, 0)]))
                  for k in range(4)])  # fmt: skip
    centre = (a * traces.mean(1)).sum() / a.sum()
    np.testing.assert_allclose(traces.mean(1) + centred.offsets, centre, atol=1e-12)
    np.testing.assert_allclose(centred.values, (traces + centred.offsets[:, None]).mean(0), atol=1e-12)


@row("zhang", 48)
def test_the_median_filter_takes_out_single_steps(rng):
    truth = latent(rng)
    traces = np.stack([truth, truth])
    traces[0, 50] = 9.0
    traces[1, 200:203] = np.nan
    found = data.fuse_traces(traces, median=5)
    assert np.abs(found.values - truth).max() < 0.1
    for k, i in ((0, 0), (0, 50), (0, 399), (1, 198), (1, 204)):
        around = traces[k, max(0, i - 2) : i + 3]
        single = data.fuse_traces(traces[k : k + 1], median=5)
        assert single.values[i] == np.nanmedian(around)
    assert np.isnan(data.fuse_traces(traces[1:], median=5).values[200:203]).all()


values = st.integers(-64, 64).map(lambda i: i / 64)
matrices = hnp.arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(3, 20)), elements=values)


@given(matrices, st.sampled_from(["mean", "ewe", "ccc"]), st.randoms())
@settings(max_examples=60)
def test_order_does_not_matter_and_the_result_lies_among_the_traces(traces, how, random):
    found = None
    with contextlib.suppress(InputError):  # nobody goes along with the others
        found = data.fuse_traces(traces, how)
    assume(found is not None or how == "mean")
    assert found.weights.sum() == pytest.approx(1)
    moved = traces + found.offsets[:, None]
    assert (found.values <= moved.max(0) + 1e-12).all()
    assert (found.values >= moved.min(0) - 1e-12).all()
    order = list(range(len(traces)))
    random.shuffle(order)
    again = data.fuse_traces(traces[order], how)
    np.testing.assert_allclose(again.values, found.values, atol=1e-9)
    np.testing.assert_allclose(again.weights, found.weights[order], atol=1e-9)
    # Equal annotators are what they all say.
    if np.ptp(traces[0]) > 0:
        same = data.fuse_traces(np.repeat(traces[:1], 3, axis=0), how)
        np.testing.assert_allclose(same.values, traces[0], atol=1e-12)


def test_steps_that_nobody_labelled_and_layouts(rng):
    traces = rng.normal(size=(3, 12)) * 0.1 + latent(rng, 12)
    traces[0, 3], traces[:, 7] = np.nan, np.nan
    found = data.fuse_traces(traces)
    assert np.isnan(found.values).nonzero()[0].tolist() == [7]
    assert found.values[3] == pytest.approx(traces[1:, 3].mean())
    for how in ("mean", "ewe", "ccc"):
        whole = data.fuse_traces(traces, how)
        odd = np.asfortranarray(traces)
        odd.flags.writeable = False
        np.testing.assert_array_equal(data.fuse_traces(odd, how).values, whole.values)
        np.testing.assert_array_equal(
            data.fuse_traces(np.repeat(traces, 2, 1)[:, ::2], how).values, whole.values
        )
    np.testing.assert_array_equal(data.fuse_traces(np.array([[1, 2], [3, 4]], np.int16)).values, [2, 3])


def test_bad_annotations_are_named():
    y, x = np.ones((2, 20)), np.arange(20.0)
    for call, wanted in (
        (lambda: data.fuse_traces(np.zeros(5)), r"traces must have 2 dimension"),
        (lambda: data.fuse_traces(np.zeros((0, 5))), "traces must"),
        (lambda: data.fuse_traces([[1.0, np.inf]]), "or NaN where there is no label; got Inf"),
        (lambda: data.fuse_traces([[1.0], [np.nan]]), "annotator 1 labelled nothing"),
        (lambda: data.fuse_traces(y, "dba"), "how must be one of"),
        (lambda: data.fuse_traces(y, median=4), "median must be odd, got 4"),
        (lambda: data.fuse_traces([x], "ewe"), "at least 2 annotators for ewe, got 1"),
        (lambda: data.fuse_traces(y, "ewe"), "no annotator goes along with the others"),
        (lambda: data.fuse_traces([x, -x], "ccc"), "no annotator goes along with the others"),
        (lambda: data.reaction_delays(y, x[:5], 4), "must have the 20 steps of the traces, got 5"),
        (lambda: data.reaction_delays(y, x, 4, most=3), "most less than half of the 20 steps"),
        (lambda: data.reaction_delays(y, x, 0), "rate must be above 0"),
        (
            lambda: data.reaction_delays(y, x, 4, most=1),
            "annotator 0 goes along with the reference at no lag",
        ),
        (lambda: data.advance_traces(y, [0.1, 0.2, 0.3], 4), "one or 2 numbers"),
        (lambda: data.advance_traces(y, -1, 4), "none below 0"),
    ):
        with pytest.raises(InputError, match=wanted):
            call()


# Labels refined by the tag of the trial --------------------------------------------------------------------

TRACE = [-0.2, -0.05, 0, 0.04, 0.05, 0.2]


@row("zhang", 21)
def test_refined_labels_have_the_published_values():
    for tag, wanted in ((0, [0, 0, 0, 0, 0, 2]), (1, [0, 1, 1, 1, 2, 2]), (2, [1, 2, 2, 2, 2, 2])):
        assert data.refine_labels(TRACE, tag, shift=0.15, threshold=0.05).tolist() == wanted
    grid = data.refinement_grid()
    assert list(grid) == [0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40]
    assert [len(t) for t in grid.values()] == [9, 13, 18, 22, 27, 31, 36]
    assert grid[0.15] == [round(0.01 * k, 2) for k in range(1, 14)]


@given(st.lists(st.integers(-100, 100), max_size=30), st.sampled_from([0, 1, 2]), st.integers(0, 40),
       st.integers(0, 40))  # fmt: skip
def test_refined_labels_are_those_of_exact_decimals(trace, tag, shift, threshold):
    found = data.refine_labels(np.array(trace) / 100, tag, shift=shift / 100, threshold=threshold / 100)
    moved = [y + (tag - 1) * shift for y in trace]
    assert found.tolist() == [0 if y < -threshold else 1 if y < threshold else 2 for y in moved]


def test_refined_labels_of_gaps_shapes_and_bad_input():
    found = data.refine_labels(np.array([[np.nan, 0.5], [0.0, -0.5]]), 1, shift=0.1, threshold=0.1)
    assert found.tolist() == [[-1, 2], [1, 0]]
    for options, wanted in (
        ({"tag": 3}, "tag must be 0, 1 or 2, got 3"),
        ({"tag": 0.5}, "tag must be an integer"),
        ({"shift": -0.1}, "shift must be"),
        ({"threshold": np.nan}, "threshold must be"),
        ({"trace": [0.0, np.inf]}, "got Inf"),
    ):
        given_ = {"trace": TRACE, "tag": 1, "shift": 0.1, "threshold": 0.05, **options}
        with pytest.raises(InputError, match=wanted):
            data.refine_labels(**given_)
    for options in ({"shifts": [0.0]}, {"step": 0.0}):
        with pytest.raises(InputError, match="must be above 0"):
            data.refinement_grid(**options)
