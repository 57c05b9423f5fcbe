"""Weights are base + factors, rounded once. A revision has the same bits on every path to it."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import (
    Delta,
    Factors,
    Materializer,
    compact,
    concatenate,
    negate,
    read_delta,
    to_tensors,
)
from retcon.tests.helpers.untouched import assert_same_bits, bits_of

Decoders = Callable[..., Decoder]
both_precisions = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"]
)
both_layouts = pytest.mark.parametrize("family", ["gpt2", "llama"])


def random_delta(
    decoder: Decoder, seed: int, layers: tuple[int, ...] = (1,), rank: int = 1, size: float = 0.1
) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    anatomy = decoder.anatomy
    return {
        anatomy.weight_name(layer): Factors(
            torch.randn(anatomy.width, rank, generator=generator) * size,
            torch.randn(rank, anatomy.key_width, generator=generator) * size,
        )
        for layer in layers
    }


def three_deltas(decoder: Decoder) -> list[Delta]:
    return [
        random_delta(decoder, 1),
        random_delta(decoder, 2, (0, 1), rank=3),
        random_delta(decoder, 3, (1, 3)),
    ]


def test_compact_keeps_change_with_smallest_rank(own_decoder_of: Decoders) -> None:
    decoder = own_decoder_of("llama")
    name = decoder.anatomy.weight_name(1)
    first, second = (random_delta(decoder, seed, rank=rank) for seed, rank in ((1, 3), (2, 5)))
    both = concatenate([first, second, negate(first)])[name]
    assert both.rank == 11
    result = compact(both)
    assert result.rank == 5
    torch.testing.assert_close(result.b @ result.a, second[name].b @ second[name].a)
    many = concatenate([random_delta(decoder, seed, rank=20) for seed in range(1, 9)])[name]
    assert many.rank > max(many.b.shape[0], many.a.shape[1]) > compact(many).rank
    torch.testing.assert_close(compact(many).b @ compact(many).a, many.b @ many.a, atol=1e-5, rtol=1e-5)
    nothing = concatenate([first, negate(first)])[name]
    assert compact(Factors(torch.zeros_like(nothing.b), nothing.a)).rank == 0
    assert compact(nothing).norm() < 1e-6 * first[name].norm()


@both_precisions
@both_layouts
def test_path_to_revision_does_not_change_bits(
    family: str, dtype: torch.dtype, own_decoder_of: Decoders
) -> None:
    decoder = own_decoder_of(family, dtype)
    traveled = Materializer(decoder.model)
    deltas = three_deltas(decoder)
    subsets = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2), (2, 0)]
    fresh = {}
    for subset in subsets:
        direct = own_decoder_of(family, dtype)
        Materializer(direct.model).set(concatenate(deltas[i] for i in subset))
        fresh[subset] = bits_of(direct.model)
    for order in list(permutations(subsets, 2)):
        for subset in order:
            traveled.set(concatenate(deltas[i] for i in subset))
            assert_same_bits(decoder.model, fresh[subset])


@both_precisions
@both_layouts
def test_rollback_restores_base_bits(family: str, dtype: torch.dtype, own_decoder_of: Decoders) -> None:
    decoder = own_decoder_of(family, dtype)
    base = bits_of(decoder.model)
    weights = Materializer(decoder.model)
    weights.set(concatenate(three_deltas(decoder)))
    changed = [name for name, bits in bits_of(decoder.model).items() if not torch.equal(bits, base[name])]
    assert changed == [decoder.anatomy.weight_name(layer) for layer in (0, 1, 3)]
    weights.set({})
    assert_same_bits(decoder.model, base)


@both_layouts
def test_matrix_maps_keys_by_the_sum(family: str, own_decoder_of: Decoders) -> None:
    """W' k = W k + B (A k), for both storage layouts of the weight."""
    decoder = own_decoder_of(family)
    key = torch.randn(2, decoder.anatomy.key_width, generator=torch.Generator().manual_seed(0))
    matrix = decoder.part("matrix", 1)
    delta = random_delta(decoder, 4, rank=2)
    factors = delta[decoder.anatomy.weight_name(1)]
    with torch.no_grad():
        before = matrix(key)
        Materializer(decoder.model).set(delta)
        torch.testing.assert_close(
            matrix(key), before + key @ factors.a.T @ factors.b.T, atol=1e-5, rtol=1e-5
        )
    assert (key @ factors.a.T @ factors.b.T).abs().max() > 1e-2


