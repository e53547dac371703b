"""The acoustic front end: log-mel, MFCC, spectra; whole recordings, ragged batches, a 10 ms hop at a time.

16 kHz voice-like signals, float32. Each contender computes the same numbers, which is checked before it is
timed: log-mel within 0.005 dB down to 80 dB below the loudest value, and its powers within 1e-5 of the
highest; MFCC within what such rows can make of them. Where a definition differs, the note of the row says
how. What our plans hold, peers hold too: librosa's mel filters are made once, before the clock starts, and
each call is `librosa.stft`, |X|^2, one matrix product and `power_to_db`; "librosa, one call" is
`feature.melspectrogram` and `power_to_db` as most users write it, which makes the filters at every call.

The bound of log-mel counts per frame: the window, a real split-radix transform (2 n log2 n - 4 n + 6
additions and multiplications), |X|^2, the weights of the filters that are not zero, and 22 operations for a
logarithm of a filter; where the convention asks for them, the mean (2 a sample), the pre-emphasis (2 a
sample), clamp, shift and scale (4 a value). MFCC adds the cosine transform, 2 n log2 n operations for n
filters or the plain sum where that is less, and for two orders of deltas 26 a column.

Where the 205 ns of such a frame go (Zen 4, AVX-512, each step alone): samples of 16 frames side by side
under the window 30, transform with powers 100, filters and logarithms 40, rows out 7, the search for bad
samples 7. That makes 184; some 20 are lost between the first two, whose arrays exceed the first cache: one
after the other they take 150. A pass of radix 8 takes 60 cycles for 16 frames, of which its 44 additions,
one a cycle, would take 44. In Kaldi's convention 75 come first: the mean in float64, and the pre-emphasis.

A frame of the complex STFT with n_fft 256 takes 65 ns in the transform, 20 to turn rows over, 10 for its
samples, and 25 to 60 for its part of 15 MB of results, by how much of the third cache is left to this
core: without page faults, and the same with `out=`. A fill of the same memory takes 18, in one go. Asking
for the lines in between the work rather than all at once made the row 20 % faster (n_fft 512: 8 %; from
1024 on, where a tile's rows fill more than the first cache, none are asked for). Stores past the caches are
30 % slower; rows gathered in the first cache and copied in whole lines, or half as many frames at a time,
gained nothing.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import affekt
from affekt import _core
from affekt.features import LogMel, Mfcc, PowerSpectrogram, Stft

from .bench_tcn import compiled
from .conftest import voice

RATE = 16000
SECONDS = [1, 10, 60]
GROUP = "log-mel {} s (n_fft 512, window 400, hop 160, 80 mels, dB)"
GROUP_HTK = "log-mel {} s (n_fft 512, window 512, hop 160, 80 mels of HTK's scale, dB)"
GROUP_KALDI = "log-mel {} s in Kaldi's convention (80 mels, ln)"
GROUP_N = "log-mel 60 s, n_fft {} (window {}, hop 160, 80 mels, dB)"
GROUP_WHISPER = "log-mel 30 s in Whisper's convention (n_fft 400, 80 mels)"
GROUP_MFCC = "MFCC 60 s, {} columns (n_fft 512, window 400, hop 160, 40 mels)"
GROUP_KALDI_MFCC = "MFCC 60 s in Kaldi's convention (13 of 23 mels)"
GROUP_STFT = "STFT 60 s, n_fft {}, hop n_fft / 4, complex"
GROUP_POWER = "power spectrogram 60 s, n_fft {}, hop n_fft / 4"
GROUP_BATCH = "log-mel of 64 ragged utterances, 1 to 10 s each, two threads"
GROUP_HOP = "log-mel, one hop of 10 ms in Kaldi's convention (80 mels, ln)"
GROUP_HOP_DB = "log-mel, one hop of 10 ms (n_fft 512, 80 mels, dB)"
GROUP_HOP_CPP = "{}, called from C++"
GROUP_OPENSMILE = "MFCC 60 s in HTK's convention (13 of 26 mels, openSMILE's components)"
TRANSFORMS = [256, 509, 512, 1024, 2048, 4099]
DECIBEL = math.log(10) / 10  # in natural logarithms of powers


def split_radix(n: int) -> float:
    """Return the additions and multiplications of a real transform of n values."""
    return 2 * n * math.log2(n) - 4 * n + 6


def work(plan: LogMel | Mfcc, *samples: int, rows: int | None = None) -> dict[str, float]:
    """Return what signals of so many samples need at least, for the bound; see above.

    rows: of all signals, where the plan does not tell them (a hop of a stream).
    """
    o = plan.options
    n, bins, mels, width = o["n_fft"], o["n_fft"] // 2 + 1, o["n_mels"], o["win_length"]
    weights = np.count_nonzero(plan._plan.mel_filters)
    frame = width + split_radix(n) + 3 * bins + 2 * weights + 22 * mels
    frame += 2 * width * (o["remove_dc"] + (o["preemphasis"] != 0))
    frame += 4 * mels * (o["top_db"] is not None)
    if o["n_mfcc"]:
        frame += min(2 * mels * math.log2(mels), 2 * mels * o["n_mfcc"])
        frame += 13 * o["deltas"] * o["n_mfcc"]
    rows = rows or sum(plan.frames(count) for count in samples)
    return {
        "operations": float(frame * rows),
        "bytes_moved": 4.0 * (sum(samples) + plan.num_features * rows),
    }


def assert_same_rows(theirs: np.ndarray, ours: np.ndarray, decibel: float = 1.0) -> None:
    """Compare log-mel rows as told above; `decibel`: what one is in their unit."""
    assert theirs.shape == ours.shape
    theirs, ours = (np.asarray(rows, np.float64) / decibel for rows in (theirs, ours))
    top = ours.max()
    apart = np.abs(theirs - ours)[ours > top - 80].max()
    assert apart <= 5e-3, f"{apart:.2g} dB apart"
    apart = np.abs(10 ** ((theirs - top) / 10) - 10 ** ((ours - top) / 10)).max()
    assert apart <= 1e-5, f"{apart:.2g} of the highest power apart"


@pytest.mark.parametrize("seconds", SECONDS)
def bench_affekt(contender, seconds):
    x = voice(seconds)
    mel = LogMel(sample_rate=RATE)
    contender(
        GROUP.format(seconds),
        "affekt",
        lambda: mel(x),
        floor={"librosa": 6, "torch.stft + matmul + log10": 8},
        aim={"librosa": 10, "torch.stft + matmul + log10": 15},
        within=1.3,
        **work(mel, len(x)),
    )


def librosa_power(librosa, n_fft: int, width: int, n_mels: int = 80, **options: Any) -> Callable[..., Any]:
    """Return a function that gives librosa's mel spectrum, (n_mels, frames), with the filters made once."""
    filters = librosa.filters.mel(sr=RATE, n_fft=n_fft, n_mels=n_mels)
    options = {"n_fft": n_fft, "win_length": width, "hop_length": 160, "center": False} | options

    def power(x):
        spectrum = librosa.stft(x, **options)
        return filters @ (spectrum.real**2 + spectrum.imag**2)

    return power


