"""Voice activity and speaker adaptation: agreement with the definitions, in core and torch; profiles."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import affekt
import reference_model
from affekt import DataError, InputError, Profile
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


# Options of an activity; no margin is so small that rounding could decide.
VOICE = st.fixed_dictionaries(
    {},
    optional={
        "margin": st.floats(0.5, 30),
        "range": st.floats(0.5, 60),
        "rise": st.floats(0, 2),
        "fall": st.floats(0, 2),
        "start": st.floats(-90, -10),
        "least": st.floats(-90, -10),
        "smoothing": st.integers(1, 9),
        "hangover": st.integers(0, 20),
    },
)


# Agreement with the definitions ----------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["attention_statistics", "attention", "statistics", "mean"])
@pytest.mark.parametrize("half_life", [None, 3.0])
@pytest.mark.parametrize("variance", [True, False])
@pytest.mark.parametrize("pauses", [True, False])
def test_agrees_with_the_definitions(pool, half_life, variance, pauses):
    card, tensors = reference_model.speaker(pool=pool, half_life=half_life, variance=variance, pauses=pauses)
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
    options=VOICE,
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


def test_activity_finds_the_speech_in_real_clips(data_dir):
    """The defaults on RAVDESS: a second of room before the sentence, most of a second after it."""
    pytest.importorskip("soundfile")
    mel = {**MEL, "sample_rate": 16000.0, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 40}
    mel |= {"f_min": 60.0, "f_max": 7600.0, "floor": 1e-8}
    nodes = [
        node("mel", "front_end", "audio", **mel),
        node("voice", "activity", "mel"),
        node("same", "linear", "voice", units=1),
    ]
    model = rows_model(
        nodes, {"same.weight": np.ones((1, 1), "f4"), "same.bias": np.zeros(1, "f4")}, 1, 16000.0
    )
    files = sorted((data_dir / "ravdess").glob("*/*.flac"))[::48]
    if not files:
        pytest.skip("no RAVDESS recordings among the real data")
    shares, before, after = [], [], []
    for path in files:
        speech = model.run(affekt.data.read_audio(path, 16000)).values[:, 0]
        at = np.flatnonzero(speech)
        assert len(at)
        shares.append(speech.mean())
        before.append(at[0] / 100)
        after.append((len(speech) - 1 - at[-1]) / 100)
    assert 0.45 < np.median(shares) < 0.65
    assert min(shares) > 0.3
    assert max(shares) < 0.9
    assert 0.7 < np.median(before) < 1.1
    assert 0.5 < np.median(after) < 1.0


# The torch twins -------------------------------------------------------------------------------------------


@given(
    options=VOICE,
    cut=st.integers(1, 140),
)
def test_torch_activity_is_the_core_s(options, cut):
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("affekt.nn")
    twin = nn.Activity(**options)
    nodes = [node("mel", "front_end", "audio", **MEL), node("voice", "activity", "mel", **twin.options())]
    nodes.append(node("same", "linear", "voice", units=1))
    model = rows_model(nodes, {"same.weight": np.ones((1, 1), "f4"), "same.bias": np.zeros(1, "f4")}, 1)
    rows = torch.from_numpy(mel_rows(SIGNAL))
    core = model.run(SIGNAL).values
    np.testing.assert_array_equal(twin(rows[None])[0], core)
    # Padding changes nothing before it and is silent.
    padded = torch.cat([rows[:cut], torch.full((5, 8), 70.0)])
    mask = torch.arange(cut + 5) < cut
    found = twin(padded[None], mask[None])[0]
    np.testing.assert_array_equal(found[:cut], core[:cut])
    assert not found[cut:].any()


def core_of(twin, activity: dict) -> Model:
    """The node of an `nn.Adapt` behind mel rows and their activity, in the core."""
    nodes = [
        node("mel", "front_end", "audio", **MEL),
        node("voice", "activity", "mel", **activity),
        node("a", "adapt", ["mel", "voice"], **twin.options()),
    ]
    tensors = {f"a.{name}": value.numpy() for name, value in twin.state_dict().items()}
    return rows_model(nodes, tensors, 8)


@given(
    half_life=st.sampled_from([None, 2.0, 50.0]),
    variance=st.booleans(),
    prior=st.sampled_from([1e-3, 5.0, 300.0]),
    floor=st.sampled_from([1e-3, 30.0]),
    seed=st.integers(0, 3),
    warm=st.booleans(),
    adapting=st.booleans(),
)
def test_torch_adapt_is_the_core_s(half_life, variance, prior, floor, seed, warm, adapting):
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("affekt.nn")
    numbers = Numbers(seed)
    twin = nn.Adapt(8, prior=prior, half_life=half_life, variance=variance, floor=floor, reference=True)
    mean, sd = numbers.tensor(8, scale=10, offset=-40.0), numbers.tensor(8, scale=5, offset=10.0)
    twin.set(mean, sd, mean + 1)
    voice = {"margin": 3.0, "range": 15.0, "hangover": 1}
    model = core_of(twin, voice)
    profile = model.run(SIGNAL[3000:7000]).profile if warm else None
    state = None
    if warm:
        entry = profile.nodes["a"]
        state = nn.SpeakerState(*(torch.tensor(value, dtype=torch.float64)[None] for value in entry))
    rows = torch.from_numpy(mel_rows(SIGNAL))[None]
    activity = nn.Activity(**voice)(rows)
    assert 0.2 < activity.mean() < 0.9
    core = model.run(SIGNAL, profile=profile, adapt=adapting)
    found = twin(rows, activity, state=state, adapting=adapting)
    np.testing.assert_allclose(found[0], core.values, rtol=1e-5, atol=1e-5)
    if adapting:
        known, entry = twin.statistics(rows, activity, state=state), core.profile.nodes["a"]
        assert known.count.item() == pytest.approx(entry.count, rel=1e-9)
        np.testing.assert_allclose(known.mean[0], entry.mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(known.variance[0], entry.variance, rtol=1e-9, atol=1e-9)


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    half_life=st.sampled_from([None, 4.0]),
    offset=st.sampled_from([0.0, 1e4]),
    seed=st.integers(0, 100),
)
def test_torch_adapt_of_a_padded_batch_equals_the_loop(lengths, half_life, offset, seed):
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("affekt.nn")
    draw = torch.Generator().manual_seed(seed)
    twin = nn.Adapt(3, prior=2.0, half_life=half_life)
    twin.set([offset, offset, offset + 5], [1.0, 2.0, 0.0])
    time, batch = max(lengths), len(lengths)
    x = torch.randn(batch, time, 3, generator=draw, dtype=torch.float64) + offset
    activity = torch.rand(batch, time, 2, generator=draw)
    mask = nn.lengths_to_mask(lengths)
    junk = torch.where(mask[..., None], x, torch.nan)
    state = nn.SpeakerState(torch.arange(batch).double(), x[:, 0] + 1, torch.rand(batch, 3).double())
    whole, known = twin(junk, activity, mask, state), twin.statistics(junk, activity, mask, state)
    for i, n in enumerate(lengths):
        one = nn.SpeakerState(*(value[i : i + 1] for value in state))
        alone = twin(x[i : i + 1, :n], activity[i : i + 1, :n], state=one)
        torch.testing.assert_close(whole[i : i + 1, :n], alone, rtol=1e-6, atol=1e-6)
        expected = twin.statistics(x[i : i + 1, :n], activity[i : i + 1, :n], state=one)
        for a, b in zip(expected, known, strict=True):
            torch.testing.assert_close(a, b[i : i + 1], rtol=1e-9, atol=1e-9)


def test_pooled_states_are_those_of_all_rows_together():
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("affekt.nn")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 30, 3, generator=draw, dtype=torch.float64) * 3 + 1e4
    active = (torch.rand(2, 30, 1, generator=draw) > 0.4).double()
    twin = nn.Adapt(3)
    parts = [twin.statistics(x[:, a:b], active[:, a:b]) for a, b in ((0, 3), (3, 4), (4, 4), (4, 30))]
    whole = twin.statistics(x, active)
    for a, b in zip(nn.Adapt.pooled(parts), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9)
    single = nn.Adapt.pooled([nn.SpeakerState(*(value[0] for value in part)) for part in parts])
    torch.testing.assert_close(single.mean, whole.mean[0], rtol=1e-12, atol=0)
    nothing = nn.Adapt.pooled([twin.statistics(x, torch.zeros_like(active))])
    assert nothing.count.tolist() == [0, 0]
    assert not nothing.mean.any()
    with pytest.raises(InputError, match="at least one state"):
        nn.Adapt.pooled([])


def test_the_gradient_takes_statistics_for_constants():
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("affekt.nn")
    twin = nn.Adapt(3, prior=2.0)
    x = torch.randn(1, 6, 3, dtype=torch.float64, requires_grad=True)
    twin(x).sum().backward()
    for t in range(6):  # 1 / the divisor: prior (mean 0, sd 1, two rows) and rows up to t
        rows = x.detach()[0, : t + 1]
        mean = rows.sum(0) / (2 + len(rows))
        sd = ((2 * (1 + mean**2) + ((rows - mean) ** 2).sum(0)) / (2 + len(rows))).sqrt()
        torch.testing.assert_close(x.grad[0, t], 1 / sd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": 0.0}, "prior must be a number from 1e-06"),
        ({"prior": float("nan")}, "prior must be"),
        ({"half_life": -1.0}, "half_life must be"),
        ({"least": -0.5}, "least must be"),
        ({"floor": 0.0}, "floor must be"),
    ],
)
def test_torch_adapt_names_a_bad_option(options, message):
    nn = pytest.importorskip("affekt.nn")
    with pytest.raises(InputError, match=message):
        nn.Adapt(3, **options)


def test_the_torch_twins_name_bad_input():
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("affekt.nn")
    for options, message in (
        ({"margin": -1.0}, "margin must be a number from 0"),
        ({"scale": float("inf")}, "scale must be"),
        ({"smoothing": 0}, "smoothing must be 1 to 4096 rows, got 0"),
        ({"hangover": 2.5}, "hangover must be 0 to 4096 rows, got 2.5"),
    ):
        with pytest.raises(InputError, match=message):
            nn.Activity(**options)
    with pytest.raises(InputError, match=r"x must be \(batch, time, d\)"):
        nn.Activity()(torch.zeros(3, 8))
    twin, x = nn.Adapt(3), torch.zeros(2, 5, 3)
    good = twin.statistics(x)
    for call, message in (
        (lambda: twin(x[..., :2]), r"x must be \(batch, time, 3\), got \(2, 5, 2\)"),
        (lambda: twin(x, x[:, :4]), r"activity must be \(2, 5, 'k >= 1'\), got \(2, 4, 3\)"),
        (lambda: twin(x, mask=x[..., 0]), r"mask must be boolean \(2, 5\)"),
        (lambda: twin(x, state=good._replace(count=-good.count)), r"state.count must be \(2,\)"),
        (lambda: twin(x, state=good._replace(mean=good.mean * torch.nan)), "state.mean must be"),
        (
            lambda: twin(x, state=good._replace(variance=good.variance[:1])),
            r"state.variance must be \(2, 3\)",
        ),
        (lambda: twin.set([0.0] * 3, [1.0, 1.0, -1.0]), "sd must not be negative"),
        (lambda: twin.set([0.0] * 2, [1.0] * 3), "mean must be 3 finite numbers"),
        (lambda: twin.set([0.0] * 3, [1.0] * 3, [0.0] * 3), "reference: expected None"),
        (lambda: nn.Adapt(3, reference=True).set([0.0] * 3, [1.0] * 3), "reference: expected values"),
    ):
        with pytest.raises(InputError, match=message):
            call()


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


def test_a_recording_knows_whether_the_engine_adapted(tmp_path):
    from affekt.live import Chunk, Recorder, Recording
    from affekt.live.sources import estimates

    engine = Engine(SPEAKER, adapt=False)
    engine.adapt(True)
    rate = SPEAKER.sample_rate
    first = Chunk("audio", SIGNAL, 0.0, rate)
    with Recorder(tmp_path / "a.csv", engine) as recorder:
        found = list(estimates(engine, [first, first._replace(time=first.end)], recorder.write))
        recorder.finish()
    assert list(Recording(tmp_path / "a.csv").replay(SPEAKER)) == found
    assert not engine.profile().empty


@pytest.mark.parametrize("size", [700, 5000])
def test_a_recording_replays_what_was_switched_on_the_way(tmp_path, size):
    """At an estimate among several of one push, and after the last of one."""
    from affekt.live import Chunk, Recorder, Recording, Session
    from affekt.live.sources import Replay

    class Cut(Replay):
        def chunks(self):
            for first in range(0, 4 * len(SIGNAL), size):
                samples = np.tile(SIGNAL, 4)[first : first + size]
                yield Chunk("audio", samples, first / self.rate, self.rate)

    engine, found = Engine(SPEAKER), []
    path = tmp_path / "a.csv"
    for estimate in Session(engine, Cut("audio", SPEAKER.sample_rate), recorder=path):
        found.append(estimate)
        if len(found) % 3 == 0:
            engine.adapt(len(found) % 2 == 0)
    assert len(engine.switches) > 2
    assert list(Recording(path).replay(SPEAKER)) == found
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(",") or line.endswith(",0,\n")))
    assert list(Recording(path).replay(SPEAKER)) != found  # so they do matter

    engine = Engine(SPEAKER)
    with Recorder(tmp_path / "b.csv", engine) as recorder:
        found = []
        for k, chunk in enumerate(Cut("audio", SPEAKER.sample_rate)):
            engine.push("audio", chunk.samples, chunk.time)
            recorder.write(chunk)
            found += iter(engine.poll, None)
            engine.adapt(k % 2 == 0)
        recorder.finish()
        engine.finish()
        found += iter(engine.poll, None)
    assert list(Recording(tmp_path / "b.csv").replay(SPEAKER)) == found


def test_a_row_that_waited_counts_only_where_it_was_the_last():
    tensors = {"a.mean": np.zeros(8, "f4"), "a.sd": np.ones(8, "f4")}
    nodes = [
        node("mel", "front_end", "audio", **MEL),
        node("voice", "activity", "mel", margin=6.0, hangover=4096),  # speaks to the end
        node("a", "adapt", ["mel", "voice", "voice"], prior=50.0),
    ]
    model = rows_model(nodes, tensors, 8)
    assert model.run(LONG).profile.nodes["a"].count == 1
    engine = Engine(model)
    for adapting in (True, False):  # the row that waits when counting stops is not the recording's last
        engine.adapt(adapting)
        engine.push("audio", LONG)
        assert list(iter(engine.poll, None))
    engine.adapt(True)
    engine.finish()
    assert not list(iter(engine.poll, None))
    assert engine.profile().empty


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


# Enrolment -------------------------------------------------------------------------------------------------


def adapting_rows(prior: float = 50.0, reference: bool = True) -> tuple[Model, dict[str, np.ndarray]]:
    """Mel rows that adapt, and what they adapt from."""
    numbers = Numbers(5)
    tensors = {
        "a.mean": numbers.tensor(8, scale=5, offset=-45.0),
        "a.sd": numbers.tensor(8, scale=2, offset=20.0),
        "a.reference": numbers.tensor(8, scale=5, offset=-45.0),
    }
    nodes = [
        node("mel", "front_end", "audio", **MEL),
        node("voice", "activity", "mel", margin=6.0),
        node("a", "adapt", ["mel", "voice"], prior=prior),
    ]
    if not reference:
        del tensors["a.reference"]
    return rows_model(nodes, tensors, 8), {k: v.astype(float) for k, v in tensors.items()}


def test_enrolment_counts_recordings_one_after_the_other(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    first, second = LONG[:20000], SIGNAL
    by_hand = SPEAKER.run(second, profile=SPEAKER.run(first).profile).profile
    assert affekt.enrol(SPEAKER, [first, second]) == by_hand
    assert affekt.enrol(SPEAKER, first) == SPEAKER.run(first).profile
    assert affekt.enrol(SPEAKER, second, profile=affekt.enrol(SPEAKER, first)) == by_hand
    files = [tmp_path / "ä.wav", tmp_path / "b.wav"]
    for path, signal in zip(files, (first, second), strict=True):
        soundfile.write(path, signal, 8000, subtype="PCM_16")
    assert affekt.enrol(SPEAKER, files) == by_hand
    assert affekt.enrol(SPEAKER, [str(files[0]), second]) == by_hand


@pytest.mark.parametrize("prior", [1e-3, 20.0, 1e5])
def test_neutral_enrolment_moves_the_mean_by_the_difference_and_keeps_the_variance(prior):
    model, tensors = adapting_rows(prior)
    heard = affekt.enrol(model, LONG).nodes["a"]
    profile = affekt.enrol(model, LONG, neutral=True)
    n = heard.count
    assert profile.nodes["a"].count == n > 100
    mean = tensors["a.mean"] + (heard.mean - tensors["a.reference"]) * n / (n + prior)
    expected = (mel_rows(SIGNAL) - mean) / tensors["a.sd"]
    found = model.run(SIGNAL, profile=profile, adapt=False).values
    # The moved mean widens the pooled spread; what of that exceeds the prior's variance cannot be taken off.
    moved = np.abs(heard.mean - tensors["a.reference"]) * np.sqrt(prior / (prior + n))
    exact = moved <= tensors["a.sd"]
    assert exact.any()
    np.testing.assert_allclose(found[:, exact], expected[:, exact], rtol=1e-5, atol=1e-5)
    wider = np.sqrt(
        prior
        / (prior + n)
        * (1 + n / (prior + n) * (heard.mean - tensors["a.reference"]) ** 2 / tensors["a.sd"] ** 2)
    )
    np.testing.assert_allclose(found[:, ~exact], (expected / wider)[:, ~exact], rtol=1e-5, atol=1e-5)


def test_enrolment_that_cannot_be_is_refused(tmp_path):
    model, _ = adapting_rows(reference=False)
    with pytest.raises(
        InputError, match=r"neutral: the model 'tiny' does not know .* 'a' has no 'reference'"
    ):
        affekt.enrol(model, SIGNAL, neutral=True)
    with pytest.raises(InputError, match="neutral: expected True or False, got 'yes'"):
        affekt.enrol(model, SIGNAL, neutral="yes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'tiny' does not adapt to its speaker"):
        affekt.enrol(PLAIN, SIGNAL)
    with pytest.raises(InputError, match="audio: expected at least one recording, got none"):
        affekt.enrol(model, [])
    silence = np.zeros(16000, np.int16)
    with pytest.raises(DataError, match="no speech was heard"):
        affekt.enrol(model, [silence, silence])
    known = affekt.enrol(model, SIGNAL)
    calm, _ = adapting_rows()
    for neutral in (True, False):
        with pytest.raises(InputError, match="profile: neutral enrolment cannot go on from a profile"):
            affekt.enrol(calm, SIGNAL, True, profile=affekt.enrol(calm, SIGNAL, neutral))
    with pytest.raises(DataError, match="no speech was heard"):
        affekt.enrol(model, silence, profile=known)
    with pytest.raises(InputError, match="belongs to the model"):
        affekt.enrol(SPEAKER, SIGNAL, profile=known)
    with pytest.raises(DataError, match=r"nobody\.wav"):
        affekt.enrol(model, tmp_path / "nobody.wav")
    with pytest.raises(InputError, match="samples: expected"):
        affekt.enrol(model, [3])
    with pytest.raises(InputError, match="audio: expected recordings, got int"):
        affekt.enrol(model, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a profile: not JSON"),
        ("[" * 100_000, "not a profile: not JSON"),
        ("[]", "no 'affekt_profile'"),
        ('{"affekt_profile": 2}', "of format 2, expected 1"),
        ('{"affekt_profile": 1}', "not a profile: KeyError 'nodes'"),
        ('{"affekt_profile": 1, "nodes": 3, "model": "x"}', "not a profile: AttributeError"),
        ('{"affekt_profile": 1, "nodes": {"a": {"count": 1}}, "model": "x"}', "KeyError 'mean'"),
        ('{"affekt_profile": 1, "nodes": {"a": 1}, "model": "x"}', "not a profile: TypeError"),
        ('{"affekt_profile": 1, "nodes": {}, "model": "x"}', "expected at least one node"),
        (
            '{"affekt_profile": 1, "model": "x", "nodes": {"a": {"count": NaN, "mean": [1], "variance": 1}}}',
            "a: count must be a finite number",
        ),
        (
            '{"affekt_profile": 1, "model": "x", "nodes": {"a": {"count": 1'
            + "0" * 400
            + ', "mean": [1], "variance": [1]}}}',
            "a: count must be a finite number",
        ),
        (
            '{"affekt_profile": 1, "model": "x", "nodes": {"a": {"count": 1, "mean": [1'
            + "0" * 400
            + '], "variance": [1]}}}',
            "a: mean must be numbers",
        ),
        (
            '{"affekt_profile": 1, "model": 3, "nodes": {"a": {"count": 1, "mean": [1], "variance": [1]}}}',
            "expected the hash of a model",
        ),
    ],
)
def test_files_that_are_no_profiles(tmp_path, text, message):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"odd\.json: .*" + message):
        Profile.load(path)
    with pytest.raises(DataError, match=r"none\.json: cannot be read: No such file"):
        Profile.load(tmp_path / "none.json")


@pytest.mark.parametrize("entry", [3, None, (), (1.0, [0.0]), (1.0, [0.0], [1.0], [1.0])])
def test_entries_that_are_no_statistics(entry):
    with pytest.raises(InputError, match=r"a: expected \(count, mean, variance\), got"):
        Profile("x", {"a": entry})


def test_from_the_command_line(tmp_path, capsys):
    pytest.importorskip("soundfile")
    import soundfile

    from affekt.cli import main

    model, plain, talk = tmp_path / "m.safetensors", tmp_path / "p.safetensors", tmp_path / "talk.wav"
    model.write_bytes(model_bytes(*reference_model.speaker()))
    plain.write_bytes(model_bytes(*reference_model.trace()))
    soundfile.write(talk, LONG, 8000, subtype="PCM_16")
    anna, out = tmp_path / "anna.json", tmp_path / "t.csv"
    words = ["--model", str(model), "--out", str(out)]

    def table(*more: str) -> str:
        assert main(["predict", str(talk), *words, *more]) == 0
        return out.read_text()

    assert main(["enrol", str(model), str(talk), "--out", str(anna)]) == 0
    assert "rows at node embedding" in capsys.readouterr().out
    assert Profile.load(anna) == affekt.enrol(model, talk)
    fresh, known, fixed = table(), table("--profile", str(anna)), table("--profile", str(anna), "--no-adapt")
    assert len({fresh, known, fixed, table("--no-adapt")}) == 4
    assert fresh.splitlines()[0].endswith(",p_sad,valid")
    assert fresh.splitlines()[1].endswith(",False")
    for more in ((), ("--profile", str(anna)), ("--no-adapt",)):
        assert main(["stream", str(talk), *words, *more]) == 0
        assert "no speech" in capsys.readouterr().out
        live = out.read_text()
        full = table(*more)
        assert [line.split(",", 1)[1] for line in live.splitlines()] == [
            line.split(",", 1)[1] for line in full.splitlines()
        ]
    labels = tmp_path / "labels.csv"
    soundfile.write(tmp_path / "b.wav", SIGNAL, 8000, subtype="PCM_16")
    labels.write_text("file,arousal\ntalk.wav,0.5\nb.wav,0.25\n")
    assert main(["evaluate", str(labels), "--model", str(model), "--profile", str(anna), "--no-adapt"]) == 0
    capsys.readouterr()
    assert main(["enrol", str(plain), str(talk), "--out", str(anna)]) == 2
    assert "does not adapt to its speaker" in capsys.readouterr().err
    assert main(["predict", str(talk), "--model", str(plain), "--no-adapt"]) == 0
    assert main(["predict", str(talk), "--model", str(plain), "--profile", str(anna)]) == 2
    assert "so it has no profiles" in capsys.readouterr().err
    assert main(["enrol", str(model), str(talk), "--out", str(tmp_path / "none" / "a.json")]) == 2
    assert "--out: the folder" in capsys.readouterr().err
