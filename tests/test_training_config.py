"""Configurations: files, presets, overrides; what is wrong is named and the nearest right key offered."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("omegaconf")

from affekt.errors import InputError
from affekt.systems.schema import as_dict, differences
from affekt.training import list_presets, load_config, save_config


def test_presets_load_and_survive_a_round_trip(tmp_path):
    assert {"ravdess", "emotale"} <= set(list_presets())
    for name in list_presets():
        config = load_config(name, ["data.root=/somewhere"])
        assert config.data.root == "/somewhere"
        save_config(config, tmp_path / "c.yaml")
        assert as_dict(load_config(tmp_path / "c.yaml")) == as_dict(config)


def test_overrides_change_single_values(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {manifest: a.csv}\nsystem: {tcn: {channels: [8, 8]}}\ntraining: {lr: 0.01}\n")
    config = load_config(
        file,
        [
            "training.epochs=7",
            "protocol.select=[2]",
            "system.tcn.dropout=0",
            "system.heads.extra.labels=[a, b]",
        ],
    )
    assert config.training.epochs == 7
    assert config.training.lr == 0.01
    assert config.protocol.select == [2]
    assert config.system["tcn"]["channels"] == [8, 8]
    assert config.system["tcn"]["dropout"] == 0.0
    assert config.system["heads"]["extra"]["kind"] == "categorical"
    nested = load_config(file, {"training": {"epochs": 7}})
    assert nested.training.epochs == 7
    assert load_config(config, ["training.epochs=9"]).training.epochs == 9


def test_a_null_head_is_taken_away():
    config = load_config(
        "emotale", ["system.heads.affect=null", "system.heads.emotion.labels=[angry, bored]", "data.root=x"]
    )
    assert list(config.system["heads"]) == ["emotion"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainin.epochs=3", "unknown key 'trainin': did you mean 'training'"),
        ("training.epoch=3", "unknown key 'training.epoch': did you mean 'training.epochs'"),
        ("system.tcn.kernel=3", "unknown key 'system.tcn.kernel': did you mean 'system.tcn.kernel_size'"),
        ("epochs=3", "unknown key 'epochs': did you mean 'training.epochs'"),
        ("mainfest=a.csv", "unknown key 'mainfest': did you mean 'data.manifest'"),
        ("xyzzy=1", "unknown key 'xyzzy': known: calibration, conditions, data"),
        ("system.name=speach", "unknown system 'speach': did you mean 'speech'"),
        ("data.rot=x", "'data.rot': did you mean 'data.root'"),
        ("training.epochs=many", "training.epochs must be an integer, got 'many'"),
        ("training.epochs=0", "training.epochs must be at least 1, got 0"),
        ("training.lr=0", "training.lr must be above 0"),
        ("training.schedule=step", "cosine, constant, plateau"),
        ("training.clip=-1", "training.clip must be above 0, got -1"),
        ("training.ema_decay=1", "between 0 and 1"),
        ("protocol.seeds=[]", "protocol.seeds"),
        ("protocol.seeds=[1, 1]", "distinct"),
        ("protocol.select=[0]", "from 1"),
        ("protocol.kind=random", "group_kfold"),
        ("protocol.kind=published", "protocol.files"),
        ("protocol.folds=1", "protocol.folds must be at least 2"),
        ("monitor=loss", "monitor must be one of None, uar, ccc"),
        ("system.heads.emotion.labels=[a]", "at least two"),
        ("training", "key=value"),
        ("=3", "key=value"),
        ("training.epochs=[1", "cannot be read"),
    ],
)
def test_errors_name_the_key(override, words):
    with pytest.raises(InputError, match=words.replace("[", r"\[")):
        load_config(None, [override])


def test_files_that_are_not_configurations(tmp_path):
    with pytest.raises(InputError, match="did you mean 'ravdess'"):
        load_config("ravdes")
    with pytest.raises(InputError, match=r"no configuration file .*absent.yaml; presets: emotale"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="must hold a mapping"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        load_config(tmp_path / "broken.yaml")
    with pytest.raises(InputError, match="list of 'key=value'"):
        load_config(None, "training.epochs=3")


def test_a_folder_of_the_same_name_does_not_hide_a_preset(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("own").name == "own"


def test_differences_are_named_with_both_values():
    a = {"x": {"y": 1, "z": 2}, "b": [1], "a": None}
    assert differences(a, {"x": {"y": 3, "z": 2}, "b": [1]}) == [("x.y", 1, 3)]
    assert differences({"x": {"y": 1}}, {"x": 4, "new": 5}) == [("new", None, 5), ("x", {"y": 1}, 4)]
    assert differences(a, a) == []
