"""The pages of results and experiments: every figure of the tables, nothing else, and the same again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pandas = pytest.importorskip("pandas")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import results_page  # noqa: E402
import runs  # noqa: E402

SUMMARY = ["metric", "over", "condition", "mean", "sd", "low", "high", "n", "min", "max"]


def write_run(folder: Path, *, conditions=("raw", "running"), floor: bool = True) -> Path:
    """The tables of a run of two folds with four speakers, one of them untouched."""
    folder.mkdir(parents=True)
    (folder / "audit.json").write_text(json.dumps({"ok": True}))
    lines, results, groups = [], [], []
    for i, condition in enumerate(conditions):
        lines += [
            ["uar", "pooled", condition, 0.5 + i / 10, 0.02, 0.4 + i / 10, 0.6 + i / 10, 4, None, None],
            ["uar", "groups", condition, 0.52 + i / 10, 0.07, 0.3, 0.7, 4, 0.41, 0.63],
            ["uar", "untouched", condition, 0.45 + i / 10, 0.02, 0.35, 0.55, 3, None, None],
            ["ccc_arousal", "pooled", condition, 0.8, None, None, None, 1, None, None],
            ["ece", "pooled", condition, 0.07, 0.01, 0.05, 0.1, 4, None, None],
            ["coverage95_arousal", "pooled", condition, 0.93, 0.01, 0.9, 0.97, 4, None, None],
        ]
        for fold in (1, 2):
            people = f"anna-{fold} otto-{fold}"
            row = {"fold": fold, "seed": 0, "condition": condition, "n_test": 30, "test_groups": people}
            results.append(row | {"seconds": 12.5, "parameters": 1234})
            groups += [{"group": name, "n": 15, "condition": condition} for name in people.split()]
    pandas.DataFrame(lines, columns=SUMMARY).to_csv(folder / "summary.csv", index=False)
    pandas.DataFrame(results).to_csv(folder / "results.csv", index=False)
    pandas.DataFrame(groups).to_csv(folder / "groups.csv", index=False)
    if floor:
        (folder / "floor_audit.json").write_text(json.dumps({"ok": True}))
        lines = [["uar", "pooled", "whole", 0.631, 0.02, 0.6, 0.66, 4, None, None]]
        pandas.DataFrame(lines, columns=SUMMARY).to_csv(folder / "floor_summary.csv", index=False)
        pandas.DataFrame(results).to_csv(folder / "floor_results.csv", index=False)
        pandas.DataFrame(groups).to_csv(folder / "floor_groups.csv", index=False)
    return folder


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "experiments.csv").write_text(",".join(results_page.LOG) + "\n")
    (tmp_path / "docs" / "results" / "runs.csv").write_text("run,title,command\n")
    return tmp_path / "docs"


def row_of(page: str, *starts: str) -> list[str]:
    """The cells of the one table line that starts with these."""
    lines = [[c.strip() for c in line.split(" | ")] for line in page.splitlines() if line.startswith("| ")]
    lines = [[cells[0].removeprefix("| "), *cells[1:-1], cells[-1].removesuffix(" |")] for cells in lines]
    (found,) = [cells for cells in lines if tuple(cells[: len(starts)]) == starts]
    return found


def test_the_committed_pages_are_those_of_the_committed_tables():
    for name, text in (
        ("results.md", results_page.results_page(ROOT / "docs")),
        ("experiments.md", results_page.experiments_page(ROOT / "docs")),
    ):
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text


def test_a_run_shows_conditions_untouched_speakers_floors_and_spread(docs, tmp_path):
    folder = write_run(tmp_path / "loso")
    results_page.main(["run", "Four speakers", "affekt train x 'a=[1]'", str(folder)], docs)
    page = (docs / "results.md").read_text()
    assert row_of(page, "loso", "UAR", "4, all")[3:] == [
        "0.500 (0.400 to 0.600)", "0.600 (0.500 to 0.700)", "-", "-", "-", "0.631 (0.600 to 0.660)",
    ]  # fmt: skip
    assert row_of(page, "loso", "UAR", "3, untouched")[3:5] == [
        "0.450 (0.350 to 0.550)",
        "0.550 (0.350 to 0.550)",
    ]
    assert row_of(page, "loso", "CCC arousal", "1, all")[3] == "0.800"  # one speaker: no interval
    assert row_of(page, "loso", "ours", "running", "UAR")[4:] == ["4", "0.620", "0.070", "0.410", "0.630"]
    assert row_of(page, "loso", "raw", "ECE")[3] == "0.070 (0.050 to 0.100)"
    assert row_of(page, "loso", "running", "within 1.96 sd arousal")[3] == "0.930 (0.900 to 0.970)"
    # Two folds, four speakers, 60 tests and 25 s, whatever the number of conditions.
    about = row_of(page, "**loso**: Four speakers")
    assert about[1:7] == ["`affekt train x 'a=[1]'`", "2", "1", "4", "60", "25"]
    assert row_of(page, "loso", "1234")
    for table in ("results", "summary", "groups", "floor_summary"):
        assert (docs / "results" / f"loso_{table}.csv").read_bytes() == (folder / f"{table}.csv").read_bytes()


def test_a_floor_may_come_from_another_run_over_the_same_folds(docs, tmp_path):
    ours, floor = write_run(tmp_path / "ours", floor=False), write_run(tmp_path / "floor")
    results_page.main(["run", "Ours", "affekt train", str(ours), str(floor)], docs)
    assert row_of((docs / "results.md").read_text(), "ours", "UAR", "4, all")[-1] == "0.631 (0.600 to 0.660)"
    table = pandas.read_csv(floor / "floor_results.csv")
    table.assign(test_groups="emma").to_csv(floor / "floor_results.csv", index=False)
    with pytest.raises(runs.RunError, match="floor was tested on other folds"):
        results_page.add_run(docs, "Ours", "affekt train", ours, floor)


def test_a_run_that_comes_again_keeps_its_place(docs, tmp_path):
    for name in ("first", "second"):
        folder = write_run(tmp_path / name, floor=False)
        results_page.main(["run", f"The {name}", "affekt train", str(folder)], docs)
    results_page.main(["run", "Once more", "affekt train", str(tmp_path / "first")], docs)
    listed = pandas.read_csv(docs / "results" / "runs.csv")
    assert listed["run"].tolist() == ["first", "second"]
    assert listed["title"].tolist() == ["Once more", "The second"]
    before = (docs / "results.md").read_bytes()
    results_page.main([], docs)
    assert (docs / "results.md").read_bytes() == before


def test_a_run_is_of_one_configuration(docs, tmp_path):
    folder = write_run(tmp_path / "one", floor=False)
    results_page.main(["run", "One", "affekt train", str(folder)], docs)
    assert pandas.read_csv(docs / "results" / "runs.csv")["configuration"].isna().all()
    table = pandas.read_csv(folder / "results.csv")
    table.assign(configuration="0123abcd").to_csv(folder / "results.csv", index=False)
    results_page.main(["run", "One", "affekt train", str(folder)], docs)
    assert pandas.read_csv(docs / "results" / "runs.csv", dtype=str)["configuration"].tolist() == ["0123abcd"]
    hashes = ["0123abcd"] * (len(table) - 1) + ["4567"]
    table.assign(configuration=hashes).to_csv(folder / "results.csv", index=False)
    with pytest.raises(runs.RunError, match=r"several configurations \(0123abcd, 4567\)"):
        results_page.main(["run", "One", "affekt train", str(folder)], docs)


def test_a_run_without_conditions_is_raw(tmp_path):
    folder = write_run(tmp_path / "old", conditions=("raw",), floor=False)
    for name in ("summary", "results", "groups"):
        table = pandas.read_csv(folder / f"{name}.csv").drop(columns="condition")
        table.to_csv(folder / f"{name}.csv", index=False)
    assert runs.Tables.read(folder).conditions == ["raw"]


def test_what_a_run_lacks_is_named(docs, tmp_path):
    folder = write_run(tmp_path / "run")

    def refused(message: str) -> None:
        with pytest.raises(runs.RunError, match=message):
            results_page.add_run(docs, "t", "c", folder)

    table = pandas.read_csv(folder / "summary.csv")
    table.drop(columns="low").to_csv(folder / "summary.csv", index=False)
    refused(r"summary\.csv: has no column low; it has metric, over")
    table.assign(condition="warm").to_csv(folder / "summary.csv", index=False)
    refused("unknown condition 'warm'")
    table.to_csv(folder / "summary.csv", index=False)
    (folder / "floor_groups.csv").unlink()
    refused(r"floor_groups\.csv: missing; is the run finished")
    (folder / "audit.json").write_text(json.dumps({"ok": False}))
    refused("audit.json: missing, or the leak check found something")
    assert not list((docs / "results").glob("run_*"))
    twice = runs.Tables(*(pandas.concat([t, t]) for t in (table, table, table)))
    with pytest.raises(runs.RunError, match="2 lines of uar over pooled in condition raw"):
        twice.row("uar", "pooled", "raw")


def test_the_log_takes_means_over_development_speakers(docs, tmp_path):
    folder = write_run(tmp_path / "run", conditions=("raw",), floor=False)
    place = folder / "fold_1" / "seed_0"
    place.mkdir(parents=True)
    rows = [  # anna: sad right, happy wrong; otto: both right
        ("anna", "sad", 0.9, 0.1, 0.0, 0.1),
        ("anna", "happy", 0.9, 0.1, 1.0, 0.9),
        ("otto", "sad", 0.9, 0.1, 0.0, 0.0),
        ("otto", "happy", 0.1, 0.9, 1.0, 1.0),
        ("otto", "bored", 0.1, 0.9, None, 1.0),
    ]
    columns = ["subject", "true_emotion", "p_sad", "p_happy", "true_arousal", "arousal"]
    pandas.DataFrame(rows, columns=columns).to_csv(place / "predictions_dev.csv", index=False)
    results_page.main(["tried", "both", "wider | deeper", str(folder)], docs)
    log = pandas.read_csv(docs / "results" / "experiments.csv").set_index("metric")
    assert log.loc["uar", "value"] == pytest.approx(0.75)
    assert log.loc["uar", "speakers"] == 2
    assert log.loc["uar", "seconds"] == 25
    # anna: variances 1/4 and 0.16, covariance 0.2, no difference of means.
    assert log.loc["ccc_arousal", "value"] == pytest.approx((2 * 0.2 / 0.41 + 1) / 2, abs=1e-6)
    page = (docs / "experiments.md").read_text()
    assert row_of(page, "both", "wider \\| deeper", "UAR")[4:] == ["2", "25"]
    with pytest.raises(runs.RunError, match="no predictions of development speakers"):
        results_page.add_tried(docs, "both", "x", write_run(tmp_path / "bare"))
