"""The node graph of a model card in plain float64 numpy, straight from the definitions, and small models.

Nothing here shares code with the core: it is what the core is compared with.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Card = dict[str, Any]
Tensors = dict[str, np.ndarray]


# Front end ------------------------------------------------------------------------------------------------


def hz_to_mel(f: np.ndarray, scale: str) -> np.ndarray:
    f = np.asarray(f, np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + f / 700.0)
    linear = f / (200.0 / 3)
    return np.where(f < 1000.0, linear, 15.0 + 27.0 * np.log(np.maximum(f, 1e-9) / 1000.0) / np.log(6.4))


def mel_to_hz(m: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700.0 * (10.0 ** (m / 2595.0) - 1.0)
    return np.where(m < 15.0, m * (200.0 / 3), 1000.0 * np.exp(np.log(6.4) / 27.0 * (m - 15.0)))


def mel_filters(o: Card) -> np.ndarray:
    """Triangles over the transform's bins, (n_mels, bins), Slaney's area norm if asked for."""
    edges = mel_to_hz(
        np.linspace(*hz_to_mel([o["f_min"], o["f_max"]], o["mel_scale"]), o["n_mels"] + 2), o["mel_scale"]
    )
    bins = np.fft.rfftfreq(o["n_fft"], 1 / o["sample_rate"])
    low, mid, high = (edges[i : i + o["n_mels"], None] for i in range(3))
    filters = np.maximum(0.0, np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)))
    return filters * (2.0 / (high - low)) if o["mel_norm"] == "slaney" else filters


def front_end(x: np.ndarray, o: Card) -> np.ndarray:
    """Log-mel or MFCC of whole frames that start every hop; the part of the options that these tests use."""
    length = o["n_fft"] if o["span"] == "n_fft" else o["win_length"]
    window = np.hanning(o["win_length"] + 1)[:-1]
    pad = (length - o["win_length"]) // 2
    window = np.pad(window, (pad, length - o["win_length"] - pad))
    if o["preemphasis"]:
        x = x - o["preemphasis"] * np.concatenate([[0.0], x[:-1]])
    starts = np.arange(0, max(0, len(x) - length + 1), o["hop_length"])
    frames = np.stack([x[s : s + length] for s in starts]) if len(starts) else np.empty((0, length))
    mel = np.abs(np.fft.rfft(frames * window, o["n_fft"])) ** o["power"] @ mel_filters(o).T
    mel = np.maximum(mel, o["floor"])
    rows = {"db": lambda v: 20.0 / o["power"] * np.log10(v), "ln": np.log, "log10": np.log10}[o["log"]](mel)
    if o["n_mfcc"]:
        n = o["n_mels"]
        basis = np.cos(np.pi * np.arange(o["n_mfcc"])[:, None] * (2 * np.arange(n) + 1) / (2 * n)) * np.sqrt(
            2 / n
        )
        basis[0] /= np.sqrt(2)
        rows = rows @ basis.T
    return rows


# The other nodes ------------------------------------------------------------------------------------------


def causal(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, dilation: int = 1) -> np.ndarray:
    k = weight.shape[2]
    padded = np.concatenate([np.zeros(((k - 1) * dilation, x.shape[1])), x])
    return bias + sum(padded[j * dilation : j * dilation + len(x)] @ weight[:, :, j].T for j in range(k))


def tcn(x: np.ndarray, o: Card, t: Tensors) -> np.ndarray:
    for level, out in enumerate(o["channels"]):
        p = {name.split(".", 1)[1]: value for name, value in t.items() if name.startswith(f"{level}.")}
        dilation = o["dilations"][level] if "dilations" in o else 2**level

        def act(v: np.ndarray, site: int, p: Tensors = p) -> np.ndarray:
            slope = {"relu": 0.0, "leaky_relu": o.get("slope", 0.01)}.get(o["activation"])
            return np.where(v > 0, v, (p[f"slope{site}"] if slope is None else slope) * v)

        y = act(causal(x, p["conv1.weight"], p["conv1.bias"], dilation), 1)
        y = act(causal(y, p["conv2.weight"], p["conv2.bias"], dilation), 2)
        r = x @ p["residual.weight"].T + p["residual.bias"] if "residual.weight" in p else x
        x = act(y + r, 3)
        assert x.shape[1] == out
    return x


def summary(x: np.ndarray, o: Card, t: Tensors, counted: np.ndarray) -> np.ndarray:
    """One pooled row over the rows of `x` that count, the newest last."""
    age = np.arange(len(x))[::-1]
    decay = 0.5 ** (age / o["half_life"]) if o.get("half_life") is not None else np.ones(len(x))
    x, decay = x[counted], decay[counted]
    if o["kind"] == "count":
        return decay.sum(keepdims=True)
    parts = []
    if not len(x):
        zeros, sd = np.zeros(x.shape[1]), np.full(x.shape[1], np.sqrt(1e-5))
        return np.concatenate(
            {
                "attention_statistics": [zeros, zeros, sd],
                "statistics": [zeros, sd],
            }.get(o["kind"], [zeros])
        )
    if "attention" in o["kind"]:
        score = x @ t["score.weight"][0] + t["score.bias"][0]
        weight = decay * np.exp(score - score.max())
        parts.append(weight @ x / weight.sum())
    if o["kind"] != "attention":
        weight = decay / decay.sum()
        mean = weight @ x
        parts.append(mean)
        if "statistics" in o["kind"]:
            parts.append(np.sqrt(np.maximum(weight @ (x - mean) ** 2, 0) + 1e-5))
    return np.concatenate(parts)


def activity(x: np.ndarray, o: Card) -> np.ndarray:
    """Speech or silence by row, every row from the whole past."""
    default = {"scale": 1, "margin": 9, "range": 30, "rise": 0.03, "fall": 0.01, "start": -70, "least": -75}
    o = {**default, "smoothing": 1, "hangover": 15, **o}
    raw = x.mean(axis=1) * o["scale"]
    level = np.array([raw[max(0, t + 1 - o["smoothing"]) : t + 1].mean() for t in range(len(raw))])
    speech = []
    for t in range(len(level)):
        age = np.arange(t, -1, -1)
        floor = min((level[: t + 1] + o["rise"] * age).min(), o["start"] + o["rise"] * t)
        peak = (level[: t + 1] - o["fall"] * age).max()
        speech.append(
            level[t] > floor + o["margin"] and level[t] > peak - o["range"] and level[t] > o["least"]
        )
    speech = np.array(speech, bool)
    return np.array([speech[max(0, t - o["hangover"]) : t + 1].any() for t in range(len(speech))])[:, None]


def adapt(
    x: np.ndarray,
    o: Card,
    t: Tensors,
    heard: np.ndarray,
    state: dict[str, Any],
    adapting: bool,
    speaking: np.ndarray | None = None,
) -> np.ndarray:
    """Rows normalised by pooled statistics, each from all rows counted so far; leaves the last in `state`.

    `state` holds count, mean and variance of the speaker and may be empty.
    """
    gone = 0.5 ** (1 / o["half_life"]) if o.get("half_life") is not None else 1.0
    first = state.get("count", 0.0), state.get("mean", 0 * t["mean"]), state.get("variance", 0 * t["sd"])
    out = np.empty_like(x)
    active = heard if speaking is None else heard & ~speaking
    for r in range(len(x) + 1):
        last = r == len(x)
        if last:  # the end: the last row counts even where its speaker had not paused
            if not (adapting and len(x) and heard[-1] and not active[-1]):
                break
            active, r = np.append(active[:-1], True), len(x) - 1
        rows = x[: r + 1][active[: r + 1]] if adapting else x[:0]
        weight = np.concatenate([[first[0] * gone ** len(rows)], gone ** np.arange(len(rows) - 1, -1, -1.0)])
        n = weight.sum()
        state["count"] = n
        if n:
            centres = np.concatenate([first[1][None], rows])
            state["mean"] = weight @ centres / n
            state["variance"] = weight @ (centres - state["mean"]) ** 2 / n + weight[0] * first[2] / n
        mean, var = t["mean"], t["sd"] ** 2
        if n:
            total = o["prior"] + n
            mean = (o["prior"] * t["mean"] + n * state["mean"]) / total
            if o.get("variance", True):
                spread = o["prior"] * (t["sd"] ** 2 + (t["mean"] - mean) ** 2)
                var = (spread + n * (state["variance"] + (state["mean"] - mean) ** 2)) / total
        if not last:
            out[r] = (x[r] - mean) / np.maximum(np.sqrt(var), o.get("floor", 1e-3))
    return out


def activation(x: np.ndarray, o: Card) -> np.ndarray:
    kind = o["kind"]
    if kind == "softmax":
        z = x / o.get("temperature", 1.0)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    return {
        "identity": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "leaky_relu": lambda: np.where(x > 0, x, o.get("slope", 0.01) * x),
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "clip": lambda: np.clip(x, o["min"], o["max"]),
    }[kind]()


def value(tensors: Tensors, name: str) -> np.ndarray:
    """A tensor in float64; an int8 one times its scales, which the file holds beside it."""
    tensor = tensors[name].astype(np.float64)
    if tensors[name].dtype != np.int8:
        return tensor
    return np.stack([row * scale for row, scale in zip(tensor, tensors[f"{name}.scale"], strict=True)])


def run(
    card: Card,
    tensors: Tensors,
    samples: np.ndarray,
    profile: dict[str, dict[str, Any]] | None = None,
    adapting: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Times (T,) and values (T, columns) of a card's graph over one recording; float64 or int16 samples.

    `profile` holds the state of `adapt` nodes by name and is left as it is at the end.
    """
    times, values, _ = run_valid(card, tensors, samples, profile, adapting)
    return times, values


