#!/bin/sh
# As a job of a running Ray cluster: RAY_API_SERVER_ADDRESS=http://head:8265 launch/ray_job.sh +strategy=fsdp launcher.nproc_per_node=8
# Run it in a directory that all machines of the cluster share. Its exit status is the run's.
set -eu
exec python -m trainer.launchers.ray_job "$@"
