"""Ensembles as one model file: the mean of the members, with what they share computed once."""

from __future__ import annotations

import copy
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import affekt
import reference_model
from affekt import InputError, ModelFileError
from affekt._native import Model
from affekt.cli import main
from affekt.modelfile import model_bytes, write_model
from reference_model import Numbers
from small_model import COLUMNS, small_model

SIGNAL = Numbers(7).signal(12000)


def built(parts) -> Model:
    return Model.from_bytes(model_bytes(*parts))


def speakers(seeds=(3, 4, 5), change=None) -> list[Model]:
    """Models that adapt to their speaker, with the same ear for speech and different weights."""
    made = []
    for seed in seeds:
        parts = reference_model.speaker(seed=seed)
        if change is not None:
            change(*parts)
        made.append(built(parts))
    return made


@pytest.fixture(scope="module")
def trio(tmp_path_factory) -> tuple[list[Model], Model]:
    """Three models that adapt, and their ensemble."""
    members = speakers()
    return members, affekt.load(affekt.ensemble(members, tmp_path_factory.mktemp("e") / "e.safetensors"))


# Estimates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", [True, False])
def test_estimates_are_the_mean_of_the_members(trio, adapt):
    members, joint = trio
    found = joint.run(SIGNAL, adapt=adapt)
    each = [member.run(SIGNAL, adapt=adapt) for member in members]
    mean = np.mean([e.values.astype(np.float64) for e in each], axis=0)
    np.testing.assert_allclose(found.values, mean, rtol=0, atol=1e-6)
    assert found.values[:, 3:].sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    for one in each:
        np.testing.assert_array_equal(found.times, one.times)
        np.testing.assert_array_equal(found.valid, one.valid)
        assert np.abs(one.values - found.values).max() > 0.01
    assert found.valid.any()
    assert not found.valid.all()


def test_it_is_the_graph_that_the_reference_makes_by_hand(tmp_path):
    path = affekt.ensemble(speakers((3, 4)), tmp_path / "e.safetensors")
    joint = affekt.load(path)
    card, tensors = reference_model.ensemble()
    assert joint.card["nodes"] == card["nodes"]
    assert joint.card["outputs"] == card["outputs"]
    assert joint.card["validity"] == card["validity"]
    read = joint.tensors()
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name], value)
    assert path.read_bytes() == affekt.ensemble(speakers((3, 4)), tmp_path / "again").read_bytes()


def test_without_adaptation_and_validity(tmp_path):
    """Models of the usual kind from their files; here statistics differ, so each normalises for itself."""
    members = [
        write_model(tmp_path / f"{seed}.safetensors", *reference_model.utterance(seed=seed))
        for seed in (1, 2)
    ]
    joint = affekt.load(affekt.ensemble(members, tmp_path / "joint.safetensors"))
    mean = np.mean([affekt.load(path).run(SIGNAL).values.astype(np.float64) for path in members], axis=0)
    np.testing.assert_allclose(joint.run(SIGNAL).values, mean, rtol=0, atol=1e-6)
    types = Counter(node["type"] for node in joint.card["nodes"])
    assert (types["front_end"], types["standardise"], types["average"]) == (1, 2, 2)
    assert not joint.adapts
    assert "data" not in joint.card["info"]  # of which the members say nothing


@given(seed=st.integers(0, 9), n=st.integers(0, len(SIGNAL)), chunk=st.integers(1, 5000))
def test_streamed_equals_full(trio, seed, n, chunk):
    signal = Numbers(seed).signal(n)
    full, streamed = trio[1].run(signal), trio[1].run(signal, "stream", chunk)
    assert full.values.tobytes() == streamed.values.tobytes()
    assert np.array_equal(full.times, streamed.times)
    assert np.array_equal(full.valid, streamed.valid)
    assert full.profile == streamed.profile


