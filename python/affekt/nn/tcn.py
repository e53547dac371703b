"""Causal temporal convolutional network with dilated residual blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as add_weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from affekt import ops
from affekt.errors import InputError
from affekt.ops import tcn as native

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
        x = nn.functional.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0))
        return self._conv_forward(x, self.weight, self.bias)


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
        cuda_kernel: bool,
    ) -> None:
        super().__init__()
        self.dilation, self.cuda_kernel = dilation, cuda_kernel
        # What the native op takes; none for PReLU.
        self.fixed_slope = {"relu": 0.0, "prelu": -1.0}.get(activation, float(slope))
        self.conv1 = _CausalConv(width_in, width, kernel, dilation=dilation)
        self.conv2 = _CausalConv(width, width, kernel, dilation=dilation)
        self.residual = nn.Conv1d(width_in, width, 1) if width_in != width else None
        self.act1 = _activation(activation, slope)
        self.act2 = _activation(activation, slope)
        self.act3 = _activation(activation, slope)
        self.dropout = _Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, time, width)`, by the native op, with its own draws of the dropout, where that can run."""
        if torch.jit.is_scripting():
            on_device = x.is_cpu or (self.cuda_kernel and x.is_cuda)
            in_dtype = x.dtype == torch.float32 or x.dtype == torch.float64
            by_op = self.fixed_slope >= 0 and on_device and in_dtype
        else:
            by_op = self._by_op(x)
        if by_op:
            return self._as_op(x)
        x = x.transpose(1, 2)
        y = self.dropout(self.act1(self.conv1(x)))
        y = self.dropout(self.act2(self.conv2(y)))
        y = self.act3(y + (x if self.residual is None else self.residual(x)))
        return y.transpose(1, 2)

    def _as_op(self, x: Tensor) -> Tensor:
        dropout = float(self.dropout.p) if self.dropout.training else 0.0
        keys: Tensor | None = None
        if dropout > 0:
            keys = torch.randint(0, 0x7FFFFFFFFFFFFFFF, [2], device=x.device)
        weight: Tensor | None = None
        bias: Tensor | None = None
        if self.residual is not None:
            weight, bias = self.residual.weight, self.residual.bias
        bias1, bias2 = self.conv1.bias, self.conv2.bias
        assert bias1 is not None  # `nn.Conv1d` says that it might be
        assert bias2 is not None
        if torch.jit.is_scripting():
            out: Tensor = torch.ops.affekt.causal_conv_block(
                x,
                self.conv1.weight,
                bias1,
                self.conv2.weight,
                bias2,
                weight,
                bias,
                dilation=self.dilation,
                slope=self.fixed_slope,
                dropout=dropout,
                keys=keys,
            )
            return out
        found: Tensor = native.block(
            x,
            self.conv1.weight,
            self.conv1.bias,
            self.conv2.weight,
            self.conv2.bias,
            weight,
            bias,
            keys,
            self.dilation,
            self.fixed_slope,
            dropout,
            native.may_round(x),
        )
        return found

    @torch.jit.unused
    def _by_op(self, x: Tensor) -> bool:
        """Tell whether the block runs as the native op; an exported or traced graph keeps to torch's own."""
        return bool(
            self.fixed_slope >= 0
            and x.dtype in (torch.float32, torch.float64)
            and not torch.jit.is_tracing()
            and not torch.compiler.is_exporting()
            and ops.native(x, cuda=self.cuda_kernel)
            and not torch.is_autocast_enabled(x.device.type)
            and self._untouched()
        )

    def _untouched(self) -> bool:
        """Tell whether the parts are those of `__init__` and nobody waits for a call of theirs."""
        acts = self.act1, self.act2, self.act3
        parts = [self.conv1, self.conv2, self.dropout, *acts]
        if self.residual is not None:
            parts.append(self.residual)
        return (
            isinstance(self.conv1, _CausalConv)
            and isinstance(self.conv2, _CausalConv)
            and isinstance(self.dropout, _Dropout)
            and isinstance(self.residual, (nn.Conv1d, type(None)))
            and all(isinstance(act, (nn.ReLU, nn.LeakyReLU)) for act in acts)
            and all(getattr(act, "negative_slope", 0.0) == self.fixed_slope for act in acts)
            and not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
            and not any(part._backward_hooks or part._backward_pre_hooks for part in parts)
        )


class TCN(nn.Module):
    """Causal temporal convolutional network.

    One residual block per entry of `channels`; block l has two convolutions of the same dilation d_l, an
    activation and dropout after each, a 1x1 convolution on the residual path where the width changes, and an
    activation after the sum. An output step sees the last R = 1 + 2 (k - 1) sum_l d_l input steps and nothing
    later, so right padding never changes an earlier step.

    `torch.jit.script` takes it once the weight norm is folded away (`fold_`) and the ops are loaded
    (`affekt.ops.load_library`).

    On the CPU, and with `cuda_kernel` on CUDA, each block with a fixed slope >= 0 runs, forward and backward,
    as one native op with draws of dropout of its own. Elsewhere, in traced or exported graphs, under
    autocast, and where a module inside the block has a hook or was replaced, plain torch computes the same.

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
    cuda_kernel : take the native op on CUDA too, in tf32 where torch allows that to convolutions
        (`torch.backends.cudnn`). Off by default, as nobody has timed it against cuDNN yet:
        ``python scripts/gpu_check.py`` does, for the GPU at hand.

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

    __jit_unused_properties__ = ["out_features", "receptive_field"]  # noqa: RUF012

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
        cuda_kernel: bool = False,
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
            _Block(a, b, kernel_size, d, dropout, activation, slope, cuda_kernel)
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
        if not torch.jit.is_scripting():
            self._check(x)
        for block in self.blocks:
            x = block(x)
        return x

    @torch.jit.unused
    def _check(self, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[-1] != self.in_features:
            raise InputError(f"x must be (batch, time, {self.in_features}), got {tuple(x.shape)}")

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
