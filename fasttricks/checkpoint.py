"""Checkpoints: a run that was cut off goes on from where it was last kept, to the same end.

A checkpoint is one file, `step-N-C.pt`; C is the checksum of its bytes. It holds the model, the
optimiser, the loss scaler, the clock, which run it is, and what each process has for itself: random
states and batch-norm statistics. The position in the data is the number of batches drawn, for the
seed gives their order. Nothing but tensors, numbers and text is loaded: a file cannot run code.
"""

import json
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checks import arguments, refuse_another
from .files import decoded, encoded, replacing
from .progress import say
from .stopping import Interrupted
from .tricks.distributed import ALONE, World

KEPT = 2  # files that stay, for the last one may be damaged
AGREE = 5.0  # seconds at most until the processes ask again whether one has been told to end


class Keeper:
    """Keeps a run in a folder every so many seconds; without a folder it does nothing."""

    def __init__(
        self,
        folder: Path | None = None,
        every: float = 60.0,  # seconds
        run: dict[str, Any] | None = None,  # which run it is, plain values
        world: World = ALONE,
    ) -> None:
        self.folder, self.every, self.run, self.world = folder, every, run, world
        self.due, self.ending = -1, False  # after which step all agree; whether it is to end

    def end(self, *_: object) -> None:
        """End the run after the next step that all agree on; at once where it is asked twice."""
        if self.ending:
            raise KeyboardInterrupt
        self.ending = True
        if self.world.processes == 1 and self.due > 0:  # nobody to agree with, once it has begun
            self.due = self.progress.steps + 1

    def begin(
        self,
        progress: Any,  # a dataclass of plain values, brought up to date in place
        rng: np.random.Generator,
        **parts: Any,  # the model, and what else has a `state_dict`
    ) -> None:
        """Bring a run to where the last checkpoint was, if any. Raises as `newest` does."""
        if self.folder is None:
            return
        self.progress, self.rng, self.parts = progress, rng, parts
        self.device = next(parts["model"].parameters()).device
        mine = self.newest() if self.world.rank == 0 else b""
        found = self.world.everyones(mine)[0]
        if found:
            self.restore(decoded(found))
        self.kept = time.perf_counter()
        self.asked, self.due = (progress.steps, self.kept), progress.steps + 1

    def after_step(self, elapsed: float) -> None:
        """Keep the run if it is time to, `elapsed` seconds after its start.

        The processes agree now and then; the first one turns seconds into the step when they do so
        again. Raises Interrupted when one of them has been told to end, and all is kept.
        """
        now, (step, then) = time.perf_counter(), self.asked
        taken = max(1, self.progress.steps - step)
        ahead = min(int(min(self.every, AGREE) * taken / (now - then)), 2 * taken)
        told = (self.progress.steps + max(1, ahead), now - self.kept >= self.every)
        found = self.world.everyones((*told, self.ending))
        (self.due, keep, _), ending = found[0], any(asked for *_, asked in found)
        self.asked = self.progress.steps, now
        if keep or ending:
            self.save(elapsed)
            self.kept = time.perf_counter()
        if ending:
            raise Interrupted(
                f"Ended when told to, and kept after step {self.progress.steps}: the same command "
                f"goes on from there."
            )

    def save(self, elapsed: float) -> None:
        """Write a checkpoint; where that fails the run goes on, and says so."""
        buffers = dict(self.parts["model"].named_buffers())
        own = {"numpy": self.rng.bit_generator.state, "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        everyones = self.world.everyones(encoded({**own, "buffers": buffers}))
        if self.world.rank > 0:
            return
        content = encoded(
            {
                "run": json.dumps(self.run),
                "progress": {**asdict(self.progress), "train_seconds": elapsed},
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "everyones": everyones,
            }
        )
        name = f"step-{self.progress.steps:09}-{zlib.crc32(content):08x}.pt"
        try:
            with replacing(self.folder / name) as part:
                part.write_bytes(content)
            for old in self.files()[KEPT:]:
                old.unlink()
        except OSError as error:
            say(f"No checkpoint could be written ({error}); the run goes on.")

    def files(self) -> list[Path]:
        """The checkpoints, the last one first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def newest(self) -> bytes:
        """The last whole checkpoint, or nothing. Raises ValueError if it is of another run."""
        for path in self.files():
            try:
                content = path.read_bytes()
                if not path.stem.endswith(f"{zlib.crc32(content):08x}"):
                    raise ValueError("its checksum is wrong")
                run = json.loads(decoded(content)["run"])
            except Exception as error:
                why = str(error).split("\n")[0]
                say(f"{path} is damaged ({why}); the one before is taken.")
                continue
            refuse_another(run, self.run, self.folder)
            return content
        return b""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint. A process that was not there before has fresh random states."""
        for name, part in self.parts.items():
            if state["parts"][name]:
                part.load_state_dict(state["parts"][name])
        vars(self.progress).update(arguments(type(self.progress), state["progress"], "progress"))
        self.progress.resumed += 1
        if self.world.rank < len(state["everyones"]):
            own = decoded(state["everyones"][self.world.rank])
            self.rng.bit_generator.state = own["numpy"]
            torch.set_rng_state(own["torch"])
            if "cuda" in own and self.device.type == "cuda":
                torch.cuda.set_rng_state(own["cuda"], self.device)
            for name, buffer in self.parts["model"].named_buffers():
                buffer.copy_(own["buffers"][name])


UNKEPT = Keeper()
