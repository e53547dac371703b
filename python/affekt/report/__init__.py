"""Pictures of estimates and of training runs, made with matplotlib and without any global state of it."""

from affekt.report.plots import (
    confusion_figure,
    reliability_figure,
    robustness_figure,
    save_figure,
    save_traces,
    trace_figure,
    training_figure,
)

__all__ = [
    "confusion_figure",
    "reliability_figure",
    "robustness_figure",
    "save_figure",
    "save_traces",
    "trace_figure",
    "training_figure",
]
