"""One progress bar for the terminal, the notebook, and a launched process that reports to another.

In a notebook the bar is one line of text that is overwritten, so that a stored notebook holds the
finished line and no widget.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from typing import ClassVar

from tqdm import tqdm

# Set in a launched process: when its cold wall began. It writes lines of JSON instead of a bar.
WORKER = "FASTTRICKS_STARTED"
QUIET = "FASTTRICKS_QUIET"  # set to anything: nothing of this is shown
EVERY = 0.2  # seconds between two updates


class NotebookLine:
    """A file that shows the last line written to it, in place, as a notebook cell's output."""

    shared: ClassVar["NotebookLine | None"] = None  # the line of all bars, inside `course.one_line`

    def __init__(self) -> None:
        from IPython.display import display

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        """Show the text instead of the one before."""
        if text.strip():
            self.handle.update({"text/plain": text.strip("\r\n")}, raw=True)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    ipython = sys.modules.get("IPython")
    return "ipykernel" in sys.modules and ipython is not None and ipython.get_ipython() is not None


def say(sentence: str) -> None:
    """Tell the reader something beside the bar, from a launched process too."""
    line = json.dumps({"note": sentence}) if WORKER in os.environ else f"\n{sentence}"
    print(line, file=sys.stderr, flush=True)


class Bar:
    """Counts the images of one run, inside a `with`; `close` leaves one line behind."""

    def __init__(self, label: str, total: int, shown: bool = True) -> None:
        self.label, self.last = label, 0.0
        self.reporting = shown and WORKER in os.environ
        self.drawing = shown and not self.reporting and QUIET not in os.environ
        told = self.drawing and in_notebook()
        self.file = (NotebookLine.shared or NotebookLine()) if told else sys.stderr
        self.bar = tqdm(
            total=total,
            desc=label,
            unit=" images",
            unit_scale=True,
            file=self.file,
            mininterval=EVERY,
            ascii=True,
            ncols=96,
            leave=False,
            disable=None if self.drawing else True,  # None: where the file is no terminal
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, images: int, accuracy: float | None) -> None:
        """Move the bar to so many images, and show the last validation accuracy."""
        if time.monotonic() - self.last < EVERY:
            return
        self.last = time.monotonic()
        if self.reporting:
            print(json.dumps({"images": images, "accuracy": accuracy}), flush=True)
        elif self.drawing:
            self.bar.set_postfix_str(f"val {accuracy:.4f}" if accuracy else "", refresh=False)
            self.bar.update(images - self.bar.n)

    def close(self, line: str) -> None:
        """Replace the bar by the line."""
        self.bar.close()
        if self.drawing:
            self.file.write(f"{self.label}: {line}\n")

    def follow(self, lines: Iterable[str]) -> None:
        """Show what a launched process reports; other lines it may write are passed over."""
        for line in lines:
            try:
                report = json.loads(line)
                if "note" in report:
                    say(report["note"])
                else:
                    self.show(report["images"], report["accuracy"])
            except (ValueError, TypeError, KeyError):
                continue
