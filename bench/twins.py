"""Causal networks and attention as ONNX Runtime and TorchScript step them: state handed in and out.

A step computes the newest row alone: every convolution gets its past inputs beside the new one and gives them
back without the oldest. Weights are named as in a model file (docs/model_file.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]
Step = Callable[..., np.ndarray]
SLOPE = 0.01
HIDDEN = 1e9  # what is taken off the score of a modality that is not there


def taps_together(weight: np.ndarray) -> np.ndarray:
    """Weights of a convolution, (out, in, tap), for the product with its rows one after the other."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(len(weight), -1)


def projections(weights: Weights, modality: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the query, the key and the value of a modality as one layer."""
    parts = ("query", "key", "value")
    weight, bias = (
        np.concatenate([weights[f"attention.{modality}.{part}.{kind}"] for part in parts])
        for kind in ("weight", "bias")
    )
    return weight, bias


# ONNX Runtime ---------------------------------------------------------------------------------------------


class OnnxGraph:
    """A graph in the making; every value has a name.

    products: whether a convolution is a product with its rows one after the other, of (row, feature), or a
        Conv of (1, feature, row).
    """

    def __init__(self, *, products: bool) -> None:
        self.products = products
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.states: dict[str, tuple[int, ...]] = {}  # `x.past` goes in, `x.next` comes out

    def input(self, name: str, *shape: int) -> str:
        self.inputs[name] = shape
        return name

    def rows(self, width: int, count: int) -> tuple[int, ...]:
        """Return the shape of so many rows."""
        return (count, width) if self.products else (1, width, count)

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def whole(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, np.int64))

    def node(self, kind: str, sources: Sequence[str], *targets: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, sources, targets, **attributes))
        return targets[0]

    def dense(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """A linear layer of one row."""
        tensors = [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.node("Gemm", [x, *tensors], f"{name}.y", transB=1)

    def piece(self, x: str, target: str, first: int, end: int, axis: int, step: int = 1) -> str:
        bounds = {"from": first, "to": end, "axis": axis, "step": step}
        return self.node("Slice", [x, *(self.whole(f"{target}.{k}", v) for k, v in bounds.items())], target)

    def convolution(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray, dilation: int) -> str:
        _, width, taps = weight.shape
        past, axis = (taps - 1) * dilation, 0 if self.products else 2
        self.states[name] = self.rows(width, past)
        both = self.node("Concat", [f"{name}.past", x], f"{name}.both", axis=axis)
        self.piece(both, f"{name}.next", 1, past + 1, axis)
        if self.products:
            if dilation > 1:
                both = self.piece(both, f"{name}.taps", 0, past + 1, axis, dilation)
            flat = self.node("Reshape", [both, self.whole(f"{name}.shape", 1, taps * width)], f"{name}.flat")
            y = self.dense(flat, name, taps_together(weight), bias)
        else:
            tensors = [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
            sizes = {"dilations": [dilation], "kernel_shape": [taps]}
            y = self.node("Conv", [both, *tensors], f"{name}.y", **sizes)
        return self.node("LeakyRelu", [y], f"{name}.rectified", alpha=SLOPE)

    def tcn(self, x: str, name: str, weights: Weights) -> tuple[str, int]:
        """Residual blocks `name`.0, `name`.1, ..., dilated 1, 2, 4, ...; the newest row and its width."""
        block, width = 0, 0
        while f"{name}.{block}.conv1.weight" in weights:
            of = lambda part, key=f"{name}.{block}": weights[f"{key}.{part}"]  # noqa: E731
            key, h = f"{name}.{block}", x
            for layer in ("conv1", "conv2"):
                h = self.convolution(
                    h, f"{key}.{layer}", of(f"{layer}.weight"), of(f"{layer}.bias"), 2**block
                )
            if f"{key}.residual.weight" in weights:
                weight, bias = of("residual.weight"), of("residual.bias")
                if self.products:
                    x = self.dense(x, f"{key}.residual", weight, bias)
                else:
                    tensors = [
                        self.constant(f"{key}.residual.weight", weight[:, :, None]),
                        self.constant(f"{key}.residual.bias", bias),
                    ]
                    x = self.node("Conv", [x, *tensors], f"{key}.residual.y", kernel_shape=[1])
            x = self.node("LeakyRelu", [self.node("Add", [h, x], f"{key}.sum")], f"{key}.out", alpha=SLOPE)
            width, block = len(of("conv2.bias")), block + 1
        return x, width

    def stepper(self, output: str, *shape: int) -> Step:
        """Return step(*values of the inputs) -> output, on one thread, over bound buffers.

        The states lie in two sets that take turns, so that Python copies none. The array that comes back is
        written anew by every step; a step without values takes those of the step before.
        """
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper

        def values(shapes: Mapping[str, Sequence[int]]) -> list[Any]:
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes.items()]

        past = {f"{name}.past": s for name, s in self.states.items()}
        following = {f"{name}.next": s for name, s in self.states.items()}
        graph = helper.make_graph(
            self.nodes, "step", values(self.inputs | past), values({output: shape} | following),
            self.constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = min(model.ir_version, 10)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

        def buffer(shape: Sequence[int]) -> tuple[np.ndarray, Any]:
            array = np.zeros(shape, np.float32)
            return array, onnxruntime.OrtValue.ortvalue_from_numpy(array)  # shares the memory

        fed = {name: buffer(s) for name, s in self.inputs.items()}
        out, given = buffer(shape)
        sets = [[buffer(s)[1] for s in self.states.values()] for _ in range(2)]
        bindings = []
        for now, then in (sets, sets[::-1]):
            binding = session.io_binding()
            for name, (_, value) in fed.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(output, given)
            for name, old, new in zip(self.states, now, then, strict=True):
                binding.bind_ortvalue_input(f"{name}.past", old)
                binding.bind_ortvalue_output(f"{name}.next", new)
            bindings.append(binding)
        into = [array.reshape(-1) for array, _ in fed.values()]
        turn = 0

        def step(*rows: np.ndarray) -> np.ndarray:
            nonlocal turn
            for array, row in zip(into, rows, strict=False):
                array[:] = row
            session.run_with_iobinding(bindings[turn])
            turn = 1 - turn
            return out

        return step


def onnx_tcn(weights: Weights, inputs: int, *, products: bool) -> Step:
    """Return step(row) of the causal network `tcn` in ONNX Runtime."""
    g = OnnxGraph(products=products)
    y, width = g.tcn(g.input("x", *g.rows(inputs, 1)), "tcn", weights)
    return g.stepper(y, *g.rows(width, 1))


def onnx_attending(networks: Mapping[str, int], weights: Weights, dim: int) -> Step:
    """Leader-follower attention over causal networks in ONNX Runtime; the last one leads.

    Args:
        networks: name -> features of a row; its weights are `<name>_tcn...`.
        weights: as in the model file.
        dim: of the attention.

    Returns:
        step(a row per network..., which of them are there) -> values.
    """
    g, many = OnnxGraph(products=True), len(networks)
    rows = {name: g.input(name, *g.rows(width, 1)) for name, width in networks.items()}
    there = g.input("there", 1, many)
    parts, deep = [], ""
    for i, (name, row) in enumerate(rows.items()):
        deep, _ = g.tcn(row, f"{name}_tcn", weights)
        parts.append(g.dense(deep, f"attention.{i}", *projections(weights, i)))
    stacked = g.node("Concat", parts, "stacked", axis=0)
    g.node("Split", [stacked, g.whole("thirds", dim, dim, dim)], "query", "key", "value", axis=1)
    score = g.node("MatMul", ["query", g.node("Transpose", ["key"], "turned", perm=[1, 0])], "score")
    score = g.node("Mul", [score, g.constant("scale", np.float32(dim**-0.5))], "scaled")
    absent = g.node("Sub", [there, g.constant("one", np.float32(1))], "absent")
    hidden = g.node("Mul", [absent, g.constant("much", np.float32(HIDDEN))], "hidden")
    share = g.node("Softmax", [g.node("Add", [score, hidden], "masked")], "share", axis=1)
    mixed = g.node("MatMul", [share, "value"], "mixed")
    kept = g.node("Mul", [mixed, g.node("Transpose", [there], "column", perm=[1, 0])], "kept")
    attended = g.node("Reshape", [kept, g.whole("row", 1, many * dim)], "attended")
    leader = g.node("Mul", [deep, g.piece(there, "leads", many - 1, many, 1)], "leader")
    joint = g.node("Concat", [leader, attended], "joint", axis=1)
    head = g.dense(joint, "head", weights["head.weight"], weights["head.bias"])
    return g.stepper(g.node("Tanh", [head], "values"), 1, len(weights["head.bias"]))


# TorchScript ----------------------------------------------------------------------------------------------


def torchscript_attending(networks: Mapping[str, int], weights: Weights, dim: int) -> Step:
    """The same as `onnx_attending` in TorchScript: traced and frozen.

    Convolutions are products with their rows one after the other, six times as fast here as conv1d;
    `optimize_for_inference` would make it a tenth slower.
    """
    import torch
    from torch.nn.functional import leaky_relu, linear

    of = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    flat = {
        name: torch.from_numpy(taps_together(np.asarray(value)))
        for name, value in weights.items()
        if value.ndim == 3
    }
    three = [[torch.from_numpy(value) for value in projections(weights, i)] for i in range(len(networks))]
    names = [name.removesuffix(".weight") for name in flat]  # of the convolutions

    def dilation(name: str) -> int:
        return 2 ** int(name.split(".")[1])

    class Attending(torch.nn.Module):
        def forward(self, rows: Any, there: Any, pasts: Any) -> Any:
            past, following, parts = dict(zip(names, pasts, strict=True)), {}, []

            def convolution(x: Any, name: str) -> Any:
                both = torch.cat([past[name], x])
                following[name] = both[1:]
                taps = both[:: dilation(name)].reshape(1, -1)
                return leaky_relu(linear(taps, flat[f"{name}.weight"], of[f"{name}.bias"]), SLOPE)

            for i, (network, x) in enumerate(zip(networks, rows, strict=True)):
                block = 0
                while f"{network}_tcn.{block}.conv1.weight" in of:
                    key = f"{network}_tcn.{block}"
                    h = convolution(convolution(x, f"{key}.conv1"), f"{key}.conv2")
                    if f"{key}.residual.weight" in of:
                        x = linear(x, of[f"{key}.residual.weight"], of[f"{key}.residual.bias"])
                    x, block = leaky_relu(h + x, SLOPE), block + 1
                parts.append(linear(x, *three[i]))
            query, key, value = torch.cat(parts).split(dim, 1)
            score = query @ key.t() * dim**-0.5 + (there - 1) * HIDDEN
            attended = (torch.softmax(score, 1) @ value) * there.t()
            joint = torch.cat([x * there[:, -1:], attended.reshape(1, -1)], 1)
            head = torch.tanh(linear(joint, of["head.weight"], of["head.bias"]))
            return head, tuple(following[name] for name in names)

    states = tuple(
        torch.zeros(
            (weights[f"{name}.weight"].shape[2] - 1) * dilation(name), weights[f"{name}.weight"].shape[1]
        )
        for name in names
    )
    with torch.inference_mode():
        example = tuple(torch.zeros(1, width) for width in networks.values())
        traced = torch.jit.trace(Attending().eval(), (example, torch.ones(1, len(networks)), states))
        frozen = torch.jit.freeze(traced)

    def step(*rows: np.ndarray) -> np.ndarray:
        nonlocal states
        given = [torch.from_numpy(row)[None] for row in rows]
        with torch.inference_mode():
            y, states = frozen(tuple(given[:-1]), given[-1], states)
        return y.numpy()

    return step
