"""Building and installing: what is missing is named before anything is compiled; what was built lands where it is asked to."""

import glob
import os
import re
import shutil
import stat
import subprocess

import pytest

from program import PROGRAM, ROOT

QUIET = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CUDA_ARCHS")}


def make(*arguments, code=0, path=None, cwd=ROOT):
    env = dict(QUIET, PATH=f"{path}:{os.environ['PATH']}") if path else QUIET
    done = subprocess.run(["make", "--no-print-directory", *map(str, arguments)], capture_output=True, text=True, timeout=100,
                          check=False, cwd=cwd, env=env)
    assert done.returncode == code, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done


def script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


# ----------------------------------------------------------------------------------------------------- libraries


def compiler_without(folder, *headers):
    """gcc, over /usr/include without these headers: links to all the rest."""
    search = subprocess.run(["gcc", "-xc", "-E", "-v", os.devnull], capture_output=True, text=True, check=True).stderr
    places = re.search(r"search starts here:\n((?: .*\n)+)End of", search)[1].split()
    flags = ["-nostdinc"]
    for number, place in enumerate(places):
        if "/gcc/" in place:
            flags += ["-isystem", place]
            continue
        copy = folder / f"include{number}"
        copy.mkdir()
        hidden = {header.split("/")[0] for header in headers}
        for name in os.listdir(place):
            if name not in hidden:
                os.symlink(os.path.join(place, name), copy / name)
        flags += ["-isystem", str(copy)]
    return script(folder / "cc", f'exec gcc {" ".join(flags)} "$@"\n')


@pytest.mark.parametrize("headers, says", [
    (["oneapi/dnnl/dnnl.h"], ("oneDNN (oneapi/dnnl/dnnl.h)", "apt install libdnnl-dev;", "dnf install onednn-devel;",
                              "pacman -S onednn;")),
    (["cblas.h", "cjson/cJSON.h"], ("OpenBLAS (cblas.h), cJSON (cjson/cJSON.h)",
                                    "apt install libopenblas-openmp-dev libcjson-dev;", "dnf install openblas-devel cjson-devel;",
                                    "pacman -S openblas cjson;")),
])
def test_missing_headers_are_named_with_their_packages_before_anything_is_compiled(headers, says, tmp_path):
    compiler = compiler_without(tmp_path, *headers)
    build = tmp_path / "build"
    done = make("CUDA=0", f"CC={compiler}", f"BUILD={build}", build / "train_gpt", code=2)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and lines[0].startswith("train_gpt: missing: "), done.stderr
    for word in (*says, "make STANDALONE=1"):
        assert word in lines[0], lines[0]
    assert not list(build.rglob("*.o"))
    # Without libraries nothing is asked for.
    make("CUDA=0", "STANDALONE=1", f"CC={compiler}", f"BUILD={tmp_path}/alone", f"{tmp_path}/alone/has_build")


def test_a_missing_library_or_compiler_or_header_of_the_tests_is_named(tmp_path):
    no_library = script(tmp_path / "nolib", 'for word; do shift; [ "$word" != -lcjson ] || word=-lcjson-is-not-here; '
                                            'set -- "$@" "$word"; done; exec gcc "$@"\n')
    no_cmocka = compiler_without(tmp_path, "cmocka.h")
    for number, (target, compiler, says) in enumerate((
        ("train_gpt", no_library, "cJSON (libcjson): Debian, Ubuntu: apt install libcjson-dev;"),
        ("train_gpt", "no-such-cc", "the compiler no-such-cc: Debian, Ubuntu: apt install gcc;"),
        ("has_tests", no_cmocka, "cmocka (cmocka.h): Debian, Ubuntu: apt install libcmocka-dev; Fedora: dnf install libcmocka-devel;"),
    )):
        build = tmp_path / f"build{number}"
        done = make("CUDA=0", f"CC={compiler}", f"BUILD={build}", build / target, code=2)
        assert says in done.stderr and not list(build.rglob("*.o"))
    done = make("CUDA=0", "MPICXX=no-such-mpi", f"BUILD={tmp_path}/e", f"{tmp_path}/e/has_emulation", code=2)
    assert "MPI (mpicxx): Debian, Ubuntu: apt install libopenmpi-dev;" in done.stderr


