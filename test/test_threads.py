"""How many threads a run has, and how they wait: whatever bounds a team, in the environment, the shell or a container, the
numbers are those of a run that was asked for as many threads as it got."""
import contextlib
import os
import re
import shlex
import signal
import subprocess

import pytest

from limits import BOUNDS, bare, group_of_v1
from program import PROGRAM, SMALL, file_bytes, losses, refused, run, step_directory

CPUS = len(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(CPUS < 2, reason="needs two CPUs")
WIDE = [*SMALL, "--batch-size", 16, "--steps", 5, "--val-every", 0]


def start(*arguments, code=0, **more):
    """The program as a user starts it, who has set nothing."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, errors="replace",
                          timeout=120, check=False, **more)
    assert done.returncode == code, (done.returncode, done.stdout[-1000:], done.stderr)
    return done


def threads_of(done):
    return int(re.search(r"^device: .* (\d+) threads?;", done.stdout, re.MULTILINE).group(1))


def about_threads(done):
    return "".join(line + "\n" for line in done.stderr.splitlines() if "thread" in line.lower())


def on_one_cpu():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.fixture(scope="module")
def honest(data, tmp_path_factory):
    """Losses of a run that asked for so many threads and has them."""
    known = {}

    def of(threads, dtype):
        if (threads, dtype) not in known:
            out = tmp_path_factory.mktemp("honest")
            assert threads_of(run(*WIDE, *data[:2], "--threads", threads, "--dtype", dtype, "--out", out)) == threads
            known[threads, dtype] = losses(out)
        return known[threads, dtype]

    return of


# Each bounds a team, or would: the variables, --threads, and what then is really there.
@pytest.mark.parametrize("settings, asked, there", [
    ({"OMP_THREAD_LIMIT": "1"}, 4, 1),
    ({"OMP_THREAD_LIMIT": "3"}, 4, 3),
    ({"OMP_DYNAMIC": "true"}, 4, 4),
    ({"OMP_DYNAMIC": "true", "OMP_THREAD_LIMIT": "2"}, 3, 2),
    ({"OMP_MAX_ACTIVE_LEVELS": "0"}, 2, 2),
    ({"OMP_NUM_THREADS": "1,1"}, 2, 2),
    ({"OMP_PLACES": "{0}", "OMP_PROC_BIND": "true"}, 2, 2),
    ({"OMP_STACKSIZE": "200000G"}, 2, 1),  # more than an address space: no second thread can be started
    ({"OPENBLAS_NUM_THREADS": "1", "GOTO_NUM_THREADS": "1"}, 2, 2),
])
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_a_bounded_team_computes_what_an_honest_one_does(settings, asked, there, dtype, honest, data, tmp_path):
    out = tmp_path / "run"
    done = start(*WIDE, *data[:2], "--threads", asked, "--dtype", dtype, "--out", out, env=bare(**settings))
    assert threads_of(done) == there
    assert losses(out) == honest(there, dtype)
    assert f'"threads":{there},' in re.sub(r"\s", "", file_bytes(step_directory(out, 5), "state.json").decode())
    if there < asked:
        assert re.search(rf"^train_gpt: --threads {asked}: .* {there}\b", done.stderr, re.MULTILINE), done.stderr


def test_threads_beyond_what_there_is_are_one_line(data):
    most = ["--steps", 1, "--val-every", 0]
    done = start(*SMALL, *data[:2], *most, "--threads", CPUS + 1, env=bare())
    assert re.fullmatch(rf"train_gpt: --threads {CPUS + 1}: this process may use {CPUS} CPUs?;[^\n]*\n",
                        about_threads(done))
    done = start(*SMALL, *data[:2], *most, env=bare(OMP_NUM_THREADS=f"{CPUS + 1}"))
    assert re.fullmatch(rf"train_gpt: OMP_NUM_THREADS is {CPUS + 1}: [^\n]*\n", about_threads(done))
    assert threads_of(done) == CPUS + 1
    assert about_threads(start(*SMALL, *data[:2], *most, env=bare())) == ""


def test_a_stack_too_small_to_compute_is_refused(data):
    refused(*SMALL, *data[:2], "--threads", 2, env={"OMP_STACKSIZE": "160K"}, says=("stack", "OMP_STACKSIZE=1M"))


def test_the_mask_and_places_bound_the_default(data):
    arguments = [*SMALL, *data[:2], "--steps", 1, "--val-every", 0]
    assert threads_of(start(*arguments, env=bare())) == CPUS
    assert threads_of(start(*arguments, env=bare(), preexec_fn=on_one_cpu)) == 1
    assert threads_of(start(*arguments, env=bare(OMP_PLACES="{0}", OMP_PROC_BIND="true"))) == 1
    assert threads_of(start(*arguments, env=bare(GOMP_CPU_AFFINITY="0"))) == 1
    done = start(*arguments, "--threads", 2, env=bare(), preexec_fn=on_one_cpu)
    assert "--threads 2: this process may use 1 CPU;" in done.stderr


@needs_two
def test_a_quota_bounds_the_default(data):
    arguments = [*SMALL, *data[:2], "--steps", 1, "--val-every", 0]
    with group_of_v1("cpu", cfs_quota_us=50000) as enter:
        assert threads_of(start(*arguments, env=bare(), preexec_fn=enter)) == 1
        done = start(*arguments, "--threads", 2, env=bare(), preexec_fn=enter)
        assert "--threads 2: a quota of its control group gives this process 0.5 CPUs" in done.stderr
        assert threads_of(done) == 2
        assert threads_of(start(*arguments, env=bare(OMP_NUM_THREADS="2"), preexec_fn=enter)) == 2


# A library that leaves the last quarter of a product's rows as they were, as oneDNN did in too small a team.
SHORT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
int dnnl_sgemm(char ta, char tb, int64_t M, int64_t N, int64_t K, float alpha, const float *A, int64_t lda, const float *B,
               int64_t ldb, float beta, float *C, int64_t ldc) {
    int (*real)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t, const float *, int64_t, float, float *,
                int64_t) = (void *)dlsym(RTLD_NEXT, "dnnl_sgemm");
    return real(ta, tb, SHORT_AT == ta ? M - M / 4 : M, N, K, alpha, A, lda, B, ldb, beta, C, ldc);
}
void cblas_dgemm(int order, int ta, int tb, int M, int N, int K, double alpha, const double *A, int lda, const double *B,
                 int ldb, double beta, double *C, int ldc) {
    void (*real)(int, int, int, int, int, int, double, const double *, int, const double *, int, double, double *, int) =
        (void *)dlsym(RTLD_NEXT, "cblas_dgemm");
    real(order, ta, tb, (SHORT_AT == 'T' ? 112 : 111) == ta ? M - M / 4 : M, N, K, alpha, A, lda, B, ldb, beta, C, ldc);
}
"""


@pytest.mark.parametrize("transposed, which", [("N", "forward"), ("T", "backward to the weights")])
def test_a_product_with_holes_ends_the_run(transposed, which, data, tmp_path):
    (tmp_path / "short.c").write_text(SHORT)
    library = tmp_path / "short.so"
    subprocess.run([*shlex.split(os.environ.get("CC", "gcc")), "-shared", "-fPIC", f"-DSHORT_AT='{transposed}'", tmp_path / "short.c",
                    "-o", library], check=True)
    for dtype in ("fp32", "fp64"):
        error = run(*SMALL, *data[:2], "--threads", 2, "--dtype", dtype, code=1, env={"LD_PRELOAD": library}).stderr
        assert "first product" in error and which in error and "2 threads" in error, error


@contextlib.contextmanager
def running(*arguments, **more):
    with subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          **more) as process:
        try:
            for line in process.stdout:
                if line.startswith("step "):
                    break
            yield process
        finally:
            process.kill()


