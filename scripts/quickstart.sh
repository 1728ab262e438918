#!/usr/bin/env bash
# From a fresh Debian machine to a trained model: installs what is missing, builds, runs the demo. (On Fedora and Arch it
# says what to install.)
#
#     scripts/quickstart.sh        asks before it installs anything
#     scripts/quickstart.sh -y     agrees to everything
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh

yes=0
case ${1-} in
    "") ;;
    -y | --yes) yes=1 ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart.sh: $1: only -y is understood" >&2; exit 2 ;;
esac

build_packages
like python:matplotlib python3-matplotlib "draws the loss curve"
install_missing "$yes"

echo "Building (make) …"
make -j"$(nproc)"
exec make demo
