"""A GPU that is not there: `with pretend() as gpu:` and torch has a device "cuda", on any machine.

A tensor on it holds a CPU tensor, says `cuda:0`, refuses what CUDA refuses (company elsewhere, a
generator of the CPU, `.numpy()`), and computes on the CPU. Whatever would make the host wait for
the device is counted, with the line that asked for it. Autocast is imitated by its lists of
operators, and NCCL by gloo.

What it is not: a clock, a limit of memory, cuDNN, CUDA's rounding or its random numbers, or the
race of reading a copy that has not arrived.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "Pretended GPU"
TORCH = str(Path(torch.__file__).parent)
CPU = torch.device("cpu")


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# What CUDA's autocast casts to 16 bits, and what it keeps in 32.
TO_16 = words("""
    __matmul__ __rmatmul__ addbmm addmm addmv addr baddbmm bmm conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d einsum linear matmul mm mv prelu
    scaled_dot_product_attention
""")
TO_32 = words("""
    __pow__ __rpow__ binary_cross_entropy_with_logits cosine_similarity cross_entropy cumprod cumsum
    exp expm1 group_norm kl_div l1_loss layer_norm log log10 log1p log2 log_softmax logsumexp
    mse_loss nll_loss norm pow prod reciprocal rsqrt smooth_l1_loss softmax softplus sum
""")
# Operators whose result the host must know before it goes on, or whose shape depends on numbers.
WAITS = words("""
    _local_scalar_dense _unique2 bincount equal masked_select nonzero unique_consecutive unique_dim
""")
COPIES = words("copy_ _to_copy _foreach_copy_")
JOINS = words("cat stack")  # these take not even a scalar from elsewhere
INDEXED = words("index index_put index_put_ _index_put_impl_")


def each(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The value, with every tensor in its lists and dictionaries changed; faster than a pytree."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)([each(change, one) for one in value])
    if type(value) is dict:
        return {key: each(change, one) for key, one in value.items()}
    return value


def tensors_in(*values: Any) -> list[Tensor]:
    """All tensors in the values."""
    found: list[Tensor] = []
    each(found.append, values)
    return found


@dataclass
class Machine:
    """What is pretended, and what made the host wait: how often, by kind and by line of code."""

    devices: int = 1
    bf16: bool = True  # whether bfloat16 is native
    current: int = 0  # the device that "cuda" means
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    def wait(self, kind: str, *_: object) -> None:
        """Note a wait, at the innermost line outside of torch and of this file."""
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.startswith((TORCH, __file__)):
            frame = frame.f_back
        self.waits[kind, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"] += 1

    def place(self, device: Any) -> torch.device | None:
        """The pretended device that is named; None for the CPU, or if none is named.

        C++ takes our tensors for tensors on "meta", and asks for new ones there.
        """
        if device is None:
            return None
        named = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if named.type not in ("cuda", "meta"):
            return None
        index = self.current if named.index is None else named.index
        if index >= self.devices:
            raise RuntimeError(f"CUDA error: invalid device ordinal ({index} of {self.devices})")
        return torch.device("cuda", index)


_machine = Machine()  # the present one


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
    """A tensor on a pretended device; `held` is the CPU tensor that has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: self.place)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, held: Tensor, place: torch.device) -> "Pretended":
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )

    def __init__(self, held: Tensor, place: torch.device) -> None:
        self.held, self.place = held, place

    def __repr__(self) -> str:
        _machine.wait("print")
        return repr(self.held).removesuffix(")") + f", device='{self.place}')"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo: dict) -> "Pretended":
        if id(self) not in memo:
            copy = self.detach().clone().requires_grad_(self.requires_grad)
            memo[id(self)] = copy
            copy.__dict__.update({**self.__dict__, "held": copy.held})
        return memo[id(self)]

    def __reduce_ex__(self, protocol: int) -> Any:
        raise NotImplementedError("A pretended tensor cannot be pickled; save `.cpu()`.")

    def numpy(self, *, force: bool = False) -> Any:
        """As on a GPU: not without asking."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {self.place} device type tensor to numpy. Use Tensor.cpu() to copy the "
            f"tensor to host memory first."
        )

    def __array__(self, *_: object, **__: object) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        """Read it all."""
        return self.detach().cpu().tolist()

    def get_device(self) -> int:
        """The device's number."""
        return self.place.index

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


def held(tensor: Tensor) -> Tensor:
    """The CPU tensor behind a tensor."""
    return tensor.held if isinstance(tensor, Pretended) else tensor


