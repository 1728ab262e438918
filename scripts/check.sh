#!/usr/bin/env bash
# Is everything right? Installs what the tests need and runs `make test`, whose last line stays last.
#
#     scripts/check.sh        asks before it installs anything
#     scripts/check.sh -y     agrees to everything, as it does by itself where CI=true
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh

yes=0
[ "${CI-}" != true ] || yes=1
case ${1-} in
    "") ;;
    -y | --yes) yes=1 ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "check.sh: $1: only -y is understood" >&2; exit 2 ;;
esac

# Debian's own python3 gets its modules from apt; another one (pyenv, conda) does not see those.
python_of_debian() {
    local python
    python=$(command -v python3) || return 0 # none yet: apt will bring Debian's
    [ "$(readlink -f "$python")" = "$(readlink -f /usr/bin/python3 2>/dev/null || echo none)" ]
}

build_packages
need header:cmocka.h libcmocka-dev "cmocka: the C tests"
need header:boost/version.hpp libboost-dev "Boost's headers, for the CUDA emulation"
need dpkg:boost/context/detail/fcontext.hpp libboost-context-dev "Boost.Context: a CUDA thread is a fiber in the emulation"
need cmd:g++ g++ "compiles the CUDA emulation"
need dpkg:mpi.h libopenmpi-dev "MPI: the tests with several ranks"
need cmd:mpirun openmpi-bin "MPI's launcher"
need cmd:clang clang "the second compiler that must give no warning"
need dpkg:omp.h libomp-dev "OpenMP's header for clang"
if python_of_debian; then
    need python:pytest python3-pytest "the Python tests"
    need python:numpy python3-numpy "the Python tests"
    need python:matplotlib python3-matplotlib "the tests of pictures"
    need python:yaml python3-yaml "the tests of Kubernetes' manifests"
fi
like dpkg:sanitizer/asan_interface.h libclang-rt-dev "clang's sanitizers"
like cmd:ip iproute2 "the test of ranks on two machines"
# Its package starts services where something starts services: not on people's machines.
if [ "${CI-}" = true ]; then
    like cmd:srun slurm-wlm "the tests under a Slurm of their own"
    like cmd:chromium chromium "the tests of plot.py's page in a browser"
fi
like cmd:torchrun python3-torch "torchrun: the tests of ranks that it starts (130 MB)"
install_missing "$yes"

has_modules() {
    local python=$1 modules=${*:2}
    "$python" -c "import ${modules// /, }" 2>/dev/null
}

# install_modules NAME…: into build/venv, which sees what python3 has already.
install_modules() {
    echo "Installing $* for $(command -v python3) into build/venv …"
    mkdir -p build
    [ -e build/venv/bin/python3 ] || python3 -m venv --system-site-packages build/venv >/dev/null 2>&1 || return
    build/venv/bin/python3 -m pip install -q "$@" || return
    export PATH="$PWD/build/venv/bin:$PATH"
    hash -r
}

if ! has_modules python3 pytest numpy; then
    install_modules pytest numpy || python3 -m pip install -q pytest numpy
    has_modules python3 pytest numpy || { echo "check.sh: python3 cannot import pytest and numpy" >&2; exit 1; }
fi
has_modules python3 matplotlib || install_modules matplotlib ||
    echo "check.sh: no matplotlib for python3: the tests of pictures are skipped" >&2
has_modules python3 yaml || install_modules pyyaml ||
    echo "check.sh: no yaml for python3: the tests of Kubernetes' manifests are skipped" >&2
# Debian has no package of it.
has_modules python3 tokenizers || install_modules tokenizers ||
    echo "check.sh: no tokenizers for python3: the tests of tokenizer.json are skipped" >&2
has_modules python3 pyarrow || install_modules pyarrow ||
    echo "check.sh: no pyarrow for python3: the tests of Parquet are skipped" >&2
if [ "${CI-}" = true ]; then
    has_modules python3 tensorboard wandb || install_modules tensorboard wandb ||
        echo "check.sh: no tensorboard and wandb for python3: the tests of what is passed on to them are skipped" >&2
fi

# nvcc may come without what reads machine code.
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
    tools=0
    python3 test/sass/gate.py --ready >/dev/null 2>&1 || tools=$?
    [ "$tools" -ne 2 ] || install_modules nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm ||
        echo "check.sh: no cuobjdump and nvdisasm for nvcc: the gate on machine code is skipped" >&2
fi

# Their own floor, where a Python has them: nothing installs them.
if has_modules "${HF_PYTHON:-python3}" torch transformers pytest numpy; then
    make test-hf HF_PYTHON="${HF_PYTHON:-python3}"
fi
exec make test
