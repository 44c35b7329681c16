#!/usr/bin/env bash
# Starts Ray on this machine, for this account and on loopback alone, as `make ray-up` does. Options of
# `ray start` may follow: `local.sh --block` stays until Ctrl-C, `--num-cpus 4` offers four cores.
set -euo pipefail
CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH

# Without a token, whoever reaches Ray's ports can run code, and Ray would write the token for all
# accounts to read.
umask 077
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
mkdir -p ~/.ray
chmod 700 ~/.ray
ray get-auth-token --generate >/dev/null 2>&1

# On Linux Ray listens on every network interface whatever the address options say, unless told that it
# will not form a cluster.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
exec ray start --head --node-ip-address 127.0.0.1 --dashboard-host 127.0.0.1 --disable-usage-stats "$@"
