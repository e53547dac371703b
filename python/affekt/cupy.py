"""The CUDA kernels of affekt on CuPy arrays: losses with their gradients, and the front ends.

    import cupy as cp
    from affekt import cupy as on_gpu
    from affekt.features import LogMel

    rows = on_gpu.features(LogMel(), cp.asarray(audio))
    loss, to_pred, to_target = on_gpu.ccc_loss(pred, target, gradients=True)

The kernels are those of the torch ops; NVRTC compiles them at first use in a process, and a CuPy that caches
modules with name expressions (newer than 14.1.1) keeps the binaries on disk.
Inputs are taken without a copy where they are dense: CuPy arrays, and anything on the GPU with
``__cuda_array_interface__`` or DLPack (detached torch tensors). Results are CuPy arrays, which offer both as
well. Work goes on CuPy's current stream. DLPack makes that stream wait for what the other library (torch,
say) has under way on its own; what offers no DLPack and names no stream is waited for by the host. Inputs
must stay alive until the work is done: another library may use its memory again at once. Otherwise only the
first `features` with new options waits for the GPU: values there are not checked. NaN and infinity
come out as each function says.

Needs CuPy, ``pip install 'affekt[cuda]'``, and a GPU of compute capability 8.0 or higher.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from affekt import _core, _rtc
from affekt._checks import choice, integer, number
from affekt._lazy import require
from affekt.errors import InputError
from affekt.features import BandPower, BandRows, LogMel, Mfcc, PowerSpectrogram, Stft, Welch

cp = require("cupy", purpose="affekt.cupy")

__all__ = ["ccc_loss", "features", "info_nce_loss", "nt_xent_loss", "sup_con_loss"]

_FLOATS = ("float32", "float64")
_EMBEDDINGS = ("float16", *_FLOATS)
_BUDGET = 256 * 2**20
# Beyond, a kernel must ask for shared memory.
_SHARED = 48 * 1024


# ---- arrays and launches -----------------------------------------------------------------------------------
def _array(name: str, value: Any) -> Any:
    """`value` as a CuPy array, without a copy."""
    if isinstance(value, cp.ndarray):
        return value
    try:
        # First DLPack, which orders the streams. 2 and 13: memory of CUDA, and memory that it manages.
        if hasattr(value, "__dlpack__") and value.__dlpack_device__()[0] in (2, 13):
            return cp.from_dlpack(value)
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is not None:
            array = cp.asarray(value)  # waits for the stream, where one is named
            if "stream" not in interface:
                with array.device:
                    cp.cuda.runtime.deviceSynchronize()
            return array
    except (
        BufferError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # a torch tensor that wants a gradient
        raise InputError(f"{name} cannot be taken as a CuPy array: {error}") from error
    raise InputError(f"{name} must be an array on the GPU (CuPy, or DLPack); got {type(value).__name__}")


def _beside(first: Any, **others: Any) -> None:
    """All arrays lie on one GPU."""
    for name, value in others.items():
        if value is not None and value.device.id != first.device.id:
            raise InputError(f"{name} must lie on GPU {first.device.id}; got GPU {value.device.id}")


def _dense(array: Any) -> Any:
    return cp.ascontiguousarray(array)


def _at(array: Any) -> int:
    """The address of an array; 0 for none."""
    return 0 if array is None or array.size == 0 else int(array.data.ptr)


# What the GPU holds stays: a CUDA graph that somebody captured needs it whenever it is replayed.
@cache
def _kernel(name: str, size: int, device: int) -> Any:
    code, expressions = _rtc.program((name, size))
    module = cp.RawModule(code=code, options=_rtc.options(), name_expressions=expressions)
    return module.get_function(expressions[0])


def _run(launches: Sequence[Any]) -> None:
    """Start what the core wrote down, on the current stream of the current device."""
    device = cp.cuda.runtime.getDevice()
    for name, grid, threads, shared, argument in launches:
        kernel = _kernel(name, len(argument), device)
        if shared > _SHARED:
            kernel.max_dynamic_shared_size_bytes = shared
        # An array of one structure goes to the kernel by value.
        value = np.frombuffer(bytearray(argument), dtype=[("bytes", np.uint8, (len(argument),))])
        kernel(tuple(grid), (threads,), (value,), shared_mem=shared)


# ---- front ends --------------------------------------------------------------------------------------------
@lru_cache(maxsize=16)
def _plan(kind: type, options: str) -> Any:
    if kind is Welch:
        return _core.GpuWelch(options)
    if kind is BandPower:
        return _core.GpuBands(options)
    return _core.GpuFrames(options, kind in (LogMel, Mfcc))


@cache
def _tables(kind: type, options: str, in_double: bool, device: int) -> Any:
    tables = cp.asarray(np.frombuffer(_plan(kind, options).tables(in_double), dtype=np.uint8))
    # The copy goes on this stream, and the next call may be on another.
    cp.cuda.get_current_stream().synchronize()
    return tables


def _signals(name: str, value: Any, full_scale: int) -> Any:
    """Dense signals (..., time) in float32 or float64; int16 as a fraction of `full_scale`."""
    array = _array(name, value)
    if array.dtype.name not in (*_FLOATS, "int16"):
        raise InputError(f"{name} must be float32, float64 or int16; got {array.dtype}")
    if array.ndim == 0:
        raise InputError(f"{name} must have shape (..., time); got 0 dimensions")
    with array.device:
        if array.dtype == np.int16:
            array = array.astype(np.float32) / np.float32(full_scale)
        return _dense(array)


def features(front_end: LogMel | Mfcc | PowerSpectrogram | Stft | Welch | BandPower, samples: Any) -> Any:
    """Rows of a front end: frames, and spectra that nobody asked for, never touch the GPU's memory.

    Parameters
    ----------
    front_end : a `LogMel`, `Mfcc`, `PowerSpectrogram`, `Stft`, `Welch` or `BandPower`. `n_fft` must be a
        power of two from 64 to 4096, `n_mels` at most ``n_fft / 2``, no step may need the whole clip
        (``ref="max"``, `top_db`, `deltas`), and Welch spectra and band power are means.
    samples : array (..., time) on the GPU, for `BandPower` (..., channels, time); float32, float64 or int16,
        taken as `front_end` does.

    Returns
    -------
    CuPy array (..., frames, columns), complex for `Stft`, or (..., bins) of Welch spectra; for `BandPower`
    its `BandRows` of them. In double precision for float64 samples, else in single. The numbers are those of
    `front_end` on the CPU to rounding. A sample that is NaN or infinite makes the rows of its frames NaN or
    infinite, and no others. Welch spectra and band power leave segments with NaN out, and are NaN without a
    segment or with an infinite sample.

    Raises
    ------
    InputError : another dtype, too few dimensions, an array that is not on a GPU, or an option that the
        kernels do not have, or too few samples; the message names it.
    """
    kinds = (LogMel, Mfcc, PowerSpectrogram, Stft, Welch, BandPower)
    kind = next((k for k in kinds if isinstance(front_end, k)), None)
    if kind is None:
        raise InputError(
            "front_end must be a LogMel, Mfcc, PowerSpectrogram, Stft, Welch or BandPower; got "
            f"{type(front_end).__name__}"
        )
    options = json.dumps(front_end.options, sort_keys=True)
    plan = _plan(kind, options)
    x = _signals("samples", samples, 1 if kind in (Welch, BandPower) else 32768)
    in_double = bool(x.dtype == np.float64)
    with x.device:
        task = {"in_double": in_double, "tables": _at(_tables(kind, options, in_double, x.device.id))}
        task |= {"x": _at(x), "samples": x.shape[-1]}
        return (_bands if kind is BandPower else _rows)(kind, plan, x, task)


def _rows(kind: type, plan: Any, x: Any, task: dict[str, Any]) -> Any:
    dtype = np.result_type(x.dtype, np.complex64) if kind is Stft else x.dtype
    shape = (plan.bins,) if kind is Welch else plan.shape(x.shape[-1])
    out = cp.empty((*x.shape[:-1], *shape), dtype)
    if not out.size:
        return out
    task |= {"signals": math.prod(x.shape[:-1]), "out": _at(out)}
    if kind is Welch:
        workspace = cp.empty(plan.workspace(task["signals"], task["samples"]), np.uint8)
        task |= {"used": 0, "workspace": _at(workspace)}
    else:
        task |= {"complex": kind is Stft}
    _run(plan.launches(**task))
    return out


def _bands(_: type, plan: Any, x: Any, task: dict[str, Any]) -> BandRows:
    if x.ndim < 2:
        raise InputError(f"samples must have shape (..., channels, time); got {x.shape}")
    *lead, channels, time = x.shape
    frames, bands = plan.shape(time)
    power, valid = (
        cp.empty((*lead, frames, channels, bands), x.dtype),
        cp.empty((*lead, frames, channels), bool),
    )
    if power.size:
        sizes = {"recordings": math.prod(lead), "channels": channels, "samples": time}
        workspace = cp.empty(plan.workspace(task["in_double"], **sizes), np.uint8)
        task |= {**sizes, "power": _at(power), "valid": _at(valid), "workspace": _at(workspace)}
        _run(plan.launches(**task))
    return BandRows(power, valid)


# ---- losses ------------------------------------------------------------------------------------------------
def ccc_loss(
    pred: Any,
    target: Any,
    mask: Any = None,
    *,
    over: str = "time",
    reduction: str = "mean",
    eps: float = 1e-8,
    bias: str = "population",
    gradients: bool = False,
) -> Any:
    """1 - CCC, as `affekt.losses.ccc_loss`, in one or two launches; one more for the gradients.

    Parameters
    ----------
    pred, target : `(batch, time)` or `(batch, time, dims)` on the GPU, of one shape; float32 or float64.
    mask : boolean, `(batch, time)` or the shape of `pred`; False steps take no part, whatever they hold.
    over, reduction, eps, bias : see `affekt.losses.ccc_loss`.
    gradients : return `(loss, to_pred, to_target)` with the gradients of the loss, or of the sum of the
        losses where `reduction` is ``"none"``.

    NaN or infinity in a valid step makes the loss NaN.

    Raises
    ------
    InputError : shapes, dtypes or devices do not fit, or an unknown option.
    """
    p, y = _array("pred", pred), _array("target", target)
    if p.dtype != y.dtype or p.dtype.name not in _FLOATS:
        raise InputError(f"pred and target must both be float32 or float64; got {p.dtype} and {y.dtype}")
    if p.shape != y.shape or p.ndim not in (2, 3):
        raise InputError(
            f"pred and target must both be (batch, time) or (batch, time, dims); got {p.shape} and {y.shape}"
        )
    m = None if mask is None else _array("mask", mask)
    if m is not None and (m.dtype != np.bool_ or m.shape not in (p.shape, p.shape[:2])):
        raise InputError(f"mask must be boolean {p.shape[:2]} or {p.shape}; got {m.dtype} {m.shape}")
    pool = choice(over, ("time", "batch"), "over") == "batch"
    how = ("mean", "sum", "none").index(choice(reduction, ("mean", "sum", "none"), "reduction"))
    mixed = choice(bias, ("population", "mixed"), "bias") == "mixed"
    eps = number(eps, "eps", low=0)
    _beside(p, target=y, mask=m)
    batch, time, dims = p.shape if p.ndim == 3 else (*p.shape, 1)
    groups, steps = (1, batch * time) if pool else (batch, time)
    apart = (() if pool else (batch,)) + ((dims,) if p.ndim == 3 else ())
    with p.device:
        p, y = _dense(p), _dense(y)
        if m is not None:
            m = _dense(m if m.ndim == p.ndim else cp.broadcast_to(m[..., None], p.shape))
        workspace_bytes, of_column = _core.gpu_ccc_workspace(groups, steps, dims)
        columns = cp.empty((groups * dims, of_column), np.float64)
        loss = cp.empty(apart if how == 2 else (), p.dtype)
        workspace = cp.empty(workspace_bytes, np.uint8)
        data = {"in_double": p.dtype == np.float64, "pred": _at(p), "target": _at(y), "mask": _at(m)}
        _run(
            _core.gpu_ccc(
                groups,
                steps,
                dims,
                **data,
                eps=eps,
                mixed=mixed,
                reduction=how,
                columns=_at(columns),
                loss=_at(loss),
                workspace=_at(workspace),
            )
        )
        if not gradients:
            return loss
        upstream, to_pred, to_target = cp.ones(1, p.dtype), cp.empty_like(p), cp.empty_like(y)
        _run(
            _core.gpu_ccc_gradient(
                groups,
                steps,
                dims,
                **data,
                columns=_at(columns),
                upstream=_at(upstream),
                one_upstream=True,
                grad_pred=_at(to_pred),
                grad_target=_at(to_target),
            )
        )
        return loss, to_pred, to_target


def _embeddings(**named: Any) -> tuple[Any, ...]:
    """Arrays (n, dim) of one shape and dtype, n and dim at least 1."""
    arrays = {name: _array(name, value) for name, value in named.items()}
    first = next(iter(arrays.values()))
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape != first.shape or 0 in array.shape:
            raise InputError(
                f"{' and '.join(named)} must be (n, dim) of one shape with n and dim at least 1; "
                f"got {array.shape} for {name}"
            )
        if array.dtype != first.dtype or array.dtype.name not in _EMBEDDINGS:
            raise InputError(
                f"{' and '.join(named)} must be float16, float32 or float64, all the same; "
                f"got {array.dtype} for {name}"
            )
    _beside(first, **arrays)
    return tuple(arrays.values())


def _more(negatives: Any, like: Any) -> Any:
    """The extra negatives (k, dim)."""
    if negatives is None:
        return None
    array = _array("negatives", negatives)
    if array.ndim != 2 or array.shape[1] != like.shape[1] or array.dtype != like.dtype:
        raise InputError(
            f"negatives must be {like.dtype} (k, {like.shape[1]}); got {array.dtype} {array.shape}"
        )
    _beside(like, negatives=array)
    return array


def _contrast(
    a: Any,
    b: Any,
    *,
    temperature: float,
    negatives: Any,
    gradients: bool,
    tf32: bool,
    budget: int,
    labels: Any = None,
    columns: bool = False,
    exclude: bool = False,
    weight: float = 1.0,
) -> Any:
    """Run the contrastive kernels: the loss, or with the gradients of a, b and the temperature."""
    temperature = number(temperature, "temperature", positive=True)
    budget = integer(budget, "budget", low=0)
    kind = np.dtype(np.float64 if a.dtype == np.float64 else np.float32)
    with a.device:
        a, b = _dense(a), _dense(b)
        negatives = None if negatives is None else _dense(negatives)
        scale = cp.full((), 1 / temperature, kind)
        loss, to_scale = cp.empty((), kind), cp.empty((), kind)
        of = np.dtype(np.float32) if a.dtype == np.float16 else a.dtype
        to_a = cp.empty(a.shape, of) if gradients else None
        to_b = cp.empty(b.shape, of) if gradients and labels is None else None
        task = {
            "number": a.dtype.name,
            "tf32": bool(tf32),
            "rows": a.shape[0],
            "dim": a.shape[1],
            "extra": 0 if negatives is None else negatives.shape[0],
            "a": _at(a),
            "b": _at(b),
            "negatives": _at(negatives),
            "labels": _at(labels),
            "scale": _at(scale),
            "shift": 0,
            "exclude": exclude,
            "columns": columns,
            "weight": weight,
            "budget": budget,
            "loss": _at(loss),
            "grad_a": _at(to_a),
            "grad_b": _at(to_b),
            "grad_scale": _at(to_scale) if gradients else 0,
        }
        size, _ = _core.gpu_contrast(**task, workspace=0)
        workspace = cp.empty(max(size, 1), np.uint8)
        _run(_core.gpu_contrast(**task, workspace=_at(workspace))[1])
        if not gradients:
            return loss
        to_temperature = -to_scale / kind.type(temperature**2)
        return (loss, to_a, to_temperature) if to_b is None else (loss, to_a, to_b, to_temperature)


def info_nce_loss(
    anchors: Any,
    candidates: Any,
    *,
    temperature: float = 0.07,
    symmetric: bool = True,
    negatives: Any = None,
    positive_in_denominator: bool = True,
    reduction: str = "mean",
    gradients: bool = False,
    tf32: bool = False,
    budget: int = _BUDGET,
) -> Any:
    """InfoNCE, as `affekt.losses.info_nce_loss`, without a matrix of all cosines.

    Parameters
    ----------
    anchors, candidates : `(n, dim)` on the GPU; float16 (on tensor cores, computed and returned in float32),
        float32 or float64. Row i of one belongs to row i of the other.
    temperature, symmetric, negatives, positive_in_denominator, reduction : see
        `affekt.losses.info_nce_loss`; `temperature` is a number.
    gradients : return `(loss, to_anchors, to_candidates, to_temperature)`.
    tf32 : round the products of float32 to tf32, on tensor cores.
    budget : most bytes for a chunk of the gradient's matrix; 256 rows at least, and 4 n dim bytes or 8 MiB at
        most, are taken at a time.

    NaN or infinity in the embeddings makes the loss NaN.

    Raises
    ------
    InputError : shapes, dtypes or devices do not fit, n = 0, no candidate is left, or an unknown option.
    """
    a, b = _embeddings(anchors=anchors, candidates=candidates)
    more = _more(negatives, a)
    mean = choice(reduction, ("mean", "sum"), "reduction") == "mean"
    if symmetric and more is not None:
        raise InputError("negatives need symmetric=False: they are candidates, not anchors")
    if not positive_in_denominator and len(a) + (0 if more is None else len(more)) < 2:
        raise InputError(
            "anchors must have at least 2 rows where the positive is not in the denominator; got 1"
        )
    return _contrast(
        a,
        b,
        temperature=temperature,
        negatives=more,
        gradients=gradients,
        tf32=tf32,
        budget=budget,
        columns=bool(symmetric),
        exclude=not positive_in_denominator,
        weight=(0.5 if symmetric else 1) / (len(a) if mean else 1),
    )


def sup_con_loss(
    embeddings: Any,
    labels: Any,
    *,
    temperature: float = 0.1,
    negatives: Any = None,
    gradients: bool = False,
    tf32: bool = False,
    budget: int = _BUDGET,
) -> Any:
    """Supervised contrastive loss, as `affekt.losses.sup_con_loss`.

    Parameters
    ----------
    embeddings : `(n, dim)` on the GPU; float16, float32 or float64.
    labels : `(n,)`, integers on the GPU; only equality counts.
    temperature, negatives : see `affekt.losses.sup_con_loss`; `temperature` is a number.
    gradients : return `(loss, to_embeddings, to_temperature)`.
    tf32, budget : see `info_nce_loss`.

    Raises
    ------
    InputError : shapes, dtypes or devices do not fit, n = 0, or labels that are not integers.
    """
    (z,) = _embeddings(embeddings=embeddings)
    of = _array("labels", labels)
    if of.shape != z.shape[:1] or of.dtype.kind not in "iu":
        raise InputError(f"labels must be integers ({len(z)},); got {of.dtype} {of.shape}")
    _beside(z, labels=of)
    more = _more(negatives, z)
    with z.device:
        of = _dense(of.astype(np.int64, copy=False))
    return _contrast(
        z,
        z,
        temperature=temperature,
        negatives=more,
        gradients=gradients,
        tf32=tf32,
        budget=budget,
        labels=of,
    )


def nt_xent_loss(
    view_1: Any,
    view_2: Any,
    *,
    temperature: float = 0.1,
    negatives: Any = None,
    gradients: bool = False,
    tf32: bool = False,
    budget: int = _BUDGET,
) -> Any:
    """NT-Xent, as `affekt.losses.nt_xent_loss`: each view must find the other view of its item.

    Parameters
    ----------
    view_1, view_2 : `(n, dim)` on the GPU, row i of both is item i; float16, float32 or float64.
    temperature, negatives : see `affekt.losses.nt_xent_loss`; `temperature` is a number.
    gradients : return `(loss, to_view_1, to_view_2, to_temperature)`.
    tf32, budget : see `info_nce_loss`.

    Raises
    ------
    InputError : shapes, dtypes or devices do not fit, or n = 0.
    """
    one, two = _embeddings(view_1=view_1, view_2=view_2)
    n = len(one)
    with one.device:
        both = cp.concatenate([one, two])
        items = cp.arange(2 * n, dtype=np.int64) % n
    found = sup_con_loss(
        both,
        items,
        temperature=temperature,
        negatives=negatives,
        gradients=gradients,
        tf32=tf32,
        budget=budget,
    )
    if not gradients:
        return found
    loss, to_both, to_temperature = found
    return loss, to_both[:n], to_both[n:], to_temperature
