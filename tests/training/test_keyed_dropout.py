"""Keyed masks: the rate that is asked for, one mask for one place, and another for every other."""

import importlib
import os
import subprocess
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lora_bench.training import keyed_dropout
from lora_bench.training.keyed_dropout import KeyedMasks, StepMasks, keep_mask, key_of, scaled_mask, with_keyed_masks


def key(seed=0, step=0):
    return torch.tensor(key_of(seed, step), dtype=torch.int32)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9])
def test_as_many_are_lost_as_is_asked_for_in_every_row_and_column(probability):
    kept = keep_mask(key(), 3, torch.Size((400, 500)), probability).double()
    # Four standard deviations of a mean of binomials: of all, of the worst of 400 rows, of the worst of 500 columns.
    deviation = (probability * (1 - probability)) ** 0.5
    assert abs(kept.mean().item() - (1 - probability)) <= 4 * deviation / 200_000**0.5
    assert (kept.mean(1) - (1 - probability)).abs().max() <= 4.5 * deviation / 500**0.5
    assert (kept.mean(0) - (1 - probability)).abs().max() <= 4.5 * deviation / 400**0.5


def test_a_mask_is_the_hash_of_its_place():
    """By whole numbers of Python: the finaliser that the module names, twice, with a half of the key each time."""

    def mixed(x):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            x = (x ^ x >> shift) * factor % 2**32
        return x

    low, high = (half % 2**32 for half in key_of(5, 2))
    shape, site, first = torch.Size((3, 4, 5)), 6, 7
    kept = keep_mask(key(5, 2), site, shape, 0.3, first_row=first)
    for row, column, depth in ((0, 0, 0), (2, 3, 4), (1, 0, 3), (2, 1, 0)):
        place = depth * 0x9E3779B1 + column * 0x85EBCA77 + (first + row) * 0xC2B2AE3D
        number = mixed((mixed(place % 2**32 ^ (low + site * 0x632BE5AB) % 2**32) + high) % 2**32)
        # As a signed number it lies in the upper 70 % of all.
        assert kept[row, column, depth] == ((number + 2**31) % 2**32 >= int(0.3 * 2**32))


@pytest.mark.parametrize("other", [("seed", 1, 0, 3), ("step", 0, 1, 3), ("site", 0, 0, 4)])
def test_masks_of_other_seeds_steps_and_sites_have_nothing_to_do_with_it(other):
    _, seed, step, site = other
    shape = torch.Size((300, 300))
    one, two = keep_mask(key(), 3, shape, 0.5).double(), keep_mask(key(seed, step), site, shape, 0.5).double()
    # Correlation of two independent masks, with a standard deviation of 1 / 300; and of neighbours within one.
    assert abs(((one - 0.5) * (two - 0.5)).mean().item() * 4) < 4 / 300
    for shifted in (one.roll(1, 0), one.roll(1, 1), one.roll((1, 1), (0, 1)), one.roll((1, -1), (0, 1))):
        assert abs(((one - 0.5) * (shifted - 0.5)).mean().item() * 4) < 4 / 300


def test_padding_on_the_right_changes_no_place_before_it():
    small, large = (keep_mask(key(), 0, torch.Size(shape), 0.3) for shape in ((2, 3, 5, 5), (4, 3, 9, 9)))
    assert torch.equal(small, large[:2, :, :5, :5])


def test_every_member_of_a_vmap_has_its_own_mask():
    keys = torch.tensor([key_of(seed, 7) for seed in range(3)], dtype=torch.int32)
    x = torch.ones(3, 4, 6)

    def dropped(one, key):
        with KeyedMasks(key):
            return F.dropout(one, 0.4)

    together = torch.func.vmap(dropped)(x, keys)
    assert torch.equal(together, torch.stack([dropped(one, own) for one, own in zip(x, keys, strict=True)]))
    assert len({tuple(one.flatten().tolist()) for one in together}) == 3


def test_attention_loses_what_a_written_out_attention_loses():
    query, keys, value = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64).unbind()
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = (query @ keys.mT / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    expected = expected * keep_mask(key(), 0, expected.shape, 0.2) / 0.8 @ value
    for options in (
        {"attn_mask": mask},
        {"is_causal": True},
        {"attn_mask": torch.zeros(5, 5).double().masked_fill(~mask, -torch.inf)},
    ):
        with KeyedMasks(key()):
            torch.testing.assert_close(
                F.scaled_dot_product_attention(query, keys, value, dropout_p=0.2, **options), expected
            )


def test_without_a_dropout_attention_is_the_kernel_s_own():
    query, keys, value = torch.randn(3, 2, 4, 5, 8).unbind()
    with KeyedMasks(key()):
        found = F.scaled_dot_product_attention(query, keys, value)
    assert torch.equal(found, F.scaled_dot_product_attention(query, keys, value))


def test_a_dropout_without_keyed_masks_is_refused():
    with KeyedMasks(key()), pytest.raises(NotImplementedError, match="alpha_dropout has no keyed masks"):
        nn.AlphaDropout(0.5)(torch.ones(3))


def test_the_parts_of_a_batch_go_on_from_one_another_and_a_step_begins_anew():
    model, masks = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), StepMasks(0)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2)), model[0].bias.fill_(1.0)
    with_keyed_masks(model, masks)
    x = torch.ones(50, 2)
    masks.begin(4)
    first, second = model(x), model(x)
    masks.begin(4)
    assert torch.equal(model(x), first) and not torch.equal(first, second)
    masks.begin(5)
    assert not torch.equal(model(x), first)
    assert torch.equal(model.eval()(x), torch.full((50, 2), 2.0))


# One kernel in place of some forty.


