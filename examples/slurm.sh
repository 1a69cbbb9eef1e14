#!/bin/bash
# mbert train pretrain on 2 nodes with 4 GPUs each: sbatch examples/slurm.sh
# The scheduler's SIGTERM saves the state; with --requeue the job returns and resumes where it was.
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
