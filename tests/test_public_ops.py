"""The public ops `torch.ops.affekt.*`: frozen schemas, the functions of the package, scripts, determinism."""

# ruff: noqa: E402
from __future__ import annotations

import io
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from affekt import losses, ops
from affekt.errors import InputError
from affekt.features import BandPower, LogMel, Mfcc, PowerSpectrogram, Stft, welch
from affekt.nn import TCN
from affekt.ops import tcn

# Of 0.1. A schema may get further arguments, at its end and with a default; nothing else may ever change.
FROZEN = (
    "acoustic(Tensor signal, str options) -> Tensor",
    "spectrogram(Tensor signal, str options) -> Tensor",
    "stft(Tensor signal, str options) -> Tensor",
    "welch(Tensor signal, str options) -> Tensor",
    "band_power(Tensor signal, str options) -> (Tensor power, Tensor valid)",
    'ccc_loss(Tensor pred, Tensor target, Tensor? mask=None, *, str over="time", str reduction="mean",'
    ' float eps=1e-8, str bias="population") -> Tensor',
    "info_nce_loss(Tensor anchors, Tensor candidates, Tensor? negatives=None, *, float temperature=0.07,"
    " Tensor? learned_temperature=None, bool symmetric=True, bool positive_in_denominator=True,"
    ' str reduction="mean", int budget=268435456) -> Tensor',
    "pairwise_info_nce_loss(Tensor[] embeddings, Tensor? present=None, *, float temperature=0.07,"
    ' Tensor? learned_temperature=None, str mode="eq1", str reduction="mean", int budget=268435456)'
    " -> Tensor",
    "nt_xent_loss(Tensor view_1, Tensor view_2, Tensor? negatives=None, *, float temperature=0.1,"
    " Tensor? learned_temperature=None, int budget=268435456) -> Tensor",
    "sup_con_loss(Tensor embeddings, Tensor labels, Tensor? negatives=None, *, float temperature=0.1,"
    " Tensor? learned_temperature=None, int budget=268435456) -> Tensor",
    "causal_conv_block(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2,"
    " Tensor? residual=None, Tensor? residual_bias=None, *, int dilation=1, float slope=0.01,"
    " float dropout=0., Tensor? keys=None) -> Tensor",
)


@pytest.fixture(autouse=True)
def _loaded():
    if ops.binary_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    ops.load_library()


def op(name):
    return getattr(torch.ops.affekt, name).default


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


LABELS = torch.tensor([0, 1, 0, 2, 1, 0])
PRESENT = torch.ones(3, 6, dtype=torch.bool)
PRESENT[1, 1] = PRESENT[2, 3] = False


def embeddings(count, dtype=torch.float64):
    return [normal(6, 4, dtype=dtype, seed=i) for i in range(count)]


