"""Voice activity and speaker adaptation: agreement with the definitions, in core and torch; profiles."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference_model
from affekt import InputError, Profile
from affekt._native import Model
from affekt.live import Engine
from affekt.modelfile import model_bytes
from reference_model import MEL, Numbers, card_of, node

SIGNAL = Numbers(7).signal(12000)
LONG = np.concatenate([np.zeros(9000, np.int16), SIGNAL, np.zeros(9000, np.int16), SIGNAL[4000:]])


def build(card, tensors) -> Model:
    return Model.from_bytes(model_bytes(card, tensors))


SPEAKER = build(*reference_model.speaker())
PLAIN = build(*reference_model.trace())


def rows_model(nodes, tensors, width: int, rate: float = 8000.0, **extra) -> Model:
    """A model whose estimates are the rows of its last node."""
    labels = [f"c{i}" for i in range(width)]
    outputs = [{"name": "rows", "node": nodes[-1]["name"], "kind": "continuous", "labels": labels}]
    return build(card_of(nodes, outputs, rate, **extra), tensors)


def as_reference(profile: Profile) -> dict:
    return {name: entry._asdict() for name, entry in profile.nodes.items()}


# Agreement with the definitions ----------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["attention_statistics", "attention", "statistics", "mean"])
@pytest.mark.parametrize("half_life", [None, 3.0])
@pytest.mark.parametrize("variance", [True, False])
def test_agrees_with_the_definitions(pool, half_life, variance):
    card, tensors = reference_model.speaker(pool=pool, half_life=half_life, variance=variance)
    model = build(card, tensors)
    known: dict = {}
    times, values, valid = reference_model.run_valid(card, tensors, LONG, known)
    found = model.run(LONG)
    np.testing.assert_allclose(found.times, times, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.values, values, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.valid, valid)
    assert valid.any()
    assert not valid.all()
    for name, entry in found.profile.nodes.items():
        assert entry.count == pytest.approx(known[name]["count"], rel=1e-12)
        np.testing.assert_allclose(entry.mean, known[name]["mean"], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(entry.variance, known[name]["variance"], rtol=1e-5, atol=1e-5)
    # Starting from what was learnt, going on or not.
    for adapting in (True, False):
        expected = reference_model.run(card, tensors, SIGNAL, copy.deepcopy(known), adapting)[1]
        more = model.run(SIGNAL, profile=found.profile, adapt=adapting)
        np.testing.assert_allclose(more.values, expected, rtol=0, atol=1e-5)
        assert (more.profile == found.profile) is not adapting


@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "margin": st.floats(0, 30),
            "range": st.floats(0, 60),
            "rise": st.floats(0, 2),
            "fall": st.floats(0, 2),
            "start": st.floats(-90, -10),
            "least": st.floats(-90, -10),
            "smoothing": st.integers(1, 9),
            "hangover": st.integers(0, 20),
        },
    ),
    log=st.sampled_from([("db", 1.0), ("ln", 10 / np.log(10)), ("log10", 10.0)]),
    seed=st.integers(0, 5),
)
def test_activity_agrees_with_the_definition_in_any_unit(options, log, seed):
    mel = {**MEL, "floor": 1e-8, "log": log[0]}
    options = {**options, "scale": log[1]}
    nodes = [node("mel", "front_end", "audio", **mel), node("voice", "activity", "mel", **options)]
    # The writer asks for a tensor: a layer that changes nothing carries it.
    nodes.append(node("same", "linear", "voice", units=1))
    model = rows_model(nodes, {"same.weight": np.ones((1, 1), "f4"), "same.bias": np.zeros(1, "f4")}, 1)
    signal = Numbers(seed).signal(9000)
    speech = model.run(signal).values[:, 0]
    expected = reference_model.activity(reference_model.front_end(signal / 32768.0, mel), options)[:, 0]
    # The rows are float32 in the core: a level that lies on a threshold may fall to either side.
    assert (speech != expected).mean() <= 0.02


def mel_rows(signal) -> np.ndarray:
    """The float32 rows that the core's front end gives."""
    nodes = [node("mel", "front_end", "audio", **MEL), node("norm", "standardise", "mel")]
    return (
        rows_model(nodes, {"norm.mean": np.zeros(8, "f4"), "norm.scale": np.ones(8, "f4")}, 8)
        .run(signal)
        .values
    )


