"""Adaptation to speakers as it is trained: batches, the draw of what is known, the prior, the graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import affekt
from affekt import systems
from affekt.errors import InputError
from affekt.nn import FeatureAugment, Pool, speaker_normalise
from affekt.training import Examples, export_checkpoint, train
from affekt.training.config import LoopConfig
from affekt.training.examples import speaker_batches
from affekt.training.loop import per_speaker

SYSTEM = {
    "front_end": {"kind": "log_mel", "sample_rate": 16000, "n_mels": 20, "log": "db", "floor": 1e-8},
    "tcn": {"channels": [12, 12]},
    "pool": {"kind": "attention_statistics", "window": 60, "half_life": 30, "hop": 5},
    "heads": {"emotion": {"labels": ["neutral", "angry"]}},
    "activity": {},
    "adapt": {"prior": 20.0, "heard": 3.0},
}


def speech(seed: int, seconds: float = 1.6) -> np.ndarray:
    """Noise in bursts, loud enough to be heard, with silence before and after."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(16000 * seconds)) / 16000
    envelope = np.clip(np.sin(2 * np.pi * (1.5 + seed % 3) * t), 0, 1) * (t > 0.3) * (t < seconds - 0.2)
    return (0.1 * envelope * rng.standard_normal(len(t))).astype(np.float32)


