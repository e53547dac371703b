"""Makes the golden files of schema 1. They are committed and must load, with these results, for ever.

    python tests/golden/make_schema1.py

Run it only to add a file: a committed file that changes is a broken promise. Expected values come from the
float64 reference in ../reference_model.py, not from the core; the signal is `Numbers(7).signal(12000)`.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parents[1] / "python"))

import reference_model  # noqa: E402
from affekt.modelfile import write_model  # noqa: E402

SAMPLES = 12000


def main() -> None:
    signal = reference_model.Numbers(7).signal(SAMPLES)
    for name, (card, tensors) in {
        "schema1_utterance": reference_model.utterance(),
        "schema1_trace": reference_model.trace(),
        "schema1_utterance_int8": reference_model.utterance_int8(),
    }.items():
        write_model(HERE / f"{name}.safetensors", card, tensors)
        times, values = reference_model.run(card, tensors, signal)
        columns = [
            f"p_{label}" if output["kind"] == "categorical" else label
            for output in card["outputs"]
            for label in output["labels"]
        ]
        with open(HERE / f"{name}.csv", "w", encoding="ascii") as file:
            print("time", *columns, sep=",", file=file)
            for time, row in zip(times, values, strict=True):
                print(f"{time:.6f}", *(f"{value:.6f}" for value in row), sep=",", file=file)


if __name__ == "__main__":
    main()