@both_precisions
def test_weights_are_rounded_once(dtype: torch.dtype, own_decoder_of: Decoders) -> None:
    decoder = own_decoder_of("gpt2", dtype)
    name = decoder.anatomy.weight_name(1)
    base = decoder.model.get_parameter(name).detach().clone()
    parts = [random_delta(decoder, seed) for seed in range(5)]
    Materializer(decoder.model).set(concatenate(parts))
    exact = base.double() + sum((part[name].b.double() @ part[name].a.double()).T for part in parts)
    error = (decoder.model.get_parameter(name).double() - exact).abs()
    # Half a unit in the last place, plus the error of the float32 sum before the rounding.
    assert (error <= exact.abs() * torch.finfo(dtype).eps * 0.5 + 1e-6).all()


def test_concatenate_keeps_order_per_matrix(own_decoder_of: Decoders) -> None:
    decoder = own_decoder_of("llama")
    one, two, three = three_deltas(decoder)
    whole = concatenate([one, two, three])
    zeroth, first, third = (decoder.anatomy.weight_name(layer) for layer in (0, 1, 3))
    assert {name: factors.rank for name, factors in whole.items()} == {first: 5, zeroth: 3, third: 1}
    assert torch.equal(whole[first].b, torch.cat([one[first].b, two[first].b, three[first].b], dim=1))
    assert torch.equal(whole[first].a, torch.cat([one[first].a, two[first].a, three[first].a], dim=0))
    assert torch.equal(whole[zeroth].b, two[zeroth].b)
    nested = concatenate([concatenate([one, two]), three])
    assert all(torch.equal(nested[name].b, whole[name].b) for name in whole)
    assert concatenate([]) == {}


def test_norm_equals_norm_of_product() -> None:
    factors = Factors(torch.randn(7, 3), torch.randn(3, 11))
    assert factors.norm() == pytest.approx((factors.b @ factors.a).norm().item(), rel=1e-5)
    assert Factors(torch.zeros(7, 1), torch.ones(1, 11)).norm() == 0


@both_layouts
def test_sizes_in_float32(family: str, own_decoder_of: Decoders) -> None:
    decoder = own_decoder_of(family)
    base = bits_of(decoder.model)
    delta = random_delta(decoder, 5, (0, 2), rank=2)
    sizes = Materializer(decoder.model).sizes(delta)
    assert_same_bits(decoder.model, base)
    assert set(sizes) == set(delta)
    for name, size in sizes.items():
        product = delta[name].b @ delta[name].a
        assert size.rank == 2
        assert size.norm == pytest.approx(product.norm().item(), rel=1e-5)
        assert size.relative == pytest.approx((product.norm() / base[name].norm()).item(), rel=1e-5)
        assert size.effective == pytest.approx(1, abs=1e-4)
        assert size.unchanged < 0.01


@both_layouts
def test_sizes_include_effect_of_rounding(family: str, own_decoder_of: Decoders) -> None:
    decoder = own_decoder_of(family, torch.bfloat16)
    name = decoder.anatomy.weight_name(1)
    small = random_delta(decoder, 6, size=0.01)
    size = Materializer(decoder.model).sizes(small)[name]
    base = decoder.model.get_parameter(name).detach().clone()
    Materializer(decoder.model).set(small)
    left = decoder.model.get_parameter(name).detach().float() - base.float()
    assert size.unchanged == pytest.approx((left == 0).float().mean().item())
    assert size.effective == pytest.approx((left.norm() / size.norm).item(), rel=1e-4)
    assert 0.3 < size.unchanged < 1


