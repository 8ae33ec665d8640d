"""A card where there is none: storages that a dispatch mode marks, and that nothing but the mode treats otherwise.

Within `StandInCard` a tensor is on the card if its storage is marked: what `to(CARD)` or `device=CARD` made, and all that
operations make of it. Its numbers are computed on the CPU, so code takes its path for a device `cuda` and gives numbers to
compare. The mode raises where an operation mixes a tensor of the card with one of the host, as CUDA does, and lists what makes
the host wait for the card: numbers read by Python, shapes that depend on numbers, and copies in both directions that block.
Mixed precision is the CPU's.
"""

import contextlib
import functools
import sys
import weakref

import torch
from torch import Tensor
from torch._C import _functorch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD = torch.device("cuda", 0)
HOST = torch.device("cpu")

aten = torch.ops.aten
# Each asks the card for numbers: one that Python needs, or how many results there are.
READ = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim,
    aten.unique_consecutive, aten.bincount, aten.repeat_interleave,
}  # fmt: skip
# A mask of bools as an index is a `nonzero`.
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}

FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "zeros")


class Mixed(AssertionError):
    """An operation had tensors of the card and of the host."""


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    while _functorch.is_functorch_wrapped_tensor(tensor):  # within vmap
        tensor = _functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()


def _asker() -> str:
    """The function that asked torch for what is being done: the nearest that is neither torch's nor of this file."""
    frame = sys._getframe(1)
    while True:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        # A function mode hands on what others call.
        if not module.startswith(("torch.", "contextlib", __name__)) and name != "__torch_function__":
            return f"{module}.{name}"
        frame = frame.f_back


