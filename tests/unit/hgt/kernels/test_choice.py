"""Which formulation each device gets."""

import importlib

import pytest

from hgt.device.traits import traits_of
from hgt.kernels import choice
from hgt.kernels.choice import edge_kernels, mask_kernel, node_kernels
from hgt.kernels.edges import ChunkedKernels, FusedKernels
from hgt.kernels.nodes import CpuNodeKernels, NodeKernels
from tests.unit.hgt.interpreter import require_interpreter


@pytest.fixture
def triton(monkeypatch):
    """`triton(False)`: it is not installed. What was chosen before is forgotten, then and
    afterwards.
    """

    def install(is_there):
        forget()
        monkeypatch.setattr(
            choice.importlib.util, "find_spec", lambda name: object() if is_there else None
        )

    def forget():
        for chosen in (edge_kernels, node_kernels, mask_kernel):
            chosen.cache_clear()

    yield install
    forget()


@pytest.mark.parametrize("has_triton", [False, True])
@pytest.mark.parametrize(
    ("device", "edges", "nodes"),
    [("cpu", FusedKernels, CpuNodeKernels), ("mps", ChunkedKernels, NodeKernels)],
)
def test_triton_changes_nothing_but_on_cuda(triton, device, edges, nodes, has_triton):
    triton(has_triton)
    assert type(edge_kernels(device)) is edges
    assert type(node_kernels(device)) is nodes
    assert edge_kernels(device).chunk == traits_of(device).edges_at_a_time
    assert mask_kernel(device).keywords == {"hashes_at_a_time": traits_of(device).hashes_at_a_time}


def test_cuda_without_triton(triton):
    triton(False)
    assert type(edge_kernels("cuda")) is ChunkedKernels
    assert type(node_kernels("cuda")) is NodeKernels
    assert mask_kernel("cuda").keywords == {"hashes_at_a_time": 1 << 20}


@pytest.mark.slow
def test_cuda_with_triton():
    require_interpreter()
    edges, nodes, dropout = (
        importlib.import_module(f"hgt.kernels.triton_{name}")
        for name in ("edges", "nodes", "dropout")
    )
    assert type(edge_kernels("cuda")) is edges.TritonKernels
    assert edge_kernels("cuda").chunk == 32_768
    assert type(node_kernels("cuda")) is nodes.TritonNodeKernels
    assert mask_kernel("cuda") is dropout.fill