def environment_of(process):
    pairs = file_bytes(f"/proc/{process.pid}/environ").decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_waiting_is_brief_unless_the_user_says(data):
    arguments = [*SMALL, *data[:2], "--steps", 10**6, "--val-every", 0]
    with running(*arguments, env=bare()) as process:
        assert 0 < int(environment_of(process)["GOMP_SPINCOUNT"]) < 300000
        assert file_bytes(f"/proc/{process.pid}/comm").decode() == os.path.basename(PROGRAM)[:15] + "\n"
        assert file_bytes(f"/proc/{process.pid}/cmdline").decode().split("\0")[0] == PROGRAM
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    for theirs in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "12345"}):
        with running(*arguments, env=bare(**theirs)) as process:
            found = environment_of(process)
            assert {name: found.get(name) for name in BOUNDS if name in found} == theirs


def test_started_through_the_loader_it_still_runs():
    loader = re.search(r"(/\S*/ld-linux\S*)", subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True).stdout)
    done = subprocess.run([loader.group(1), PROGRAM, "--version"], capture_output=True, text=True, timeout=60, check=False,
                          env=bare())
    assert done.returncode == 0 and done.stdout.startswith("train_gpt "), done


def test_a_team_that_waits_longer_than_it_works_says_so_once(data):
    """Eight threads on one CPU do, of a model that gives each of them work."""
    with subprocess.Popen([PROGRAM, *map(str, [*SMALL, *data[:2], "--batch-size", 32, "--steps", 10**6, "--val-every", 0,
                                               "--max-minutes", 0.12, "--threads", 8])], env=bare(), stderr=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, preexec_fn=on_one_cpu) as process:
        output = process.communicate(timeout=100)[0]
    assert len(re.findall(r"^the 8 threads wait longer than they work: .*--threads", output, re.MULTILINE)) == 1, output


