"""The ops of Welch spectra and band power: numbers of the core, gradients, torch's ways to call them."""

# ruff: noqa: E402
from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from affekt import _core, ops
from affekt.errors import InputError
from affekt.features import BandPower, Welch
from affekt.ops import bandpower as plain

RATE = 64
BANDS = {"low": (1, 8), "high": (8, 20)}
CASES = [
    Welch(sample_rate=RATE, n_per_seg=48, n_fft=61, detrend="linear"),
    Welch(sample_rate=RATE, n_per_seg=32, n_overlap=20, average="median", scaling="spectrum"),
    BandPower(sample_rate=RATE, bands=BANDS, log="db"),
    BandPower(sample_rate=RATE, bands=BANDS, average="median", hop=0.3, integration="simpson"),
    BandPower(sample_rate=RATE, bands=BANDS, relative=False, hop=3.0, detrend=None, log="ln"),
]
each_case = pytest.mark.parametrize("features", CASES, ids=lambda f: type(f).__name__)


@pytest.fixture(autouse=True)
def _loaded():
    if ops.binary_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    ops.load_library()


def name_of(features):
    return "welch" if isinstance(features, Welch) else "band_power"


def native(signal, features):
    """First output of the op."""
    found = getattr(torch.ops.affekt, name_of(features))(signal, json.dumps(features.options))
    return found if isinstance(features, Welch) else found[0]


def reference(signal, features):
    found = plain.REFERENCES[name_of(features)](signal, json.dumps(features.options))
    return found if isinstance(features, Welch) else found[0]


def called(features, signal):
    found = features(signal)
    return found if isinstance(features, Welch) else found.power


def noise(*shape, dtype=torch.double, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def plans(draw):
    """Any spectra or band power, and channels of a signal, some with missing samples."""
    segment = draw(st.integers(12, 60))
    shared = {
        "sample_rate": RATE,
        "detrend": draw(st.sampled_from([None, "constant", "linear"])),
        "average": draw(st.sampled_from(["mean", "median"])),
        "n_fft": segment + draw(st.sampled_from([0, 0, 1, 7, 40])),
    }
    time = draw(st.integers(segment, 700))
    taper = draw(
        st.sampled_from(["hann", "hamming", "blackman", "rectangular", np.hanning(segment + 2)[1:-1]])
    )
    if draw(st.booleans()):
        overlap = draw(st.integers(0, segment - 1))
        scaling = draw(st.sampled_from(["density", "spectrum"]))
        features = Welch(**shared, window=taper, n_per_seg=segment, n_overlap=overlap, scaling=scaling)
    else:
        edges = draw(st.sampled_from([[(0, 32)], [(3, 18), (16, 32)], [(0, 16), (1, 31), (14, 30)]]))
        features = BandPower(
            **shared,
            bands=edges,
            taper=taper,
            segment=segment / RATE,
            overlap=draw(st.integers(0, segment - 1)) / segment,
            window=(segment + draw(st.integers(0, 150))) / RATE,
            hop=draw(st.integers(1, 100)) / RATE,
            integration=draw(st.sampled_from(["trapezoid", "simpson"])),
            relative=draw(st.booleans()),
            total=draw(st.sampled_from([None, (0, 28)])),
            log=draw(st.sampled_from([None, "db", "ln", "log10"])),
            floor=draw(st.sampled_from([1e-30, 1e-3])),
        )
    x = noise(2, time, seed=draw(st.integers(0, 10**6)))
    for at in draw(st.lists(st.integers(0, 2 * time - 1), max_size=3)):
        x.view(-1)[at] = torch.nan
    return features, x


@given(case=plans())
@settings(max_examples=80, deadline=None)
def test_numbers_and_gradients_are_those_of_plain_torch(case):
    features, x = case
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = native(ours, features), reference(theirs, features)
    assert found.shape == expected.shape
    missing = expected.isnan()
    assert torch.equal(found.isnan(), missing)
    size = max([1.0, *expected.detach().abs()[~missing].tolist()])
    assert torch.allclose(found, expected, rtol=0, atol=1e-10 * size, equal_nan=True)
    upstream = noise(*found.shape, seed=1).masked_fill(missing, torch.nan)  # what is not there is not asked
    found.backward(upstream)
    expected.backward(upstream)
    assert ours.grad.isfinite().all()
    assert (ours.grad[x.isnan()] == 0).all()
    scale = max([1.0, *theirs.grad.abs().flatten().tolist()])
    assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=1e-10 * scale)


@given(case=plans())
@settings(max_examples=30, deadline=None)
def test_options_round_trip_as_text(case):
    features, _ = case
    text = json.dumps(features.options)
    again = (_core.Welch if isinstance(features, Welch) else _core.BandPower)(text)
    assert json.loads(again.options) == features.options
    assert type(features).from_options(features.options) == features


@each_case
def test_gradients_of_first_and_second_order(features):
    x = noise(2, 200).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: native(v, features), (x,))
    assert torch.autograd.gradgradcheck(lambda v: native(v, features), (x,), fast_mode=True)


