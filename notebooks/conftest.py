"""Makes nbval strict where it looks away: `pytest --nbval-lax --nbval-current-env notebooks`.

A dead kernel fails at once instead of after the timeout; a cell that ends in error without saying
so fails; a cell tagged as raising must raise; a cell tagged as checked must have been run.
"""

import time
from collections.abc import Iterator
from queue import Empty

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

POLL = 2  # seconds between two looks at whether the kernel lives


class StrictKernel(RunningKernel):
    """A kernel that is watched while it computes, and whose last reply is kept."""

    last_status = "ok"

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """Wait for a cell's reply. Raises RuntimeError for a dead kernel, Empty when time ends."""
        end = time.monotonic() + (timeout or float("inf"))
        while time.monotonic() < end:
            try:
                message = self.get_message(stream="shell", timeout=POLL)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("The kernel died while this cell ran.") from None
                continue
            if message["parent_header"].get("msg_id") == msg_id:
                self.last_status = message["content"]["status"]
                return
        raise Empty


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a cell under the stricter rules."""
    if not isinstance(item, IPyNbCell):
        return (yield)
    if item.options["check"] and item.cell.execution_count is None:
        item.raise_cell_error("This cell is to be checked, but it was never run.")
    item.parent.kernel.__class__ = StrictKernel
    result = yield
    raised = item.parent.kernel.last_status != "ok"
    if raised and not item.options["check_exception"]:
        item.raise_cell_error("This cell ended in an error that it did not show.")
    if item.options["check_exception"] and not raised:
        item.raise_cell_error("This cell was to raise an error, and did not.")
    return result