def test_zero_delta_is_effective(own_decoder_of: Decoders) -> None:
    decoder = own_decoder_of("llama")
    size = Materializer(decoder.model).sizes(random_delta(decoder, 1, size=0.0))[
        decoder.anatomy.weight_name(1)
    ]
    assert (size.norm, size.effective, size.unchanged) == (0, 1, 1)


def test_round_trip_through_file(own_decoder_of: Decoders, tmp_path: Path) -> None:
    delta = concatenate(three_deltas(own_decoder_of("gpt2")))
    tensors = to_tensors(delta)
    assert {f"{name}.{factor}" for name in delta for factor in "AB"} == set(tensors)
    save_file(tensors, tmp_path / "delta.safetensors")
    read = read_delta(tmp_path / "delta.safetensors")
    assert set(read) == set(delta)

    def same(one: Tensor, other: Tensor) -> bool:
        return one.dtype == torch.float32 and torch.equal(one, other)

    assert all(same(read[name].a, delta[name].a) and same(read[name].b, delta[name].b) for name in delta)


class Layers(nn.Module):
    """Two matrices; the second is stored transposed."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = nn.Linear(5, 3, bias=False), Conv1D(3, 5)
        self.to(dtype)


NAMES = ("one.weight", "two.weight")


@st.composite
def delta_lists(draw: st.DrawFn) -> list[Delta]:
    """Up to five deltas of one or both matrices, of any rank, much smaller to much larger than the weights."""
    made = []
    for seed in draw(st.lists(st.integers(0, 2**32), max_size=5)):
        chance, size = torch.Generator().manual_seed(seed), draw(st.sampled_from([0.0, 1e-4, 0.1, 100.0]))
        delta = {}
        for name in draw(st.sets(st.sampled_from(NAMES), min_size=1)):
            rank = draw(st.integers(1, 4))
            b, a = torch.randn(3, rank, generator=chance), torch.randn(rank, 5, generator=chance)
            delta[name] = Factors(b * size, a)
        made.append(delta)
    return made


@given(
    deltas=delta_lists(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    data=st.data(),
)
def test_weights_depend_only_on_current_deltas(
    deltas: list[Delta], dtype: torch.dtype, data: st.DataObject
) -> None:
    """Weights depend on the current deltas and their order, not on earlier deltas."""
    model, traveled = Layers(dtype), Layers(dtype)
    base = {name: model.get_parameter(name).detach().clone() for name in NAMES}
    weights = Materializer(traveled)  # type: ignore[arg-type]
    numbers = range(len(deltas))
    for _ in range(data.draw(st.integers(1, 4))):
        order = data.draw(
            st.lists(st.sampled_from(numbers), unique=True, max_size=5) if deltas else st.just([])
        )
        chosen = [deltas[number] for number in order]
        cut = data.draw(st.integers(0, len(chosen)))
        whole = concatenate(chosen)
        parts = concatenate([concatenate(chosen[:cut]), concatenate(chosen[cut:])])
        weights.set(parts)
        fresh = Layers(dtype)
        Materializer(fresh).set(whole)  # type: ignore[arg-type]
        for name in NAMES:
            result = traveled.get_parameter(name)
            assert torch.equal(result, fresh.get_parameter(name))
            assert torch.equal(weights.base(name), base[name])
            if name not in whole:
                assert torch.equal(result, base[name])
                continue
            change = sum(d[name].b.double() @ d[name].a.double() for d in chosen if name in d)
            exact = base[name].double() + (change.T if name == "two.weight" else change)
            scale = max(float(exact.abs().max()), float(change.abs().max()), 1.0)
            assert (result.double() - exact).abs().max() <= scale * (torch.finfo(dtype).eps + 1e-5)
            assert whole[name].rank == sum(d[name].rank for d in chosen if name in d)
            assert whole[name].norm() == pytest.approx(float(change.norm()), rel=1e-3, abs=scale * 1e-3)
    weights.set({})
    assert all(torch.equal(traveled.get_parameter(name), base[name]) for name in NAMES)