class StandInCard(TorchDispatchMode):
    """A card within this block; weights and batches get there by `put`, `to(CARD)` or `device=CARD`.

    `waits` lists what made the host wait, each with the function that asked for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[tuple[str, str]] = []
        self._marked: set[int] = set()
        # Made by torch's own code, which takes the card for the CPU: on a card they would be where the other tensors are.
        self._anywhere: set[int] = set()
        self._by_python = False
        self._patches = contextlib.ExitStack()

    def has(self, tensor: Tensor) -> bool:
        """Return True if a tensor is on the card."""
        return _storage(tensor)._cdata in self._marked

    def put(self, tensor: Tensor) -> None:
        """Put a tensor on the card, in its place."""
        self._mark(tensor, self._marked)

    @staticmethod
    def _mark(tensor: Tensor, marked: set[int]) -> None:
        storage = _storage(tensor)
        if storage._cdata not in marked:
            marked.add(storage._cdata)
            weakref.finalize(storage, marked.discard, storage._cdata)

    def _is_anywhere(self, tensor: Tensor) -> bool:
        return not tensor.dim() or _storage(tensor)._cdata in self._anywhere

    def _wait(self, what: str) -> None:
        self.waits.append((what, _asker()))

    def __enter__(self):
        plain = {name: getattr(Tensor, name) for name in ("device", "is_cuda", "to", "cpu", "tolist", "numpy")}
        lazy_init = torch.cuda._lazy_init

        def device(tensor: Tensor) -> torch.device:
            return CARD if self.has(tensor) else plain["device"].__get__(tensor)

        def to(tensor: Tensor, *args, **kwargs) -> Tensor:
            """As torch's, which goes by devices that it knows."""
            if args and isinstance(args[0], Tensor):
                args = (args[0].device, args[0].dtype, *args[1:])
            wanted, dtype, non_blocking, _ = torch._C._nn._parse_to(
                *args, **{key: value for key, value in kwargs.items() if key != "copy"}
            )
            result = tensor if dtype is None else plain["to"](tensor, dtype)
            if wanted is None or (wanted.type == "cuda") == self.has(tensor):
                return plain["to"](result, result.dtype, copy=True) if kwargs.get("copy") else result
            if wanted.type == "cuda":
                if not non_blocking and tensor.numel():
                    self._wait("copy to the card")
                result = result.clone()
                self.put(result)
                return result
            return host(result)

        def host(tensor: Tensor) -> Tensor:
            if not self.has(tensor):
                return tensor
            self._wait("copy to the host")
            with self.unseen():
                return tensor.clone()

        def tolist(tensor: Tensor):
            return plain["tolist"](host(tensor))

        def numpy(tensor: Tensor, **options):
            assert not self.has(tensor), "numpy reads no memory of a card"
            return plain["numpy"](tensor, **options)

        ours = {
            "device": property(device), "is_cuda": property(self.has), "to": to, "cpu": host, "tolist": tolist, "numpy": numpy,
        }  # fmt: skip
        for name, one in ours.items():
            setattr(Tensor, name, one)
        torch.cuda._lazy_init = lambda: None
        self._patches.callback(setattr, torch.cuda, "_lazy_init", lazy_init)
        made = torch.tensor

        def tensor(data, *, device=None, **options) -> Tensor:
            """As torch's, which takes its way to the device past all modes."""
            found = made(data, **options)
            return found if device is None else found.to(device)

        def factory(make):
            @functools.wraps(make)
            def called(*args, **options):
                before, self._by_python = self._by_python, True
                try:
                    return make(*args, **options)
                finally:
                    self._by_python = before

            return called

        for name in FACTORIES:
            self._patches.callback(setattr, torch, name, getattr(torch, name))
            setattr(torch, name, factory(getattr(torch, name)))
        torch.tensor = tensor
        self._patches.callback(setattr, torch, "tensor", made)
        grouped = torch._C._group_tensors_by_device_and_dtype

        def group(tensors, with_indices=False):
            found = grouped(tensors, with_indices)
            return {
                (CARD if self.has(lists[0][0]) else HOST, dtype): (lists, of)
                for (_, dtype), (lists, of) in found.items()
            }

        torch._C._group_tensors_by_device_and_dtype = group
        self._patches.callback(setattr, torch._C, "_group_tensors_by_device_and_dtype", grouped)
        autocast = torch.autocast

        class Autocast(autocast):
            """As the CPU's, for the card."""

            def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None) -> None:
                super().__init__("cpu", dtype, enabled, cache_enabled)

            def __enter__(self):
                before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
                self._before = before
                torch.set_autocast_enabled("cuda", self._enabled)
                torch.set_autocast_dtype("cuda", self.fast_dtype)
                return super().__enter__()

            def __exit__(self, *error):
                torch.set_autocast_enabled("cuda", self._before[0])
                torch.set_autocast_dtype("cuda", self._before[1])
                return super().__exit__(*error)

        torch.autocast = Autocast
        self._patches.callback(setattr, torch, "autocast", autocast)
        for name in ours:
            # They are the base class's own.
            self._patches.callback(delattr, Tensor, name)
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._patches.close()

    @contextlib.contextmanager
    def unseen(self):
        """Let operations mix in this block."""
        seeing, self._seeing = self._seeing, False
        try:
            yield
        finally:
            self._seeing = seeing

    _seeing = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        made_there = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if made_there:
            kwargs["device"] = HOST
        there = [one for one in given if self.has(one)]
        if self._seeing and there:
            self._look(packet, args, given)
        result = func(*args, **kwargs)
        new = {id(one) for one in given}
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor) and id(one) not in new]
        if made_there or (there and self._seeing):
            if packet is aten._to_copy and made_there and not there and not kwargs.get("non_blocking"):
                self._wait("copy to the card")
            for one in made:
                self.put(one)
        elif not self._by_python and all(self._is_anywhere(one) for one in given):
            for one in made:
                self._mark(one, self._anywhere)
        return result

    def _look(self, packet, args, given) -> None:
        """Raise if devices mix; count if the host waits. A single number of the host may go anywhere."""
        if packet in READ:
            self._wait(packet.__name__)
        if packet is aten.copy_:
            target, source = args[:2]
            if self.has(source) and not self.has(target):
                self._wait("copy to the host")
            elif self.has(target) and not self.has(source) and source.dim():
                self._wait("copy to the card")
            return
        if packet in INDEXED:
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    self._wait("index by a mask")
                elif index is not None and not self.has(index) and not self._is_anywhere(index):
                    self._wait("copy to the card")
            given = [args[0], *args[2:3]]
        strangers = [
            tuple(one.shape)
            for one in given
            if isinstance(one, Tensor) and not self.has(one) and not self._is_anywhere(one)
        ]
        if strangers:
            raise Mixed(f"{packet}: tensors of the host, of shapes {strangers}, meet some of the card")