def librosa_log_mel(librosa, n_fft: int, width: int) -> Callable[..., Any]:
    """Return librosa's log-mel with the filters made once."""
    power = librosa_power(librosa, n_fft, width)
    return lambda x: librosa.power_to_db(power(x), top_db=None).T


@pytest.mark.parametrize("seconds", SECONDS)
def bench_librosa(contender, peer, seconds):
    x = voice(seconds)
    run = functools.partial(librosa_log_mel(peer("librosa"), 512, 400), x)
    assert_same_rows(run(), LogMel(sample_rate=RATE)(x))
    contender(GROUP.format(seconds), "librosa", run)


@pytest.mark.parametrize("seconds", SECONDS)
def bench_librosa_one_call(contender, peer, seconds):
    librosa = peer("librosa")
    x = voice(seconds)

    def run():
        power = librosa.feature.melspectrogram(
            y=x, sr=RATE, n_fft=512, win_length=400, hop_length=160, n_mels=80, center=False
        )
        return librosa.power_to_db(power, top_db=None).T

    assert_same_rows(run(), LogMel(sample_rate=RATE)(x))
    contender(
        GROUP.format(seconds),
        "librosa, one call",
        run,
        note='"librosa" keeps its mel filters; "librosa, one call" makes them at every call',
    )


@pytest.mark.parametrize("seconds", SECONDS)
def bench_torch(contender, peer, seconds):
    torch = peer("torch")
    filters = torch.from_numpy(LogMel(sample_rate=RATE)._plan.mel_filters.astype(np.float32))
    window = torch.hann_window(400)
    x = torch.from_numpy(voice(seconds))

    def run():
        spectrum = torch.stft(x, 512, 160, 400, window, center=False, return_complex=True)
        power = spectrum.real**2 + spectrum.imag**2
        return 10 * torch.log10(torch.clamp(filters @ power, min=1e-10))

    with torch.no_grad():
        assert_same_rows(run().T.numpy(), LogMel(sample_rate=RATE)(x.numpy()))
        contender(GROUP.format(seconds), "torch.stft + matmul + log10", run)


