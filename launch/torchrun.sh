#!/bin/sh
# Under torchrun, on one machine:   NPROC=4 launch/torchrun.sh +strategy=fsdp
# on several, the same on each:     NNODES=2 NPROC=8 RDZV_ENDPOINT=node0:29500 launch/torchrun.sh +strategy=fsdp
# with NNODES=1:2 it goes on with the machines that are left.
# MAX_RESTARTS starts the ranks again from the last checkpoint when one has died.
# RDZV_ID is one run's alone, and the same on each of its machines; on one machine torchrun makes it.
set -eu
if [ -n "${RDZV_ENDPOINT:-}" ]; then
  set -- --rdzv-backend c10d --rdzv-endpoint "$RDZV_ENDPOINT" --rdzv-id "${RDZV_ID:-trainer-$RDZV_ENDPOINT}" -m trainer "$@"
else
  set -- --standalone -m trainer "$@"
fi
# A new store for each start of the ranks: in a shared one they would find the addresses of the dead.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec python -m torch.distributed.run --nnodes "${NNODES:-1}" --nproc-per-node "${NPROC:-1}" --max-restarts "${MAX_RESTARTS:-0}" "$@"