def test_where_all_is_there_it_is_asked_once(tmp_path):
    kinds = ["build"] + (["tests"] if os.path.exists("/usr/include/cmocka.h") else [])
    for kind in kinds:
        stamp = tmp_path / f"has_{kind}"
        first = make("CUDA=0", f"BUILD={tmp_path}", stamp)
        assert stamp.exists() and not first.stderr
        assert "up to date" in make("CUDA=0", f"BUILD={tmp_path}", stamp).stdout


def test_every_package_that_a_script_names_has_its_names_elsewhere():
    rows = re.search(r'package_names="\n(.*?)"', open(os.path.join(ROOT, "scripts/packages.sh"), encoding="utf-8").read(), re.S)[1]
    known = {line.split()[0] for line in rows.splitlines()}
    assert all(len(line.split()) == 3 for line in rows.splitlines())
    for name in ("packages.sh", "check.sh", "quickstart.sh"):
        with open(os.path.join(ROOT, "scripts", name), encoding="utf-8") as file:
            asked = re.findall(r"^\s*(?:need|like) \S+ (\S+) \"", file.read(), re.M)
        assert set(asked) <= known, name


def test_without_apt_the_scripts_say_what_to_install(tmp_path):
    for name in ("awk", "paste", "id"):
        os.symlink(shutil.which(name), tmp_path / name)
    lines = f"source scripts/packages.sh; missing=(libdnnl-dev g++) missing_why=(a b); PATH={tmp_path} install_missing 1"
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "Fedora: dnf install onednn-devel gcc-c++; Arch: pacman -S onednn gcc" in done.stderr


# -------------------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("gpus, flags, codes, note", [
    ("", [], ["sm_80", "compute_80"], True),
    ("9.0", [], ["sm_90", "compute_90"], False),
    ("8.0\n9.0\n9.0", [], ["sm_80", "sm_90", "compute_90"], False),
    ("", ["CUDA_ARCHS=80 90 100"], ["sm_80", "sm_90", "sm_100", "compute_100"], False),
    ("9.0", ["CUDA_ARCHS=80"], ["sm_80", "compute_80"], False),
])
def test_cuda_is_compiled_for_this_machines_gpus_or_for_one(gpus, flags, codes, note, tmp_path):
    nvcc = script(tmp_path / "nvcc", "printf 'sm_75\\nsm_80\\nsm_86\\nsm_89\\nsm_90\\nsm_100\\nsm_120\\n'\n")
    script(tmp_path / "nvidia-smi", f"printf '{gpus}\\n'\n" if gpus else "exit 9\n")
    target = tmp_path / "b/train_gpt"
    text = make("-n", "CUDA=1", f"NVCC={nvcc}", f"BUILD={tmp_path}/b", *flags, target, path=tmp_path).stdout
    commands = [line for line in text.splitlines() if line.startswith(f"{nvcc} ")]
    assert commands
    for command in commands:
        assert re.findall(r"-gencode arch=\S+,code=(\S+)", command) == codes
    assert ('CUDA_ARCHS="80 90 100" holds code for more' in text.replace("\\", "")) == note


# --------------------------------------------------------------------------------------------------------- install


@pytest.fixture
def built(tmp_path):
    """make's words for the program that is under test, without building anything."""
    return [f"PROGRAM={PROGRAM}", "CUDA=0", f"DESTDIR={tmp_path}/stage", "PREFIX=/opt/it"]


def files(folder):
    return sorted(os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder) for name in names)


