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
        "schema1_speaker": reference_model.speaker(),
        "schema1_ensemble": reference_model.ensemble(),
    }.items():
        write_model(HERE / f"{name}.safetensors", card, tensors)
        times, values, valid = reference_model.run_valid(card, tensors, signal)
        columns = [
            f"p_{label}" if output["kind"] == "categorical" else label
            for output in card["outputs"]
            for label in output["labels"]
        ]
        with open(HERE / f"{name}.csv", "w", encoding="ascii") as file:
            said = "validity" in card
            print("time", *columns, *(["valid"] if said else []), sep=",", file=file)
            for time, row, good in zip(times, values, valid, strict=True):
                numbers = [time, *row, *([good] if said else [])]
                print(*(f"{number:.6f}" for number in numbers), sep=",", file=file)


if __name__ == "__main__":
    main()