def test_switched_off_and_without_a_profile_it_standardises_exactly():
    numbers = Numbers(1)
    tensors = {"a.mean": numbers.tensor(8, scale=20), "a.sd": numbers.tensor(8, scale=3, offset=3.0)}
    tensors["a.sd"][2] = 0
    nodes = [node("mel", "front_end", "audio", **MEL), node("a", "adapt", "mel", prior=3.0, floor=0.25)]
    found = rows_model(nodes, tensors, 8).run(SIGNAL, adapt=False)
    mean, sd = tensors["a.mean"].astype(float), tensors["a.sd"].astype(float)
    expected = ((mel_rows(SIGNAL) - mean) / np.maximum(sd, 0.25)).astype(np.float32)
    np.testing.assert_array_equal(found.values, expected)
    assert found.profile.empty


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("prior", [1e-3, 500.0])
def test_statistics_are_right_far_from_zero(offset, prior):
    """The last row against two-pass moments of prior and rows, for rows of spread 10 around 1e4."""
    lift = {"lift.weight": np.eye(8, dtype="f4"), "lift.bias": np.full(8, offset, "f4")}
    mean = np.full(8, offset - 40, "f4")
    nodes = [
        node("mel", "front_end", "audio", **MEL),
        node("lift", "linear", "mel", units=8),
        node("a", "adapt", "lift", prior=prior),
    ]
    model = rows_model(nodes, {**lift, "a.mean": mean, "a.sd": np.full(8, 9.0, "f4")}, 8)
    found = model.run(SIGNAL)
    rows = rows_model(nodes[:2], lift, 8).run(SIGNAL).values.astype(float)
    m = (prior * mean.astype(float) + rows.sum(0)) / (prior + len(rows))
    v = (prior * (81 + (mean - m) ** 2) + ((rows - m) ** 2).sum(0)) / (prior + len(rows))
    np.testing.assert_allclose(found.values[-1], (rows[-1] - m) / np.sqrt(v), rtol=1e-5, atol=1e-6)
    entry = found.profile.nodes["a"]
    np.testing.assert_allclose(entry.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(entry.variance, rows.var(0), rtol=1e-9)


def test_a_row_that_overflows_is_not_counted():
    nodes = [
        node("mel", "front_end", "audio", **MEL),
        node("wild", "linear", "mel", units=8),
        node("a", "adapt", "wild", prior=1.0),
        node("calm", "linear", "a", units=1),
    ]
    tensors = {
        "wild.weight": np.eye(8, dtype="f4") * np.float32(3e38),
        "wild.bias": np.zeros(8, "f4"),
        "a.mean": np.zeros(8, "f4"),
        "a.sd": np.ones(8, "f4"),
        "calm.weight": np.ones((1, 8), "f4"),
        "calm.bias": np.zeros(1, "f4"),
    }
    engine = Engine(rows_model(nodes, tensors, 1))
    engine.push("audio", SIGNAL)
    assert not any(e.valid for e in iter(engine.poll, None))
    assert engine.profile().empty


def test_a_window_in_which_nothing_counts_gives_zeros():
    """Silence throughout: the mask lets no row into the pool, the estimates say that they mean nothing."""
    card, tensors = reference_model.speaker(pool="statistics")
    nodes = [n for n in card["nodes"] if n["name"] in ("mel", "voice", "stack", "voices", "tcn", "pool")]
    stack = next(n for n in nodes if n["name"] == "stack")
    stack["inputs"] = ["mel"]
    kept = {k: v for k, v in tensors.items() if k.startswith(("tcn.", "pool."))}
    found = rows_model(nodes, kept, 10).run(np.zeros(8000, np.int16))
    np.testing.assert_array_equal(found.values[:, :5], 0)
    np.testing.assert_array_equal(found.values[:, 5:], np.float32(np.sqrt(1e-5)))
    silent = SPEAKER.run(np.zeros(8000, np.int16))
    assert not silent.valid.any()
    assert np.isfinite(silent.values).all()
    assert silent.profile.empty
    engine = Engine(SPEAKER)
    engine.push("audio", np.zeros(8000, np.int16))
    assert not any(estimate.valid for estimate in iter(engine.poll, None))


# Profiles --------------------------------------------------------------------------------------------------


@given(cut=st.integers(0, len(LONG)), chunk=st.sampled_from([None, 33, 5000]))
def test_profile_handed_on_gives_the_same_bits_any_way(cut, chunk):
    first = SPEAKER.run(LONG[:cut])
    whole = SPEAKER.run(LONG[cut:], profile=first.profile)
    live = SPEAKER.run(LONG[cut:], "stream", chunk, profile=first.profile)
    assert whole.values.tobytes() == live.values.tobytes()
    assert whole.profile == live.profile
    np.testing.assert_array_equal(whole.valid, live.valid)


def test_profile_survives_its_file_bit_by_bit(tmp_path):
    profile = SPEAKER.run(LONG).profile
    again = Profile.load(profile.save(tmp_path / "anna.json"))
    assert again == profile
    assert again.name == "tiny"
    a, b = SPEAKER.run(SIGNAL, profile=profile), SPEAKER.run(SIGNAL, profile=again)
    assert a.values.tobytes() == b.values.tobytes()
    assert "embedding" in repr(again)
    assert again != SPEAKER.run(SIGNAL).profile


def test_reset_returns_to_the_profile():
    profile = SPEAKER.run(LONG).profile
    single = SPEAKER.full_pass(profile)
    engine = Engine(SPEAKER, profile=profile)
    seen = []
    for _ in range(2):
        assert single.profile() == engine.profile() == profile
        values = np.concatenate([single.feed(SIGNAL).values, single.finish().values])
        engine.push("audio", SIGNAL)
        engine.finish()
        live = [list(e.values.values()) for e in iter(engine.poll, None)]
        assert np.array(live, "f4").tobytes() == values.tobytes()
        assert single.profile() == engine.profile() != profile
        seen.append(values.tobytes())
        single.reset()
        engine.reset()
    assert seen[0] == seen[1]


def test_adapting_can_stop_and_go_on():
    engine = Engine(SPEAKER, adapt=False)
    engine.push("audio", SIGNAL)
    assert list(iter(engine.poll, None))
    assert engine.profile().empty
    engine.adapt(True)
    engine.push("audio", SIGNAL)
    assert list(iter(engine.poll, None))
    assert not engine.profile().empty


def test_estimates_copy_and_pickle_whole():
    found = SPEAKER.run(SIGNAL)
    for again in (copy.copy(found), pickle.loads(pickle.dumps(found))):
        np.testing.assert_array_equal(again.valid, found.valid)
        np.testing.assert_array_equal(again.values, found.values)
        assert again.profile == found.profile
    times, values = found
    assert times is found.times
    assert values is found.values
    assert PLAIN.run(SIGNAL).profile is None


def changed(profile: Profile, node: str, **parts) -> Profile:
    return Profile(profile.model, {**profile.nodes, node: profile.nodes[node]._replace(**parts)})


def test_wrong_profiles_are_named(tmp_path):
    profile = SPEAKER.run(SIGNAL).profile
    other = build(*reference_model.speaker(seed=4))
    for run in (other.run, lambda signal, profile: Engine(other, profile=profile)):
        with pytest.raises(InputError, match=r"it belongs to the model 'tiny'.*not to this one.*enrol again"):
            run(SIGNAL, profile=profile)
    with pytest.raises(InputError, match="'tiny' does not adapt to its speaker"):
        PLAIN.run(SIGNAL, profile=profile)
    for has_none in (PLAIN.full_pass().profile, Engine(PLAIN).profile):
        with pytest.raises(InputError, match="'tiny' does not adapt to its speaker"):
            has_none()
    assert len(PLAIN.run(SIGNAL, adapt=False))
    with pytest.raises(InputError, match=r"profile: expected an affekt\.Profile or None, got dict"):
        SPEAKER.run(SIGNAL, profile={})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="adapt: expected True or False, got 1"):
        SPEAKER.run(SIGNAL, adapt=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="adapt: expected True or False, got 'no'"):
        Engine(SPEAKER, adapt="no")  # type: ignore[arg-type]
    for parts, message in (
        ({"count": -1}, "rows: count must be a finite number not below 0, got -1"),
        ({"count": float("nan")}, "rows: count must be .* got nan"),
        ({"count": True}, "rows: count"),
        ({"count": "many"}, "rows: count"),
        ({"mean": [1.0] * 7}, "rows: variance must be 7 numbers"),
        ({"mean": [float("nan")] * 8}, "rows: mean must be finite"),
        ({"mean": "abc"}, "rows: mean must be numbers"),
        ({"variance": [-1e-9] * 8}, "rows: variance must be 8 numbers not below 0"),
        ({"variance": [[1.0] * 8]}, "rows: variance must be finite numbers"),
    ):
        with pytest.raises(InputError, match=message):
            changed(profile, "rows", **parts)
    narrow = Profile(profile.model, {"rows": (1.0, [0.0], [1.0])})
    with pytest.raises(InputError, match="node 'rows': mean must have 8 values, got 1"):
        SPEAKER.run(SIGNAL, profile=narrow)
    stranger = Profile(profile.model, {"pool": (1.0, [0.0], [1.0])})
    with pytest.raises(InputError, match="node 'pool': the model adapts no such node"):
        SPEAKER.run(SIGNAL, profile=stranger)
    with pytest.raises(InputError, match="nodes: expected at least one"):
        Profile(profile.model, {})
    with pytest.raises(InputError, match="model: expected the hash"):
        Profile("", profile.nodes)
