"""A GPU that is not there: `with pretend() as gpu:` and torch has a device "cuda", on any machine.

A tensor on it holds a CPU tensor, says `cuda:0`, refuses what CUDA refuses (company on the CPU, a
generator of the CPU, `.numpy()`), and computes on the CPU. Whatever would make the host wait for the
device is counted, with the line that asked for it. Autocast is imitated by its lists of operators.

What it is not: a clock, a limit of memory, cuDNN or NCCL, CUDA's rounding or its random numbers, a
second device in the same process, or the race of reading a copy that has not arrived.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
NAME = "Pretended GPU"
TORCH = str(Path(torch.__file__).parent)

# What CUDA's autocast casts to 16 bits, and what it keeps in 32.
TO_16 = set(
    "__matmul__ __rmatmul__ addbmm addmm addmv addr baddbmm bmm conv1d conv2d conv3d einsum linear "
    "conv_transpose1d conv_transpose2d conv_transpose3d matmul mm mv prelu "
    "scaled_dot_product_attention".split()
)
TO_32 = set(
    "__pow__ __rpow__ cosine_similarity cross_entropy cumprod cumsum exp expm1 group_norm kl_div "
    "l1_loss layer_norm log log10 log1p log2 log_softmax logsumexp mse_loss nll_loss norm pow prod "
    "binary_cross_entropy_with_logits reciprocal rsqrt smooth_l1_loss softmax softplus sum".split()
)
# Operators whose result the host must know before it can go on, or whose shape depends on numbers.
WAITS = set(
    "_local_scalar_dense _unique2 bincount equal is_nonzero masked_select nonzero unique_consecutive "
    "unique_dim".split()
)
COPIES = {"copy_", "_to_copy", "_foreach_copy_"}
JOINS = {"cat", "stack"}  # these take not even a scalar from the CPU


@dataclass
class Watch:
    """What made the host wait for the device: how often, by kind and by line of code."""

    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, kind: str) -> None:
        """Note a wait, at the innermost line outside of torch and of this file."""
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.startswith((TORCH, __file__)):
            frame = frame.f_back
        self.waits[kind, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"] += 1

    @property
    def total(self) -> int:
        """All waits so far."""
        return self.waits.total()


_watch = Watch()  # of the present `pretend`


def on_gpu(device: Any) -> bool:
    """Whether this names the device; torch's own code is told that it is "meta"."""
    if isinstance(device, int):
        return True
    return device is not None and torch.device(device).type in ("cuda", "meta")


def pinned(tensor: Tensor) -> bool:
    """Whether a CPU tensor lies in memory that a GPU could read by itself."""
    return getattr(tensor.untyped_storage(), "pinned", False)


def pin(tensor: Tensor) -> Tensor:
    """A pinned copy of a CPU tensor."""
    if isinstance(tensor, Pretended):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be")
    copy = tensor.clone()
    copy.untyped_storage().pinned = True
    return copy