def compute(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operator's result, computed on the CPU and put where it belongs."""
    tensors = tensors_in(args, kwargs)
    there = {id(t.held): t for t in tensors if isinstance(t, Pretended)}
    asked = kwargs.get("device")
    if not there and _machine.place(asked) is None:
        return func(*args, **kwargs)
    name = func._schema.name.split("::")[1]
    if any(t.is_meta for t in tensors):
        raise RuntimeError(f"{name} has met a tensor without numbers: it was made past `pretend`.")
    if name in COPIES:
        count_copies(name, args, kwargs)
    elif there:
        refuse_mixture(name, args, tensors)
        if name in WAITS or asks_for_positions(name, args):
            _machine.wait(name)

    goal = goal_of(name, args, asked, list(there.values()))
    plain_args, plain = each(held, args), each(held, kwargs)
    if asked is not None:
        plain["device"] = CPU
    with torch.no_grad():
        result = func(*plain_args, **plain)

    def wrap(value: Tensor) -> Tensor:
        known = there.get(id(value))
        if known is not None and known.shape != value.shape:
            raise NotImplementedError(f"{func} changes a shape in place.")
        if known is None and goal is not None:
            return Pretended(value, goal)
        return value if known is None else known

    return each(wrap, result)


def goal_of(
    name: str,  # of an operator
    args: tuple,
    asked: Any,  # its argument `device`
    there: list[Pretended],  # its tensors on a pretended device
) -> torch.device | None:
    """Where a result belongs; None for the CPU."""
    if name == "copy_":
        return args[0].place if isinstance(args[0], Pretended) else None
    if there and (asked is None or torch.device(asked).type == "meta"):
        return there[0].place
    return _machine.place(asked)


def count_copies(name: str, args: tuple, kwargs: dict[str, Any]) -> None:
    """Note the copies between host and device that the host waits for."""
    if name == "_to_copy":
        asked, later = kwargs.get("device"), kwargs.get("non_blocking", False)
        pairs = [] if asked is None else [(_machine.place(asked) is not None, args[0])]
    else:
        goals, sources = (x if isinstance(x, list | tuple) else [x] for x in args[:2])
        later = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        pairs = [(isinstance(g, Pretended), s) for g, s in zip(goals, sources, strict=True)]
    for to_device, source in pairs:
        from_device = isinstance(source, Pretended)
        if from_device and not to_device and not later:
            _machine.wait("to host")
        if to_device and not from_device and not (later and pinned(source)):
            _machine.wait("to device")


def refuse_mixture(name: str, args: tuple, tensors: list[Tensor]) -> None:
    """Raise RuntimeError where tensors of two devices meet; a CPU's scalars and indices may."""
    home = next(t.place for t in tensors if isinstance(t, Pretended))
    strangers = [t for t in tensors if t.device != home]
    if name in INDEXED and isinstance(args[0], Pretended):
        indices = [t for t in strangers if t.device == CPU and any(t is i for i in args[1])]
        for _ in indices:
            _machine.wait("index to device")
        strangers = [t for t in strangers if not any(t is i for i in indices)]
    for stranger in strangers:
        if stranger.dim() > 0 or stranger.device != CPU or name in JOINS:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{home} and {stranger.device}! ({name})"
            )


def asks_for_positions(name: str, args: tuple) -> bool:
    """Whether an index is a mask, whose positions must be counted first."""
    if name not in INDEXED or (name != "index" and args[2].numel() == 1):
        return False  # filling under a mask needs no positions
    return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])


class Calls(TorchFunctionMode):
    """Every call in Python: what C++ would settle before an operator begins is settled here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        check_generator(args, kwargs)
        if kwargs.pop("pin_memory", False):
            return pin(func(*args, **kwargs))
        if name in ("tensor", "as_tensor", "asarray") and _machine.place(kwargs.get("device")):
            device, grad = kwargs.pop("device"), kwargs.pop("requires_grad", False)
            given = isinstance(args[0], Tensor)
            made = args[0] if given else func(*args, **kwargs)
            return made.to(device, kwargs.get("dtype")).requires_grad_(grad)
        if name == "new_tensor" and isinstance(args[0], Pretended):
            kwargs.setdefault("dtype", args[0].dtype)
            return torch.tensor(*args[1:], **kwargs).to(args[0].place)
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], Pretended):
            args = (args[0], as_indices(args[1]), *args[2:])
        if name in TO_16 | TO_32 and torch.is_autocast_enabled("cuda"):
            wanted = torch.get_autocast_dtype("cuda") if name in TO_16 else torch.float32
            args, kwargs = each(lambda tensor: as_autocast(tensor, wanted), (args, kwargs))
        return func(*args, **kwargs)


def as_indices(index: Any) -> Any:
    """Lists in an index as CPU tensors: C++ would put them on the device itself."""
    if isinstance(index, tuple):
        return tuple(as_indices(one) for one in index)
    if isinstance(index, list) or type(index).__module__ == "numpy":
        return torch.as_tensor(index)
    return index


def as_autocast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor on the device in autocast's format, if it is one of autocast's."""
    ours = isinstance(tensor, Pretended) and tensor.is_floating_point()
    return tensor.to(dtype) if ours and tensor.dtype != torch.float64 else tensor


