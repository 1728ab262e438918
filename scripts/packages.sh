# shellcheck shell=bash
# Which packages are needed, why, and which are missing? By Debian's names, which Ubuntu has too; Fedora's and Arch's are
# in a table. Sourced by quickstart.sh, check.sh and libraries.sh:
#
#     need CHECK PACKAGE "WHY"     notes a package that must be there
#     like CHECK PACKAGE "WHY"     the same for one that is only pleasant to have
#     install_missing YES          says what is missing and why, asks unless YES is 1, installs with apt
#     how_to_install PACKAGE…      the commands, one line
#
# CHECK is how one sees that it is there already, wherever it came from: cmd:PROGRAM, header:FILE.h,
# python:MODULE, or dpkg:FILE.h for Debian's own word, and elsewhere the header's.

# Debian, Fedora, Arch.
package_names="
gcc gcc gcc
g++ gcc-c++ gcc
make make make
pkg-config pkgconf-pkg-config pkgconf
libc6-dev glibc-devel glibc
libdnnl-dev onednn-devel onednn
libopenblas-openmp-dev openblas-devel openblas
libcjson-dev cjson-devel cjson
libcmocka-dev libcmocka-devel cmocka
libboost-dev boost-devel boost
libboost-context-dev boost-devel boost
libopenmpi-dev openmpi-devel openmpi
openmpi-bin openmpi openmpi
clang clang clang
libclang-rt-dev compiler-rt compiler-rt
libomp-dev libomp-devel openmp
iproute2 iproute iproute2
slurm-wlm slurm slurm-llnl
chromium chromium chromium
python3-torch python3-torch python-pytorch
python3 python3 python
python3-matplotlib python3-matplotlib python-matplotlib
python3-numpy python3-numpy python-numpy
python3-yaml python3-pyyaml python-yaml
python3-pytest python3-pytest python-pytest
"

missing=() missing_why=() optional=() optional_why=()

has_header() { # FILE.h
    echo "#include <$1>" | g++ -E -x c++ -I/usr/include/openblas -I/usr/include/openmpi-x86_64 - >/dev/null 2>&1 ||
        echo "#include <$1>" | gcc -E -x c -I/usr/include/openblas - >/dev/null 2>&1
}

is_there() { # CHECK PACKAGE
    case $1 in
        cmd:*) command -v "${1#cmd:}" >/dev/null ;;
        header:*) has_header "${1#header:}" ;;
        python:*) python3 -c "import ${1#python:}" 2>/dev/null ;;
        dpkg:*)
            if command -v dpkg-query >/dev/null; then
                [ "$(dpkg-query -W -f '${db:Status-Status}' "$2" 2>/dev/null)" = installed ]
            else
                has_header "${1#dpkg:}"
            fi ;;
    esac
}

need() {
    is_there "$1" "$2" || { missing+=("$2") missing_why+=("$3"); }
}

like() {
    is_there "$1" "$2" || { optional+=("$2") optional_why+=("$3"); }
}

build_packages() { # what building and the demo need
    need cmd:gcc gcc "the C compiler"
    need cmd:make make "runs the build"
    need cmd:pkg-config pkg-config "finds the libraries"
    need header:stdio.h libc6-dev "the C library's headers"
    need header:oneapi/dnnl/dnnl.h libdnnl-dev "oneDNN: matrix products on the CPU"
    need header:cjson/cJSON.h libcjson-dev "cJSON: reads and writes JSON"
    need dpkg:cblas.h libopenblas-openmp-dev "OpenBLAS: matrix products in double precision"
    need cmd:python3 python3 "makes the data and the plots"
}

explain() { # TITLE, then the names of two arrays: packages, reasons
    local -n packages=$2 reasons=$3
    local i
    echo "$1"
    for i in "${!packages[@]}"; do printf '  %-24s %s\n' "${packages[i]}" "${reasons[i]}"; done
}

names_for() { # COLUMN PACKAGE…: what Debian's packages are called there, each once
    local column=$1 package
    shift
    for package; do
        awk -v name="$package" -v column="$column" '$1 == name { print $column; found = 1 }
            END { if (!found) print name }' <<<"$package_names"
    done | awk '!seen[$0]++' | paste -sd " "
}

how_to_install() { # PACKAGE…
    printf 'Debian, Ubuntu: apt install %s; Fedora: dnf install %s; Arch: pacman -S %s' \
        "$(names_for 1 "$@")" "$(names_for 2 "$@")" "$(names_for 3 "$@")"
}

install_missing() { # YES
    local yes=$1 sudo="" answer="" package
    if [ ${#missing[@]} -eq 0 ] && { [ ${#optional[@]} -eq 0 ] || [ "$yes" != 1 ]; }; then
        [ ${#optional[@]} -eq 0 ] || explain "Not installed, not needed (-y installs):" optional optional_why
        return 0
    fi
    [ ${#missing[@]} -eq 0 ] || explain "Missing:" missing missing_why
    [ ${#optional[@]} -eq 0 ] || explain "Missing, but not needed:" optional optional_why
    if ! command -v apt-get >/dev/null; then
        echo "There is no apt-get here. $(how_to_install "${missing[@]}" "${optional[@]}")" >&2
        [ ${#missing[@]} -eq 0 ]
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        sudo=sudo
        command -v sudo >/dev/null || { echo "Installing needs root, and there is no sudo." >&2; return 1; }
    fi
    if [ "$yes" != 1 ]; then
        [ -t 0 ] || { echo "Nobody to ask: give -y to install them with apt." >&2; return 2; }
        read -r -p "Install them with apt${sudo:+ (sudo)}? [y/N] " answer
        case $answer in
            [yY]*) ;;
            *) echo "Nothing was installed." >&2; return 1 ;;
        esac
    fi
    $sudo apt-get update -qq || echo "apt-get update failed; going on with the lists that are there." >&2
    local install=(${sudo:+sudo} env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq)
    install+=(--no-install-recommends)
    if [ ${#missing[@]} -gt 0 ]; then
        "${install[@]}" "${missing[@]}" >/dev/null || { echo "apt-get install failed." >&2; return 1; }
    fi
    for package in "${optional[@]}"; do
        "${install[@]}" "$package" >/dev/null 2>&1 || echo "(without $package: apt has none here)"
    done
}