class Pretended(Tensor):
    """A tensor on the pretended device; `held` is the CPU tensor that has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, real: Tensor) -> "Pretended":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device="meta",
        )

    def __init__(self, real: Tensor) -> None:
        self.held = real

    def __repr__(self) -> str:
        _watch.add("print")
        return repr(self.held).removesuffix(")") + f", device='{DEVICE}')"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo: dict) -> "Pretended":
        if id(self) not in memo:
            copy = self.detach().clone().requires_grad_(self.requires_grad)
            copy.__dict__.update({k: v for k, v in self.__dict__.items() if k != "held"})
            memo[id(self)] = copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol: int) -> Any:
        raise NotImplementedError("A pretended tensor cannot be pickled; save `.cpu()`.")

    def numpy(self, *, force: bool = False) -> Any:
        """As on a GPU: not without asking."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy the "
            f"tensor to host memory first."
        )

    def __array__(self, *_: object, **__: object) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        """Read it all."""
        return self.detach().cpu().tolist()

    def get_device(self) -> int:
        """The device's number."""
        return DEVICE.index

    def untyped_storage(self) -> torch.UntypedStorage:
        """Where the numbers are."""
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        """Where the first number is."""
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Operators(TorchDispatchMode):
    """Every operator, below autograd; the factories pass here too, which have no tensor yet."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operator's result: on the device if an argument is there, or if it is asked for there."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = {id(t.held): t for t in tensors if isinstance(t, Pretended)}
    asked = kwargs.get("device")
    if not there and not on_gpu(asked):
        return func(*args, **kwargs)
    name = func._schema.name.split("::")[1]
    if name in COPIES:
        count_copies(name, args, kwargs)
    else:
        refuse_mixture(name, args, tensors)
        if name in WAITS or asks_for_positions(name, args):
            _watch.add(name)
    plain_args, plain = tree_map(
        lambda x: x.held if isinstance(x, Pretended) else x, (args, kwargs)
    )
    if on_gpu(asked):
        plain["device"] = "cpu"
    with torch.no_grad():
        result = func(*plain_args, **plain)
    to_host = (asked is not None and not on_gpu(asked)) or (
        name == "copy_" and not isinstance(args[0], Pretended)
    )
    if to_host:
        return args[0] if name == "copy_" else result

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        known = there.get(id(value))
        if known is not None and known.shape != value.shape:
            raise NotImplementedError(f"{func} changes a shape in place.")
        return Pretended(value) if known is None else known

    return tree_map(wrap, result)


def count_copies(name: str, args: tuple, kwargs: dict[str, Any]) -> None:
    """Note the copies between host and device that the host waits for."""
    if name == "_to_copy":
        pairs = [(isinstance(args[0], Pretended), on_gpu(kwargs.get("device")), args[0])]
        if kwargs.get("device") is None:
            return
        later = kwargs.get("non_blocking", False)
    else:
        goals, sources = (x if isinstance(x, list | tuple) else [x] for x in args[:2])
        pairs = [
            (isinstance(source, Pretended), isinstance(goal, Pretended), source)
            for goal, source in zip(goals, sources, strict=True)
        ]
        later = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    for on_device, to_device, source in pairs:
        if on_device and not to_device and not later:
            _watch.add("to host")
        elif to_device and not on_device and not (later and pinned(source)):
            _watch.add("to device")


def refuse_mixture(name: str, args: tuple, tensors: list[Tensor]) -> None:
    """Raise RuntimeError where tensors of two devices meet; scalars and indices may."""
    if any(t.is_meta for t in tensors):
        raise RuntimeError(f"{name} has met a tensor without numbers: it was made past `pretend`.")
    strangers = [t for t in tensors if not isinstance(t, Pretended)]
    if name in ("index", "index_put", "index_put_", "_index_put_impl_") and isinstance(
        args[0], Pretended
    ):
        indices = [t for t in strangers if any(t is i for i in args[1])]
        for _ in indices:
            _watch.add("index to device")
        strangers = [t for t in strangers if not any(t is i for i in indices)]
    if any(t.dim() > 0 or name in JOINS for t in strangers):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and cpu! ({name})"
        )


def asks_for_positions(name: str, args: tuple) -> bool:
    """Whether an index is a mask, whose positions must be counted first."""
    if not name.lstrip("_").startswith("index") or len(args) < 2 or not isinstance(args[1], list):
        return False
    if name != "index" and args[2].numel() == 1:  # filling under a mask needs no positions
        return False
    return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])


class Calls(TorchFunctionMode):
    """Every call in Python: what C++ would settle before an operator begins is settled here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        check_generator(args, kwargs)
        if kwargs.pop("pin_memory", False):
            return pin(func(*args, **kwargs))
        if name in ("tensor", "as_tensor", "asarray") and on_gpu(kwargs.get("device")):
            grad = kwargs.pop("requires_grad", False)
            device, given = kwargs.pop("device"), args[0]
            made = given if isinstance(given, Tensor) else func(*args, **kwargs)
            return made.to(device, kwargs.get("dtype")).requires_grad_(grad)
        if name == "new_tensor" and isinstance(args[0], Pretended):
            kwargs.setdefault("dtype", args[0].dtype)
            return torch.tensor(*args[1:], **kwargs).to(DEVICE)
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], Pretended):
            args = (args[0], as_indices(args[1]), *args[2:])
        if name in TO_16 | TO_32 and torch.is_autocast_enabled("cuda"):
            wanted = torch.get_autocast_dtype("cuda") if name in TO_16 else torch.float32
            args, kwargs = tree_map(lambda value: as_autocast(value, wanted), (args, kwargs))
        return func(*args, **kwargs)


