#!/usr/bin/env bash
# What aws.yaml and gcp.yaml have every machine do; nobody else calls it.
#
#   vm.sh prepare        packages and .venv, as `make setup` makes it; ten minutes once
#   vm.sh head           shares /mnt/gfn_ray and starts Ray's head, which offers no CPUs
#   vm.sh worker HEAD    mounts that directory and joins the head at this address
set -euo pipefail
CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly SHARED=/mnt/gfn_ray
# Networks of private addresses; the cloud's firewall lets only machines of this cluster in.
readonly PRIVATE=(10.0.0.0/8 172.16.0.0/12 192.168.0.0/16)

export PATH=$PWD/.venv/bin:$HOME/.local/bin:$PATH
export GFN_RAY_HOME=$SHARED GFN_RAY_CACHE=$SHARED/cache
# A stopped job gets five minutes, not Ray's three seconds, for its checkpoint.
export RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=300 RAY_USAGE_STATS_ENABLED=0

prepare() {
  # A machine that has just booted may still be installing packages by itself.
  sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
  sudo apt-get -o DPkg::Lock::Timeout=300 install -qq --yes g++ nfs-common nfs-kernel-server
  sudo install --directory --owner="$(id -un)" "$SHARED"
  chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  PROFILE=gpu bash scripts/setup.sh
  # So that `ray exec`, `ray submit` and a person who logs in find the same.
  if ! grep -q GFN_RAY_HOME ~/.bashrc; then
    echo "export PATH=$PWD/.venv/bin:\$PATH GFN_RAY_HOME=$GFN_RAY_HOME GFN_RAY_CACHE=$GFN_RAY_CACHE RAY_AUTH_MODE=token" >>~/.bashrc
  fi
}

# A login may open 1,024 files, which a node with some actors exceeds.
start_ray() {
  ulimit -n "$(ulimit -Hn)"
  ray stop
  exec ray start "$@"
}

case ${1:-} in
  prepare) prepare ;;
  head)
    printf "$SHARED %s(rw,async,no_subtree_check)\n" "${PRIVATE[@]}" | sudo tee /etc/exports.d/gfn_ray.exports >/dev/null
    sudo exportfs -ra
    start_ray --head --port 6379 --num-cpus 0 --dashboard-host 127.0.0.1 \
      --autoscaling-config ~/ray_bootstrap_config.yaml
    ;;
  worker)
    head=${2:?vm.sh worker takes the address of the head}
    mountpoint -q "$SHARED" || sudo mount -t nfs "$head:$SHARED" "$SHARED"
    start_ray --address "$head:6379"
    ;;
  *)
    echo "vm.sh: got '${1:-}'; it takes prepare, head or worker HEAD" >&2
    exit 2
    ;;
esac
