#!/bin/bash
# mbert train pretrain on 2 nodes with 4 GPUs each: sbatch examples/slurm.sh
# The scheduler's SIGTERM and --max-minutes save the state. The job is queued again until the run is finished; a job that
# is preempted comes back as well (--requeue). In the job's environment: `mbert` installed, MBERT_WORKSPACE.
#SBATCH --job-name=mbert
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue

set -eu
workspace=${MBERT_WORKSPACE:-/data/workspace}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
    -m mbert train pretrain --workspace "$workspace" --workers 6 --max-minutes 1430 "$@"

# Training ends normally at its time limit: the job is queued again here.
if grep -q '"reason": "the time limit"' "$workspace/runs/pretrain/status.json"; then
    scontrol requeue "$SLURM_JOB_ID"
fi