def rows_of(system: systems.System, count: int = 24) -> Examples:
    front = system.front_end()
    features = [front(speech(i, 1.2 + 0.05 * (i % 7))) for i in range(count)]
    labels = np.arange(count) % 2
    return Examples(features, {"emotion": labels}, np.arange(count) % 4, np.flatnonzero(labels == 0))


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    size=st.integers(2, 64),
    per_speaker=st.integers(1, 16),
    seed=st.integers(0, 5),
)
def test_speaker_batches_hold_every_recording_once_and_keep_speakers_together(
    counts, size, per_speaker, seed
):
    speakers = np.repeat(np.arange(len(counts)), counts)
    batches = list(speaker_batches(speakers, size, per_speaker, seed=seed, epoch=3))
    assert sorted(i for batch in batches for i in batch) == list(range(len(speakers)))
    assert batches == list(speaker_batches(speakers, size, per_speaker, seed=seed, epoch=3))
    portions = sum(max(1, round(c / per_speaker)) for c in counts)
    assert len(batches) == min(portions, -(-len(speakers) // size))
    for batch in batches:
        own = np.bincount(speakers[batch], minlength=len(counts))
        for speaker, held in enumerate(own):
            whole = counts[speaker] // max(1, round(counts[speaker] / per_speaker))
            assert held == 0 or held >= whole


def test_speaker_batches_give_every_batch_its_share_of_each_stratum():
    speakers = np.repeat(np.arange(30), 24)
    strata = (speakers >= 20).astype(int)
    for batch in speaker_batches(speakers, 48, 8, seed=1, epoch=0, strata=strata):
        assert 0 < strata[batch].sum() < len(batch)


def test_normalising_by_a_known_speaker_centres_and_scales_each_one():
    torch.manual_seed(0)
    speaker = torch.arange(48) % 3
    z = torch.randn(48, 5) * (1 + speaker[:, None]) + 10.0 * speaker[:, None]
    y = speaker_normalise(z, speaker, unknown=0.0, known=1.0, floor=1e-3)
    for s in range(3):
        torch.testing.assert_close(y[speaker == s].mean(0), torch.zeros(5), atol=1e-5, rtol=0)
        torch.testing.assert_close(y[speaker == s].std(0, unbiased=False), torch.ones(5), atol=1e-4, rtol=0)


def test_an_unknown_speaker_is_normalised_by_the_batch():
    z = torch.randn(20, 4, dtype=torch.float64) * 3 + 2
    wanted = (z - z.mean(0)) / z.std(0, unbiased=False)
    torch.testing.assert_close(speaker_normalise(z, torch.arange(20) // 5, unknown=1.0, known=0.0), wanted)
    torch.testing.assert_close(speaker_normalise(z, torch.full((20,), -1), unknown=0.0, known=1.0), wanted)
    # Nor is one known who has too few recordings in the batch.
    torch.testing.assert_close(speaker_normalise(z, torch.arange(20) // 3, unknown=0.0, known=1.0), wanted)


def test_gradients_of_the_normalisation_pass_through_its_statistics():
    speaker = torch.tensor([0, 0, 0, 1, 1, 1])
    z = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)

    def known(z):
        return speaker_normalise(z, speaker, unknown=0.0, known=1.0, floor=1e-2, least=3)

    assert torch.autograd.gradcheck(known, z)


@pytest.mark.parametrize(
    ("z", "speaker", "shares"),
    [
        ((4,), (4,), {}),
        ((4, 2), (3,), {}),
        ((4, 2), (4,), {"unknown": 0.8, "known": 0.3}),
        ((4, 2), (4,), {"known": -0.1}),
    ],
)
def test_bad_arguments_of_the_normalisation_are_refused(z, speaker, shares):
    with pytest.raises(InputError):
        speaker_normalise(torch.zeros(z), torch.zeros(speaker, dtype=torch.long), **shares)


def test_a_count_pool_says_how_many_rows_it_rests_on():
    pool = Pool(1, "count", window=6, half_life=2.0, hop=2)
    mask = torch.tensor([[True, False, True, True, False, True, True, True]])
    got, rows = pool.trace(torch.ones(1, 8, 1), mask)
    wanted = [
        sum(0.5 ** ((newest - i) / 2.0) for i in range(max(0, newest - 5), newest + 1) if mask[0, i])
        for newest in rows.tolist()
    ]
    np.testing.assert_allclose(got[0, :, 0], wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", ["attention_statistics", "attention", "statistics", "mean", "count"])
@pytest.mark.parametrize("half_life", [None, 7.0])
def test_the_fast_trace_is_the_trace(kind, half_life):
    torch.manual_seed(3)
    pool = Pool(5, kind, window=12, half_life=half_life, hop=4)
    if pool.score is not None:
        torch.nn.init.normal_(pool.score.weight)
    x = torch.randn(3, 30, 5) * 2 + 4
    mask = torch.rand(3, 30) > 0.3
    mask[1, 5:25] = False
    fast, rows = pool.trace(x, mask, fast=True)
    exact, same = pool.trace(x, mask)
    assert torch.equal(rows, same)
    torch.testing.assert_close(fast, exact, atol=2e-4, rtol=1e-4)


def test_counted_rows_weigh_and_the_mask_says_where_recordings_end():
    pool = Pool(3, "statistics", window=10)
    x = torch.randn(1, 6, 3)
    mask = torch.tensor([[True] * 5 + [False]])
    counted = torch.tensor([[True, False, True, False, False, True]])
    got = pool(x, mask, counted & mask)
    torch.testing.assert_close(got[0, :3], x[0, [0, 2]].mean(0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    system = systems.create("speech", **SYSTEM)
    part = rows_of(system)
    system.set_statistics(*part.statistics())
    config = LoopConfig(epochs=2, batch_size=12, per_speaker=3, lr=3e-3, averaging="ema", tensorboard=False)
    train(system, part, None, config, tmp_path_factory.mktemp("loop"), seed=0)
    return system, part


def test_settling_takes_the_prior_from_the_embeddings_of_the_training_part(trained):
    system, part = trained
    assert torch.isfinite(system.adapt.mean).all()
    assert (system.adapt.sd > 0).all()
    kept = []
    for rows in part.features:
        with torch.no_grad():
            z, _, speech = system.encode(torch.as_tensor(rows)[None])
            pooled, heard, at = system._trace(z, speech)
        pause = ~speech[0, at]
        pause[-1] = True
        kept.append(pooled[0][(heard[0, :, 0] >= 3.0) & pause])
    everything = torch.cat(kept).double()
    torch.testing.assert_close(system.adapt.mean.double(), everything.mean(0), atol=1e-4, rtol=1e-4)
    calm = torch.cat([kept[i] for i in part.neutral]).double()
    torch.testing.assert_close(system.adapt.reference.double(), calm.mean(0), atol=1e-4, rtol=1e-4)


def test_an_adapting_model_runs_in_the_core_as_in_torch(trained, tmp_path):
    system, _ = trained
    path = systems.export(system, tmp_path / "model.safetensors")
    model = affekt.load(path)
    signal = np.concatenate([speech(1), np.zeros(16000, np.float32), speech(2)])
    times, values = model.run(signal)[:2]
    wanted_times, wanted = system.estimates(system.front_end()(signal))
    np.testing.assert_allclose(times, wanted_times, atol=1e-9)
    np.testing.assert_allclose(values, wanted, atol=1e-5)
    again = systems.restore(path)
    assert systems.export(again, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_silence_is_marked_and_speech_is_not(trained, tmp_path):
    model = affekt.load(systems.export(trained[0], tmp_path / "model.safetensors"))
    assert not model.run(np.zeros(32000, np.float32)).valid.any()
    assert model.run(speech(1, 3.0)).valid[-1]
    # Two seconds after the last word nothing is said any more.
    found = model.run(np.concatenate([speech(1, 3.0), np.zeros(16000 * 4, np.float32)]))
    assert not found.valid[found.times > 3.0 + 2.5].any()
    assert found.valid[(found.times > 1.5) & (found.times < 3.0)].all()


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_kept_checkpoint_is_the_model(tmp_path, keep):
    """Settled, and of the epoch that was kept, whichever that was."""
    torch.manual_seed(0)
    system = systems.create("speech", **SYSTEM)
    part = rows_of(system)
    system.set_statistics(*part.statistics())
    config = LoopConfig(epochs=3, batch_size=12, keep=keep, averaging="ema", tensorboard=False)
    scores = iter([3.0, 2.0, 1.0])
    result = train(system, part, part, config, tmp_path, score=lambda out, labels: {"score": next(scores)})
    assert result.best_epoch == (2 if keep == "last" else 0)
    assert float(system.adapt.reference.abs().max()) > 0
    again = affekt.load(export_checkpoint(tmp_path / "kept.ckpt", tmp_path / "again.safetensors")).tensors()
    own = affekt.load(systems.export(system, tmp_path / "own.safetensors")).tensors()
    assert again.keys() == own.keys()
    for name, value in own.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_the_running_prior_keeps_nothing_of_where_it_started():
    torch.manual_seed(0)
    system = systems.create("speech", **SYSTEM)
    part = rows_of(system)
    system.set_statistics(*part.statistics())
    system.train()
    seen = []
    for batch in (part.batch(range(12)), part.batch(range(12, 24))):
        with torch.no_grad():
            rows, mask, speech = system.encode(batch["features"], batch["mask"])
            seen.append(system._counted(rows, mask, speech)[0].mean(0))
            system._normalise(torch.zeros(12, rows.shape[-1] * 3), batch["speaker"], rows, mask, speech)
        torch.testing.assert_close(system.adapt.mean.float(), torch.stack(seen).mean(0), atol=1e-5, rtol=1e-4)
    assert int(system.state_dict()["tracked"]) == 2  # a resumed training goes on from there


def test_too_little_speech_is_said_before_the_first_epoch(tmp_path):
    system = systems.create("speech", **(SYSTEM | {"adapt": {"heard": 1e4}}))
    part = rows_of(system, 8)
    with pytest.raises(InputError, match=r"adapt\.heard: no training recording holds that much speech"):
        train(system, part, None, LoopConfig(epochs=1, tensorboard=False), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["speakers", "neutral"])
def test_a_run_of_other_speakers_is_not_gone_on_with(tmp_path, change):
    def go(part, **options):
        torch.manual_seed(0)
        system = systems.create("speech", **SYSTEM)
        system.set_statistics(*part.statistics())
        train(system, part, None, LoopConfig(epochs=2, batch_size=12, tensorboard=False), tmp_path, **options)

    part = rows_of(systems.create("speech", **SYSTEM), 12)
    go(part, stop_after=1)
    known = {"speakers": part.speakers, "neutral": part.neutral} | {change: getattr(part, change)[::-1] + 1}
    with pytest.raises(InputError, match="belongs to another run"):
        go(Examples(part.features, part.labels, known["speakers"], known["neutral"] % 12))
    go(part)


def test_keeping_the_last_epoch_needs_no_best_one(tmp_path):
    torch.manual_seed(0)
    system = systems.create("speech", **SYSTEM)
    part = rows_of(system)
    system.set_statistics(*part.statistics())
    config = LoopConfig(epochs=3, batch_size=12, keep="last", tensorboard=False)
    scores = iter([3.0, 2.0, 1.0])
    result = train(
        system, part, part, config, tmp_path, seed=0, score=lambda out, labels: {"score": next(scores)}
    )
    assert result.best_epoch == 2


def test_batches_are_by_speaker_where_the_system_adapts_and_they_are_known(tmp_path):
    system = systems.create("speech", **SYSTEM)
    part = rows_of(system, 64)
    plain = systems.create("speech", **(SYSTEM | {"adapt": None}))
    for model, speakers, wanted in ((system, part.speakers, 8), (system, None, 0), (plain, part.speakers, 0)):
        examples = Examples(part.features, part.labels, speakers, part.neutral)
        assert per_speaker(LoopConfig(), model, examples) == wanted
    assert per_speaker(LoopConfig(per_speaker=3), plain, part) == 3


def test_without_neutral_recordings_the_average_stands_for_neutral(tmp_path):
    system = systems.create("speech", **SYSTEM)
    part = rows_of(system)
    system.set_statistics(*part.statistics())
    with pytest.warns(UserWarning, match="neutral"):
        system.settle(part.features)
    torch.testing.assert_close(system.adapt.reference, system.adapt.mean)


def test_speakers_must_be_known_to_batch_by_them(tmp_path):
    system = systems.create("speech", **SYSTEM)
    part = rows_of(system)
    nobody = Examples(part.features, part.labels)
    with pytest.raises(InputError, match="per_speaker"):
        train(system, nobody, None, LoopConfig(epochs=1, per_speaker=2, tensorboard=False), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activity": None}, "adapt needs activity"),
        ({"front_end": {"kind": "mfcc", "sample_rate": 16000}}, "activity needs"),
        ({"front_end": {"kind": "log_mel", "sample_rate": 16000, "log": None}}, "front_end.log"),
        ({"task": "trace"}, "adapt needs"),
        ({"activity": {"valid": 60.0}}, "activity.valid"),
    ],
)
def test_systems_that_cannot_adapt_say_why(change, words):
    with pytest.raises(InputError, match=words):
        systems.create("speech", **(SYSTEM | change))


@given(snr=st.floats(-10, 40), unit=st.sampled_from([1.0, 10.0, 10 / np.log(10)]), seed=st.integers(0, 20))
def test_background_noise_has_the_power_that_its_snr_says(snr, unit, seed):
    torch.manual_seed(seed)
    rows = torch.randn(4, 300, 40, dtype=torch.float64) * 8 - 50
    mask = torch.arange(300) < torch.tensor([300, 250, 120, 60])[:, None]
    augment = FeatureAugment(background=1.0, snr=[snr, snr], unit=unit).train()
    noisy, same = augment(rows / unit, mask)
    assert torch.equal(same, mask)
    for before, after, valid in zip(rows, noisy * unit, mask, strict=True):
        power, more = (10 ** (x[valid] / 10) for x in (before, after))
        assert (more >= power * (1 - 1e-9)).all()
        # 2 dB of scatter add exp((0.2 ln 10)^2 / 2) = 0.46 dB to the mean.
        ratio = 10 * np.log10(float(power.mean() / (more - power).mean()))
        assert ratio == pytest.approx(snr - 0.46, abs=0.3)


@pytest.mark.parametrize("bad", [{"background": 1.5}, {"snr": [20.0, 5.0]}, {"snr": [1.0]}, {"unit": 0.0}])
def test_bad_options_of_the_background_are_named(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        FeatureAugment(**bad)
