"""The defect of MPS on M1 and M2 (pytorch 177116, 195163), emulated: long matrix products add what
lies behind their operands.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hgt.training.step import train_step

_FIRST_OPERAND = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # in place and with `out=` too
_BEHIND = 8  # rows of the last tile, which is not clipped


class FaultyProducts(TorchDispatchMode):
    """Wrong from `from_rows` of the reduction on, where both sides of the output are 16 or more.
    `wrong`: how many were.

    What lies behind an operand is here of the operand's own size; on a Mac it may be anything.
    """

    def __init__(self, from_rows):
        super().__init__()
        self.from_rows, self.wrong = from_rows, 0
        self.generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        first = _FIRST_OPERAND.get(func._schema.name.removeprefix("aten::").removesuffix("_"))
        if first is not None:
            left, right = args[first : first + 2]
            if left.shape[-1] >= self.from_rows and min(left.shape[-2], right.shape[-1]) >= 16:
                self.wrong += 1
                out += self.behind(left[..., :_BEHIND], left.std()) @ self.behind(
                    right[..., :_BEHIND, :], right.std()
                )
        return out

    def behind(self, like, scale):
        return torch.randn(like.shape, generator=self.generator) * scale


def faulty_step(from_rows):
    """A training step under this defect, and the defect's counter."""
    defect = FaultyProducts(from_rows)

    def step(trainee, batch):
        with defect:
            return train_step(trainee, batch)

    return step, defect
