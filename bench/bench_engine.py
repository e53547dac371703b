"""The live engine over a model of three inputs: compute per estimate of one session, and of many.

The graph is leader-follower attention in the widths of Zhang et al. (2022), 30 estimates a second: 39 MFCC of
16 kHz audio, band power of 32 EEG channels at 256 Hz (band-pass, average reference, 6 bands every 1/4 s) and
512 face features at 30 Hz, each held on the clock and through its causal network (kernel 5; 32 x 4, 128 x 2
and 256, 256, 128, 128 channels), then co-attention of 32 dimensions and the head. Weights are random. A call
pushes one second from Python, a thirtieth at a time, and polls after each; the time is that of one estimate,
pushes, front ends and Python included. The least work is that of the networks: their weights, 10.7 MB, are
read once per estimate, and the loop that reads them takes most of the native time. A session holds 1.3 MB
beside its queues, which take 0.16 MB per second of `queue_s`, rounded up to powers of two.

ONNX Runtime and TorchScript compute the same graph behind the clock, one call per estimate, the networks'
states handed in and out (twins.py). They are given the rows on the clock and which inputs are there, for
free: no front ends, no clock, no queues, which favours them. All read the same weights, so no ratio can pass
the peer's time over the bound.

A pool of sessions is given its samples one session after the other and polled once a tick; real time at 30
estimates a second is 1 s / 30 / sessions for each. It reads the weights once for eight sessions; 16, 32 or 64
at once were no faster. Pushes from Python, three per estimate, are in the time.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import signal

from affekt._native import Model
from affekt.live import Engine, EnginePool, Estimate
from affekt.modelfile import model_bytes

from . import twins

TICKS = 30
NETWORKS = {"audio": (39, [32] * 4), "eeg": (192, [128] * 2), "face": (512, [256, 256, 128, 128])}
BANDS = [
    ("delta", 0.3, 5),
    ("theta", 5, 8),
    ("alpha", 8, 12),
    ("beta1", 12, 18),
    ("beta2", 18, 30),
    ("gamma", 30, 45),
]


@functools.cache
def model(arithmetic: str = "float32") -> tuple[Model, int]:
    """The model, and the multiply-adds of its networks for one estimate."""
    draw = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    macs = 0

    def dense(name: str, *shape: int) -> None:
        nonlocal macs
        tensors[f"{name}.weight"] = draw.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        tensors[f"{name}.bias"] = draw.normal(0, 0.1, shape[0])
        macs += int(np.prod(shape))

    def node(name: str, of: str, /, *inputs: str, **options: object) -> dict[str, object]:
        return {"name": name, "type": of, "inputs": list(inputs), "options": options}

    mfcc = {"sample_rate": 16000.0, "n_fft": 512, "win_length": 400, "hop_length": 160, "span": "win_length"}
    mfcc |= {"n_mels": 40, "n_mfcc": 39, "log": "ln"}
    sections = signal.butter(4, [0.3, 45], "bandpass", fs=256, output="sos")
    nodes = [
        node("mfcc", "front_end", "audio", **mfcc),
        node("clean", "filter", "eeg", sections=np.delete(sections, 3, axis=1).tolist()),
        node("referenced", "reference", "clean"),
        node("bands", "band_power", "referenced", bands=BANDS, order="band"),
    ]
    for name, (width, channels) in NETWORKS.items():
        rows = {"audio": "mfcc", "eeg": "bands", "face": "face"}[name]
        nodes += [
            node(f"{name}_now", "align", rows),
            node(f"{name}_there", "presence", f"{name}_now"),
            node(
                f"{name}_tcn",
                "tcn",
                f"{name}_now",
                channels=channels,
                kernel_size=5,
                activation="leaky_relu",
                arithmetic=arithmetic,
            ),
        ]
        for level, out in enumerate(channels):
            dense(f"{name}_tcn.{level}.conv1", out, width, 5)
            dense(f"{name}_tcn.{level}.conv2", out, out, 5)
            if width != out:
                dense(f"{name}_tcn.{level}.residual", out, width)
            width = out
    networks = [f"{name}_tcn" for name in NETWORKS]
    for i, (_, channels) in enumerate(NETWORKS.values()):
        for part in ("query", "key", "value"):
            dense(f"attention.{i}.{part}", 32, channels[-1])
    dense("head", 2, 128 + 96)
    nodes += [
        node("there", "concat", *(f"{name}_there" for name in NETWORKS)),
        node("attention", "co_attention", *networks, "there", dim=32, masked=True),
        node("leader", "gate", "face_tcn", "face_there"),
        node("joint", "concat", "leader", "attention"),
        node("head", "linear", "joint", units=2),
        node("affect", "activation", "head", kind="tanh"),
    ]
    inputs = [
        {"name": "audio", "kind": "audio", "rate": 16000.0, "channels": 1, "unit": "full scale"},
        {"name": "eeg", "kind": "signal", "rate": 256.0, "channels": 32, "unit": "uV"},
        {"name": "face", "kind": "rows", "rate": 30.0, "channels": 512, "unit": "embedding"},
    ]
    outputs = [{"name": "affect", "node": "affect", "kind": "continuous", "labels": ["valence", "arousal"]}]
    card = {"schema": 2, "name": "lfan", "version": "1", "clock": {"rate": 30.0, "silence": 1.0}}
    card |= {"inputs": inputs, "nodes": nodes, "outputs": outputs}
    return Model.from_bytes(model_bytes(card, tensors)), macs


@functools.cache
def on_the_clock() -> tuple[list[list[np.ndarray]], np.ndarray]:
    """What reaches the networks at each estimate of four seconds (a row each, and which are there), and the
    values of the engine."""
    card = dict(model()[0].card)
    del card["tensors"]
    kept = ("front_end", "filter", "reference", "band_power", "align")
    card["nodes"] = [node for node in card["nodes"] if node["type"] in kept]
    card["outputs"], tensors = [], {}
    for name, (width, _) in NETWORKS.items():  # the output of a file needs a tensor: these change nothing
        card["nodes"].append(
            {"name": name + "_seen", "type": "standardise", "inputs": [f"{name}_now"], "options": {}}
        )
        tensors |= {f"{name}_seen.mean": np.zeros(width), f"{name}_seen.scale": np.ones(width)}
        labels = [f"{name}{i}" for i in range(width)]
        card["outputs"].append({"name": name, "node": f"{name}_seen", "kind": "continuous", "labels": labels})
    seen = Engine(Model.from_bytes(model_bytes(card, tensors)))
    full = Engine(model()[0])
    given, values = [], []
    edges = np.cumsum([width for width, _ in NETWORKS.values()])[:-1]
    for pushes in second() * 4:
        for estimate in pushed(seen, pushes):
            there = np.array([estimate.present[name] for name in NETWORKS], np.float32)
            row = np.array(list(estimate.values.values()), np.float32)
            given.append([*np.split(row, edges), there])
        values += [list(estimate.values.values()) for estimate in pushed(full, pushes)]
    return given, np.array(values)


def pushed(engine: Engine, pushes: list[tuple[str, np.ndarray]]) -> list[Estimate]:
    """What the engine gives after these pushes."""
    for name, samples in pushes:
        engine.push(name, samples)
    return list(iter(engine.poll, None))


@functools.cache
def twin(name: str) -> twins.Step:
    """The peer, which agreed with the engine all along, also before every input was there."""
    make = {"ONNX Runtime": twins.onnx_attending, "TorchScript": twins.torchscript_attending}[name]
    step = make({name: width for name, (width, _) in NETWORKS.items()}, model()[0].tensors(), 32)
    given, values = on_the_clock()
    found = np.array([np.array(step(*rows)).reshape(-1) for rows in given])
    np.testing.assert_allclose(found, values, atol=1e-4)
    return step


@pytest.mark.parametrize("name", ["ONNX Runtime", "TorchScript"])
def bench_twin(contender, peer, name):
    for library in {"ONNX Runtime": ("onnx", "onnxruntime"), "TorchScript": ("torch",)}[name]:
        peer(library)
    step, ticks = twin(name), on_the_clock()[0][-TICKS:]

    def run():
        for rows in ticks:
            step(*rows)

    contender(
        "audio, EEG and face, one session, per estimate",
        name,
        run,
        units=TICKS,
        floor={"ONNX Runtime": 4, "TorchScript": 10},
        aim={"ONNX Runtime": 10, "TorchScript": 30},
    )


@functools.cache
def second() -> list[list[tuple[str, np.ndarray]]]:
    """One second of all inputs as pushes, tick by tick."""
    draw = np.random.default_rng(1)
    whole = {
        "audio": draw.normal(0, 0.1, 16000),
        "eeg": draw.normal(0, 20, (32, 256)),
        "face": draw.normal(size=(30, 512)),
    }
    ticks = []
    for k in range(TICKS):
        pushes = []
        for name, x in whole.items():
            rate = {"audio": 16000, "eeg": 256, "face": 30}[name]
            part = slice(rate * k // TICKS, rate * (k + 1) // TICKS)
            piece = x[part] if name != "eeg" else x[:, part]
            pushes.append((name, np.ascontiguousarray(piece, dtype=np.float32)))
        ticks.append(pushes)
    return ticks


def warm(engine: Engine | EnginePool | list[Engine]) -> None:
    for _ in range(3):  # every input has come to its first row
        run(engine)


@pytest.fixture
def engine() -> Engine:
    made = Engine(model()[0])
    warm(made)
    return made


def run(engine: Engine | EnginePool | list[Engine]) -> int:
    """One second through all sessions, polled after every thirtieth; how many estimates there were."""
    sessions = [engine] if isinstance(engine, Engine) else list(engine)
    found = 0
    for pushes in second():
        for session in sessions:
            for name, samples in pushes:
                session.push(name, samples)
        if isinstance(engine, EnginePool):
            found += len(engine.poll())
        else:
            for session in sessions:
                while session.poll() is not None:
                    found += 1
    return found


def bench_affekt(contender, engine):
    assert run(engine) == TICKS
    macs = model()[1]
    found = contender(
        "audio, EEG and face, one session, per estimate",
        "affekt",
        lambda: run(engine),
        units=TICKS,
        floor_us=500,
        aim_us=150,
        operations=2 * TICKS * macs,
        bytes_moved=4 * TICKS * macs,
        working_set=4 * macs,
    )
    assert found == TICKS
    assert engine.counters()["late"] == engine.counters()["invalid"] == 0


def bench_int8(contender):
    made = Engine(model("int8")[0])
    values = on_the_clock()[1]
    found = [list(e.values.values()) for p in second() * 4 for e in pushed(made, p)]
    # A tenth of the signal, as for a network alone (bench_tcn).
    error = np.sqrt(np.mean((found - values) ** 2, axis=0)) / values.std(axis=0)
    assert (error < 0.1).all(), error
    made.reset()
    warm(made)
    contender(
        "audio, EEG and face, one session, per estimate",
        "affekt, int8 networks",
        lambda: run(made),
        units=TICKS,
        note="the networks' products of int8; estimates differ by its rounding",
    )


# Many sessions, one core: real time at 30 Hz is 1 s / 30 / sessions for an estimate.
SESSIONS = [1, 8, 64, 256]


@functools.cache
def pool(sessions: int) -> EnginePool:
    made = EnginePool(model()[0], sessions)
    warm(made)
    return made


@functools.cache
def engines(sessions: int) -> list[Engine]:
    made = [Engine(model()[0]) for _ in range(sessions)]
    warm(made)
    return made


@pytest.mark.parametrize("sessions", SESSIONS)
def bench_pool(contender, sessions):
    many = pool(sessions)
    macs = model()[1]
    found = contender(
        f"pool of {sessions} sessions, per estimate",
        "affekt",
        lambda: run(many),
        units=TICKS * sessions,
        # Real time of 64 sessions is the floor, of 256 the aim; fewer are never in doubt.
        floor_us=1e6 / TICKS / 64 if sessions == 64 else None,
        aim_us=1e6 / TICKS / 256 if sessions >= 64 else None,
        operations=2 * TICKS * sessions * macs,
        bytes_moved=4 * TICKS * macs,  # once for all sessions of a tick
        working_set=4 * macs,
    )
    assert found == TICKS * sessions
    counted = many[sessions - 1].counters()
    assert counted["late"] == counted["invalid"] == 0


@pytest.mark.parametrize("sessions", SESSIONS[:3])
def bench_engines_one_by_one(contender, sessions):
    many = engines(sessions)
    contender(
        f"pool of {sessions} sessions, per estimate",
        "affekt, engines one by one",
        lambda: run(many),
        units=TICKS * sessions,
        note="the same sessions without a pool, an Estimate object each",
    )
