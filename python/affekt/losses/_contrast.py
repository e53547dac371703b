"""What the contrastive losses share: checks, and the choice between the native op and plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from affekt import ops
from affekt.errors import InputError
from affekt.losses._gather import Ranks, gathered_info_nce, gathered_sup_con
from affekt.ops import losses as native

BUDGET = 256 * 2**20  # bytes


def same_rows(*, empty: bool = False, **named: Tensor) -> tuple[Tensor, ...]:
    """Return the embeddings in one dtype, float32 at least; all must be (n, dim) of one shape, n >= 1.

    `empty`: n may be 0, as on a rank whose batch is.
    """
    first = next(iter(named.values()))
    for name, value in named.items():
        if value.dim() != 2 or value.shape != first.shape or 0 in value.shape[empty:]:
            raise InputError(
                f"{' and '.join(named)} must be (n, dim) of one shape with "
                f"{'dim' if empty else 'n and dim'} at least 1, got {tuple(value.shape)} for {name}"
            )
        if not value.is_floating_point():
            raise InputError(f"{name} must be floating point, got {value.dtype}")
        beside(name, value, first)
    if all(value.dtype == first.dtype for value in named.values()) and first.dtype in _NATIVE_DTYPES:
        return tuple(named.values())
    dtype = torch.float32
    for value in named.values():
        dtype = torch.promote_types(dtype, value.dtype)
    return tuple(value.to(dtype) for value in named.values())


def beside(name: str, value: Tensor, first: Tensor) -> None:
    """Refuse tensors of several devices before the ranks of a gathered loss wait for each other."""
    if value.device != first.device:
        raise InputError(f"{name} must be on {first.device}, as the others are, got {value.device}")


_NATIVE_DTYPES = (torch.float32, torch.float64)


def op_rows(*, empty: bool = False, **named: Tensor) -> tuple[Tensor, ...]:
    """`same_rows`, but 16-bit embeddings stay as they are where the CUDA ops take them."""
    rows = same_rows(empty=empty, **named)
    given = tuple(named.values())
    halves = given[0].dtype in (torch.bfloat16, torch.float16) and len({v.dtype for v in given}) == 1
    return given if halves and given[0].is_cuda and ops.native(given[0], cuda=True) else rows


def _loose(tensor: Tensor) -> bool:
    """Tell whether products may be rounded to tf32, or as the CPU's threads have it: torch's own switches."""
    if tensor.is_cuda:
        return ops.tf32_allowed("matmul")
    return not torch.are_deterministic_algorithms_enabled()


def more_rows(negatives: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the extra negatives as constants in the dtype of `like`; they must be (k, dim), k >= 0."""
    if negatives is None:
        return None
    if negatives.dim() != 2 or negatives.shape[1] != like.shape[1] or not negatives.is_floating_point():
        raise InputError(
            f"negatives must be floating point (k, {like.shape[1]}), "
            f"got {negatives.dtype} {tuple(negatives.shape)}"
        )
    beside("negatives", negatives, like)
    return negatives.detach().to(like.dtype)


def scale_of(temperature: float | Tensor, like: Tensor) -> Tensor:
    """Return 1 / temperature as a scalar in the dtype of `like`, float32 at least; it must be positive."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or not temperature.is_floating_point():
            raise InputError(
                "temperature must be a number or a floating-point tensor of one value, "
                f"got {temperature.dtype} {tuple(temperature.shape)}"
            )
        if not (torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()):  # there is a value
            positive(temperature.item())
        return temperature.reshape(()).to(like.device, dtype).reciprocal()
    positive(temperature)
    # Not torch.tensor: that is a copy from the host, which waits for the GPU and breaks its graphs.
    return torch.full((), 1 / temperature, dtype=dtype, device=like.device)


def positive(temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"temperature must be positive and finite, got {temperature}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def bytes_of(budget: int) -> int:
    if budget < 0:
        raise InputError(f"budget must be a number of bytes, 0 or more, got {budget}")
    return int(budget)


def shared_rows(
    ranks: Ranks | None, rows: Sequence[int], of: Sequence[Tensor], temperature: float | Tensor, **alike: Any
) -> list[list[int]]:
    """Return for each entry of `rows` those of all ranks, or of this process alone.

    `of`: the embeddings, anchors first and candidates last. Their dim, dtype and kind of device, the
    temperature and `alike` must be the same on all ranks.
    """
    if ranks is None:
        return [[n] for n in rows]
    grad, learned = torch.is_grad_enabled(), False
    if isinstance(temperature, Tensor):
        learned, temperature = temperature.requires_grad, temperature.item()
    return ranks.agree(
        rows,
        (grad and (of[0].requires_grad or learned), grad and of[-1].requires_grad),
        dim=of[0].shape[1],
        dtype=str(of[0].dtype),
        device=of[0].device.type,
        temperature=float(temperature),
        **alike,
    )


def info_nce(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    *,
    weight: float,
    columns: bool,
    exclude: bool = False,
    shift: int = 0,
    negatives: Tensor | None = None,
    budget: int = BUDGET,
    ranks: Ranks | None = None,
    counts: Sequence[int] = (),
) -> Tensor:
    """Return weight * sum of -log softmax at the positives: natively where that is possible.

    `counts`: the rows on each of the `ranks`; the sum is over all of them.
    """
    if ranks is not None:
        return gathered_info_nce(
            *(a, b, scale, ranks, counts),
            weight=weight,
            columns=columns,
            exclude=exclude,
            shift=shift,
            negatives=negatives,
            budget=budget,
        )
    if ops.native(a, cuda=True):
        for_b = b.requires_grad and torch.is_grad_enabled()
        for_a = (a.requires_grad or scale.requires_grad) and torch.is_grad_enabled()
        args = a, b, negatives, scale, shift, exclude, columns, weight, budget, for_a, for_b, _loose(a)
        loss: Tensor = native.info_nce(*args)
        return loss
    return native.reference_info_nce(a, b, negatives, scale, shift, exclude, columns, weight)


def sup_con(
    z: Tensor,
    labels: Tensor,
    scale: Tensor,
    *,
    negatives: Tensor | None = None,
    budget: int = BUDGET,
    ranks: Ranks | None = None,
    counts: Sequence[int] = (),
) -> Tensor:
    """Return the supervised contrastive loss: natively where that is possible; `counts` as `info_nce`."""
    if ranks is not None:
        return gathered_sup_con(z, labels, scale, ranks, counts, negatives=negatives, budget=budget)
    if ops.native(z, cuda=True):
        wanted = (z.requires_grad or scale.requires_grad) and torch.is_grad_enabled()
        loss: Tensor = native.sup_con(z, labels, negatives, scale, budget, wanted, _loose(z))
        return loss
    return native.reference_sup_con(z, labels, negatives, scale)
