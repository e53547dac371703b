"""Write TorchScript programs with an input and what Python gets of it: `torchscript_programs.py FOLDER`.

For cpp/tests/torchscript/run_script.cpp, which runs them in a process without Python. NAME.pt is the program;
NAME.input and NAME.expected are scripts that hold a tensor `value`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from affekt import ops
from affekt.features import LogMel, Mfcc
from affekt.losses import CCCLoss, InfoNCELoss, NTXentLoss, PairwiseInfoNCELoss, SupConLoss
from affekt.nn import TCN, Acoustic


class Value(nn.Module):
    """A tensor in a file that C++ can read."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> Tensor:
        return self.value


class Model(nn.Module):
    """Samples (batch, time) -> estimates (batch, frames, 3)."""

    def __init__(self, features: LogMel | Mfcc, activation: str) -> None:
        super().__init__()
        self.features = Acoustic(features)
        self.tcn = TCN(features.num_features, [24, 16, 16], 3, activation=activation).fold_()
        self.head = nn.Linear(16, 3)

    def forward(self, samples: Tensor) -> Tensor:
        return torch.tanh(self.head(self.tcn(self.features(samples) / 20)))


class Losses(nn.Module):
    """Embeddings (3, n, dim) -> one value per loss."""

    def __init__(self) -> None:
        super().__init__()
        self.ccc = CCCLoss(over="batch", bias="mixed")
        self.info_nce = InfoNCELoss(learn_temperature=True)
        self.one_sided = InfoNCELoss(symmetric=False, positive_in_denominator=False, reduction="sum")
        self.pairwise = PairwiseInfoNCELoss(mode="clip")
        self.nt_xent = NTXentLoss(temperature=0.2)
        self.sup_con = SupConLoss()
        self.register_buffer("labels", torch.arange(24) % 5)
        self.register_buffer("present", torch.arange(72).reshape(3, 24) % 7 > 0)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x.unbind()
        losses = [
            self.ccc(a, b, None),
            self.ccc(a, b, c > 0),
            self.info_nce(a, b, None),
            self.one_sided(a, b, c),
            self.pairwise([a, b, c], self.present),
            self.pairwise(x, None),
            self.nt_xent(a, b, c),
            self.sup_con(a, self.labels, None),
        ]
        return torch.stack(losses) / 10


def main(folder: Path) -> None:
    """Write all programs into `folder`."""
    warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript itself
    ops.load_library()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    signal = 0.1 * torch.randn(2, 16000)
    programs = {
        "log_mel_relu": (Model(LogMel(sample_rate=16000, n_mels=40), "relu"), signal),
        "mfcc_leaky": (Model(Mfcc.kaldi(), "leaky_relu"), signal),
        "log_mel_prelu": (Model(LogMel(sample_rate=16000, n_mels=40), "prelu"), signal),
        "losses": (Losses(), torch.randn(3, 24, 12)),
    }
    for name, (model, given) in programs.items():
        torch.jit.script(model.eval()).save(str(folder / f"{name}.pt"))
        with torch.no_grad():
            expected = model(given)
        for what, value in (("input", given), ("expected", expected)):
            torch.jit.script(Value(value)).save(str(folder / f"{name}.{what}"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