def run_valid(
    card: Card,
    tensors: Tensors,
    samples: np.ndarray,
    profile: dict[str, dict[str, Any]] | None = None,
    adapting: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`run`, and whether each estimate is valid (T,)."""
    x = samples / 32768.0 if samples.dtype == np.int16 else samples.astype(np.float64)
    rows: dict[str, np.ndarray] = {card["inputs"][0]["name"]: x[:, None]}
    last: dict[str, np.ndarray] = {card["inputs"][0]["name"]: np.arange(len(x))}
    for node in card["nodes"]:
        name, o, source = node["name"], node["options"], node["inputs"][0]
        x, at = rows[source], last[source]
        t = {k[len(name) + 1 :]: value(tensors, k) for k in tensors if k.startswith(name + ".")}
        beside = rows[node["inputs"][1]].mean(axis=1) if len(node["inputs"]) > 1 else np.ones(len(x))
        third = rows[node["inputs"][2]].mean(axis=1) if len(node["inputs"]) > 2 else None
        kind = node["type"]
        if kind == "front_end":
            y = front_end(x[:, 0], o)
            length = o["n_fft"] if o["span"] == "n_fft" else o["win_length"]
            at = np.arange(len(y)) * o["hop_length"] + length - 1
        elif kind == "standardise":
            y = (x - t["mean"]) * t["scale"]
        elif kind == "stack":
            ends = np.arange(o["size"], len(x) + 1, o["stride"])
            y = np.stack([x[e - o["size"] : e].reshape(-1) for e in ends]) if len(ends) else np.empty((0, 0))
            at = at[ends - 1] if len(ends) else at[:0]
        elif kind == "tcn":
            y = tcn(x, o, t)
        elif kind == "pool":
            ends = [*range(o["hop"], len(x) + 1, o["hop"])]
            ends += [len(x)] if len(x) % o["hop"] else []
            parts = [slice(max(0, e - o["window"]), e) for e in ends]
            y = np.stack([summary(x[p], o, t, beside[p] >= 0.5) for p in parts]) if ends else x[:0]
            at = at[np.array(ends, int) - 1]
        elif kind == "activity":
            y = activity(x, o) if len(x) else np.empty((0, 1))
        elif kind == "adapt":
            state = {} if profile is None else profile.setdefault(name, {})
            third = None if third is None else third >= 0.5
            y = adapt(x, o, t, beside >= o.get("least", 0.5), state, adapting, third)
        elif kind == "average":
            y = np.mean([rows[name] for name in node["inputs"]], axis=0)
        elif kind == "linear":
            y = x @ t["weight"].T + t["bias"] if len(x) else x
        else:
            y = activation(x, o) if len(x) else x
        rows[name], last[name] = y, at
    lead = card["outputs"][0]["node"]
    columns = sum(len(output["labels"]) for output in card["outputs"])
    times = last[lead] / card["inputs"][0]["rate"]
    if not len(times):
        return times, np.empty((0, columns)), np.empty(0, bool)
    valid = np.ones(len(times), bool)
    if "validity" in card:
        valid = rows[card["validity"]["node"]][:, 0] >= card["validity"]["least"]
    return times, np.concatenate([rows[output["node"]] for output in card["outputs"]], axis=1), valid


# Small models ---------------------------------------------------------------------------------------------

MEL: Card = {
    "center": False,
    "dct_norm": "ortho",
    "delta_mode": "interp",
    "delta_width": 9,
    "deltas": 0,
    "drop_last": False,
    "energy": None,
    "energy_floor": 0.0,
    "f_max": 4000.0,
    "f_min": 0.0,
    "floor": 1e-10,
    "hop_length": 80,
    "lifter": 0.0,
    "lifter_mode": "librosa",
    "log": "db",
    "log_scale": 1.0,
    "log_shift": 0.0,
    "mel_norm": "slaney",
    "mel_scale": "slaney",
    "n_fft": 256,
    "n_mels": 8,
    "n_mfcc": 0,
    "pad_mode": "constant",
    "periodic": True,
    "power": 2.0,
    "preemphasis": 0.0,
    "preemphasis_mode": "signal",
    "ref": 1.0,
    "remove_dc": False,
    "sample_rate": 8000.0,
    "scale": 1.0,
    "span": "n_fft",
    "top_db": None,
    "win_length": 200,
    "window": "hann",
}
"""Every field of a front end's options, at 8 kHz."""


class Numbers:
    """Numbers that are the same on every machine and in every version of numpy: a 32-bit congruence."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self) -> int:
        self.state = (self.state * 1664525 + 1013904223) % 2**32
        return self.state >> 16

    def tensor(self, *shape: int, scale: float | None = None, offset: float = 0.0) -> np.ndarray:
        """float32 in offset +- scale; by default of the size that keeps a layer's output of order one."""
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 10
        scale = np.sqrt(3.0 / fan) if scale is None else scale
        values = [(self.next() / 32768.0 - 1.0) * scale + offset for _ in range(int(np.prod(shape)))]
        return np.array(values, np.float64).astype(np.float32).reshape(shape)

    def signal(self, n: int) -> np.ndarray:
        """int16 noise under a stepping envelope, with a stretch of silence."""
        envelope = (0, 1, 3, 8, 2, 5)
        values = [(self.next() - 32768) * envelope[i // 700 % 6] // 16 for i in range(n)]
        return np.array(values, np.int16)


def node(name: str, node_type: str, source: str | list[str], /, **options: Any) -> Card:
    inputs = [source] if isinstance(source, str) else source
    return {"name": name, "type": node_type, "inputs": inputs, "options": options}


def card_of(nodes: list[Card], outputs: list[Card], rate: float = 8000.0, **extra: Any) -> Card:
    return {
        "name": "tiny",
        "version": "1",
        "inputs": [{"name": "audio", "kind": "audio", "rate": rate, "channels": 1, "unit": "full scale"}],
        "nodes": nodes,
        "outputs": outputs,
        "info": {"licence": "CC0-1.0", "intended_use": "tests"},
        **extra,
    }


def tcn_tensors(name: str, width: int, o: Card, numbers: Numbers, always_residual: bool = False) -> Tensors:
    t: Tensors = {}
    k = o["kernel_size"]
    for level, out in enumerate(o["channels"]):
        p = f"{name}.{level}."
        t[p + "conv1.weight"], t[p + "conv1.bias"] = numbers.tensor(out, width, k), numbers.tensor(out)
        t[p + "conv2.weight"], t[p + "conv2.bias"] = numbers.tensor(out, out, k), numbers.tensor(out)
        if width != out or always_residual:
            t[p + "residual.weight"], t[p + "residual.bias"] = numbers.tensor(out, width), numbers.tensor(out)
        if o["activation"] == "prelu":
            t |= {
                p + f"slope{site}": numbers.tensor(1 if site == 2 else out, scale=0.4) for site in (1, 2, 3)
            }
        width = out
    return t


def utterance(
    *,
    activation: str = "prelu",
    pool: str = "attention_statistics",
    window: int = 20,
    half_life: float | None = 9.0,
    hop: int = 3,
    seed: int = 1,
    **mel: Any,
) -> tuple[Card, Tensors]:
    """A small utterance model with two heads: V/A/D in [-1, 1] and three emotions."""
    numbers = Numbers(seed)
    options = {"channels": [6, 6, 9], "kernel_size": 3, "dilations": [1, 2, 3], "activation": activation}
    if activation == "leaky_relu":
        options["slope"] = 0.02
    pooled = 1 if pool == "count" else 9 * {"attention_statistics": 3, "statistics": 2}.get(pool, 1)
    nodes = [
        node("mel", "front_end", "audio", **{**MEL, **mel}),
        node("norm", "standardise", "mel"),
        node("stack", "stack", "norm", size=3, stride=2),
        node("tcn", "tcn", "stack", **options),
        node("pool", "pool", "tcn", kind=pool, window=window, half_life=half_life, hop=hop),
        node("vad", "linear", "pool", units=3),
        node("affect", "activation", "vad", kind="tanh"),
        node("classes", "linear", "pool", units=3),
        node("emotion", "activation", "classes", kind="softmax", temperature=1.5),
    ]
    outputs = [
        {
            "name": "affect",
            "node": "affect",
            "kind": "continuous",
            "labels": ["valence", "arousal", "dominance"],
            "range": [-1, 1],
        },
        {"name": "emotion", "node": "emotion", "kind": "categorical", "labels": ["calm", "happy", "sad"]},
    ]
    tensors = {
        "norm.mean": numbers.tensor(8, scale=10.0, offset=-30.0),
        "norm.scale": numbers.tensor(8, scale=0.02, offset=0.06),
        **tcn_tensors("tcn", 24, options, numbers),
        "vad.weight": numbers.tensor(3, pooled),
        "vad.bias": numbers.tensor(3),
        "classes.weight": numbers.tensor(3, pooled),
        "classes.bias": numbers.tensor(3),
    }
    if "attention" in pool:
        tensors |= {"pool.score.weight": numbers.tensor(1, 9), "pool.score.bias": numbers.tensor(1)}
    return card_of(nodes, outputs), tensors


def int8(tensors: Tensors, *nodes: str) -> Tensors:
    """The tensors with the weights of some nodes as int8 and scales, every row's largest weight as +-127."""
    out = dict(tensors)
    for name, weight in tensors.items():
        if name.split(".")[0] in nodes and name.endswith(".weight"):
            scale = [np.float32(np.abs(row.astype(np.float64)).max() / 127) for row in weight]
            rows = [np.rint(row / np.float64(s)) for row, s in zip(weight, scale, strict=True)]
            out[name], out[f"{name}.scale"] = np.array(rows, np.int8), np.array(scale, np.float32)
    return out


def utterance_int8() -> tuple[Card, Tensors]:
    """`utterance` with int8 weights."""
    card, tensors = utterance()
    return card, int8(tensors, "tcn", "vad", "classes")


def trace(seed: int = 2) -> tuple[Card, Tensors]:
    """A small trace model: MFCC rows through a TCN, an estimate per row."""
    numbers = Numbers(seed)
    mfcc = {**MEL, "n_mfcc": 5, "log": "ln", "span": "win_length", "mel_scale": "htk", "preemphasis": 0.97}
    options = {"channels": [5, 4], "kernel_size": 2, "activation": "leaky_relu", "slope": 0.01}
    nodes = [
        node("mfcc", "front_end", "audio", **mfcc),
        node("norm", "standardise", "mfcc"),
        node("tcn", "tcn", "norm", **options),
        node("hidden", "linear", "tcn", units=4),
        node("rectified", "activation", "hidden", kind="relu"),
        node("vad", "linear", "rectified", units=2),
        node("affect", "activation", "vad", kind="clip", min=-1.0, max=1.0),
    ]
    outputs = [{"name": "affect", "node": "affect", "kind": "continuous", "labels": ["valence", "arousal"]}]
    tensors = {
        "norm.mean": numbers.tensor(5, scale=3.0),
        "norm.scale": numbers.tensor(5, scale=0.02, offset=0.1),
        **tcn_tensors("tcn", 5, options, numbers, always_residual=True),
        "hidden.weight": numbers.tensor(4, 4),
        "hidden.bias": numbers.tensor(4),
        "vad.weight": numbers.tensor(2, 4),
        "vad.bias": numbers.tensor(2, scale=0.1),
    }
    return card_of(nodes, outputs), tensors


def speaker(
    *,
    pool: str = "attention_statistics",
    half_life: float | None = None,
    variance: bool = True,
    prior: float = 4.0,
    window: int = 4,
    seed: int = 3,
    pauses: bool = False,
    **voice: Any,
) -> tuple[Card, Tensors]:
    """A small utterance model that hears where speech is and adapts to its speaker, rows and embeddings.

    `pauses` : embeddings count in pauses only. `voice` : options of the activity. The signal of `Numbers` has
    stretches of silence for it to find.
    """
    numbers = Numbers(seed)
    options = {"channels": [6, 5], "kernel_size": 2, "activation": "leaky_relu"}
    width = 5 * {"attention_statistics": 3, "statistics": 2}.get(pool, 1)
    voice = {"margin": 6.0, "range": 12.0, "rise": 0.2, "fall": 0.05, "hangover": 1, "smoothing": 2, **voice}
    nodes = [
        node("mel", "front_end", "audio", **{**MEL, "floor": 1e-8}),
        node("voice", "activity", "mel", **voice),
        node("rows", "adapt", ["mel", "voice"], prior=30.0, variance=variance),
        node("stack", "stack", "rows", size=3, stride=2),
        node("voices", "stack", "voice", size=3, stride=2),
        node("tcn", "tcn", "stack", **options),
        node("pool", "pool", ["tcn", "voices"], kind=pool, window=window, half_life=9.0, hop=3),
        node("talk", "linear", "voices", units=1),
        node("speech", "pool", "talk", kind="mean", window=window, half_life=None, hop=3),
        *([node("talks", "pool", "voices", kind="mean", window=1, half_life=None, hop=3)] if pauses else []),
        node(
            "embedding",
            "adapt",
            ["pool", "speech", *(["talks"] if pauses else [])],
            prior=prior,
            half_life=half_life,
            variance=variance,
            least=0.3,
            floor=0.05,
        ),
        node("vad", "linear", "embedding", units=3),
        node("affect", "activation", "vad", kind="tanh"),
        node("classes", "linear", "embedding", units=3),
        node("emotion", "activation", "classes", kind="softmax"),
    ]
    outputs = [
        {
            "name": "affect",
            "node": "affect",
            "kind": "continuous",
            "labels": ["valence", "arousal", "dominance"],
            "range": [-1, 1],
        },
        {"name": "emotion", "node": "emotion", "kind": "categorical", "labels": ["calm", "happy", "sad"]},
    ]
    tensors = {
        "rows.mean": numbers.tensor(8, scale=10.0, offset=-30.0),
        "rows.sd": numbers.tensor(8, scale=4.0, offset=14.0),
        **tcn_tensors("tcn", 24, options, numbers),
        "talk.weight": np.full((1, 3), 1 / 3, np.float32),
        "talk.bias": np.zeros(1, np.float32),
        "embedding.mean": numbers.tensor(width, scale=0.5),
        "embedding.sd": numbers.tensor(width, scale=0.3, offset=0.6),
        "embedding.reference": numbers.tensor(width, scale=0.5),
        "vad.weight": numbers.tensor(3, width),
        "vad.bias": numbers.tensor(3),
        "classes.weight": numbers.tensor(3, width),
        "classes.bias": numbers.tensor(3),
    }
    if "attention" in pool:
        tensors |= {"pool.score.weight": numbers.tensor(1, 5), "pool.score.bias": numbers.tensor(1)}
    return card_of(nodes, outputs, validity={"node": "speech", "least": 0.25}), tensors


def ensemble(seeds: tuple[int, ...] = (3, 4)) -> tuple[Card, Tensors]:
    """The mean of models that adapt, `speaker` of some seeds; they hear together where speech is."""
    shared = ("mel", "voice", "voices", "talk", "speech")
    nodes: list[Card] = []
    tensors: Tensors = {}
    for number, seed in enumerate(seeds, 1):
        card, own = speaker(seed=seed)
        place = {n["name"]: f"m{1 if n['name'] in shared else number}_{n['name']}" for n in card["nodes"]}
        place["audio"] = "audio"
        fresh = [n for n in card["nodes"] if number == 1 or n["name"] not in shared]
        nodes += [
            {**n, "name": place[n["name"]], "inputs": [place[name] for name in n["inputs"]]} for n in fresh
        ]
        for name, tensor in own.items():
            owner, _, parameter = name.partition(".")
            tensors[f"{place[owner]}.{parameter}"] = tensor
    for output in card["outputs"]:
        means = [f"m{number}_{output['node']}" for number in range(1, len(seeds) + 1)]
        output["node"] = f"mean_{output['name']}"
        nodes.append(node(output["node"], "average", means))
    return card_of(nodes, card["outputs"], validity={"node": "m1_speech", "least": 0.25}), tensors