@pytest.mark.parametrize("seconds", SECONDS)
def bench_affekt_htk(contender, seconds):
    x = voice(seconds)
    mel = LogMel(sample_rate=RATE, win_length=512, mel_scale="htk")
    contender(
        GROUP_HTK.format(seconds), "affekt", lambda: mel(x), floor={"audioFlux": 4}, **work(mel, len(x))
    )


@pytest.mark.parametrize("seconds", SECONDS)
def bench_audioflux(contender, peer, seconds):
    audioflux = peer("audioflux")
    kinds = peer("audioflux.type")
    x = voice(seconds)
    bank = audioflux.BFT(
        num=80,
        radix2_exp=9,
        samplate=RATE,
        low_fre=0.0,
        high_fre=RATE / 2,
        slide_length=160,
        window_type=kinds.WindowType.HANN,
        scale_type=kinds.SpectralFilterBankScaleType.MEL,
        style_type=kinds.SpectralFilterBankStyleType.SLANEY,
        normal_type=kinds.SpectralFilterBankNormalType.BAND_WIDTH,
        data_type=kinds.SpectralDataType.POWER,
    )

    def run():
        return 10 * np.log10(np.maximum(bank.bft(x, result_type=1), 1e-10)).T

    assert_same_rows(run(), LogMel(sample_rate=RATE, win_length=512, mel_scale="htk")(x))
    contender(GROUP_HTK.format(seconds), "audioFlux", run)


@pytest.mark.parametrize("seconds", SECONDS)
def bench_affekt_kaldi(contender, seconds):
    x = voice(seconds)
    mel = LogMel.kaldi(sample_rate=RATE, scale=1.0)
    contender(
        GROUP_KALDI.format(seconds),
        "affekt",
        lambda: mel(x),
        floor={"kaldi-native-fbank": 25},
        aim={"kaldi-native-fbank": 50},
        **work(mel, len(x)),
    )


def kaldi_online(knf):
    """Return a fresh online filter bank of kaldi-native-fbank with Kaldi's defaults, no dither, 80 bins."""
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    return knf.OnlineFbank(options)


def kaldi_rows(bank, x):
    bank.accept_waveform(RATE, x)
    bank.input_finished()
    return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])


@pytest.mark.parametrize("seconds", SECONDS)
def bench_kaldi_native_fbank(contender, peer, seconds):
    knf = peer("kaldi_native_fbank")
    x = voice(seconds)

    def run():
        return kaldi_rows(kaldi_online(knf), x)

    assert_same_rows(run(), LogMel.kaldi(sample_rate=RATE, scale=1.0)(x), DECIBEL)
    contender(GROUP_KALDI.format(seconds), "kaldi-native-fbank", run)


@pytest.mark.parametrize("n_fft", [400, 1024, 2048])
def bench_affekt_n(contender, n_fft):
    x, width = voice(60), min(n_fft, 1024)
    mel = LogMel(sample_rate=RATE, n_fft=n_fft, win_length=width)
    contender(
        GROUP_N.format(n_fft, width),
        "affekt",
        lambda: mel(x),
        floor=5,
        aim=10,
        **work(mel, len(x)),
    )


@pytest.mark.parametrize("n_fft", [400, 1024, 2048])
def bench_librosa_n(contender, peer, n_fft):
    x, width = voice(60), min(n_fft, 1024)
    run = functools.partial(librosa_log_mel(peer("librosa"), n_fft, width), x)
    assert_same_rows(run(), LogMel(sample_rate=RATE, n_fft=n_fft, win_length=width)(x))
    contender(GROUP_N.format(n_fft, width), "librosa", run)


def bench_affekt_whisper(contender):
    x = voice(30)
    mel = LogMel.whisper()
    contender(GROUP_WHISPER, "affekt", lambda: mel(x), floor=5, aim=10, **work(mel, len(x)))


