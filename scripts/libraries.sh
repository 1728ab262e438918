#!/usr/bin/env bash
# Is there what compiling needs? Called by make, once for a build folder, before anything is compiled: one line with the
# packages' names says more than the compiler's.
#
#     CC=gcc CXX=g++ CFLAGS=… scripts/libraries.sh build|tests|emulation
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh

# header, library or -, Debian's package, what it is
case ${1-} in
    build) rows="stdio.h - libc6-dev the C library
oneapi/dnnl/dnnl.h dnnl libdnnl-dev oneDNN
cblas.h openblas libopenblas-openmp-dev OpenBLAS
cjson/cJSON.h cjson libcjson-dev cJSON" ;;
    tests) rows="cmocka.h cmocka libcmocka-dev cmocka" ;;
    emulation) rows="boost/version.hpp - libboost-dev Boost
boost/context/detail/fcontext.hpp boost_context libboost-context-dev Boost.Context" ;;
    *) echo "libraries.sh: build, tests or emulation?" >&2; exit 2 ;;
esac

language=c
read -ra compiler <<<"${CC:-gcc}"
[ "$1" != emulation ] || { language=c++; read -ra compiler <<<"${CXX:-g++}"; }
read -ra flags <<<"${CFLAGS-}"
lacking=() packages=()

lacks() { # WHAT PACKAGE
    lacking+=("$1") packages+=("$2")
}

compiles() { # HEADER, then flags
    printf '#include <%s>\n' setjmp.h stdarg.h stddef.h stdint.h stdio.h "$1" | sed '$a int main(void) { return 0; }' |
        "${compiler[@]}" "${flags[@]}" -x $language - "${@:2}" >/dev/null 2>&1
}

if ! command -v "${compiler[0]}" >/dev/null; then
    lacks "the compiler ${compiler[0]}" "$([ $language = c ] && echo gcc || echo g++)"
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    while read -r header library package name; do
        if ! compiles "$header" -fsyntax-only; then lacks "$name ($header)" "$package"
        elif [ "$library" != - ] && ! compiles "$header" -x none "-l$library" -o "$folder/linked"; then
            lacks "$name (lib$library)" "$package"
        fi
    done <<<"$rows"
    [ "$1" != emulation ] || command -v "${MPICXX:-mpicxx}" >/dev/null || lacks "MPI (mpicxx)" libopenmpi-dev
fi

[ ${#lacking[@]} -gt 0 ] || exit 0
text=$(printf ', %s' "${lacking[@]}")
echo "train_gpt: missing: ${text:2}: $(how_to_install "${packages[@]}")${STANDALONE_HINT-}" >&2
exit 2