# Profiles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neutral", [False, True])
def test_a_profile_holds_what_each_member_learnt(trio, neutral):
    """Neutral enrolment is of a variant whose rows have a reference, too."""

    def calm(card, tensors):
        tensors["rows.reference"] = tensors["rows.mean"] + np.float32(1)

    members, joint = trio
    if neutral:
        members = speakers(change=calm)
        joint = affekt.load(affekt.ensemble(members, joint.path.with_name("calm.safetensors")))
    assert joint.adapts == [f"m{i}_{name}" for i in (1, 2, 3) for name in ("rows", "embedding")]
    profile = affekt.enrol(joint, SIGNAL, neutral)
    for number, member in enumerate(members, 1):
        own = affekt.enrol(member, SIGNAL, neutral)
        for name, entry in own.nodes.items():
            found = profile.nodes[f"m{number}_{name}"]
            assert found.count == entry.count
            np.testing.assert_array_equal(found.mean, entry.mean)
            np.testing.assert_array_equal(found.variance, entry.variance)
    saved = affekt.Profile.load(profile.save(joint.path.with_name(f"{neutral}.json")))
    other = Numbers(11).signal(9000)
    for adapt in (True, False):
        found = joint.run(other, profile=saved, adapt=adapt)
        each = [
            m.run(other, profile=affekt.enrol(m, SIGNAL, neutral), adapt=adapt).values.astype(np.float64)
            for m in members
        ]
        np.testing.assert_allclose(found.values, np.mean(each, axis=0), rtol=0, atol=1e-6)
        for chunk in (37, 4096):
            streamed = joint.run(other, "stream", chunk, profile=saved, adapt=adapt)
            assert streamed.values.tobytes() == found.values.tobytes()
            assert streamed.profile == found.profile
    assert joint.run(other).values.tobytes() != joint.run(other, profile=saved).values.tobytes()


# What is shared --------------------------------------------------------------------------------------------


