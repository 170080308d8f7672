#!/usr/bin/env bash
# From your own machine: ends the cluster of FILE and leaves nothing running. `ray down` alone does
# not stop the workers of provider local.
set -euo pipefail

if (($# != 1)); then
  echo "usage: down.sh FILE" >&2
  exit 2
fi
ended=0
ray exec "$1" 'bash ~/skdtune/docs/cluster/node.sh stop' || ended=1
ray down -y "$1" || ended=1
if ((ended != 0)); then
  echo "down.sh: not all of it could be ended, see above" >&2
fi
exit "$ended"
