"""Contrastive losses over several processes: the same as one process with the whole batch, or one error."""

# ruff: noqa: E402
from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from torch import distributed as dist

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("this torch has no gloo", allow_module_level=True)

from affekt import ops
from affekt.errors import AffektError, InputError
from affekt.losses import InfoNCELoss, _gather, info_nce_loss
from affekt.ops import losses as native
from ranks import KINDS, WORLD, Pair, Ranks, batch, gradients, model_and_batch, train

GATHERS = ("all", "ring")


@pytest.fixture(scope="module")
def ranks():
    processes = Ranks()
    yield processes
    processes.close()


@pytest.fixture(params=[True, False], ids=["native", "plain torch"])
def is_native(request):
    if request.param and ops.binary_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    return request.param


def check(found, kind, x, temperature, tolerance):
    """The ranks' results against one process in float64: the loss, and the gradients over their number."""
    expected = gradients(
        kind, {k: v.double() if v.is_floating_point() else v for k, v in x.items()}, temperature
    )
    found = [part for part in found if part is not None]
    for part in found:
        assert torch.equal(part["loss"], found[0]["loss"])
        assert torch.equal(part["t"], found[0]["t"])
        assert all(part[k].dtype == x["a"].dtype for k in part)
    for k, value in expected.items():
        ours = found[0][k] if k in ("loss", "t") else torch.cat([part[k] for part in found]) / len(found)
        # A cosine's error counts 1 / temperature times in a logit, and once more in each derivative.
        size = max(value.abs().max().item(), 1 / temperature ** {"loss": 0, "t": 2}.get(k, 1))
        error = (ours.double() - value).abs().max().item()
        assert error <= tolerance * size, (kind, k, error, size)


@pytest.mark.parametrize("gather", GATHERS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_loss_and_gradients_are_those_of_the_whole_batch(ranks, kind, gather, is_native):
    for counts in ([4, 4, 4, 4], [7, 1, 0, 4], [0, 0, 1, 2], [6, 3], [0, 2], [5]):
        for dtype, temperature, tolerance in (
            (torch.float64, 0.3, 1e-10),
            (torch.float64, 0.02, 1e-10),  # beyond the bounded exponentials
            (torch.float32, 0.3, 1e-5),
        ):
            args = kind, 1, counts, 5, dtype, temperature, gather, is_native
            found = ranks.run("gathered", *args)
            for part in found:
                if isinstance(part, Exception):
                    raise part
            check(found, kind, batch(1, sum(counts), 5, dtype), temperature, tolerance)


@given(
    kind=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 10**6),
    counts=st.sampled_from([1, 2, 3, 4]).flatmap(
        lambda n: st.lists(st.integers(0, 9), min_size=n, max_size=n).filter(lambda c: sum(c) >= 2)
    ),
    dim=st.integers(1, 9),
    temperature=st.sampled_from([0.02, 0.1, 1.0]),
    gather=st.sampled_from(GATHERS),
    budget=st.sampled_from([0, 2**28]),
)
@settings(max_examples=60, deadline=None)
def test_any_split_gives_the_loss_of_the_whole_batch(
    ranks, kind, seed, counts, dim, temperature, gather, budget
):
    args = kind, seed, counts, dim, torch.float64, temperature, gather, ops.binary_path() is not None, budget
    found = ranks.run("gathered", *args)
    for part in found:
        if isinstance(part, Exception):
            raise part
    check(found, kind, batch(seed, sum(counts), dim, torch.float64), temperature, 1e-10)


@pytest.mark.parametrize("gather", GATHERS)
def test_nan_of_one_rank_shows_on_all_and_autocast_changes_nothing(ranks, gather, is_native):
    found = ranks.run("with_nan", gather, is_native)
    for part in found:
        if isinstance(part, Exception):
            raise part
        for kind, (bad, good, under_autocast) in part.items():
            assert math.isnan(bad), kind
            assert math.isfinite(good)
            assert under_autocast == good == found[0][kind][1]