def bench_librosa_whisper(contender, peer):
    power = librosa_power(peer("librosa"), 400, 400, center=True, pad_mode="reflect")
    x = voice(30)

    def run():
        rows = np.log10(np.maximum(power(x)[:, :-1], 1e-10))
        return ((np.maximum(rows, rows.max() - 8) + 4) / 4).T

    assert_same_rows(run(), LogMel.whisper()(x), 1 / 40)
    contender(GROUP_WHISPER, "librosa", run)


@pytest.mark.parametrize("columns", [13, 39])
def bench_affekt_mfcc(contender, columns):
    x = voice(60)
    mfcc = Mfcc(sample_rate=RATE, deltas=2 if columns == 39 else 0)
    contender(GROUP_MFCC.format(columns), "affekt", lambda: mfcc(x), floor=5, aim=10, **work(mfcc, len(x)))


@pytest.mark.parametrize("columns", [13, 39])
def bench_librosa_mfcc(contender, peer, columns):
    librosa = peer("librosa")
    power = librosa_power(librosa, 512, 400, 40)
    x = voice(60)

    def run():
        rows = librosa.feature.mfcc(S=librosa.power_to_db(power(x), top_db=None), n_mfcc=13)
        if columns == 39:
            rows = np.concatenate([rows, librosa.feature.delta(rows), librosa.feature.delta(rows, order=2)])
        return rows.T

    ours = Mfcc(sample_rate=RATE, deltas=2 if columns == 39 else 0)(x)
    # 0.005 dB in each of 40 filters, through a transform that keeps lengths; deltas make less of it.
    assert np.allclose(run(), ours, rtol=0, atol=5e-3 * math.sqrt(40))
    contender(GROUP_MFCC.format(columns), "librosa", run)


def bench_affekt_mfcc_kaldi(contender):
    x = voice(60)
    mfcc = Mfcc.kaldi(sample_rate=RATE, scale=1.0)
    contender(GROUP_KALDI_MFCC, "affekt", lambda: mfcc(x), floor=5, aim=10, **work(mfcc, len(x)))


def bench_kaldi_native_mfcc(contender, peer):
    knf = peer("kaldi_native_fbank")
    x = voice(60)

    def run():
        options = knf.MfccOptions()
        options.frame_opts.dither = 0
        return kaldi_rows(knf.OnlineMfcc(options), x)

    # 0.005 dB in each of 23 filters, through a transform that keeps lengths; the lifter makes it up to 12
    # times as much.
    lifter = 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    apart = np.abs(run() - Mfcc.kaldi(sample_rate=RATE, scale=1.0)(x))
    assert (apart <= 5e-3 * DECIBEL * math.sqrt(23) * lifter).all()
    contender(GROUP_KALDI_MFCC, "kaldi-native-fbank", run)


def mfcc_of_opensmile() -> Mfcc:
    """Return our MFCC with the definition that OPENSMILE gives: HTK's, on samples in the range of 16 bits."""
    return Mfcc(
        sample_rate=RATE,
        n_mels=26,
        window="hamming",
        periodic=False,
        span="win_length",
        mel_scale="kaldi",
        mel_norm=None,
        log="ln",
        floor=1e-8,
        lifter=22,
        lifter_mode="htk",
        scale=32768,
        preemphasis=0.97,
        preemphasis_mode="frame",
    )


def bench_affekt_mfcc_htk(contender):
    x, mfcc = voice(60), mfcc_of_opensmile()
    contender(GROUP_OPENSMILE, "affekt", lambda: mfcc(x), **work(mfcc, len(x)))


OPENSMILE = """
[componentInstances:cComponentManager]
instance[dataMemory].type=cDataMemory
\\{\\cm[source{?}:source include config]}
[componentInstances:cComponentManager]
instance[frame].type=cFramer
instance[pre].type=cVectorPreemphasis
instance[win].type=cWindower
instance[fft].type=cTransformFFT
instance[mag].type=cFFTmagphase
instance[mel].type=cMelspec
instance[mfcc].type=cMfcc
[frame:cFramer]
reader.dmLevel=wave
writer.dmLevel=frames
frameSize=0.025
frameStep=0.010
frameCenterSpecial=left
noPostEOIprocessing=1
[pre:cVectorPreemphasis]
reader.dmLevel=frames
writer.dmLevel=emphasised
k=0.97
de=0
[win:cWindower]
reader.dmLevel=emphasised
writer.dmLevel=windowed
winFunc=ham
[fft:cTransformFFT]
reader.dmLevel=windowed
writer.dmLevel=spectrum
zeroPadSymmetric=0
[mag:cFFTmagphase]
reader.dmLevel=spectrum
writer.dmLevel=magnitude
[mel:cMelspec]
reader.dmLevel=magnitude
writer.dmLevel=melspec
htkcompatible=1
nBands=26
usePower=1
lofreq=0
hifreq=8000
[mfcc:cMfcc]
reader.dmLevel=melspec
writer.dmLevel=lld
firstMfcc=0
lastMfcc=12
cepLifter=22
htkcompatible=1
\\{\\cm[sink{?}:include external sink]}
"""


