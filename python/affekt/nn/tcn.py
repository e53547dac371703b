"""Causal temporal convolutional network with dilated residual blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as add_weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from affekt import ops
from affekt.errors import InputError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ACTIVATIONS", "TCN"]

ACTIVATIONS = ("relu", "leaky_relu", "prelu")


def _activation(name: str, slope: float) -> nn.Module:
    if name == "relu":
        return nn.ReLU()
    if name == "leaky_relu":
        return nn.LeakyReLU(slope)
    return nn.PReLU(init=slope)


class _CausalConv(nn.Conv1d):
    """`Conv1d` with (k - 1) d zeros before the first step: y_t = b + sum_j W[:, :, j] x_{t - (k-1-j) d}."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class _Dropout(nn.Dropout):
    """`nn.Dropout` with its mask from uniform draws: Bernoulli draws cost a seventh of a step on CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * (torch.rand_like(x) >= self.p).to(x.dtype).mul_(1 / (1 - self.p))


class _Block(nn.Module):
    """conv, activation, dropout, conv, activation, dropout, plus residual, activation."""

    def __init__(
        self,
        width_in: int,
        width: int,
        kernel: int,
        dilation: int,
        dropout: float,
        activation: str,
        slope: float,
    ) -> None:
        super().__init__()
        self.conv1 = _CausalConv(width_in, width, kernel, dilation=dilation)
        self.conv2 = _CausalConv(width, width, kernel, dilation=dilation)
        self.residual = nn.Conv1d(width_in, width, 1) if width_in != width else None
        self.act1 = _activation(activation, slope)
        self.act2 = _activation(activation, slope)
        self.act3 = _activation(activation, slope)
        self.dropout = _Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.act1(self.conv1(x)))
        y = self.dropout(self.act2(self.conv2(y)))
        return self.act3(y + (x if self.residual is None else self.residual(x)))

    def as_op(self, x: Tensor, slope: float) -> Tensor:
        """The same of `(batch, time, width)` by the native op; other draws of the dropout."""
        dropout = self.dropout.p if self.dropout.training else 0.0
        keys = torch.randint(-(2**63), 2**63 - 1, (2,)) if dropout else None
        residual = (None, None) if self.residual is None else (self.residual.weight, self.residual.bias)
        convs = self.conv1.weight, self.conv1.bias, self.conv2.weight, self.conv2.bias
        args = x, *convs, *residual, keys, self.conv1.dilation[0], slope, dropout
        y: Tensor = (
            torch.ops.affekt._tcn_block(*args)[0] if torch.compiler.is_compiling() else _native_block()(*args)
        )
        return y


@torch.compiler.assume_constant_result
def _has_ops() -> bool:
    return ops.available() and _native_block() is not None


@cache
def _native_block() -> Callable[..., Any]:
    return ops.differentiable("affekt::_tcn_block", _setup, _backward)


@cache
def _backward_op() -> Callable[..., Any]:
    op: Callable[..., Any] = torch.ops.affekt._tcn_block_bwd.default
    return op


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, _, dilation, slope, dropout = inputs
    ctx.options = dilation, slope, dropout
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    *inputs, y, h1, h2 = ctx.saved_tensors
    x, weight1, _, weight2, _, residual, _ = inputs
    wanted = ctx.needs_input_grad[:7]
    grads: Any
    if grad is None:
        grads = [None] * 7
    elif torch.is_grad_enabled():  # somebody differentiates the gradient
        grads = ops.gradient_of(partial(_reference, (h1, h2), ctx.options), inputs, wanted, grad)
    else:
        found = _backward_op()(
            grad, x, y, h1, h2, weight1, weight2, residual, *ctx.options, wanted[0], any(wanted[1:])
        )
        grads = [g if want else None for g, want in zip(found, wanted, strict=True)]
    return (*grads, None, None, None, None)


def _reference(
    outputs: tuple[Tensor, Tensor],
    options: tuple[int, float, float],
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    residual: Tensor | None,
    residual_bias: Tensor | None,
) -> Tensor:
    """The op `_tcn_block` in plain torch, dropping what it dropped: its h1 and h2 are -0 there alone."""
    (h1, h2), (dilation, slope, dropout), functional = outputs, options, nn.functional

    def conv(x: Tensor, weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
        x = functional.pad(x, ((weight.shape[2] - 1) * dilation, 0))
        z = functional.leaky_relu(functional.conv1d(x, weight, bias, dilation=dilation), slope)
        dropped = (h == 0) & h.signbit()
        return z.masked_fill(dropped.transpose(1, 2), 0) / (1 - dropout)

    x = x.transpose(1, 2)
    y = conv(conv(x, weight1, bias1, h1), weight2, bias2, h2)
    aside = x if residual is None else functional.conv1d(x, residual, residual_bias)
    return functional.leaky_relu(y + aside, slope).transpose(1, 2)


class TCN(nn.Module):
    """Causal temporal convolutional network.

    One residual block per entry of `channels`; block l has two convolutions of the same dilation d_l, an
    activation and dropout after each, a 1x1 convolution on the residual path where the width changes, and an
    activation after the sum. An output step sees the last R = 1 + 2 (k - 1) sum_l d_l input steps and nothing
    later, so right padding never changes an earlier step.

    On the CPU each block with a fixed slope >= 0 runs, forward and backward, as one native op with draws of
    dropout of its own; hooks of the modules inside a block are not called then. Elsewhere, and in traced or
    exported graphs, plain torch computes the same.

    Parameters
    ----------
    in_features : width of an input row.
    channels : width of each block.
    kernel_size : taps k per convolution.
    dropout : probability, in training only, after each k-wide convolution.
    activation : ``"leaky_relu"``, ``"relu"`` or ``"prelu"`` (one learned slope per site).
    weight_norm : learn magnitude and direction of the k-wide kernels apart; folded away at export.
    dilations : one per block; 2^l when None.
    slope : negative slope of leaky_relu (PReLU starts from it).
    init : ``"xavier"`` (uniform, gain sqrt(2)), ``"normal"`` (sd 0.01) or ``"uniform"`` (within
        1 / sqrt(fan-in), torch's own); biases start at 0. None picks normal for PReLU and xavier otherwise.

    Shapes
    ------
    input `(batch, time, in_features)`, output `(batch, time, channels[-1])`.

    Raises
    ------
    InputError : an argument is out of range, or the input has another width.

    Reference: Bai, Kolter, Koltun, "An empirical evaluation of generic convolutional and recurrent networks
    for sequence modeling", arXiv:1803.01271.

    >>> TCN(192, (128, 128), kernel_size=5).receptive_field
    25
    """

    def __init__(
        self,
        in_features: int,
        channels: Sequence[int],
        kernel_size: int = 3,
        *,
        dropout: float = 0.1,
        activation: str = "leaky_relu",
        weight_norm: bool = True,
        dilations: Sequence[int] | None = None,
        slope: float | None = None,
        init: str | None = None,
    ) -> None:
        super().__init__()
        channels = [int(c) for c in channels]
        dilations = (
            [2**level for level in range(len(channels))] if dilations is None else [int(d) for d in dilations]
        )
        if in_features < 1:
            raise InputError(f"in_features must be at least 1, got {in_features}")
        if not channels or min(channels) < 1:
            raise InputError(f"channels must name at least one block of at least one channel, got {channels}")
        if kernel_size < 1:
            raise InputError(f"kernel_size must be at least 1, got {kernel_size}")
        if len(dilations) != len(channels) or min(dilations) < 1:
            raise InputError(
                f"dilations must be {len(channels)} positive integers, one per block, got {dilations}"
            )
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must lie in [0, 1), got {dropout}")
        if activation not in ACTIVATIONS:
            raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        init = init or ("normal" if activation == "prelu" else "xavier")
        if init not in ("xavier", "normal", "uniform"):
            raise InputError(f"init must be 'xavier', 'normal' or 'uniform', got {init!r}")
        if slope is None:
            slope = 0.25 if activation == "prelu" else 0.01
        self.in_features, self.channels, self.kernel_size = int(in_features), channels, int(kernel_size)
        self.dilations, self.activation, self.slope, self.weight_norm = (
            dilations,
            activation,
            slope,
            weight_norm,
        )
        widths = [self.in_features, *channels]
        self.blocks = nn.ModuleList(
            _Block(a, b, kernel_size, d, dropout, activation, slope)
            for a, b, d in zip(widths, channels, dilations, strict=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                if init == "xavier":
                    nn.init.xavier_uniform_(module.weight, gain=2**0.5)
                elif init == "normal":
                    nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(cast(Tensor, module.bias))
        if weight_norm:
            for block in self._each():
                add_weight_norm(block.conv1)
                add_weight_norm(block.conv2)

    def _each(self) -> Iterator[_Block]:
        return (cast(_Block, block) for block in self.blocks)

    @property
    def out_features(self) -> int:
        """Width of an output row."""
        return self.channels[-1]

    @property
    def receptive_field(self) -> int:
        """Input steps that one output step sees, itself included."""
        return 1 + 2 * (self.kernel_size - 1) * sum(self.dilations)

    def num_parameters(self, folded: bool = True) -> int:
        """Parameter count; `folded` counts a weight-normalised kernel once, as the model file stores it."""
        count = sum(p.numel() for p in self.parameters())
        return count - (2 * sum(self.channels) if folded and self.weight_norm else 0)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != self.in_features:
            raise InputError(f"x must be (batch, time, {self.in_features}), got {tuple(x.shape)}")
        if self._as_ops(x):
            slope = 0.0 if self.activation == "relu" else self.slope
            for block in self._each():
                x = block.as_op(x, slope)
            return x
        x = x.transpose(1, 2)
        for block in self._each():
            x = block(x)
        return x.transpose(1, 2)

    def _as_ops(self, x: Tensor) -> bool:
        """Tell whether the blocks run as native ops; an exported or traced graph keeps to torch's own."""
        return bool(
            self.activation != "prelu"
            and self.slope >= 0
            and x.dtype in (torch.float32, torch.float64)
            and not torch.jit.is_tracing()
            and not torch.compiler.is_exporting()
            and not torch.is_autocast_enabled("cpu")
            and x.is_cpu
            and (_has_ops() if torch.compiler.is_compiling() else ops.native(x))
        )

    def folded(self, name: str = "tcn") -> dict[str, np.ndarray]:
        """The weights that the native core runs: plain float32 arrays, weight norm multiplied out.

        Keys are `<name>.<block>.conv1.weight` (out, in, k), `.conv1.bias`, `.conv2.*`, `.residual.*`
        (weight (out, in)) where the width changes, and `.slope1` to `.slope3` (1,) for PReLU.
        """
        tensors: dict[str, Any] = {}
        for level, block in enumerate(self._each()):
            for conv in ("conv1", "conv2"):
                tensors[f"{name}.{level}.{conv}.weight"] = getattr(block, conv).weight
                tensors[f"{name}.{level}.{conv}.bias"] = getattr(block, conv).bias
            if block.residual is not None:
                tensors[f"{name}.{level}.residual.weight"] = block.residual.weight[:, :, 0]
                tensors[f"{name}.{level}.residual.bias"] = block.residual.bias
            if self.activation == "prelu":
                for site in (1, 2, 3):
                    tensors[f"{name}.{level}.slope{site}"] = getattr(block, f"act{site}").weight
        return {
            key: value.detach().cpu().float().contiguous().numpy().copy() for key, value in tensors.items()
        }

    def fold_(self) -> TCN:
        """Multiply the weight norm out for good, in place: the same outputs, plain kernels."""
        if self.weight_norm:
            for block in self._each():
                remove_parametrizations(block.conv1, "weight")
                remove_parametrizations(block.conv2, "weight")
            self.weight_norm = False
        return self

    @torch.no_grad()
    def load_folded(self, tensors: dict[str, np.ndarray], name: str = "tcn") -> None:
        """Take weights as `folded` gives them. Exact without weight norm, to rounding with it."""

        def value(key: str) -> Tensor:
            return torch.tensor(tensors[f"{name}.{key}"])

        for level, block in enumerate(self._each()):
            for conv in ("conv1", "conv2"):
                module = getattr(block, conv)
                module.weight = _like(module.weight, value(f"{level}.{conv}.weight"), not self.weight_norm)
                module.bias.copy_(value(f"{level}.{conv}.bias"))
            if block.residual is not None:
                block.residual.weight.copy_(value(f"{level}.residual.weight")[:, :, None])
                cast(Tensor, block.residual.bias).copy_(value(f"{level}.residual.bias"))
            if self.activation == "prelu":
                for site in (1, 2, 3):
                    getattr(block, f"act{site}").weight.copy_(value(f"{level}.slope{site}"))


def _like(old: Tensor, new: Tensor, parameter: bool) -> Tensor:
    if old.shape != new.shape:
        raise InputError(f"a kernel of shape {tuple(old.shape)} was expected, got {tuple(new.shape)}")
    new = new.to(old)
    return nn.Parameter(new) if parameter else new
