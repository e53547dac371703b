"""Try an installed wheel as a robot would: numpy only, no torch, no compiler.

`python -I scripts/try_wheel.py` imports the package, computes features, loads the shipped model, and checks
that the live engine gives the numbers of the full pass on a generated recording, bit for bit.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import wave
from importlib import util
from pathlib import Path

import numpy as np

import affekt
from affekt import features, live, weights


def generated_speech(seconds: float, rate: int) -> np.ndarray:
    """Return a voiced-like test signal in [-1, 1]: harmonics of a gliding pitch under a syllable rhythm."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    rhythm = 0.5 + 0.5 * np.sin(2 * np.pi * 3.1 * t)
    noise = np.random.default_rng(0).standard_normal(t.size)
    return (0.1 * rhythm * voice + 0.002 * noise).astype(np.float32)


def main() -> None:
    """Run every check; the first that fails raises."""
    assert util.find_spec("torch") is None, "this check is for an environment without torch"
    assert not any(shutil.which(c) for c in ("cc", "c++", "gcc", "g++", "clang", "clang++")), os.environ[
        "PATH"
    ]
    print(f"affekt {affekt.__version__} from {Path(affekt.__file__).parent}")

    rate = 16000
    x = generated_speech(6.0, rate)
    rows = features.LogMel(sample_rate=rate)(x)
    assert rows.shape[-1] == 80, rows.shape
    assert np.isfinite(rows).all()
    print(f"features: {rows.shape[0]} rows of {rows.shape[1]} log-mel bands")

    path = weights.default_model()
    model = affekt.load(path)
    with tempfile.TemporaryDirectory() as folder:
        # Through a real file, as 16-bit PCM: what the engine is fed in the field.
        with wave.open(str(Path(folder) / "voice.wav"), "wb") as out:
            out.setparams((1, 2, rate, 0, "NONE", ""))
            out.writeframes((x * 32767).astype("<i2").tobytes())
        with wave.open(str(Path(folder) / "voice.wav"), "rb") as source:
            pcm = np.frombuffer(source.readframes(source.getnframes()), dtype="<i2")
    times, full = model.run(pcm.astype(np.float32) / 32768)

    engine = live.Engine(path)
    live_times, live_values = [], []

    def drain() -> None:
        while (estimate := engine.poll()) is not None:
            live_times.append(estimate.time)
            live_values.append([estimate[name] for name in model.columns])

    sizes, start = np.random.default_rng(1), 0
    while start < pcm.size:
        chunk = pcm[start : start + int(sizes.integers(1, 3000))]
        start += engine.push("audio", chunk, time=start / rate)
        drain()
    engine.finish()
    drain()
    assert len(live_times) == len(times) > 0, (len(live_times), len(times))
    assert np.array_equal(np.asarray(live_values, dtype=np.float32), full), "live and full pass differ"
    print(f"live engine: {len(times)} estimates of {', '.join(model.columns)}, the bits of the full pass")
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main()