def bench_opensmile_mfcc(contender, peer, tmp_path):
    opensmile = peer("opensmile")
    x = voice(60)
    config = tmp_path / "mfcc.conf"
    config.write_text(OPENSMILE)
    smile = opensmile.Smile(str(config), "lld")

    def run():
        return smile(x, RATE)

    theirs = run()[0].T
    ours = mfcc_of_opensmile()(np.trunc(x * 32768).astype(np.int16))  # it takes 16 bits
    # HTK's order: c0 comes last, with the norm of the others.
    assert np.allclose(np.roll(theirs, 1, axis=1) / np.append(math.sqrt(2), np.ones(12)), ours, atol=2e-3)
    contender(
        GROUP_OPENSMILE,
        "openSMILE",
        run,
        note="openSMILE builds its components anew at every call of its Python face and hands over each row "
        "by a callback; samples are rounded to 16 bits first",
    )


def floors_of(n_fft: int) -> dict[str, float]:
    """Return the ratios to reach at powers of two; elsewhere nothing is promised."""
    return {"floor": 1.5, "aim": 2.5} if n_fft & (n_fft - 1) == 0 else {}


@pytest.mark.parametrize("n_fft", TRANSFORMS)
def bench_affekt_stft(contender, n_fft):
    x = voice(60)
    stft = Stft(sample_rate=RATE, n_fft=n_fft)
    frames = stft.frames(len(x))
    contender(
        GROUP_STFT.format(n_fft),
        "affekt",
        lambda: stft(x),
        operations=frames * (n_fft + split_radix(n_fft)),
        bytes_moved=4 * len(x) + 8 * frames * stft.num_bins,
        **floors_of(n_fft),
    )


@pytest.mark.parametrize("n_fft", TRANSFORMS)
def bench_affekt_power(contender, n_fft):
    x = voice(60)
    power = PowerSpectrogram(sample_rate=RATE, n_fft=n_fft)
    frames = power.frames(len(x))
    contender(
        GROUP_POWER.format(n_fft),
        "affekt",
        lambda: power(x),
        operations=frames * (n_fft + split_radix(n_fft) + 3 * power.num_bins),
        bytes_moved=4 * len(x) + 4 * frames * power.num_bins,
        **floors_of(n_fft),
    )