@each_case
def test_float32_gradients_near_those_of_double(features):
    x = noise(2, 3, 1000)
    grads = []
    for dtype in (torch.float32, torch.float64):
        v = x.to(dtype).requires_grad_()
        native(v, features).sin().sum().backward()
        assert v.grad.dtype == dtype
        grads.append(v.grad.double())
    assert (grads[0] - grads[1]).abs().max() < 1e-4 * grads[1].abs().max()


@each_case
def test_checks_of_torch(features):
    overload = getattr(torch.ops.affekt, name_of(features)).default
    options = json.dumps(features.options)
    for x in (noise(2, 300).requires_grad_(), noise(2, 1, 200, dtype=torch.float32), noise(0, 2, 300)):
        torch.library.opcheck(overload, (x, options))


@each_case
def test_compiled_and_exported_in_one_graph(features):
    x = noise(2, 600)

    def loss(v):
        return called(features, v).square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for time in (600, 433):
        ours, theirs = (x[:, :time].clone().requires_grad_() for _ in range(2))
        compiled(ours).backward()
        loss(theirs).backward()
        assert torch.equal(ours.grad, theirs.grad)

    class Module(torch.nn.Module):
        def forward(self, v):
            return features(v)

    program = torch.export.export(Module(), (x,), dynamic_shapes=({1: torch.export.Dim.AUTO},))
    found, expected = program.module()(x[:, :500]), features(x[:, :500])
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@each_case
def test_vmap_and_autocast(features):
    x = noise(3, 2, 300)
    mapped = torch.vmap(lambda v: native(v, features), 1)(x)
    assert torch.equal(mapped, native(x.movedim(1, 0), features))
    with torch.autocast("cpu", torch.bfloat16):
        assert native(x.bfloat16(), features).dtype == torch.float32


@each_case
def test_features_of_a_tensor_with_gradient_are_those_without(features):
    x = noise(3, 2, 400, dtype=torch.float32)
    x[0, 1, 150] = torch.nan
    found = features(x.clone().requires_grad_())
    expected = features(x)
    for a, b in zip(*(([v] if isinstance(features, Welch) else v) for v in (found, expected)), strict=True):
        assert torch.equal(a.detach().nan_to_num(-1), b.nan_to_num(-1))
    assert called(features, x.clone().requires_grad_()).requires_grad


@each_case
def test_a_batch_is_a_loop_on_any_number_of_threads(features):
    x = noise(5, 3, 400)
    upstream = noise(*native(x, features).shape, seed=1)
    before = torch.get_num_threads()
    grads = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            v = x.clone().requires_grad_()
            native(v, features).backward(upstream)
            grads.append(v.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*grads)
    for i in range(5):
        one = x[i].clone().requires_grad_()
        rows = native(one, features)
        assert torch.equal(rows, native(x, features)[i])
        rows.backward(upstream[i])
        assert torch.equal(one.grad, grads[0][i])
    # Strides make no difference, nor does an expanded gradient.
    v = x.mT.contiguous().requires_grad_()
    native(v.mT, features).sum().backward()
    w = x.clone().requires_grad_()
    native(w, features).sum().backward()
    assert torch.equal(v.grad.mT, w.grad)


def test_a_flat_channel_gives_and_takes_nothing():
    features = CASES[2]
    x = noise(2, 300)
    x[0] = 5.0
    x.requires_grad_()
    power, valid = features(x)
    assert not valid[:, 0].any()
    assert valid[:, 1].all()
    power.sum().backward()  # NaN: not a reason for gradients of NaN
    assert (x.grad[0] == 0).all()
    assert x.grad[1].isfinite().all()
    assert (x.grad[1] != 0).any()


def test_signals_without_rows():
    bands = CASES[2]
    for shape in ((3, 1), (3, 100), (0, 3, 300), (2, 0, 300), (3, 0)):
        x = torch.zeros(shape, requires_grad=True)
        power, valid = bands(x)
        assert power.shape == (*shape[:-2], bands.frames(shape[-1]), shape[-2], 2)
        assert valid.shape == power.shape[:-1]
        power.sum().backward()
        assert torch.equal(x.grad, torch.zeros(shape))
    x = torch.zeros(0, 300, requires_grad=True)
    CASES[0](x).sum().backward()
    assert x.grad.shape == (0, 300)
    # One sample, one segment: its mean is all there is.
    one = torch.ones(1, dtype=torch.double, requires_grad=True)
    Welch(sample_rate=1, n_per_seg=1)(one).sum().backward()
    assert one.grad.item() == 0
    one.grad = None
    Welch(sample_rate=1, n_per_seg=1, detrend=None)(one).sum().backward()
    assert one.grad.item() == pytest.approx(2)


@pytest.mark.parametrize("fallback", [False, True])
def test_bad_signals_are_named(fallback, monkeypatch):
    if fallback:
        monkeypatch.setattr(ops, "native", lambda *_, **__: False)
    x = noise(2, 300)
    x[1, 7] = torch.inf
    for features in (CASES[0], CASES[2]):
        with pytest.raises(InputError, match=r"got (inf at sample 7 of row 1|one that is not at index 7)"):
            features(x.clone().requires_grad_())
        with pytest.raises(InputError, match="expected dtype float32, float64 or int16"):
            features(x.half().requires_grad_())
    with pytest.raises(InputError, match="expected at least n_per_seg = 48 of them, got 47"):
        CASES[0](noise(47).requires_grad_())
    with pytest.raises(InputError, match=r"expected shape \(..., channels, time\), got \(300,?\)"):
        CASES[2](noise(300).requires_grad_())
    with pytest.raises(InputError, match="0 dimensions"):
        CASES[0](torch.zeros((), requires_grad=True))


