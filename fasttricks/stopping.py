"""How a run is told to end: by its user (SIGINT) or by whoever owns the machine (SIGTERM)."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """An interrupt that has been dealt with: a notebook shows its sentence and no traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [str(self)]


@contextmanager
def listening(hear: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within it, a signal that was not ignored before calls `hear`; only a main thread hears."""
    main = threading.current_thread() is threading.main_thread()
    heard = [s for s in SIGNALS if main and signal.getsignal(s) != signal.SIG_IGN]
    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
