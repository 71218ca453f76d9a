#!/usr/bin/env bash
# Train on several machines of a SLURM cluster: sbatch examples/slurm.sh [options of `fasttricks train`]
# SLURM ends a job with SIGTERM when its time is over or its machines are needed elsewhere. The run is
# then kept, and goes on when the job is queued again.
#SBATCH --job-name=fasttricks
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
processes=${SLURM_GPUS_ON_NODE:-2} # without GPUs, two processes a machine

# A folder that all machines see is not needed: the first process keeps the run, and sends it round.
srun torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$processes" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" \
    -m fasttricks train --checkpoint "kept-$SLURM_JOB_NAME" "$@"