def test_ring_and_all_agree_beyond_one_tile_with_no_room(ranks):
    counts, x = [700, 0, 1100, 530], batch(2, 2330, 6, torch.float64)
    found = {}
    for gather in GATHERS:
        found[gather] = ranks.run("gathered", "info_nce", 2, counts, 6, torch.float64, 0.1, gather, True, 0)
        check(found[gather], "info_nce", x, 0.1, 1e-10)
    for one, other in zip(*found.values(), strict=True):
        for k in one:
            torch.testing.assert_close(one[k], other[k], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("gather", GATHERS)
def test_negatives_are_local_and_nobody_waits_for_a_backward_pass(ranks, gather):
    found = ranks.run("own_negatives", gather, 1)
    x = batch(0, 8, 5, torch.float64)
    a = x["a"].clone().requires_grad_()
    u, v = (torch.nn.functional.normalize(z, dim=1) for z in (a, x["b"]))
    logits, expected = u @ v.T / 0.2, 0
    for i in range(8):
        own = torch.nn.functional.normalize(x["q"][: i // 2], dim=1) @ u[i] / 0.2
        expected = expected + torch.cat([logits[i], own]).logsumexp(0) - logits[i, i]
    expected.backward()
    for rank, (loss, grad, differentiable) in enumerate(found):
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert differentiable == (rank != 2)
        if rank in (1, 3):
            torch.testing.assert_close(grad / WORLD, a.grad[2 * rank : 2 * rank + 2], rtol=1e-10, atol=1e-12)
        else:
            assert grad is None


X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gather", GATHERS)
@pytest.mark.parametrize(
    ("change", "own", "others"),
    [
        (
            {"candidates": X[:2]},
            "of one shape",
            "rank 2 of the group refused its input: InputError: anchors and",
        ),
        ({"anchors": X.long()}, "floating point", "rank 2 of the group refused its input"),
        ({"anchors": None}, "AttributeError", "rank 2 of the group refused its input: AttributeError"),
        ({"temperature": -1.0}, "temperature must be positive", "temperature must be positive"),
        ({"negatives": X}, "negatives need symmetric=False", "refused its input: InputError: negatives"),
        (
            {"temperature": 0.5},
            *2 * ["temperature must be the same on all ranks, got 0.07 on rank 0 and 0.5 on"],
        ),
        ({"anchors": X[:, :2], "candidates": X[:, :2]}, *2 * ["dim must be the same on all ranks, got 5"]),
        (
            {"anchors": X.to("meta")},
            "candidates must be on meta, as",
            "InputError: candidates must be on meta",
        ),
        (
            {"negatives": X.to("meta"), "symmetric": False},
            "negatives must be on cpu, as the others are, got meta",
            "refused its input: InputError: negatives must be on cpu",
        ),
        (
            {"anchors": X.to("meta"), "candidates": X.to("meta")},
            *2 * ["device must be the same on all ranks, got cpu on rank 0 and meta"],
        ),
        ({"anchors": X.double(), "candidates": X}, *2 * ["dtype must be the same on all ranks"]),
        ({"reduction": "sum"}, *2 * ["reduction must be the same on all ranks, got mean on rank 0 and sum"]),
        ({"gather": "other"}, *2 * ["gather must be the same on all ranks"]),
        (
            {"gather": "al"},
            "gather must be one of none, all, ring, got 'al'",
            "refused its input: InputError: gat",
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_of_one_rank_is_an_error_on_all(ranks, gather, change, own, others):
    if change.get("gather") == "other":
        change = {"gather": next(g for g in GATHERS if g != gather)}
    found = ranks.run("refused", gather, each=[(change if rank == 2 else {},) for rank in range(WORLD)])
    for rank, (message, after) in enumerate(found):
        assert (own if rank == 2 else others) in message
        assert message.startswith("InputError") or (rank == 2 and own == "AttributeError")
        assert after == found[0][1]


def test_a_loss_without_rows_or_candidates_is_an_error_on_all(ranks):
    for kind, counts, words in (
        ("info_nce", [0, 0, 0, 0], "anchors must have at least 1 row"),
        ("nt_xent", [0, 0, 0, 0], "view_1 must have at least 1 row"),
        ("sup_con", [0, 0], "embeddings must have at least 1 row"),
        ("decoupled", [0, 1, 0, 0], "at least 2 rows where the positive is not"),
        ("eq1", [0, 1, 0, 0], "at least 2 for mode 'eq1', got 1"),
    ):
        for gather in GATHERS:
            found = ranks.run("gathered", kind, 1, counts, 5, torch.float64, 0.3, gather)
            found = [part for part in found if part is not None]
            assert len(found) == len(counts)
            for error in found:
                assert isinstance(error, InputError)
                assert words in str(error)


@pytest.mark.parametrize("gather", GATHERS)
def test_ranks_without_anchors_need_no_candidates(ranks, gather):
    """The one anchor of the decoupled form, on rank 1, has its negatives alone in the denominator."""
    x, q = batch(0, 1, 5, torch.float64), batch(0, 1, 5, torch.float64)["q"]
    u, v = (torch.nn.functional.normalize(z, dim=1) for z in (x["a"], q))
    logits = (u @ v.T)[0] / 0.2
    positive = (u[0] * torch.nn.functional.normalize(x["b"], dim=1)[0]).sum() / 0.2
    expected = logits[:2].logsumexp(0) - positive
    for loss in ranks.run("one_anchor", gather, 2):
        assert loss == pytest.approx(expected.item(), rel=1e-12)
    for error in ranks.run("one_anchor", gather, 0):
        assert isinstance(error, InputError)
        assert "at least 2 rows where the positive is not" in str(error)


def test_a_process_outside_of_the_group_is_told(ranks):
    found = ranks.run("outsider", "ring")
    assert found[1] == found[3]
    for rank in (0, 2):
        assert isinstance(found[rank], InputError)
        assert f"group must contain this process, rank {rank}" in str(found[rank])


def test_the_compiler_steps_around_and_second_derivatives_are_refused(ranks):
    for loss, grad, plain_loss, plain_grad, error in ranks.run("compiled_and_twice", "ring"):
        assert torch.equal(loss, plain_loss)
        torch.testing.assert_close(grad, plain_grad, rtol=1e-12, atol=1e-12)
        assert isinstance(error, AffektError)
        assert "create_graph must be False" in str(error)


@pytest.mark.parametrize("gather", GATHERS)
@pytest.mark.parametrize("inside", [True, False])
def test_data_parallel_training_takes_the_steps_of_one_process(ranks, gather, inside):
    network, x, y = model_and_batch()
    loss = InfoNCELoss(temperature=0.2, learn_temperature=True).double()
    pair = Pair(network, loss)
    train(pair, lambda: pair(x, y), pair.parameters())
    for counts in ([3, 3, 3, 2], [1, 5, 2, 3]):
        for parameters in ranks.run("data_parallel", gather, counts, inside):
            if isinstance(parameters, Exception):
                raise parameters
            for ours, theirs in zip(parameters, pair.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-12)


def test_memory_of_the_ring_does_not_grow_with_the_ranks(ranks):
    peaks = {
        (gather, size): max(p for p in ranks.run("memory", gather, size, 512, 64) if p is not None)
        for gather in GATHERS
        for size in (2, 3, 4)
    }
    # In units of one side of a local batch. Of two ranks the first chunk is one's own, the second the last.
    assert peaks["ring", 4] <= 1.02 * peaks["ring", 3]
    assert peaks["ring", 4] < peaks["all", 4]
    # A chunk, its gradient, and the same from elsewhere.
    assert peaks["all", 4] > peaks["all", 3] + 2.9


@pytest.mark.parametrize("kind", ["info_nce", "sup_con"])
def test_gradients_of_16_bit_rows_are_rounded_once(kind, monkeypatch):
    """Such rows come from CUDA alone, where the blocks are in plain torch: here that of one rank."""
    monkeypatch.setattr(native, "native", lambda x, **_: False)
    rank = object.__new__(_gather.Ranks)
    rank.rank, rank.size, rank.ring, rank.wanted = 0, 1, False, (True, True)
    generator = torch.Generator().manual_seed(3)
    b = torch.randn(60, 12, generator=generator)
    a = (b + 0.3 * torch.randn(60, 12, generator=generator)).bfloat16()  # found, so that sums cancel matches
    b, labels = b.bfloat16(), torch.arange(60) // 2

    def loss(a, b, scale):
        if kind == "sup_con":
            both = torch.stack([a, b], 1).flatten(0, 1)[:60]
            return _gather.gathered_sup_con(both, labels, scale, rank, [60], negatives=None, budget=2**20)
        options = {"columns": True, "exclude": False, "shift": 0, "negatives": None, "budget": 2**20}
        return _gather.gathered_info_nce(a, b, scale, rank, [60], weight=1 / 60, **options)

    found = [x.clone().requires_grad_() for x in (a, b)]
    value = loss(*found, torch.tensor(10.0))
    wide = [x.double().requires_grad_() for x in (a, b)]
    expected = loss(*wide, torch.tensor(10.0, dtype=torch.float64))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)  # the scale times float32
    for ours, theirs in zip(
        torch.autograd.grad(value, found), torch.autograd.grad(expected, wide), strict=True
    ):
        assert ours.dtype == torch.bfloat16
        # Half a unit of the last of bfloat16's 8 bits, and what float32 sums leave.
        allowed = 2**-8 * theirs.abs() + 1e-5 * theirs.abs().max()
        assert ((ours.double() - theirs).abs() <= allowed).all()


def test_without_a_process_group_there_is_nothing_to_gather():
    with pytest.raises(InputError, match=r"gather='ring' needs torch\.distributed\.init_process_group"):
        info_nce_loss(X, X, gather="ring")
    with pytest.raises(InputError, match="gather must be one of none, all, ring, got 'some'"):
        info_nce_loss(X, X, gather="some")


@pytest.mark.skipif(ops.binary_path() is None, reason="concerns the op")
def test_blocks_have_the_same_bits_for_any_number_of_threads_where_asked():
    a, b = torch.randn(2, 600, 300, generator=torch.Generator().manual_seed(0)).unbind()
    scale, row, col = torch.tensor(4.0), *torch.full((2, 600), 12.0).double()
    before, found = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            sums = native.log_sums(a, b, scale, False, True, 0)
            found.append((*sums, *native.log_sums_bwd(a, b, scale, row, col, False, 0, True, True)))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


@pytest.mark.usefixtures("native_or_plain")
@pytest.mark.parametrize("temperature", [0.3, 0.01])
def test_blocks_of_the_matrix_equal_autograd_in_double(temperature):
    gen = torch.Generator().manual_seed(0)
    for n, m, dim, exclude, columns in (
        (3, 5, 4, False, True),
        (5, 5, 1, True, True),
        (600, 2100, 3, False, True),
        (530, 530, 7, True, False),
        (0, 3, 2, False, True),
        (3, 0, 2, False, True),
        (1, 1, 2, True, True),
    ):
        scale = torch.tensor(1 / temperature, dtype=torch.double, requires_grad=True)
        a, b = (torch.randn(k, dim, generator=gen, dtype=torch.double).requires_grad_() for k in (n, m))
        u, v = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
        logits = scale * (u @ v.T)
        if exclude:
            logits = logits.masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf)
        row, col = native.log_sums(a.detach(), b.detach(), scale.detach(), exclude, columns, 0)
        torch.testing.assert_close(row, logits.logsumexp(1).detach())
        torch.testing.assert_close(col, logits.logsumexp(0).detach() if columns else col[:0])
        # Other parts of the matrix add to the sums; a weight of 0 leaves a row out.
        weights = torch.rand(n, generator=gen).double().masked_fill(torch.arange(n) == 1, 0)
        row = torch.logaddexp(row.nan_to_num(neginf=-1.0), torch.tensor(0.3).double()) - weights.log()
        col = torch.logaddexp(col.nan_to_num(neginf=-1.0), torch.tensor(0.1).double()) if columns else None
        value = (logits - row[:, None]).exp().sum()
        if columns:
            value = value + (logits - col).exp().sum()
        expected = torch.autograd.grad(value, (a, b, scale))
        for budget in (0, 10**8):
            args = a.detach(), b.detach(), scale.detach(), row, col, exclude, budget
            found = native.log_sums_bwd(*args, True, True)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
            only = native.log_sums_bwd(*args, False, True)
            assert only[0].numel() == 0
            torch.testing.assert_close(only[1], found[1])
            torch.testing.assert_close(only[2], found[2], rtol=1e-9, atol=1e-9)