@each_case
def test_without_the_binary_the_same_numbers(features, monkeypatch):
    x = noise(2, 3, 400)
    x[0, 1, 99] = torch.nan
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = called(features, ours)
    monkeypatch.setattr(ops, "native", lambda *_, **__: False)
    expected = called(features, theirs)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10, equal_nan=True)
    found.nan_to_num().sin().sum().backward()
    expected.nan_to_num().sin().sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-10)


@each_case
def test_plain_torch_compiles_into_one_graph(features, monkeypatch):
    monkeypatch.setattr(ops, "available", lambda: False)
    x = noise(2, 600)
    x[1, 300] = torch.nan
    compiled = torch.compile(lambda v: called(features, v), fullgraph=True, dynamic=True, backend="aot_eager")
    for time in (600, 433):
        ours, theirs = (x[:, :time].clone().requires_grad_() for _ in range(2))
        found, expected = compiled(ours), called(features, theirs)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10, equal_nan=True)
        found.nan_to_num().sin().sum().backward()
        expected.nan_to_num().sin().sum().backward()
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-10)


class _Script(torch.nn.Module):
    def __init__(self, options: str) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        power, valid = torch.ops.affekt.band_power(x, self.options)
        return power, valid


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_module_in_torchscript():
    bands = CASES[2]
    x = noise(2, 300, dtype=torch.float32)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(_Script(json.dumps(bands.options))), file)
    file.seek(0)
    for found, expected in zip(torch.jit.load(file)(x), bands(x), strict=True):
        assert torch.equal(found, expected)


def test_bad_gradients_are_named():
    x, options = noise(2, 300), json.dumps(CASES[2].options)
    power, valid = torch.ops.affekt.band_power(x, options)
    for grad in (power[:1], power.float()):
        with pytest.raises(RuntimeError, match="grad: expected the shape of the result"):
            torch.ops.affekt._band_power_bwd(grad, valid, x, options)
    for bad in (valid[:1], valid.double()):
        with pytest.raises(RuntimeError, match="valid: expected that of the result"):
            torch.ops.affekt._band_power_bwd(power, bad, x, options)
    with pytest.raises(RuntimeError, match="grad: expected the shape of the result"):
        torch.ops.affekt._welch_bwd(power, x, json.dumps(CASES[0].options))


@pytest.mark.parametrize(
    ("op", "options", "message"),
    [
        ("welch", "[]", "Welch options: expected a JSON object"),
        ("welch", "{", "Welch options: expected a JSON object"),
        ("welch", '{"hop": 1}', 'Welch options: unknown option "hop"'),
        ("welch", '{"n_per_seg": 2.5}', "n_per_seg: expected an integer of 0 or more, got 2.5"),
        ("welch", '{"n_overlap": -1}', "n_overlap: expected an integer of 0 or more, got -1"),
        ("welch", '{"window": []}', "window: expected a name or the values"),
        ("welch", '{"window": ["a"]}', 'window: expected a number, got "a"'),
        ("welch", '{"window": 3}', 'window: expected one of "hann"'),
        ("welch", '{"scaling": null}', "scaling: expected one of"),
        ("welch", '{"sample_rate": "256"}', "sample_rate: expected a number"),
        ("band_power", '{"n_per_seg": 3}', 'band power options: unknown option "n_per_seg"'),
        ("band_power", '{"sample_rate": 0}', "sample_rate: expected a positive number"),
        ("band_power", '{"bands": {"a": [1, 2]}}', r"bands: expected an array of \[name, low, high\]"),
        ("band_power", '{"bands": [["a", 1]]}', r"bands: expected an array of \[name, low, high\]"),
        ("band_power", '{"total": 3}', r"total: expected \[low, high\] in Hz, or null, got 3"),
        ("band_power", '{"relative": 1}', "relative: expected true or false"),
        ("band_power", '{"overlap": 1}', "overlap: expected a fraction"),
        ("band_power", '{"hop": 0}', "hop: expected seconds that are 1 to 4294967296 samples at 256 Hz"),
        ("band_power", '{"window": 0.5}', "window: expected no less than a segment, which is 1 s, got 0.5"),
    ],
)
def test_bad_options_of_an_op_are_named(op, options, message):
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.affekt, op)(noise(2, 600), options)


def test_missing_options_are_the_defaults():
    x = noise(2, 3, 1000)
    assert torch.equal(torch.ops.affekt.welch(x, "{}"), Welch(sample_rate=256)(x))
    power, valid = torch.ops.affekt.band_power(x, "{}")
    expected = BandPower(sample_rate=256)(x)
    assert torch.equal(power, expected.power)
    assert torch.equal(valid, expected.valid)
