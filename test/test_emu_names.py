"""Do the names of CUDA, cuBLASLt and NCCL that the emulation's headers (test/emu/include) declare exist in the real ones, with the
same values, and as many parameters?

Needs the headers of a CUDA toolkit (CUDA_HOME, default /usr/local/cuda, or beside nvcc); without them, or without NCCL's, those
tests are skipped. Nothing is linked or run.
"""
import os
import re
import shlex
import shutil
import subprocess

import pytest

from program import ROOT, file_bytes

INCLUDE = os.path.join(ROOT, "test", "emu", "include")
# A header of the emulation, and the real one of its names.
HEADERS = {"cuda_runtime.h": "cuda_runtime_api.h", "library_types.h": "library_types.h", "cublasLt.h": "cublasLt.h", "nccl.h": "nccl.h"}
SIZES = {"cublasLt.h": ["cublasLtMatmulAlgo_t", "cublasLtMatmulHeuristicResult_t"], "nccl.h": ["ncclUniqueId"]}
# Those that the real header makes of a macro or a template, whose parameters a function pointer does not show.
NO_FUNCTION = {"cudaGetDeviceProperties", "cudaFuncGetAttributes"}


def real_include():
    nvcc = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), nvcc and os.path.dirname(os.path.dirname(os.path.realpath(nvcc))), "/usr/local/cuda"]
    return next((os.path.join(place, "include") for place in places if place and os.path.exists(f"{place}/include/cuda_runtime_api.h")), None)


def text_of(header):
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", file_bytes(INCLUDE, header).decode(), flags=re.DOTALL)


def enumerators(text):
    """{name: its value as it is written}, of enumerations and of macros that are numbers."""
    found = dict(re.findall(r"\b((?:cuda|CUDA|CUBLAS|cublas|nccl|NCCL)\w+)\s*=\s*([\w |]+?)\s*[,}\n]", text))
    found.update(re.findall(r"^#define\s+((?:cuda|CUDA|NCCL)\w+)\s+(\w+)\s*$", text, re.MULTILINE))
    return found


def functions(text):
    """{name: how many parameters it has}."""
    found = {}
    for name, parameters in re.findall(r"\b((?:cuda|cublasLt|nccl)[A-Z]\w+)\(([^(){};]*)\)\s*;", text):
        found[name] = 0 if parameters.strip() in ("", "void") else parameters.count(",") + 1
    return found


def assertions(header):
    text = text_of(header)
    lines = [f'static_assert((long long)({name}) == (long long)({value}), "{name}");' for name, value in enumerators(text).items()]
    lines += [f'static_assert(arity(&::{name}) == {count}, "{name}");' for name, count in functions(text).items() if name not in NO_FUNCTION]
    return lines


def syntax_check(text, include):
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++17", "-fsyntax-only", "-fmax-errors=20", "-isystem", include, "-x", "c++", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)


def compiled(header, lines, include):
    """What the compiler says of these lines with a header."""
    return syntax_check("\n".join([f"#include <{HEADERS[header]}>", "#include <stddef.h>",
                                   "template <typename R, typename... A> constexpr size_t arity(R (*)(A...)) { return sizeof...(A); }",
                                   *lines, ""]), include)


@pytest.fixture(scope="module")
def include():
    found = real_include()
    if not found:
        pytest.skip("no headers of a CUDA toolkit")
    return found


@pytest.mark.parametrize("header, least", [("cuda_runtime.h", 90), ("library_types.h", 6), ("cublasLt.h", 60), ("nccl.h", 25)])
def test_names_are_the_real_ones_with_their_values_and_parameters(include, header, least):
    if not os.path.exists(os.path.join(include, HEADERS[header])):
        pytest.skip(f"no {HEADERS[header]}")
    lines = assertions(header)
    assert len(lines) >= least, len(lines)  # else it has read nothing
    done = compiled(header, lines, include)
    assert done.returncode == 0, done.stderr[:4000]


def size_of(name, header, include):
    """As the compiler says it in an error."""
    text = f"#include <{header}>\n#include <stddef.h>\ntemplate <size_t n> struct Size; Size<sizeof({name})> shown;\n"
    size = re.search(r"Size<(\d+)", syntax_check(text, include).stderr)
    assert size, (name, header)
    return int(size[1])


@pytest.mark.parametrize("header", SIZES)
def test_what_is_kept_in_files_or_sent_has_the_real_size(include, header):
    if not os.path.exists(os.path.join(include, header)):
        pytest.skip(f"no {header}")
    for name in SIZES[header]:
        assert size_of(name, header, INCLUDE) == size_of(name, header, include), name


def test_another_value_name_or_parameter_is_seen(include):
    for line in ('static_assert((long long)(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) == 3, "value");',
                 'static_assert((long long)(CUBLASLT_REDUCTION_SCHEME_OF_OURS) == 2, "name");',
                 'static_assert(arity(&::cublasLtDestroy) == 2, "parameters");'):
        assert compiled("cublasLt.h", [line], include).returncode != 0, line
