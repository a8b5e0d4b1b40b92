"""Ranges that several sections share. A range of one parameter stands in its declaration."""

from __future__ import annotations

from hgt.parameter import Range

SHARE = Range(0, 1)
SHARE_BELOW_1 = Range(0, 1, open_high=True)
WIDTH = Range(1, 65_536)  # dimensions
EPOCHS = Range(1, 1_000_000)
COUNT = Range(1, 1_000_000_000)  # of nodes, edges or steps
FACTOR = Range(0, 1_000_000_000)