#: name -> op, its tensors (with gradients where they are floating), options, and the function that it is.
CASES = {
    "ccc": ("ccc_loss", lambda d: embeddings(2, d), {}, losses.ccc_loss),
    "ccc, dims and mask": (
        "ccc_loss",
        lambda d: [normal(3, 7, 2, dtype=d), normal(3, 7, 2, dtype=d, seed=1), normal(3, 7) > -1],
        {"reduction": "none", "bias": "mixed"},
        losses.ccc_loss,
    ),
    "ccc over the batch": (
        "ccc_loss",
        lambda d: [normal(3, 7, 2, dtype=d), normal(3, 7, 2, dtype=d, seed=1)],
        {"over": "batch", "reduction": "none"},
        losses.ccc_loss,
    ),
    "info_nce": ("info_nce_loss", lambda d: embeddings(2, d), {}, losses.info_nce_loss),
    "info_nce, one-sided": (
        "info_nce_loss",
        lambda d: embeddings(3, d),
        {"symmetric": False, "positive_in_denominator": False, "reduction": "sum", "temperature": 0.5},
        lambda a, b, c, **o: losses.info_nce_loss(a, b, negatives=c, **o),
    ),
    "pairwise": (
        "pairwise_info_nce_loss",
        lambda d: [embeddings(3, d)],
        {},
        losses.pairwise_info_nce_loss,
    ),
    "pairwise, clips absent": (
        "pairwise_info_nce_loss",
        lambda d: [embeddings(3, d), PRESENT],
        {"mode": "clip", "reduction": "sum"},
        lambda z, present, **o: losses.pairwise_info_nce_loss(z, present=present, **o),
    ),
    "pairwise, two views": (
        "pairwise_info_nce_loss",
        lambda d: [embeddings(2, d)],
        {"mode": "two_view"},
        losses.pairwise_info_nce_loss,
    ),
    "nt_xent": (
        "nt_xent_loss",
        lambda d: embeddings(3, d),
        {},
        lambda a, b, c, **o: losses.nt_xent_loss(a, b, negatives=c, **o),
    ),
    "sup_con": (
        "sup_con_loss",
        lambda d: [*embeddings(1, d), LABELS],
        {"temperature": 0.3},
        losses.sup_con_loss,
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


def leaves(inputs):
    """The floating tensors of the inputs, and the inputs, with gradients wanted."""
    found = []

    def take(x):
        if isinstance(x, list):
            return [take(v) for v in x]
        if x.is_floating_point():
            x = x.clone().requires_grad_()
            found.append(x)
        return x

    return found, [take(x) for x in inputs]


def test_schemas_only_grow():
    for text in FROZEN:
        frozen = torch._C.parse_schema(f"affekt::{text}")
        now = op(text.partition("(")[0])._schema
        known = now.arguments[: len(frozen.arguments)]
        for old, new in zip(frozen.arguments, known, strict=True):
            assert (old.name, str(old.type), old.default_value, old.kwarg_only) == (
                (new.name, str(new.type), new.default_value, new.kwarg_only)
            )
        assert all(new.kwarg_only and new.has_default_value() for new in now.arguments[len(known) :])
        assert [str(r.type) for r in now.returns] == [str(r.type) for r in frozen.returns]
    public = {
        n.removeprefix("affekt::") for n in torch._C._dispatch_get_all_op_names() if n.startswith("affekt::")
    }
    public = {name for name in public if not name.startswith("_")}
    assert public == {text.partition("(")[0] for text in FROZEN}, "a new public op: freeze its schema here"


@each_case
def test_they_are_the_functions(case):
    name, make, options, function = CASES[case]
    results = []
    for call in (op(name), function):
        found, inputs = leaves(make(torch.float64))
        value = call(*inputs, **options)
        results.append((value, *torch.autograd.grad(value.sum(), found, allow_unused=True)))
    for a, b in zip(*results, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@each_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_kernels_below_autograd_give_the_same_bits(case, dtype):
    name, make, options, function = CASES[case]
    expected = function(*make(dtype), **options)
    with torch.inference_mode():
        found = op(name)(*make(dtype), **options)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_learned_temperature(dtype):
    a, b = embeddings(2, dtype)
    for name, function in (
        ("info_nce_loss", losses.info_nce_loss),
        ("nt_xent_loss", losses.nt_xent_loss),
        ("sup_con_loss", lambda a, b, **o: losses.sup_con_loss(a, LABELS, **o)),
        ("pairwise_info_nce_loss", lambda a, b, **o: losses.pairwise_info_nce_loss([a, b], **o)),
    ):
        inputs = {"sup_con_loss": (a, LABELS), "pairwise_info_nce_loss": ([a, b],)}.get(name, (a, b))
        t = torch.tensor(0.3, dtype=dtype, requires_grad=True)
        value = op(name)(*inputs, learned_temperature=t)
        expected = function(a, b, temperature=t)
        assert torch.equal(value, expected)
        assert torch.equal(torch.autograd.grad(value, t)[0], torch.autograd.grad(expected, t)[0])
        with torch.inference_mode():
            assert torch.equal(op(name)(*inputs, learned_temperature=t.detach()), expected)


@pytest.mark.parametrize(
    "case",
    ["ccc, dims and mask", "info_nce, one-sided", "pairwise", "pairwise, clips absent", "nt_xent", "sup_con"],
)
def test_checks_of_torch(case):
    name, make, options, _ = CASES[case]
    _, inputs = leaves(make(torch.float64))
    # How many clips are present is in the data: no graph of symbolic sizes takes that.
    dynamic = () if "absent" in case else ("test_aot_dispatch_dynamic",)
    utils = ("test_schema", "test_faketensor", "test_autograd_registration", *dynamic)
    torch.library.opcheck(op(name), tuple(inputs), options, test_utils=utils)


def test_checks_of_torch_with_a_learned_temperature():
    _, inputs = leaves(embeddings(2))
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(op("info_nce_loss"), tuple(inputs), {"learned_temperature": t})


@pytest.mark.parametrize("case", ["ccc, dims and mask", "info_nce", "pairwise", "nt_xent", "sup_con"])
def test_compiled_and_exported_in_one_graph(case):
    name, make, options, _ = CASES[case]
    _, inputs = leaves(make(torch.float64))

    class Module(torch.nn.Module):
        def forward(self, *inputs):
            return op(name)(*inputs, **options)

    value = Module()(*inputs)
    compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), value)
    with torch.no_grad():
        assert torch.equal(torch.export.export(Module(), tuple(inputs)).module()(*inputs), value)


def test_without_python_threads_do_not_change_the_bits():
    a, b = (normal(700, 60, dtype=torch.float32, seed=seed) for seed in (0, 1))
    labels, before, found = torch.arange(700) % 50, torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                calls = (("info_nce_loss", (a, b)), ("pairwise_info_nce_loss", ([a, b],)))
                calls += (("sup_con_loss", (a, labels)), ("nt_xent_loss", (a, b)))
                found.append([op(name)(*given).item() for name, given in calls])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


BAD = (
    ("ccc_loss", lambda a, b: ((a, b[:3]), {}), "target: expected the shape"),
    ("ccc_loss", lambda a, b: ((a.long(), b), {}), "pred: expected dtype"),
    (
        "ccc_loss",
        lambda a, b: ((a, b), {"over": "x"}),
        "over: expected one of time, batch",
    ),
    ("ccc_loss", lambda a, b: ((a, b, (a > 0)[:2]), {}), r"mask: expected bool \(6, 4\)"),
    ("info_nce_loss", lambda a, b: ((a, b[:3]), {}), r"candidates: expected \(6, 4\), got \(3, 4\)"),
    ("info_nce_loss", lambda a, b: ((a[0], b), {}), r"anchors: expected \(n, dim\)"),
    ("info_nce_loss", lambda a, b: ((a, b, a), {}), "negatives: expected none with symmetric"),
    ("info_nce_loss", lambda a, b: ((a, b, a[:, :2]), {"symmetric": False}), r"negatives: expected \(k, 4\)"),
    ("info_nce_loss", lambda a, b: ((a, b), {"temperature": 0.0}), "temperature: expected a positive number"),
    ("info_nce_loss", lambda a, b: ((a, b), {"learned_temperature": a}), "learned_temperature: expected one"),
    (
        "info_nce_loss",
        lambda a, b: ((a, b), {"learned_temperature": -a[0, 0].abs()}),
        "temperature: expected",
    ),
    ("info_nce_loss", lambda a, b: ((a, b), {"budget": -1}), "budget: expected"),
    ("info_nce_loss", lambda a, b: ((a, b), {"reduction": "none"}), "reduction: expected one of mean, sum"),
    (
        "info_nce_loss",
        lambda a, b: ((a[:1], b[:1]), {"positive_in_denominator": False}),
        "anchors: expected at",
    ),
    (
        "pairwise_info_nce_loss",
        lambda a, b: (([a],), {}),
        "embeddings: expected at least 2 modalities, got 1",
    ),
    ("pairwise_info_nce_loss", lambda a, b: (([a, b],), {"mode": "x"}), "mode: expected one of eq1"),
    ("pairwise_info_nce_loss", lambda a, b: (([a[:3], b[:3]],), {"mode": "two_view"}), "an even number"),
    ("pairwise_info_nce_loss", lambda a, b: (([a, b], a > 0), {}), r"present: expected bool \(2, 6\)"),
    ("nt_xent_loss", lambda a, b: ((a, b.long()), {}), "view_2: expected dtype"),
    ("sup_con_loss", lambda a, b: ((a, a[:, 0]), {}), r"labels: expected integers \(6\)"),
)


@pytest.mark.parametrize(("name", "make", "words"), BAD)
def test_bad_input_is_named_with_and_without_python(name, make, words):
    args, options = make(*embeddings(2))
    with torch.inference_mode(), pytest.raises(RuntimeError, match=words):
        op(name)(*args, **options)
    with pytest.raises((InputError, RuntimeError)):
        op(name)(*args, **options)


def test_losses_without_gradients_say_what_to_import():
    code = (
        "import torch\nfrom affekt import ops\nops.load_library()\n"
        "try:\n    torch.ops.affekt.ccc_loss(torch.zeros(2, 3), torch.zeros(2, 3))\n"
        "except Exception as error:\n    print(error)\n"
        "import affekt.losses\nprint(torch.ops.affekt.ccc_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item())"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert lines.splitlines() == [
        "torch.ops.affekt.ccc_loss: in Python this needs `import affekt.losses`",
        "1.0",
    ]


def test_many_threads_load_the_library_once():
    code = (
        "import threading\nfrom affekt import ops\nimport affekt.losses\nfailed = []\n"
        "def load():\n    try:\n        ops.load_library()\n"
        "    except BaseException as e:\n        failed.append(e)\n"
        "threads = [threading.Thread(target=load) for _ in range(8)]\n"
        "[t.start() for t in threads]\n[t.join() for t in threads]\nprint(failed)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# ---- TorchScript -------------------------------------------------------------------------------------------
MODULES = {
    "ccc": (losses.CCCLoss(over="batch", bias="mixed"), lambda: [*embeddings(2), normal(6, 4) > -1]),
    "info_nce": (losses.InfoNCELoss(temperature=0.2), lambda: [*embeddings(2), None]),
    "info_nce, learned": (
        losses.InfoNCELoss(learn_temperature=True).double(),
        lambda: [*embeddings(2), None],
    ),
    "info_nce, queue": (losses.InfoNCELoss(symmetric=False, reduction="sum"), lambda: embeddings(3)),
    "pairwise": (losses.PairwiseInfoNCELoss(mode="clip"), lambda: [embeddings(3), PRESENT]),
    "pairwise, one tensor": (losses.PairwiseInfoNCELoss(), lambda: [torch.stack(embeddings(3)), None]),
    "nt_xent": (losses.NTXentLoss(), lambda: embeddings(3)),
    "sup_con": (losses.SupConLoss(), lambda: [*embeddings(1), LABELS, None]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MODULES)
def test_modules_of_losses_in_torchscript(name):
    module, make = MODULES[name]
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    results = []
    for call in (module, torch.jit.load(file)):
        given = make()
        first = given[0][0] if isinstance(given[0], list) else given[0]
        first.requires_grad_()
        value = call(*given)
        results.append((value, *torch.autograd.grad(value, [first, *call.parameters()])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# ---- the block of the TCN ----------------------------------------------------------------------------------
def block_inputs(dtype=torch.float64, batch=2, time=9):
    shapes = (batch, time, 3), (4, 3, 2), (4,), (4, 4, 2), (4,), (4, 3, 1), (4,)
    return [0.5 * normal(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]


def test_block_is_that_of_the_module():
    block = TCN(3, [4], 2, dilations=[3], slope=0.2, dropout=0.0, weight_norm=False).blocks[0].double()
    x = block_inputs()[0].requires_grad_()
    with torch.no_grad():
        block.residual.bias.fill_(0.3)
    weights = [p for c in (block.conv1, block.conv2, block.residual) for p in (c.weight, c.bias)]
    found = op("causal_conv_block")(x, *weights, dilation=3, slope=0.2)
    assert torch.equal(found, block(x))
    grads = [torch.autograd.grad(y.square().sum(), [x, *weights]) for y in (found, block(x))]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_block_passes_the_checks_of_torch():
    _, inputs = leaves(block_inputs())
    options = {"dilation": 2, "dropout": 0.5, "keys": torch.tensor([1, 2])}
    torch.library.opcheck(op("causal_conv_block"), tuple(inputs), options)
    assert torch.autograd.gradcheck(lambda *v: op("causal_conv_block")(*v, dilation=2), inputs)


def test_block_in_other_formats_runs_in_plain_torch():
    expected = op("causal_conv_block")(*block_inputs(), dilation=2)
    inputs = [x.bfloat16() for x in block_inputs()]
    found = op("causal_conv_block")(*inputs, dilation=2)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)
    with pytest.raises(InputError, match=r"dropout: expected 0 beside torch.bfloat16 on cpu, got 0.5"):
        op("causal_conv_block")(*inputs, dropout=0.5, keys=torch.tensor([1, 2]))
    meta = op("causal_conv_block")(*(x.to("meta") for x in block_inputs()))
    assert meta.shape == (2, 9, 4)
    assert torch.equal(tcn.causal_conv_block(*block_inputs(), dilation=2), expected)


def each(function, x):
    """`function` of every tensor in an input of `CASES`."""
    return [each(function, v) for v in x] if isinstance(x, list) else function(x)


@each_case
@pytest.mark.filterwarnings("ignore:.*performance drop")
def test_vmap_calls_one_by_one_or_is_refused(case):
    name, make, options, _ = CASES[case]
    found = [
        each(lambda x: torch.stack([x, x.flip(0) if x.is_floating_point() else x]), x)
        for x in make(torch.float64)
    ]
    over = tuple(each(lambda x: 0, x) for x in found)

    def mapped():
        return torch.vmap(lambda *a: op(name)(*a, **options), over)(*found)

    if name == "pairwise_info_nce_loss":  # torch has no rule for lists of tensors
        with pytest.raises(
            RuntimeError, match="Batching rule not implemented for affekt::pairwise_info_nce_loss"
        ):
            mapped()
        return
    loop = [op(name)(*(each(lambda x, i=i: x[i], x) for x in found), **options) for i in range(2)]
    assert torch.equal(mapped(), torch.stack(loop))


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_and_16_bit_gradients_are_those_of_float32(case, dtype):
    name, make, options, _ = CASES[case]
    results = []
    for autocast, in_float in ((False, False), (True, False), (False, True)):
        given, inputs = leaves(make(dtype))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = op(name)(
                *(
                    each(lambda x, wide=in_float: x.float() if wide and x.is_floating_point() else x, x)
                    for x in inputs
                ),
                **options,
            )
        assert value.dtype == torch.float32
        # Constants, as a queue of negatives, get none.
        results.append((value, *torch.autograd.grad(value.sum(), given, allow_unused=True)))
    for value, under_autocast, of_float in zip(*results, strict=True):
        for other in (under_autocast, of_float):
            assert (value is None and other is None) or torch.equal(value, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*performance drop")
def test_block_compiled_exported_scripted_mapped_and_under_autocast():
    inputs = block_inputs(torch.float32)
    x, *weights = inputs

    class Module(torch.nn.Module):
        def forward(
            self,
            x: torch.Tensor,
            w1: torch.Tensor,
            b1: torch.Tensor,
            w2: torch.Tensor,
            b2: torch.Tensor,
            w3: torch.Tensor,
            b3: torch.Tensor,
        ):
            return torch.ops.affekt.causal_conv_block(x, w1, b1, w2, b2, w3, b3, dilation=2)

    expected = Module()(*inputs)
    assert torch.equal(torch.compile(Module(), fullgraph=True, backend="aot_eager")(*inputs), expected)
    with torch.no_grad():
        assert torch.equal(torch.export.export(Module(), tuple(inputs)).module()(*inputs), expected)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Module()), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(*inputs), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Module()(*inputs), expected)
    many = torch.stack([x, x.flip(1)])
    mapped = torch.vmap(lambda x: Module()(x, *weights))(many)
    assert torch.equal(mapped, torch.stack([Module()(one, *weights) for one in many]))


# ---- determinism -------------------------------------------------------------------------------------------
@pytest.fixture
def deterministic():
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def everything(dtype):
    """Value and gradients of every op, large enough for several threads."""
    found = {}

    def add(name, function, *inputs):
        inputs = [x.clone().requires_grad_() for x in inputs]
        value = function(*inputs)
        if value.is_complex():
            value = torch.view_as_real(value)
        found[name] = value, *torch.autograd.grad(value.square().sum(), inputs, allow_unused=True)

    for n, dim in ((700, 33),):
        a, b = (normal(n, dim, dtype=dtype, seed=s) for s in (1, 2))
        labels, queue = torch.arange(n) % 7, normal(300, dim, dtype=dtype, seed=3)
        add(f"ccc {n}", losses.ccc_loss, a, b)
        add(f"info_nce {n}", losses.info_nce_loss, a, b)
        add(
            f"queue {n}", lambda a, b, q=queue: losses.info_nce_loss(a, b, symmetric=False, negatives=q), a, b
        )
        add(f"pairwise {n}", lambda a, b: losses.pairwise_info_nce_loss([a, b, a + b]), a, b)
        add(f"nt_xent {n}", losses.nt_xent_loss, a, b)
        add(f"sup_con {n}", lambda a, y=labels: losses.sup_con_loss(a, y, budget=1), a)
    signal = 0.1 * normal(3, 8000, dtype=dtype)
    for features in (LogMel, Mfcc, PowerSpectrogram, Stft):
        add(features.__name__, features(sample_rate=16000), signal)
    add("welch", lambda x: welch(x, 16000, n_per_seg=500)[1], signal)
    add("band power", lambda x: BandPower(sample_rate=256)(x)[0], signal)
    torch.manual_seed(0)
    add("tcn", TCN(20, (48, 24), dropout=0.2).to(dtype), normal(5, 300, 20, dtype=dtype))
    return found


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_threads_and_any_run_give_the_same_bits(dtype):
    first = None
    for threads in (1, 1, 2, 3):
        torch.set_num_threads(threads)
        found = everything(dtype)
        first = first or found
        for name, expected in first.items():
            assert all(torch.equal(a, b) for a, b in zip(expected, found[name], strict=True)), (name, threads)