# ---- what a checkpoint says ----


def test_modes_without_a_promise_of_bits_do_not_inherit_threads(data, tmp_path):
    run(*SMALL, *data, "--steps", 2, "--threads", 3, "--out", tmp_path / "run")
    assert "threads = 3" in (tmp_path / "run" / "latest" / "config.ini").read_text()
    for mode in (["--eval-only"], ["--generate", "the "], ["--probe", tmp_path / "probe"], ["--dry-run"]):
        done = start("--resume", tmp_path / "run", *mode, env=bare(OMP_NUM_THREADS="1"))
        assert about_threads(done) == "", (mode, done.stderr)
    plan = start("--resume", tmp_path / "run", "--dry-run", env=bare(OMP_NUM_THREADS="1"))
    three = start("--resume", tmp_path / "run", "--dry-run", "--threads", 3, env=bare(OMP_NUM_THREADS="1"))
    process = [float(re.search(r"process +([0-9.]+) MB", done.stdout).group(1)) for done in (plan, three)]
    assert process[1] - process[0] == pytest.approx(24, abs=0.2)  # 12 MB a thread, in report.c


@needs_two
def test_training_takes_the_threads_of_its_checkpoint_if_it_can(data, tmp_path):
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    arguments = [*WIDE, *data[:2], "--threads", 2, "--steps", 4, "--save-every", 2]
    run(*arguments, "--out", straight)
    done = start("--resume", step_directory(straight, 2), "--out", parts, env=bare(OMP_NUM_THREADS="1"))
    assert re.fullmatch(r"train_gpt: 2 threads, as the checkpoint was trained with, [^\n]*would be 1: --threads [^\n]*\n",
                        about_threads(done))
    assert threads_of(done) == 2 and losses(parts) == losses(straight)[2:]
    done = start("--resume", step_directory(straight, 2), "--out", tmp_path / "one", env=bare(), preexec_fn=on_one_cpu)
    assert re.fullmatch(r"train_gpt: [^\n]*written with 2 threads, here 1: the bits will differ\n", about_threads(done))
    assert threads_of(done) == 1