@pytest.fixture
def interpreted(monkeypatch):
    """The kernel's module, with a kernel that Triton's interpreter runs on the CPU."""
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    module = importlib.import_module("lora_bench.training.keyed_kernel")
    monkeypatch.setattr(module, "_write", triton.jit(module._write.fn))
    return module


def by_kernel(key, site, shape, probability, first_row=0, *, dtype=torch.float32):
    return keyed_dropout._by_kernel(key, site, torch.Size(shape), probability, first_row, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "first_row"),
    [((1,), 0), ((7,), 3), ((3, 5), 2), ((2, 3, 700), 0), ((2, 3, 5, 5), 4), ((2, 1, 3, 4, 5), 0),
     ((2, 3, 2, 3, 2, 3), 9), ((3, 0, 2), 0)],
)  # fmt: skip
def test_the_kernel_gives_the_masks_of_the_cpu_to_the_bit(interpreted, shape, first_row, dtype):
    for probability in (0.1, 0.5, 0.9):
        found = by_kernel(key(8, 3), 21, shape, probability, first_row, dtype=dtype)
        expected = scaled_mask(key(8, 3), 21, torch.Size(shape), probability, first_row, dtype=dtype)
        assert found.dtype == dtype and torch.equal(found, expected)


def test_one_kernel_gives_the_masks_of_all_members_of_a_vmap(interpreted, monkeypatch):
    calls = []
    write = interpreted._write
    monkeypatch.setattr(interpreted, "_write", Counted(write, calls))
    keys = torch.tensor([key_of(seed, 7) for seed in range(3)], dtype=torch.int32)
    together = torch.func.vmap(lambda own: by_kernel(own, 2, (4, 6), 0.4))(keys)
    assert calls == [(1, 3)]
    assert torch.equal(together, torch.stack([by_kernel(own, 2, (4, 6), 0.4) for own in keys]))
    assert len({tuple(one.flatten().tolist()) for one in together}) == 3


class Counted:
    """A kernel that notes the grid of each call."""

    def __init__(self, kernel, calls):
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid):
        self.calls.append(grid)
        return self.kernel[grid]


def test_a_dropout_by_the_kernel_has_the_gradients_of_one_without(interpreted, monkeypatch):
    x = torch.randn(5, 6, requires_grad=True)
    with KeyedMasks(key()):
        F.dropout(x, 0.3).square().sum().backward()
    expected, x.grad = x.grad, None
    monkeypatch.setattr(keyed_dropout, "scaled_mask", by_kernel)
    with KeyedMasks(key()):
        F.dropout(x, 0.3).square().sum().backward()
    assert torch.equal(x.grad, expected)


def test_without_triton_the_masks_are_drawn_as_before(monkeypatch, caplog):
    monkeypatch.setattr(torch, "tensor", on_the_cpu(torch.tensor))
    for module, said in ((None, "keyed_kernel"), (types.SimpleNamespace(keyed_masks=nothing_kept), "other masks")):
        keyed_dropout.has_kernel.cache_clear()
        monkeypatch.setitem(sys.modules, "lora_bench.training.keyed_kernel", module)
        assert keyed_dropout.has_kernel() is False
        assert said in caplog.text
    keyed_dropout.has_kernel.cache_clear()


def on_the_cpu(make):
    return lambda *given, **named: make(*given, **{**named, "device": "cpu"})


def nothing_kept(keys, shape, *others):
    return torch.zeros(len(keys), *shape)


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_the_kernel_compiles_for_cards_that_are_not_here(tmp_path, capability):
    program = tmp_path / "compiled.py"
    program.write_text(COMPILED.format(capability=capability))
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    if "No module named 'triton'" in done.stderr:
        pytest.skip("Triton is not installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cubin"] * 6


COMPILED = """\
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lora_bench.training.keyed_kernel import BLOCK, _write

for dimensions in range(1, 7):
    constants = dict(S1=-1, S2=2, S3=-3, S4=4, S5=5, FIRST=6, DIMENSIONS=dimensions, BLOCK=BLOCK)
    kinds = dict(keys="*i32", masks="*bf16", scale="fp32") | dict.fromkeys(constants, "constexpr")
    signature = {{name: kinds.get(name, "i32") for name in _write.arg_names}}
    source = ASTSource(fn=_write, signature=signature, constexprs=constants)
    print([kind for kind in triton.compile(source, target=GPUTarget("cuda", {capability}, 32)).asm][-1])
"""


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cuda_device_has_the_masks_of_the_cpu_by_the_kernel_and_without(dtype):
    assert keyed_dropout.has_kernel(), "Triton and a C compiler are needed for the kernel"
    for shape in ((16, 128, 768), (16, 12, 77, 77), (3, 5)):
        here = scaled_mask(key(8, 3), 21, torch.Size(shape), 0.1, 4, dtype=dtype)
        there = scaled_mask(key(8, 3).cuda(), 21, torch.Size(shape), 0.1, 4, dtype=dtype)
        assert torch.equal(there.cpu(), here)
        assert torch.equal(keep_mask(key(8, 3).cuda(), 21, torch.Size(shape), 0.1, 4).cpu(), here != 0)


@pytest.mark.gpu
def test_a_mask_on_a_cuda_device_is_one_kernel():
    from torch.profiler import ProfilerActivity, profile

    there, shape = key().cuda(), torch.Size((16, 128, 768))
    scaled_mask(there, 0, shape, 0.1, dtype=torch.float32)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        scaled_mask(there, 0, shape, 0.1, dtype=torch.float32)
        torch.cuda.synchronize()
    assert [event.name for event in profiled.events() if "_write" in event.name]
    assert len([event for event in profiled.events() if "elementwise" in event.name]) == 0
