"""Log-mel against librosa, torch and kaldi-native-fbank: whole recordings and a 10 ms hop at a time.

Each contender computes the same numbers, which is checked before it is timed.
"""

from __future__ import annotations

import numpy as np
import pytest

from affekt.features import LogMel

from .conftest import voice

RATE = 16000
SECONDS = [1, 10, 60]
GROUP = "log-mel {} s (n_fft 512, window 400, hop 160, 80 mels, dB)"
GROUP_KALDI = "log-mel {} s in Kaldi's convention (80 mels, ln)"
GROUP_HOP = "log-mel, one hop of 10 ms (80 mels, ln)"


def affekt_rows(x: np.ndarray) -> np.ndarray:
    """Return our log-mel of `x` in librosa's convention, (frames, 80)."""
    return LogMel(sample_rate=RATE)(x)


@pytest.mark.parametrize("seconds", SECONDS)
def bench_affekt(contender, seconds):
    x = voice(seconds)
    mel = LogMel(sample_rate=RATE)
    contender(GROUP.format(seconds), "affekt", lambda: mel(x))


@pytest.mark.parametrize("seconds", SECONDS)
def bench_librosa(contender, peer, seconds):
    librosa = peer("librosa")
    x = voice(seconds)

    def run():
        power = librosa.feature.melspectrogram(
            y=x, sr=RATE, n_fft=512, win_length=400, hop_length=160, n_mels=80, center=False
        )
        return librosa.power_to_db(power, top_db=None).T

    assert np.allclose(run(), affekt_rows(x), atol=0.05)
    contender(GROUP.format(seconds), "librosa", run)


@pytest.mark.parametrize("seconds", SECONDS)
def bench_torch(contender, peer, seconds):
    torch = peer("torch")
    librosa = peer("librosa")
    filters = torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=512, n_mels=80))
    window = torch.hann_window(400)
    x = torch.from_numpy(voice(seconds))

    def run():
        spectrum = torch.stft(x, 512, 160, 400, window, center=False, return_complex=True)
        power = spectrum.real**2 + spectrum.imag**2
        return 10 * torch.log10(torch.clamp(filters @ power, min=1e-10))

    with torch.no_grad():
        assert np.allclose(run().T.numpy(), affekt_rows(x.numpy()), atol=0.05)
        contender(GROUP.format(seconds), "torch.stft + matmul + log10", run)


@pytest.mark.parametrize("seconds", SECONDS)
def bench_affekt_kaldi(contender, seconds):
    x = voice(seconds)
    mel = LogMel.kaldi(sample_rate=RATE, scale=1.0)
    contender(GROUP_KALDI.format(seconds), "affekt", lambda: mel(x))


def kaldi_online(knf):
    """Return a fresh online filter bank of kaldi-native-fbank with Kaldi's defaults, no dither, 80 bins."""
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    return knf.OnlineFbank(options)


@pytest.mark.parametrize("seconds", SECONDS)
def bench_kaldi_native_fbank(contender, peer, seconds):
    knf = peer("kaldi_native_fbank")
    x = voice(seconds)

    def run():
        bank = kaldi_online(knf)
        bank.accept_waveform(RATE, x)
        bank.input_finished()
        return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])

    assert np.allclose(run(), LogMel.kaldi(sample_rate=RATE, scale=1.0)(x), atol=0.02)
    contender(GROUP_KALDI.format(seconds), "kaldi-native-fbank", run)


def bench_affekt_hop(contender):
    x = voice(1)[:160]
    stream = LogMel.kaldi(sample_rate=RATE, scale=1.0).stream()
    stream.push(voice(1)[:400])
    rows = contender(GROUP_HOP, "affekt", lambda: stream.push(x))
    assert rows.shape == (1, 80)


def bench_kaldi_native_fbank_hop(contender, peer):
    knf = peer("kaldi_native_fbank")
    x = voice(1)[:160]
    bank = kaldi_online(knf)
    bank.accept_waveform(RATE, voice(1)[:400])
    done = bank.num_frames_ready

    def run():
        nonlocal done
        bank.accept_waveform(RATE, x)
        row = bank.get_frame(done)
        done += 1
        bank.pop(1)
        return row

    assert contender(GROUP_HOP, "kaldi-native-fbank", run).shape == (80,)
