"""The batch script starts what it says, where a scheduler's commands are imitated."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "slurm.sh"
COMMANDS = {
    "srun": '#!/bin/sh\nexec "$@"\n',
    "scontrol": "#!/bin/sh\necho 127.0.0.1\necho never\n",
    "torchrun": f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n',
}


@pytest.mark.skipif(sys.platform == "win32", reason="SLURM needs a shell")
def test_the_batch_script(tmp_path):
    for name, text in COMMANDS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
    given |= {"SLURM_JOB_NAME": "job", "PORT": str(port), "FASTTRICKS_BUDGET": "smoke"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    words = ["--tricks", "cyclic,precision", "--images", "256", "--share-devices"]
    said = []
    for _ in range(2):  # the second time the finished run comes back, for all processes
        done = subprocess.run(
            ["bash", str(SCRIPT), *words],
            cwd=tmp_path,
            env={**os.environ, **given, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        assert "2 process(es)" in done.stdout
        said.append(done.stdout)
    kept = {path.name for path in (tmp_path / "kept-job").iterdir()}
    assert kept == {"run.json", "net.safetensors"}
    assert ["finished at" in text for text in said] == [False, True]
