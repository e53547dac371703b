"""The table in docs/voice_activity.md: how well the model's own voice activity and a detector find speech.

usage: python scripts/voice_activity.py DATA        write the table anew; DATA holds ravdess/ and emotale/

One clip of every RAVDESS actor and EmoTale speaker, drawn with a fixed seed, clean and in white noise (SNR
over the rows of speech), then sounds without speech, each from a fresh start. The reference is what the
shipped model's own activity says of the clean clip, row by row (40 ms); a detector counts with the last frame
that it had finished by the end of a row.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import affekt
from affekt import detectors, features, systems
from affekt.data.audio import read_audio

PAGE = Path(__file__).resolve().parents[1] / "docs" / "voice_activity.md"
BEGIN, END = "<!-- table: scripts/voice_activity.py -->\n", "<!-- end of table -->\n"
RATE = 16000
MODEL = affekt.load()
SYSTEM = systems.restore(MODEL.path).eval()
OPTIONS = {name: value for name, value in SYSTEM.config.front_end.items() if name != "kind"}
SILERO = detectors.open_detector("silero")
WAYS = ("own", "silero")


def own(signal: np.ndarray) -> np.ndarray:
    """What the model's activity says of its rows."""
    rows = torch.as_tensor(np.asarray(features.LogMel(**OPTIONS)(signal)))[None]
    return (SYSTEM.activity(SYSTEM.stack(rows)[0])[0, :, 0] >= 0.5).numpy()


def silero(signal: np.ndarray) -> np.ndarray:
    """Decisions of the detector at the ends of the same rows."""
    decided = np.r_[False, SILERO.decisions(signal)]  # before its first frame it has heard no speech
    hop, size = OPTIONS["hop_length"], OPTIONS["n_fft"]
    stack = SYSTEM.config.stack
    rows = ((len(signal) - size) // hop + 1 - stack.size) // stack.stride + 1
    ends = np.arange(rows) * stack.stride * hop + (stack.size - 1) * hop + size
    return decided[ends // SILERO.frame]


def clips(data: Path) -> list[np.ndarray]:
    """A clip of every speaker."""
    draw = np.random.default_rng(0)
    people: dict[str, list[Path]] = {}
    for path in sorted(data.glob("ravdess/Actor_*/*.flac")):
        people.setdefault(path.parent.name, []).append(path)
    for path in sorted(data.glob("emotale/audio/*.flac")):
        people.setdefault("_".join(path.name.split("_")[:2]), []).append(path)
    chosen = [files[draw.integers(len(files))] for _, files in sorted(people.items())]
    return [read_audio(path, RATE) for path in chosen]


def power(signal: np.ndarray, speech: np.ndarray) -> float:
    """Mean square over the rows of speech."""
    step = SYSTEM.config.stack.stride * OPTIONS["hop_length"]
    rows = signal[: len(speech) * step].reshape(-1, step)
    return float(np.mean(rows[speech].astype(float) ** 2))


def noise(samples: int, level_db: float, seed: int) -> np.ndarray:
    """White, of that root mean square in dB full scale."""
    draw = np.random.default_rng(seed)
    return (draw.standard_normal(samples) * 10 ** (level_db / 20)).astype(np.float32)


def music(seconds: float) -> np.ndarray:
    """Chords of decaying harmonic tones, two a second, at -20 dB full scale."""
    t = np.arange(int(seconds * RATE)) / RATE
    out = np.zeros(len(t))
    for i, root in enumerate(220 * 2 ** (np.resize([0, 5, 7, 3, 0, 8, 5, 7], int(2 * seconds)) / 12)):
        now = np.clip(t - i / 2, 0, None)
        for ratio in (1, 5 / 4, 3 / 2):
            for k in range(1, 6):
                out += (t >= i / 2) * np.exp(-4 * now) * np.sin(2 * np.pi * root * ratio * k * now) / k
    return (out * 0.1 / np.sqrt(np.mean(out**2))).astype(np.float32)


def share(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def last_valid(signal: np.ndarray, name: str) -> str:
    found = MODEL.run(signal, detector=None if name == "own" else name)
    valid = found.times[found.valid]
    return f"{valid[-1]:.1f} s" if len(valid) else "never"


def table(data: Path) -> str:
    decide = {"own": own, "silero": silero}
    signals = clips(data)
    truth = [own(signal) for signal in signals]
    heads = " | ".join(f"{what}, {way}" for what in ("found", "falsely", "valid") for way in WAYS)
    lines = [f"| speech | {heads} |", "|---|" + "---|" * 6]
    for snr in (None, 20, 10, 0):
        counts = dict.fromkeys(WAYS, np.zeros(6))
        for i, (signal, speech) in enumerate(zip(signals, truth, strict=True)):
            if snr is not None:
                level = 10 * np.log10(power(signal, speech)) - snr
                signal = np.clip(signal + noise(len(signal), level, i), -1, 1)
            for way in WAYS:
                said = decide[way](signal)
                valid = MODEL.run(signal, detector=None if way == "own" else way).valid
                both, wrong = (said & speech).sum(), (said & ~speech).sum()
                sums = (both, speech.sum(), wrong, (~speech).sum(), valid.sum(), len(valid))
                counts[way] = counts[way] + np.array(sums)
        cells = [share(*counts[way][k : k + 2]) for k in (0, 2, 4) for way in WAYS]
        lines.append(f"| {'clean' if snr is None else f'SNR {snr} dB'} | {' | '.join(cells)} |")
    heads = " | ".join(f"{what}, {way}" for what in ("falsely", "valid until") for way in WAYS)
    lines += ["", f"| 30 s without speech | {heads} |", "|---|" + "---|" * 4]
    long = 30 * RATE
    for name, signal in {
        "white noise, -20 dBFS": noise(long, -20, 1),
        "white noise, -45 dBFS": noise(long, -45, 2),
        "zeros": np.zeros(long, np.float32),
        "chords, -20 dBFS": music(30),
        "tone of 440 Hz, -20 dBFS": np.sin(2 * np.pi * 440 * np.arange(long) / RATE).astype(np.float32)
        * 0.1414,
    }.items():
        cells = [f"{decide[way](signal).mean():.3f}" for way in WAYS] + [
            last_valid(signal, way) for way in WAYS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1], "ravdess").is_dir():
        sys.exit(__doc__)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n" + table(Path(sys.argv[1])) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
