"""``python -m affekt._demo [AUDIO]``: the shipped model on a real voice, over the whole recording and live.

The two ways must agree to the last bit at every step and in every output; the demo fails where they do not.
Without AUDIO it fetches the Debian package pocketsphinx-testdata, which has sentences of *Sense and
Sensibility* read for LibriVox, unpacks it without installing anything, and keeps the recording in a cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from affekt.errors import AffektError, DataError

if TYPE_CHECKING:
    import pandas as pd

_PACKAGE = "pocketsphinx-testdata"
_RATE = 16000  # of the raw files in the package, which have no header: 16 bit, little endian, mono
# Odd on purpose: single samples, primes, blocks longer than any buffer inside.
_CHUNKS = ([1600], [1, 7, 160, 331, 1601], [17, 48000, 3])


def main(argv: list[str] | None = None) -> int:
    """Run the demo; 0 when both ways gave the same bits, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m affekt._demo", description=__doc__.split("\n", 1)[0])
    parser.add_argument("audio", nargs="?", help="your own recording; without it a sample is fetched")
    parser.add_argument("--model", help="a model file; without it the one that ships with affekt")
    parser.add_argument(
        "--out", default="demo", help="folder for the table and the plot (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        return _run(args.audio, args.model, Path(args.out))
    except (AffektError, OSError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1


def _run(audio: str | None, model: str | None, out: Path) -> int:
    import affekt
    from affekt._predict import describe_model, open_model
    from affekt.report import save_traces

    native = open_model(model)
    if audio:
        path, origin = Path(audio), ""
    else:
        path, origin = sample_recording(), f" (five sentences read for LibriVox, from Debian's {_PACKAGE})"
    print(f"recording  {path}{origin}")
    print(f"model      {describe_model(native)}: {', '.join(native.columns)}")

    begun = time.perf_counter()
    full = affekt.predict(path, native)
    spent = time.perf_counter() - begun
    seconds = float(full["end"].iloc[-1])
    print(
        f"full       {len(full)} estimates along {seconds:.1f} s of sound in {spent:.2f} s, reading included"
    )

    _print_last(full, native.columns)

    columns = native.columns
    worst = 0.0
    same = True
    for chunks in _CHUNKS:
        live = affekt.predict(path, native, mode="stream", chunk=chunks)
        sizes = ", ".join(str(size) for size in chunks)
        if len(live) != len(full):
            print(f"stream     chunks of {sizes} samples: {len(live)} estimates, {len(full)} expected")
            same = False
            continue
        difference = float(np.abs(live[columns].to_numpy(float) - full[columns].to_numpy(float)).max())
        worst = max(worst, difference)
        same = same and live[["start", "end", *columns]].equals(full[["start", "end", *columns]])
        print(
            f"stream     chunks of {sizes} samples: {len(live)} estimates, largest difference {difference:g}"
        )

    out.mkdir(parents=True, exist_ok=True)
    table, plot = out / f"{path.stem}.csv", out / f"{path.stem}.png"
    full.to_csv(table, index=False)
    save_traces(full, plot)
    print(f"table      {table}")
    print(f"plot       {plot}")
    print(f"largest difference between full and stream, over all steps and outputs: {worst:g}")
    if not same or worst != 0.0:
        print("demo: FAILED: the live estimates differ from those of the whole recording", file=sys.stderr)
        return 1
    return 0


def _print_last(estimates: pd.DataFrame, columns: Sequence[str]) -> None:
    heard = estimates[estimates["valid"]] if "valid" in estimates else estimates
    if heard.empty:
        return
    row = heard.iloc[-1]
    said = [f"{name} {row[name]:+.2f}" for name in columns if not name.startswith("p_")]
    classes = [name for name in columns if name.startswith("p_")]
    if classes:
        best = max(classes, key=lambda name: row[name])
        said.append(f"{best[2:]} {row[best]:.2f}")
    print(f"last       at {row['end']:.1f} s: {', '.join(said)}")
    print("           (it learnt from acted emotions; of a voice that reads or chats this is a guess)")


def sample_recording(cache: Path | None = None) -> Path:
    """A recording of a real voice (wav, 16 kHz), fetched from Debian's archive at the first call.

    Parameters
    ----------
    cache : folder that keeps it; ``$XDG_CACHE_HOME/affekt`` or ``~/.cache/affekt`` by default.

    Raises
    ------
    DataError
        No apt-get or dpkg-deb here, the archive cannot be reached, or the package holds no recording.
    """
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "affekt"
    target = cache / "sense-and-sensibility.wav"
    if target.is_file():
        return target
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise DataError(
            f"{' and '.join(missing)} not found: the sample recording comes as a Debian package. "
            "Give a recording of your own: make demo AUDIO=my.wav, or python -m affekt._demo my.wav"
        )
    with tempfile.TemporaryDirectory(prefix="affekt-demo-") as work:
        folder = Path(work)
        _download(folder)
        package = next(folder.glob("*.deb"))
        _tool(["dpkg-deb", "-x", str(package), str(folder / "unpacked")], folder)
        samples = read_sentences(folder / "unpacked")
    cache.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.part")
    with wave.open(str(partial), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    partial.replace(target)
    return target


def read_sentences(folder: Path) -> np.ndarray:
    """The read sentences of the unpacked package, one after the other: (time,) int16 at 16 kHz.

    The LibriVox sentences (wav) where they are; else any raw recording, which is 16-bit little-endian mono.
    """
    pieces = []
    for path in sorted(folder.rglob("librivox/*.wav")):
        with wave.open(str(path), "rb") as file:
            form = (file.getframerate(), file.getnchannels(), file.getsampwidth())
            if form == (_RATE, 1, 2):
                pieces.append(np.frombuffer(file.readframes(file.getnframes()), dtype="<i2"))
    if not pieces:
        pieces = [np.fromfile(path, dtype="<i2") for path in sorted(folder.rglob("test/data/*.raw"))]
    if not pieces:
        raise DataError(
            f"the package {_PACKAGE} holds no recording that the demo knows; give one of your own"
        )
    return np.concatenate(pieces)


def _download(folder: Path) -> None:
    """Put the package into `folder`, with package lists of our own where the machine has none (no root)."""
    # apt drops to its own user to download, which must be able to write here.
    folder.chmod(0o777)
    for sub in ("lists/partial", "cache/archives/partial"):
        (folder / sub).mkdir(parents=True)
    fetch = ["apt-get", "download", _PACKAGE]
    try:
        _tool(fetch, folder)
    except DataError:
        own = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
        _tool(["apt-get", *own, "update"], folder)
        _tool([*fetch[:1], *own, *fetch[1:]], folder)


def _tool(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        said = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        raise DataError(
            f"the sample recording cannot be fetched ({command[0]}: {said[-1] if said else 'no message'}). "
            "Without a network give a recording of your own: make demo AUDIO=my.wav, or "
            "python -m affekt._demo my.wav"
        )


if __name__ == "__main__":
    sys.exit(main())