def test_install_puts_what_was_built_under_destdir_and_uninstall_takes_it_away(built, tmp_path):
    before = os.stat(PROGRAM).st_mtime_ns
    text = make(*built, "install").stdout
    assert not re.search(r"gcc|nvcc", text) and os.stat(PROGRAM).st_mtime_ns == before
    root = tmp_path / "stage/opt/it"
    assert {"bin/train_gpt", "share/doc/train_gpt/LICENSE", "share/doc/train_gpt/README.md",
            "share/train_gpt/data/prepare.py", "bin/train_gpt-prepare"} <= set(files(root))
    said = subprocess.run([root / "bin/train_gpt", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("train_gpt ")
    assert stat.S_IMODE(os.stat(root / "bin/train_gpt").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(root / "share/doc/train_gpt/LICENSE").st_mode) == 0o644
    (root / "bin/mine").write_text("mine")
    make(*built, "install")  # over itself
    make(*built, "uninstall")
    assert files(tmp_path / "stage") == ["opt/it/bin/mine"]


def test_a_destdir_with_a_space_is_one_folder_and_uninstall_touches_nothing_beside_it(built, tmp_path):
    (tmp_path / "my").mkdir()
    (tmp_path / "my/work").write_text("mine")
    built = [*built, f"DESTDIR={tmp_path}/my stage"]
    make(*built, "install")
    assert "opt/it/bin/train_gpt" in files(tmp_path / "my stage")
    make(*built, "uninstall")
    assert files(tmp_path) == ["my/work"]


def test_what_is_installed_works_from_there(built, tmp_path):
    make(*built, "install")
    moved = tmp_path / "moved"  # DESTDIR is only where it is packed
    shutil.move(tmp_path / "stage/opt/it", moved)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 400)
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")

    def run(name, *arguments):
        done = subprocess.run([moved / "bin" / name, *map(str, arguments)], capture_output=True, text=True, check=False,
                              cwd=tmp_path, env=env, timeout=60)
        assert done.returncode == 0, done.stderr

    run("train_gpt-prepare", "text.txt", "--out", "data")
    run("train_gpt", "--preset", "micro", "--seq-len", 16, "--train-data", "data/*_train_*.bin", "--steps", 2, "--out", "out")
    run("train_gpt-plot", "out", "--html")
    assert "</html>" in (tmp_path / "out/plot.html").read_text()
    done = subprocess.run(["python3", moved / "share/train_gpt/scripts/sweep.py", "--help"], capture_output=True, check=False,
                          env=env)
    assert done.returncode == 0


def test_install_builds_nothing(tmp_path):
    done = make(f"PROGRAM={tmp_path}/none", "CUDA=0", f"DESTDIR={tmp_path}/stage", "install", code=2)
    assert "run make first" in done.stderr and not (tmp_path / "stage").exists()


# --------------------------------------------------------------------------------------------------------- version


def test_a_version_is_gits_or_what_an_export_holds_or_the_changelogs(tmp_path):
    parts = [os.path.relpath(path, ROOT) for path in glob.glob(os.path.join(ROOT, "[kt]*", "**", "*.mk"), recursive=True)]
    for name in ("Makefile", "VERSION", ".gitattributes", *parts):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.join(ROOT, name), tmp_path / name)

    def version(place=tmp_path):
        return make("-s", "CUDA=0", "version", cwd=place).stdout.strip()

    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", *words], check=True,
                       cwd=tmp_path, capture_output=True)

    assert version() == "unversioned"
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [0.3.1] - 2026-01-01\n\n## [0.3.0]\n")
    assert version() == "0.3.1"
    git("init")
    inner = tmp_path / "unpacked"  # a tree without .git inside somebody else's repository
    git("add", ".")
    git("commit", "-m", "first")
    first = version()
    assert re.fullmatch(r"[0-9a-f]{7,}", first)
    git("tag", "v0.4.0")
    assert version() == "v0.4.0"
    (tmp_path / "Makefile").open("a").write("# more\n")
    assert version() == "v0.4.0-dirty"
    git("commit", "-am", "second")
    assert re.fullmatch(r"v0\.4\.0-1-g[0-9a-f]{7,}", version())
    inner.mkdir()
    packed = subprocess.run(["git", "archive", "v0.4.0"], cwd=tmp_path, check=True, capture_output=True).stdout
    subprocess.run(["tar", "x"], cwd=inner, input=packed, check=True)
    assert version(inner) == "v0.4.0"
