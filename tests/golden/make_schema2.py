"""Makes the golden file of schema 2. It is committed and must load, with these results, for ever.

    python tests/golden/make_schema2.py

As make_schema1.py: run it only to add a file. The recording is `recording()` of this file; expected values
come from the float64 reference in ../fused_model.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parents[1] / "python"))

import fused_model  # noqa: E402
from affekt.modelfile import write_model  # noqa: E402


def recording() -> fused_model.Pieces:
    """Four seconds of all inputs, of which the face starts late and pauses."""
    made = fused_model.signals(4.0)
    face = made["face"]
    return {
        "audio": [(0.0, made["audio"])],
        "eeg": [(0.0, made["eeg"])],
        "face": [(0.4, face[10:40]), (2.8, face[70:])],
    }


def main() -> None:
    card, tensors = fused_model.fused()
    write_model(HERE / "schema2_fused.safetensors", card, tensors)
    times, values, present, confidence = fused_model.expected(card, tensors, recording())
    table = np.column_stack([times, values, present, confidence])
    names = ["time", "valence", "arousal", *fused_model.RATES, "confidence"]
    np.savetxt(HERE / "schema2_fused.csv", table, "%.6f", delimiter=",", header=",".join(names), comments="")


if __name__ == "__main__":
    main()