def as_indices(index: Any) -> Any:
    """Lists in an index as CPU tensors: C++ would put them on the device itself."""
    if isinstance(index, tuple):
        return tuple(as_indices(one) for one in index)
    if isinstance(index, list) or type(index).__module__ == "numpy":
        return torch.as_tensor(index)
    return index


def as_autocast(value: Any, dtype: torch.dtype) -> Any:
    """A tensor on the device in autocast's format, if it is one of autocast's."""
    ours = isinstance(value, Pretended) and value.is_floating_point()
    return value.to(dtype) if ours and value.dtype != torch.float64 else value


def check_generator(args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise RuntimeError for a generator of another device than the numbers'."""
    generator = kwargs.get("generator")
    if generator is None:
        return
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    there = on_gpu(kwargs.get("device", tensors[0].device if tensors else None))
    if there != (generator.device.type == "cuda"):
        raise RuntimeError(
            f"Expected a '{'cuda' if there else 'cpu'}' device type for generator but found "
            f"'{generator.device.type}'"
        )


class Generator(torch.Generator):
    """A generator that may say it is the device's; its numbers are the CPU's."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        generator = super().__new__(cls)
        generator.place = DEVICE if on_gpu(device) else torch.device("cpu")
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        """All is done; torch's own has no more to say either."""

    device = property(lambda self: self.place)


real_to = Tensor.to


def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, with the device's number added, and nothing done where nothing is to do."""
    copy, other = kwargs.pop("copy", False), kwargs.pop("other", None)
    given = () if other is None else (other,)
    device, dtype, later, layout = torch._C._nn._parse_to(*given, *args, **kwargs)
    settings: dict[str, Any] = {"non_blocking": later, "copy": copy}
    if layout is not None:
        settings["memory_format"] = layout
    device = DEVICE if on_gpu(device) else device
    if isinstance(tensor, Pretended) and device == DEVICE:
        device = None
    return real_to(tensor, device, dtype or tensor.dtype, **settings)


def synchronize(*_: object) -> None:
    """The host waits until the device has done everything."""
    _watch.add("synchronize")


@contextmanager
def pretend(devices: int = 1, bf16: bool = True) -> Iterator[Watch]:
    """Give torch so many CUDA devices, with native bfloat16 or without, and watch the host.

    Everything computes on the first one, `cuda:0`.
    """
    global _watch
    _watch = Watch()
    still = SimpleNamespace(is_capturing=lambda: False, synchronize=synchronize)
    state = torch.get_rng_state
    cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: devices,
        "current_device": lambda: DEVICE.index,
        "set_device": lambda device: None,
        "synchronize": synchronize,
        "is_bf16_supported": lambda including_emulation=True: bf16 or including_emulation,
        "is_current_stream_capturing": lambda: False,
        "current_stream": lambda device=None: still,
        "get_rng_state": lambda device="cuda": state(),
        "set_rng_state": lambda new, device="cuda": None,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (8, 0) if bf16 else (7, 5),
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
    }
    tensor = {
        "to": to,
        "cuda": lambda self, device=None, non_blocking=False: to(
            self, DEVICE, non_blocking=non_blocking
        ),
        "pin_memory": lambda self, *_: pin(self),
        "is_pinned": lambda self, *_: pinned(self) and not isinstance(self, Pretended),
    }
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        for name, value in tensor.items():
            stack.enter_context(patch.object(Tensor, name, value))
        stack.enter_context(patch.object(torch, "Generator", Generator))
        stack.enter_context(patch.object(torch, "inference_mode", torch.no_grad))
        if hasattr(torch, "accelerator"):
            stream = patch.object(torch.accelerator, "current_stream", lambda device=None: still)
            stack.enter_context(stream)
        # A module moved keeps its parameters' identity, as between two real devices.
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapping)
        stack.enter_context(Operators())
        stack.enter_context(Calls())
        yield _watch
