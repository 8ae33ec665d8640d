#!/bin/bash
# A suite on the GPUs of a Slurm cluster: one worker for each, on one folder of runs that all nodes see.
#
#     sbatch --ntasks=8 examples/slurm.sh tickets.yaml runs/tickets
#
# Two minutes before the time limit the workers write checkpoints and end, and the job queues itself again and goes on.
# With jobs of their own the workers start whenever there is room for one:
#
#     lora-bench plan tickets.yaml --prepare
#     sbatch --array=1-8 --gpus=1 --cpus-per-task=4 --time=4:00:00 --signal=TERM@120 --wrap "exec srun lora-bench work runs/tickets"
#
#SBATCH --job-name=lora-bench
#SBATCH --ntasks=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=4:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

suite=${1:?the suite, as in: sbatch slurm.sh tickets.yaml runs/tickets}
runs=${2:?the folder of its runs, as in: sbatch slurm.sh tickets.yaml runs/tickets}

# Models and data are obtained here, once, before the workers need them.
lora-bench plan "$suite" --runs "$(dirname "$runs")" --prepare || exit

# A worker that ends says nothing of the others.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 --wait=0 --label \
    lora-bench work "$runs" --among "$SLURM_NTASKS"
code=$?

# 143: the time is nearly up. A job that somebody cancelled, or that Slurm takes back itself, is no longer running.
if [ $code -eq 143 ] && [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit $code
fi
lora-bench report "$runs"
exit $code