def test_what_members_share_is_there_once(tmp_path):
    """Of seeds with the same front end, statistics and stack each keeps its network alone."""
    members = [small_model(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(3)]
    path = affekt.ensemble(members, tmp_path / "joint.safetensors")
    joint = affekt.load(path)
    types = Counter(node["type"] for node in joint.card["nodes"])
    assert types == {
        "front_end": 1,
        "standardise": 1,
        "stack": 1,
        "tcn": 3,
        "pool": 3,
        "linear": 6,
        "activation": 6,
        "average": 2,
    }
    assert joint.columns == COLUMNS
    assert joint.timing == affekt.load(members[0]).timing
    weights = [sum(t.size for t in affekt.load(m).tensors().values()) for m in (*members, path)]
    assert weights[3] == sum(weights[:3]) - 2 * 2 * 20  # mean and scale of 20 bands, once instead of thrice
    sizes = [p.stat().st_size for p in (*members, path)]
    assert 0.6 * sum(sizes[:3]) < sizes[3] < 1.05 * sum(sizes[:3])  # cards are half of such small files


def test_arithmetic_is_that_of_the_members_with_one_front_end(tmp_path):
    members = [small_model(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(3)]
    joint = affekt.ensemble(members, tmp_path / "joint.safetensors")
    one, all_of_them = affekt.cost(members[0], seconds=0), affekt.cost(joint, seconds=0)
    shared = 20 * 100  # standardising 20 bands in 100 frames per second
    assert all_of_them["macs_front_end"] == one["macs_front_end"]
    assert all_of_them["macs_network"] - shared == pytest.approx(3 * (one["macs_network"] - shared), abs=3)


def test_what_differs_in_anything_is_not_shared(tmp_path):
    """A bit of a tensor, an option or an input, and all that depends on it."""

    def nodes(change) -> Counter[str]:
        parts = reference_model.speaker()
        other = copy.deepcopy(parts)
        other[0]["version"] = "2"  # without which it would be the same model
        change(*other)
        made = affekt.load(affekt.ensemble([built(parts), built(other)], tmp_path / "e.safetensors"))
        return Counter(
            node["name"].partition("_")[2] for node in made.card["nodes"] if node["type"] != "average"
        )

    def entry(card, name):
        return next(node for node in card["nodes"] if node["name"] == name)

    once = nodes(lambda card, tensors: None)
    assert set(once.values()) == {1}  # nothing differs: the mean of one and the same

    def bit(card, tensors):
        tensors["vad.bias"] = np.nextafter(tensors["vad.bias"], np.float32(9))

    assert nodes(bit) - once == Counter({"vad": 1, "affect": 1})

    def option(card, tensors):
        entry(card, "emotion")["options"]["temperature"] = 2.0

    assert nodes(option) - once == Counter({"emotion": 1})

    def source(card, tensors):
        entry(card, "embedding")["inputs"] = ["pool"]

    assert nodes(source) - once == Counter(
        dict.fromkeys(("embedding", "vad", "affect", "classes", "emotion"), 1)
    )


def test_nodes_may_stand_in_any_order(tmp_path):
    members = []
    for seed in (3, 4):
        card, tensors = reference_model.speaker(seed=seed)
        random.Random(seed).shuffle(card["nodes"])
        members.append(built((card, tensors)))
    joint = affekt.load(affekt.ensemble(members, tmp_path / "e.safetensors"))
    assert (
        joint.run(SIGNAL).values.tobytes() == built(reference_model.ensemble()).run(SIGNAL).values.tobytes()
    )


# The card --------------------------------------------------------------------------------------------------


def test_the_card_says_who_the_members_are_and_what_binds(tmp_path):
    said = [
        {
            "licence": "A",
            "data": ["one"],
            "protocol": "fold 1",
            "intended_use": "tests",
            "metrics": {"ccc": 0.5},
        },
        {"licence": "B", "data": ["two", "one"], "protocol": "fold 1", "metrics": {"ccc": 0.4}},
        {"data": "three", "protocol": "fold 1", "initial_model": {"name": "old"}},
    ]

    def member(number, info):
        card, tensors = reference_model.utterance(seed=number)
        card |= {"info": info, "name": f"seed {number}", "system": {"name": "speech", "config": {}}}
        return built((card, tensors))

    members = [member(number, info) for number, info in enumerate(said)]
    card = affekt.load(affekt.ensemble(members, tmp_path / "e.safetensors")).card
    assert card["name"] == "seed 0-ensemble"
    assert card["version"] == "1"
    assert "system" not in card
    assert card["latency"] == members[0].timing
    sources = {"data": [["one"], ["two", "one"], ["three"]], "licence": ["A", "B", "not stated"]}
    expected = [
        {"name": m.name, "version": "1", "sha256": m.hash, **{key: sources[key][i] for key in sources}}
        for i, m in enumerate(members)
    ]
    expected[2]["initial_model"] = {"name": "old"}
    assert card["info"] == {
        "licence": "A; B; not stated",
        "data": ["one", "two", "three"],
        "protocol": "fold 1",
        "members": expected,
    }
    info = {"licence": "mine", "data": ["zero", "one"], "protocol": "both", "note": [1, 2]}
    path = affekt.ensemble(members[:2], tmp_path / "e.safetensors", name="duo", info=info)
    card = affekt.load(path).card
    assert card["name"] == "duo"
    assert card["info"] == {
        "licence": "mine; A; B",
        "data": ["zero", "one", "two"],
        "protocol": "both",
        "note": [1, 2],
        "members": expected[:2],
    }


# Onward ----------------------------------------------------------------------------------------------------


def test_it_can_be_quantised_and_int8_members_taken(trio, tmp_path):
    members, joint = trio
    int8 = affekt.load(affekt.quantise(joint, tmp_path / "int8.safetensors"))
    assert int8.card["info"]["members"] == joint.card["info"]["members"]
    whole, fine = joint.run(SIGNAL), int8.run(SIGNAL)
    np.testing.assert_array_equal(fine.valid, whole.valid)
    assert 0 < np.abs(fine.values - whole.values).max() < 0.2
    small = [affekt.load(affekt.quantise(m, tmp_path / f"{i}.safetensors")) for i, m in enumerate(members)]
    path = affekt.ensemble(small, tmp_path / "of_int8.safetensors")
    mean = np.mean([m.run(SIGNAL).values.astype(np.float64) for m in small], axis=0)
    np.testing.assert_allclose(affekt.load(path).run(SIGNAL).values, mean, rtol=0, atol=1e-6)


def test_no_torch_system_comes_of_it(trio, tmp_path):
    pytest.importorskip("torch")
    systems = pytest.importorskip("affekt.systems")
    training = pytest.importorskip("affekt.training")
    members, joint = trio
    ask = rf"'tiny-ensemble' is an ensemble.* take one of its members: tiny \({members[0].hash[:12]}\), tiny "
    with pytest.raises(ModelFileError, match=ask):
        systems.restore(joint.path)
    with pytest.raises(ModelFileError, match=ask):
        systems.initialise(systems.create("speech", heads={"a": {"labels": ["valence"]}}), joint.path)
    with pytest.raises(ModelFileError, match=ask):
        training.load_config("own", [f"init.model={joint.path}"])


def test_seeds_of_a_torch_system(tmp_path):
    torch = pytest.importorskip("torch")
    systems = pytest.importorskip("affekt.systems")
    heads = {"affect": {"labels": ["valence", "arousal"]}, "emotion": {"labels": ["calm", "happy", "sad"]}}
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(
            systems.export(systems.create("speech", heads=heads), tmp_path / f"{seed}.safetensors")
        )
    joint = affekt.load(affekt.ensemble(members, tmp_path / "joint.safetensors"))
    signal = Numbers(3).signal(32000)
    mean = np.mean([affekt.load(path).run(signal).values.astype(np.float64) for path in members], axis=0)
    np.testing.assert_allclose(joint.run(signal).values, mean, rtol=0, atol=1e-6)
    assert [n["type"] for n in joint.card["nodes"]].count("front_end") == 1


# From the command line -------------------------------------------------------------------------------------


def test_from_the_command_line(tmp_path, capsys):
    members = [str(small_model(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in range(2)]
    out = tmp_path / "both.safetensors"
    words = ["ensemble", *members, "--out", str(out), "--name", "both", "--info", "note=hello = you"]
    assert main(words) == 0
    assert f"model  {out} (" in capsys.readouterr().out
    info = affekt.load(out).card["info"]
    assert info["note"] == "hello = you"
    assert len(info["members"]) == 2
    assert main(["info", str(out), "--card"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "mean_affect (average)" in text
    assert f"(name small, sha256 {affekt.load(members[0]).hash}, version 1)" in text.replace(
        "data , licence none, random weights, ", ""
    )
    assert main(["ensemble", members[0], "--out", str(out)]) == 2
    assert "models: expected 2 to 16, got 1" in capsys.readouterr().err
    assert main(["ensemble", *members, "--out", str(out), "--info", "note"]) == 2
    assert "--info: expected KEY=TEXT, got 'note'" in capsys.readouterr().err
    assert main(["export", str(out), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "is an ensemble" in capsys.readouterr().err


# What cannot be joined -------------------------------------------------------------------------------------


def set_option(card, name, **options):
    next(node for node in card["nodes"] if node["name"] == name)["options"] |= options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c, t: c["inputs"][0].update(name="mic"),
            r"the names of inputs: expected \['audio'\], got \['m",
        ),
        (lambda c, t: c["outputs"].reverse(), r"the names of outputs: expected \['affect', 'emotion'\], got"),
        (lambda c, t: c["outputs"][1].update(kind="continuous"), "kind of output 'emotion': expected 'cat"),
        (
            lambda c, t: c["outputs"][1].update(labels=["happy", "calm", "sad"]),
            r"labels of output 'emotion': expected \['calm', 'happy', 'sad'\], got \['happy', 'calm',",
        ),
        (
            lambda c, t: c["outputs"][0].pop("range"),
            r"range of output 'affect': expected \[-1, 1\], got None",
        ),
        (lambda c, t: c["outputs"][0].update(range=[0, 1]), r"range of output 'affect'.* got \[0, 1\]"),
        (lambda c, t: c["outputs"].pop(), "the names of outputs"),
        (lambda c, t: set_option(c, "pool", window=5), r"context_s: expected 0\.\d+, got 0\.\d+"),
        (
            lambda c, t: (set_option(c, "pool", hop=2), set_option(c, "speech", hop=2)),
            "first_estimate_s: expec",
        ),
        (lambda c, t: c.pop("validity"), r"the least validity: expected 0\.25, got None"),
        (lambda c, t: c["validity"].update(least=0.5), r"the least validity: expected 0\.25, got 0\.5"),
    ],
)
def test_a_difference_between_members_is_named(tmp_path, change, message):
    first = built(reference_model.speaker())
    card, tensors = reference_model.speaker(seed=4)
    if "audio" not in message:
        change(card, tensors)
    else:
        change(card, tensors)
        for node in card["nodes"]:
            node["inputs"] = ["mic" if name == "audio" else name for name in node["inputs"]]
    if len(card["outputs"]) < 2:
        card["nodes"] = [node for node in card["nodes"] if node["name"] not in ("classes", "emotion")]
        tensors = {name: t for name, t in tensors.items() if not name.startswith("classes.")}
    if "validity" not in card:
        card["nodes"][-1]["inputs"] = ["classes"]
        embedding = next(node for node in card["nodes"] if node["name"] == "embedding")
        assert embedding["inputs"] == ["pool", "speech"]
    card["name"] = "other"
    with pytest.raises(InputError, match=f"models: 'other' differs from 'tiny' in {message}"):
        affekt.ensemble([first, built((card, tensors))], tmp_path / "e.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "node"),
    [
        (lambda c, t: set_option(c, "speech", half_life=3.0), "speech"),
        (lambda c, t: set_option(c, "voice", margin=5.0), "voice"),
        (lambda c, t: t.update({"talk.bias": np.float32([0.01])}), "talk"),
    ],
)
def test_members_must_hear_alike(tmp_path, change, node):
    other = reference_model.speaker(seed=4)
    change(*other)
    other[0]["name"] = "other"
    with pytest.raises(
        InputError,
        match=f"'other' and 'tiny' tell differently which estimates are valid: node '{node}' has no",
    ):
        affekt.ensemble([built(reference_model.speaker()), built(other)], tmp_path / "e.safetensors")


def test_rate_of_the_input(tmp_path):
    other = copy.deepcopy(reference_model.trace())
    other[0]["inputs"][0]["rate"] = 16000.0
    set_option(other[0], "mfcc", sample_rate=16000.0)
    with pytest.raises(InputError, match=r"rate of input 'audio': expected 8000\.0, got 16000\.0"):
        affekt.ensemble([built(reference_model.trace()), built(other)], tmp_path / "e.safetensors")


def test_models_that_make_no_ensemble(trio, tmp_path):
    out = tmp_path / "e.safetensors"
    members, joint = trio
    for models, message in (
        ([], "models: expected 2 to 16, got 0"),
        (members[:1], "models: expected 2 to 16, got 1"),
        (speakers(range(17)), "models: expected 2 to 16, got 17"),
        (joint.path, "models: expected 2 to 16 models, got"),
        ("a.safetensors", "models: expected 2 to 16 models, got str"),
        (members[0], "models: expected 2 to 16 models, got Model"),
        (3, "models: expected 2 to 16 models, got int"),
        ([members[0], 3], "models: expected a model, its file or the name of a shipped one, got int"),
        ([members[0], None], "models: expected a model, its file or the name .* got NoneType"),
        ([members[0], members[1], members[0]], "expected different ones, but 'tiny' is the same as 'tiny'"),
        ([joint.path, members[0]], rf"models: {joint.path} is an ensemble itself.* tiny \("),
    ):
        with pytest.raises(InputError, match=message):
            affekt.ensemble(models, out)
    with pytest.raises(ModelFileError, match=r"none\.safetensors: no such file"):
        affekt.ensemble([members[0], tmp_path / "none.safetensors"], out)
    with pytest.raises(InputError, match="info: expected a mapping for the card or None, got str"):
        affekt.ensemble(members, out, info="mine")
    with pytest.raises(InputError, match="the card"):
        affekt.ensemble(members, out, info={"x": float("nan")})
    with pytest.raises(OSError, match="absent"):
        affekt.ensemble(members, tmp_path / "absent" / "e.safetensors")
    assert not out.exists()


def test_more_than_a_model_file_may_hold(tmp_path):
    """Nine front ends are one too many."""
    members = []
    for number in range(9):
        card, tensors = reference_model.trace()
        set_option(card, "mfcc", floor=1e-10 * (number + 1))
        members.append(built((card, tensors)))
    affekt.ensemble(members[:8], tmp_path / "eight.safetensors")
    with pytest.raises(InputError, match=r"no model that can be run: .*at most 8 front ends"):
        affekt.ensemble(members, tmp_path / "nine.safetensors")
    assert not (tmp_path / "nine.safetensors").exists()
