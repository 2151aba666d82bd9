"""Linear maps of one input as one product: when they are one, and that no number, name or gradient depends on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ttbench.engines import launches
from ttbench.kernels.dispatch.catalogue import absent
from ttbench.kernels.dispatch.running import using
from ttbench.models.layers import join_, project

needs_twins = pytest.mark.skipif(absent() is not None, reason=f"{absent()}")


def maps(*, device: str = "cpu") -> list[nn.Linear]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [nn.Linear(6, size, bias=False, device=device) for size in (4, 3, 5)]


def inputs(*, device: str = "cpu") -> Tensor:
    return torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(1)).to(device)


@torch.inference_mode()
def num_products(x: Tensor, group: list[nn.Linear]) -> int:
    with launches._Counter() as counter:
        project(x, group)
    assert set(counter.counts) == {"aten::mm"}
    return sum(counter.counts.values())


@needs_twins
def test_joined_maps_are_one_product_where_fused_kernels_run_and_their_own_elsewhere() -> None:
    group = maps(device="meta")
    x = inputs(device="meta")
    with using("fused"):
        assert num_products(x, group) == 3
        join_(group)
        assert num_products(x, group) == 1
        # neighbours among them too, but not what lies apart
        assert num_products(x, group[1:]) == 1
        assert num_products(x, group[::2]) == 2
        # a float64 model has no fused kernels
        assert num_products(x.double(), [each.double() for each in group]) == 3
    assert num_products(x, group) == 3


@needs_twins
def test_joining_moves_weights_and_changes_nothing_else() -> None:
    group, x = maps(), inputs()
    parameters, before = [each.weight for each in group], [each.weight.clone() for each in group]
    with torch.inference_mode():
        wanted = project(x, group)
        join_(group)
        addresses = [each.weight.data_ptr() for each in group]
        join_(group)
        with using("fused"):
            found = project(x, group)
    assert all(each.weight is parameter for each, parameter in zip(group, parameters, strict=True))
    assert all(torch.equal(each.weight, old) for each, old in zip(group, before, strict=True))
    assert addresses == [each.weight.data_ptr() for each in group], "joined once"
    assert addresses[1] - addresses[0] == before[0].nbytes
    torch.testing.assert_close(found, wanted)
    # a weight that is written in place is the one that is used
    with torch.no_grad():
        group[1].weight.add_(1.0)
    with torch.inference_mode(), using("fused"):
        assert not torch.equal(project(x, group)[1], found[1])
        # and one that was replaced too
        group[1].weight = nn.Parameter(torch.zeros(3, 6))
        assert not project(x, group)[1].any()


@needs_twins
def test_every_joined_map_gets_its_own_gradient() -> None:
    group = maps()
    join_(group)
    with using("fused"):
        torch.cat(project(inputs(), group), -1).sum().backward()
    assert all(each.weight.grad is not None and each.weight.grad.any() for each in group)
