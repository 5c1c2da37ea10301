#!/bin/sh
# NPROC processes on this machine: launch/local.sh 4 +strategy=fsdp train.max_steps=100
set -eu
nproc=${1:?usage: launch/local.sh NPROC [overrides]}
shift
exec python -m trainer "launcher.nproc_per_node=$nproc" "$@"