def check_generator(args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise RuntimeError for a generator of another device than the numbers'."""
    generator = kwargs.get("generator")
    if generator is None:
        return
    tensors = tensors_in(args)
    there = _machine.place(kwargs.get("device", tensors[0].device if tensors else None)) or CPU
    if there.type != generator.device.type:
        raise RuntimeError(
            f"Expected a '{there.type}' device type for generator but found "
            f"'{generator.device.type}'"
        )


class Generator(torch.Generator):
    """A generator that may say it is a pretended device's; its numbers are the CPU's."""

    device = property(lambda self: self.place)

    def __new__(cls, device: Any = "cpu") -> "Generator":
        generator = super().__new__(cls)
        generator.place = _machine.place(device) or CPU
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        """All is done; torch's own takes no device of ours."""


real_to = Tensor.to
real_join = dist.init_process_group


def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, the device's number filled in, and nothing done where nothing is to do."""
    copy, other = kwargs.pop("copy", False), kwargs.pop("other", None)
    if isinstance(kwargs.get("device", args[0] if args else None), int):
        kwargs["device"], args = _machine.place(kwargs.get("device", *args[:1])), args[1:]
    parse = torch._C._nn._parse_to
    device, dtype, later, layout = parse(*(() if other is None else (other,)), *args, **kwargs)
    settings: dict[str, Any] = {"non_blocking": later, "copy": copy}
    if layout is not None:
        settings["memory_format"] = layout
    example = other if other is not None else args[0] if args else None
    if isinstance(example, Pretended):
        device = example.place
    device = _machine.place(device) or device
    if isinstance(tensor, Pretended) and device == tensor.place:
        device = None
    return real_to(tensor, device, dtype or tensor.dtype, **settings)


def join(backend: str, *args: Any, device_id: Any = None, **kwargs: Any) -> None:
    """`init_process_group`: NCCL's part is played by gloo, which takes the tensors that we hold."""
    real_join("gloo" if backend == "nccl" else backend, *args, **kwargs)


def cuda(machine: Machine) -> dict[str, Any]:
    """What stands in `torch.cuda` while it is pretended."""
    random_state = torch.get_rng_state
    stream = SimpleNamespace(is_capturing=lambda: False, synchronize=machine.wait)

    def set_device(device: Any) -> None:
        machine.current = machine.place(device).index

    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: machine.devices,
        "current_device": lambda: machine.current,
        "set_device": set_device,
        "synchronize": lambda device=None: machine.wait("synchronize"),
        "is_bf16_supported": lambda including_emulation=True: machine.bf16 or including_emulation,
        "is_current_stream_capturing": lambda: False,
        "current_stream": lambda device=None: stream,
        "get_rng_state": lambda device="cuda": random_state(),
        "set_rng_state": lambda new_state, device="cuda": machine.place(device),
        "manual_seed_all": lambda seed: None,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (8, 0) if machine.bf16 else (7, 5),
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
    }


TENSOR = {
    "to": to,
    "cuda": lambda self, device=None, non_blocking=False: to(
        self, _machine.place("cuda" if device is None else device), non_blocking=non_blocking
    ),
    "pin_memory": lambda self, *_: pin(self),
    "is_pinned": lambda self, *_: not isinstance(self, Pretended) and pinned(self),
}


@contextmanager
def pretend(
    devices: int = 1,
    bf16: bool = True,  # whether bfloat16 is native
) -> Iterator[Machine]:
    """Give torch so many CUDA devices, and watch what the host waits for."""
    global _machine
    before, _machine = _machine, Machine(devices, bf16)
    changes = [(torch.cuda, cuda(_machine)), (Tensor, TENSOR)]
    changes += [(torch, {"Generator": Generator, "inference_mode": torch.no_grad})]
    changes += [(dist, {"init_process_group": join})]
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for where, named in changes:
            for name, value in named.items():
                stack.enter_context(patch.object(where, name, value))
        stack.enter_context(
            patch.object(torch.accelerator, "current_stream", torch.cuda.current_stream)
        )
        # A module moved keeps its parameters' identity, as between two real devices.
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapping)
        stack.enter_context(Operators())
        stack.enter_context(Calls())
        try:
            yield _machine
        finally:
            _machine = before
