#!/usr/bin/env bash
# From your own machine: `ray up FILE`, after a look for the token. Without a token file `ray up`
# ends with a traceback, in a cloud only after it has started the head.
set -euo pipefail

if (($# == 0)); then
  echo "usage: up.sh FILE [OPTIONS OF ray up]" >&2
  exit 2
fi
token=$HOME/.ray/auth_token
if [[ ! -s $token ]]; then
  echo "up.sh: no token at ~/.ray/auth_token, nothing was started; make it once: ray get-auth-token --generate" >&2
  exit 2
fi
chmod 600 "$token"
exec ray up "$@"
