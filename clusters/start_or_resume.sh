#!/usr/bin/env bash
# Starts a run, or resumes it where its directory is already there: what a scheduler that runs the same
# command again needs.
#
#   start_or_resume.sh RUN_DIR JOB [SETTING...]     such as /mnt/gfn_ray/runs/a jobs/infill.py --steps 200
#
# RUN_DIR is absolute. A resumed run keeps the settings that it began with; those given here do not count.
set -euo pipefail

if (($# < 2)); then
  echo "start_or_resume: got $# arguments; it takes RUN_DIR JOB [SETTING...]" >&2
  exit 2
fi
run_dir=$1 job=$2
shift 2

if [[ ! -f $run_dir/config.toml ]]; then
  exec python "$job" --run-dir "$run_dir" "$@"
fi
exec python "$job" --resume "$run_dir"
