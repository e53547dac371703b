"""The figures hold what they are given, legibly, for recordings of any length."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from affekt.errors import InputError

matplotlib = pytest.importorskip("matplotlib")
soundfile = pytest.importorskip("soundfile")

from affekt.report import (  # noqa: E402
    confusion_figure,
    save_figure,
    save_traces,
    trace_figure,
    training_figure,
)
from affekt.report.plots import _envelope  # noqa: E402

EMOTIONS = ["neutral", "happy", "sad"]


def table(rows=50, step=0.2, file="talk.wav", emotions=True, dimensions=True):
    draw = np.random.default_rng(rows)
    end = 0.4 + step * np.arange(rows)
    columns = {"file": file, "start": np.maximum(end - 2, 0), "end": end}
    if dimensions:
        columns |= {name: draw.uniform(-0.9, 0.9, rows) for name in ("valence", "arousal", "dominance")}
    if emotions:
        chances = draw.dirichlet(np.ones(3), rows)
        columns |= {f"p_{name}": chances[:, i] for i, name in enumerate(EMOTIONS)}
    return pd.DataFrame(columns)


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.sin(np.arange(44100 * 10) * 0.01) * np.linspace(0, 0.8, 441000), 44100)
    return path


def panel(figure, title):
    return next(axis for axis in figure.axes if axis.get_title(loc="left") == title)


def test_a_trace_shows_sound_affect_and_emotion_over_one_time_axis(sound):
    given = table()
    given.attrs = {"model": "speech-small 1", "mode": "full"}
    figure = trace_figure(given, sound)
    affect, emotion = panel(figure, "Affect"), panel(figure, "Emotion")
    assert panel(figure, "Sound").get_shared_x_axes().joined(affect, emotion)
    lines = {line.get_label(): line for line in affect.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["valence", "arousal", "dominance"]
    for name, line in lines.items():
        np.testing.assert_allclose(line.get_ydata(), given[name])
        np.testing.assert_allclose(line.get_xdata(), given["end"])
    assert [text.get_text() for text in emotion.get_yticklabels()] == EMOTIONS
    (mesh,) = [c for c in emotion.collections if isinstance(c, matplotlib.collections.QuadMesh)]
    np.testing.assert_allclose(mesh.get_array().reshape(3, -1), given[[f"p_{e}" for e in EMOTIONS]].T)
    assert emotion.get_xlabel() == "time (s)"
    assert affect.get_ylim() == (-1, 1)
    texts = [text.get_text() for text in figure.texts]
    assert "talk.wav" in texts
    assert "model speech-small 1, full mode" in texts


def test_what_is_not_valid_is_grey_and_nothing_else(sound):
    given = table().assign(valid=True)
    given.loc[0:3, "valid"] = given.loc[10:10, "valid"] = given.loc[48:, "valid"] = False
    affect, emotion, wave = (
        panel(trace_figure(given, sound), title) for title in ("Affect", "Emotion", "Sound")
    )
    end = given["end"].to_numpy()
    spans = [(end[0] - 0.2, end[3]), (end[9], end[10]), (end[47], end[49])]
    for axis in (affect, emotion, wave):
        (grey,) = [c for c in axis.collections if type(c).__name__ == "PolyCollection" and c.get_zorder() < 1]
        drawn = [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in grey.get_paths()]
        np.testing.assert_allclose(drawn, spans)
        heights = grey.get_paths()[0].get_extents(grey.get_transform()).get_points()[:, 1]
        np.testing.assert_allclose(heights, axis.get_window_extent().get_points()[:, 1])
    line = next(line for line in affect.lines if line.get_label() == "valence")
    np.testing.assert_array_equal(np.isfinite(line.get_ydata()), given["valid"])
    np.testing.assert_allclose(line.get_ydata()[given["valid"]], given["valence"][given["valid"]])
    (mesh,) = [c for c in emotion.collections if isinstance(c, matplotlib.collections.QuadMesh)]
    masked = np.ma.getmaskarray(mesh.get_array()).reshape(3, -1)
    np.testing.assert_array_equal(masked, np.broadcast_to(~given["valid"], masked.shape))
    marked = [line.get_xdata() for line in emotion.lines if line.get_color() == "#E69F00"]
    covered = np.zeros(len(given), bool)
    for left, right in marked:
        covered |= (end > left + 1e-9) & (end <= right + 1e-9)
    np.testing.assert_array_equal(covered, given["valid"])
    texts = [text.get_text() for text in affect.get_legend().get_texts()]
    assert texts == ["too little speech heard", "valence", "arousal", "dominance"]
    assert len(panel(trace_figure(given.assign(valid=True)), "Affect").get_legend().get_texts()) == 3


def test_a_valid_estimate_between_others_is_a_dot():
    given = table(rows=5).assign(valid=[False, True, False, True, True])
    axis = panel(trace_figure(given), "Affect")
    dots = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert len(dots) == 3
    assert all(line.get_xdata() == given["end"][1] for line in dots)


def test_nothing_is_cut_off_and_no_labels_collide(sound):
    figure = trace_figure(table(), sound)
    figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    for axis in figure.axes:
        box = axis.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    boxes = sorted((a.get_tightbbox() for a in figure.axes if a.get_title(loc="left")), key=lambda b: -b.y1)
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))


@pytest.mark.parametrize(
    "given",
    [
        table(rows=1),
        table(rows=2, emotions=False),
        table(rows=2, dimensions=False),
        table(rows=20_000),
        table(rows=20_000).assign(valid=np.arange(20_000) % 100 < 50),
        table(rows=1).assign(valence=1.7),
        table(rows=1).assign(valid=False),
        table(rows=3_000, dimensions=False).assign(valid=False),
    ],
)
def test_any_length_and_any_outputs_can_be_drawn(given, tmp_path):
    path = save_figure(trace_figure(given), tmp_path / "picture.png")
    assert path.stat().st_size > 4000


@pytest.mark.parametrize(
    ("seconds", "label"), [(20, "time (s)"), (600, "time (min:s)"), (9000, "time (h:min)")]
)
def test_the_time_axis_fits_the_length(seconds, label):
    figure = trace_figure(table(rows=100, step=seconds / 100))
    figure.draw_without_rendering()
    axis = panel(figure, "Emotion")
    assert axis.get_xlabel() == label
    low, high = axis.get_xlim()
    shown = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert 3 <= len(shown) <= 14


def test_a_long_trace_is_thinned_over_what_is_valid():
    given = table(rows=20_000).assign(valid=np.arange(20_000) % 40 < 20)
    given.loc[~given["valid"], "valence"] = 0.99
    axis = panel(trace_figure(given), "Affect")
    line = next(line for line in axis.lines if line.get_label() == "valence")
    assert len(line.get_xdata()) <= 1500
    assert np.nanmax(line.get_ydata()) < 0.95
    groups = np.array_split(given["valid"].to_numpy(), 1500)
    np.testing.assert_array_equal(np.isfinite(line.get_ydata()), [group.any() for group in groups])
    known = given["valence"][given["valid"]]
    assert np.nanmean(line.get_ydata()) == pytest.approx(known.mean(), abs=0.01)


def test_a_long_trace_is_thinned_but_keeps_its_mean_and_extremes():
    given = table(rows=20_000)
    axis = panel(trace_figure(given), "Affect")
    line = next(line for line in axis.lines if line.get_label() == "valence")
    assert len(line.get_xdata()) <= 1500
    assert np.mean(line.get_ydata()) == pytest.approx(given["valence"].mean(), abs=1e-3)
    band = np.concatenate([p.vertices[:, 1] for c in axis.collections for p in c.get_paths()])
    assert band.max() == pytest.approx(given[["valence", "arousal", "dominance"]].max().max())


@pytest.mark.parametrize("frames", [1, 1999, 2000, 2001, 123_457])
def test_the_envelope_keeps_the_extremes(tmp_path, frames):
    samples = np.random.default_rng(frames).uniform(-0.5, 0.5, frames).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", samples, 22050, subtype="FLOAT")
    spans, duration = _envelope(tmp_path / "x.wav")
    assert len(spans) <= 2000
    assert duration == pytest.approx(frames / 22050)
    assert spans.min() == samples.min()
    assert spans.max() == samples.max()


def test_one_picture_per_file(tmp_path):
    both = pd.concat([table(file="a/x.wav"), table(file="b/x.wav"), table(file="y.wav")])
    paths = save_traces(both, tmp_path / "t.png", waveform=False)
    assert [path.name for path in paths] == ["t.x.png", "t.x.2.png", "t.y.png"]
    assert all(path.is_file() for path in paths)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one estimate"):
        trace_figure(table().iloc[:0])
    with pytest.raises(InputError, match="the rows of one file, got 2"):
        trace_figure(pd.concat([table(), table(file="other.wav")]))
    with pytest.raises(InputError, match="columns with estimates"):
        trace_figure(table()[["file", "start", "end"]])
    with pytest.raises(InputError, match=r"ends in one of .*png.*got '.*picture'"):
        save_figure(trace_figure(table()), tmp_path / "picture")
    with pytest.raises(InputError, match=r"expected shape \(2, 2\), got \(3, 3\)"):
        confusion_figure(np.eye(3), ["a", "b"])
    with pytest.raises(InputError, match="expected a column 'epoch'"):
        training_figure(pd.DataFrame({"loss": [1.0]}))
    with pytest.raises(InputError, match="figures beside the epochs"):
        training_figure(pd.DataFrame({"epoch": [0]}))


def test_training_curves_have_a_panel_per_figure():
    log = pd.DataFrame({"epoch": [0, 1, 2], "step": [5, 10, 15], "train_loss": [3.0, 2.0, 1.0], "lr": 0.1})
    log["uar"] = [0.2, 0.3, 0.5]
    figure = training_figure([log, log.iloc[:2].assign(train_loss=[5.0, 4.0])], title="run")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["loss", "learning rate", "uar"]
    thick = max(panel(figure, "loss").lines, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(thick.get_ydata(), [4.0, 3.0])


def test_a_panel_that_repeats_another_is_left_out():
    log = pd.DataFrame({"epoch": [0, 1], "train_loss": [3.0, 2.0], "train_emotion": [3.0, 2.0]})
    log = log.assign(uar=[0.2, 0.3], score=[0.2, 0.3], ccc=[0.2, 0.3001])
    titles = [axis.get_title(loc="left") for axis in training_figure(log).axes]
    assert titles == ["loss", "uar", "ccc"]


def test_a_confusion_matrix_shows_counts_and_shares():
    figure = confusion_figure([[3, 1], [0, 0]], ["calm", "angry"])
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"3\n75%", "1\n25%"}
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["calm (4)", "angry (0)"]


def test_figures_leave_no_global_state(sound):
    import matplotlib.pyplot as pyplot

    before = pyplot.get_fignums(), dict(matplotlib.rcParams)
    trace_figure(table(), sound)
    assert (pyplot.get_fignums(), dict(matplotlib.rcParams)) == before
