"""CUDA kernels without CUDA: Triton's interpreter runs them on the CPU."""

import importlib.util
import os

import pytest


def require_interpreter():
    """Skips the test where it is missing; fails it where HGT_REQUIRE_TRITON=1, as CI sets it."""
    if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
        missing = (
            "needs Triton (pip install -c requirements.lock triton; Linux alone) and"
            " TRITON_INTERPRET=1"
        )
        (
            pytest.fail(missing)
            if os.environ.get("HGT_REQUIRE_TRITON") == "1"
            else pytest.skip(missing)
        )
