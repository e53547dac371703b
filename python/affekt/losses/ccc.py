"""One minus Lin's concordance correlation coefficient."""

from __future__ import annotations

import torch
from torch import Tensor

from affekt import ops
from affekt.errors import InputError
from affekt.losses._module import LossModule
from affekt.ops import losses as native

__all__ = ["CCCLoss", "ccc_loss"]

_OVER = ("time", "batch")
_REDUCTIONS = ("mean", "sum", "none")
_BIASES = ("population", "mixed")
_DTYPES = (torch.float32, torch.float64)


def ccc_loss(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    over: str = "time",
    reduction: str = "mean",
    eps: float = 1e-8,
    bias: str = "population",
) -> Tensor:
    """1 - CCC, where CCC = 2 cov(p, y) / (var(p) + var(y) + (mean(p) - mean(y))^2 + eps).

    Parameters
    ----------
    pred, target : `(batch, time)` or `(batch, time, dims)`, same shape, floating point. Half precision is
        computed and returned in float32.
    mask : boolean, `(batch, time)` or the shape of `pred`; False steps take no part, whatever value they hold
        (NaN too).
    over : ``"time"`` takes moments over the time of each window and dim; ``"batch"`` pools all steps of the
        batch, one CCC per dim.
    reduction : ``"mean"`` or ``"sum"`` over windows and dims, or ``"none"``: `(batch,)`, `(batch, dims)` or,
        with ``over="batch"``, a scalar or `(dims,)`.
    eps : added to the denominator. Where both inputs are constant CCC is 0, the loss 1 and the gradient 0,
        also for `eps` 0; the same for a window of a single valid step.
    bias : ``"population"`` (1/N throughout: reaches loss 0 at identity) or ``"mixed"`` (covariance / N and
        variances / (N - 1), as some published code computes it: never reaches 0).

    Windows without any valid step do not count: they are left out of ``"mean"`` and ``"sum"`` and are 0 under
    ``"none"``. If there is no valid step at all the mean is 0, with zero gradient.

    On the CPU, and on CUDA in a build with ``AFFEKT_CUDA=ON``, one pass sums about samples of each column, in
    double or, for float32 on the CPU, in short blocks that go on in double, so that the loss holds far from
    zero (mean 1e4, sd 1e-2 in float32). On the CPU it is the same bit for bit in every run and for any number
    of torch threads. A second pass gives the gradient. NaN or infinity in a valid step makes the loss NaN.

    Raises
    ------
    InputError : shapes differ, integers, or an unknown option.

    Reference: L. Lin, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45
    (1989).

    >>> p = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4]])
    >>> round(ccc_loss(p, p + 0.1).item(), 6)
    0.2
    """
    if pred.shape != target.shape or pred.dim() not in (2, 3):
        raise InputError(
            "pred and target must both be (batch, time) or (batch, time, dims), "
            f"got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape not in (pred.shape, pred.shape[:2]):
            raise InputError(
                f"mask must be boolean {tuple(pred.shape[:2])} or {tuple(pred.shape)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        mask = mask if mask.dim() == pred.dim() else mask[..., None].expand_as(pred)
    if not (over in _OVER and reduction in _REDUCTIONS and bias in _BIASES):
        for name, value, known in (
            ("over", over, _OVER),
            ("reduction", reduction, _REDUCTIONS),
            ("bias", bias, _BIASES),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")

    dtype = pred.dtype
    if dtype is not target.dtype or dtype not in _DTYPES:
        if not (pred.is_floating_point() and target.is_floating_point()):
            raise InputError(f"pred and target must be floating point, got {pred.dtype} and {target.dtype}")
        dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
        pred, target = pred.to(dtype), target.to(dtype)
    args = pred, target, mask, over == "batch", _REDUCTIONS.index(reduction), eps, bias == "mixed"
    if ops.native(pred, cuda=True):
        loss: Tensor = native.ccc(*args)
        return loss
    return native.reference_ccc(*args)


class CCCLoss(LossModule):
    """Module twin of `ccc_loss`; the options are those of the function."""

    def __init__(
        self, *, over: str = "time", reduction: str = "mean", eps: float = 1e-8, bias: str = "population"
    ) -> None:
        super().__init__(over=over, reduction=reduction, eps=eps, bias=bias)

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            loss: Tensor = torch.ops.affekt.ccc_loss(
                pred,
                target,
                mask,
                over=self.over,
                reduction=self.reduction,
                eps=self.eps,
                bias=self.bias,
            )
            return loss
        return self._eager(pred, target, mask)

    @torch.jit.unused
    def _eager(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        return ccc_loss(pred, target, mask, **self._options())