def torch_stft(torch, x, n_fft, window):
    return torch.stft(x, n_fft, n_fft // 4, n_fft, window, center=False, return_complex=True)


@pytest.mark.parametrize("n_fft", TRANSFORMS)
def bench_torch_stft(contender, peer, n_fft):
    torch = peer("torch")
    x, window = torch.from_numpy(voice(60)), torch.hann_window(n_fft)
    run = functools.partial(torch_stft, torch, x, n_fft, window)
    want = run().T.numpy()
    assert np.abs(Stft(sample_rate=RATE, n_fft=n_fft)(x.numpy()) - want).max() < 1e-5 * np.abs(want).max()
    contender(GROUP_STFT.format(n_fft), "torch.stft", run)


@pytest.mark.parametrize("n_fft", TRANSFORMS)
def bench_torch_power(contender, peer, n_fft):
    torch = peer("torch")
    x, window = torch.from_numpy(voice(60)), torch.hann_window(n_fft)

    def run():
        spectrum = torch_stft(torch, x, n_fft, window)
        return spectrum.real**2 + spectrum.imag**2

    want = run().T.numpy()
    ours = PowerSpectrogram(sample_rate=RATE, n_fft=n_fft)(x.numpy())
    assert np.abs(ours - want).max() < 1e-5 * want.max()
    contender(GROUP_POWER.format(n_fft), "torch.stft", run)


@functools.cache
def utterances() -> list[np.ndarray]:
    """Return the ragged batch: 64 pieces of one voice."""
    x = voice(60)
    rng = np.random.default_rng(0)
    lengths = (RATE * rng.uniform(1, 10, 64)).astype(int)
    return [x[(at := int(rng.integers(0, len(x) - n))) : at + n] for n in lengths]


@pytest.mark.parametrize("threads", [1, 2])
def bench_affekt_batch(contender, threads):
    batch, mel = utterances(), LogMel(sample_rate=RATE)
    before = affekt.get_num_threads()
    affekt.set_num_threads(threads)
    try:
        rows = contender(
            GROUP_BATCH,
            "affekt" if threads == 2 else "affekt, one thread",
            lambda: mel.batch(batch),
            floor={"affekt, one thread": 1.8},
            aim={"affekt, one thread": 1.95},
            **work(mel, *map(len, batch)),
        )
    finally:
        affekt.set_num_threads(before)
    assert all(np.array_equal(a, mel(b)) for a, b in zip(rows, batch, strict=True))


HOPS = {  # group: (plan, samples before the first hop)
    GROUP_HOP: (lambda: LogMel.kaldi(sample_rate=RATE, scale=1.0), 400),
    GROUP_HOP_DB: (lambda: LogMel(sample_rate=RATE), 512),
}


@pytest.mark.parametrize("group", HOPS, ids=["Kaldi", "dB"])
def bench_affekt_hop(contender, group):
    make, start = HOPS[group]
    x, plan = voice(1), make()
    stream, hop = plan.stream(), x[:160]
    stream.push(x[:start])
    rows = contender(
        group,
        "affekt",
        lambda: stream.push(hop),
        floor={"kaldi-native-fbank": 5} if group == GROUP_HOP else None,
        floor_us=5,
        aim_us=3,
        **work(plan, 160, rows=1),
    )
    assert rows.shape == (1, 80)


@functools.cache
def front_end_in_cpp() -> ctypes.CDLL:
    """Return the library of hop.cpp, linked to the libaffekt that Python uses."""
    package = Path(_core.__file__).parent
    if not (package / "include").is_dir():
        pytest.skip("affekt is not installed with its headers here")
    code = compiled(
        "hop.cpp", f"-I{package / 'include'}", f"-L{package}", "-laffekt", f"-Wl,-rpath,{package}"
    )
    floats = ctypes.POINTER(ctypes.c_float)
    code.hop_create.restype = ctypes.c_void_p
    code.hop_create.argtypes = [ctypes.c_char_p]
    code.hop_push.argtypes = [ctypes.c_void_p, floats, ctypes.c_int, ctypes.c_int, floats]
    return code


@functools.cache
def hops_in_cpp(group: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that pushes a signal hop by hop in C++ and returns the rows of one stream."""
    make, _ = HOPS[group]
    plan, code = make(), front_end_in_cpp()
    floats = ctypes.POINTER(ctypes.c_float)
    stream = code.hop_create(plan._plan.options.encode())
    rows = np.empty((200, plan.num_features), np.float32)  # of at most 2 s

    def run(x):
        count = code.hop_push(
            stream, x.ctypes.data_as(floats), 160, len(x) // 160, rows.ctypes.data_as(floats)
        )
        return rows[:count]

    x = voice(1)
    assert np.array_equal(run(x), plan(x))
    return run


@pytest.mark.parametrize("group", HOPS, ids=["Kaldi", "dB"])
def bench_affekt_hop_in_cpp(contender, group):
    x, run, plan = voice(1), hops_in_cpp(group), HOPS[group][0]()
    rows = contender(
        GROUP_HOP_CPP.format(group),
        "affekt",
        lambda: run(x),
        units=100,
        aim_us=2,
        note="samples are not searched for bad ones here, as `push` of Python does",
        **work(plan, len(x), rows=100),
    )
    assert rows.shape == (100, 80)


def bench_kaldi_native_fbank_hop(contender, peer):
    knf = peer("kaldi_native_fbank")
    x = voice(1)
    bank, hop = kaldi_online(knf), x[:160]
    bank.accept_waveform(RATE, x[:400])
    done = bank.num_frames_ready
    stream = HOPS[GROUP_HOP][0]().stream()
    stream.push(x[:400])

    def run():
        nonlocal done
        bank.accept_waveform(RATE, hop)
        bank.pop(1)  # the row before, whose memory Python has seen
        row = bank.get_frame(done)
        done += 1
        return row

    rows = [(run().copy(), stream.push(hop)[0]) for _ in range(20)]
    assert_same_rows(*(np.stack(side) for side in zip(*rows, strict=True)), DECIBEL)
    assert contender(GROUP_HOP, "kaldi-native-fbank", run).shape == (80,)
