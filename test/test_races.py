"""Does any kernel of kernels/cuda race, or the host with it? Runs the operation suite and short trainings under the race
checker (test/emu/race.h), both types.

Which kernels ran is written to race_kernels.txt beside the program; one that no case launches is a failure, and so is an
instantiation: each norm, type and width of a template has its own accesses between its own barriers. TEST_OPS_RACE names the
suite (default build/test_ops_race), TRAIN_GPT_RACE the program (default build/race/train_gpt), both of `make race`; where they
are not there, and nobody has named them, these tests are skipped. The checker itself is held to its planted races by
build/test_race.
"""
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / os.environ.get("TEST_OPS_RACE", "build/test_ops_race")
TRAIN = ROOT / os.environ.get("TRAIN_GPT_RACE", "build/race/train_gpt")
SHARD = ROOT / "test" / "reference" / "fixtures" / "llama" / "train.bin"
TYPES = ["f32", "bf16"]
NEVER_LAUNCHED = {"nothing"}  # backend.cu asks the driver about it, no more

suite = pytest.mark.skipif(not PROGRAM.exists() and "TEST_OPS_RACE" not in os.environ, reason="no test_ops_race: `make race` builds it")


def kernel_names():
    """The kernels of kernels/cuda, by their sources."""
    names = set()
    for path in sorted((ROOT / "kernels" / "cuda").glob("*.cu*")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        found = re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(", text)
        assert len(found) == text.count("__global__"), f"{path}: a kernel whose name this test cannot read"
        names.update(found)
    assert NEVER_LAUNCHED < names
    return names - NEVER_LAUNCHED


def instantiations(names):
    """{address: (kernel, how nm writes it)} of all kernels in the program."""
    listing = subprocess.run(["nm", "-C", str(PROGRAM)], stdout=subprocess.PIPE, check=True).stdout.decode()
    found = {}
    for line in listing.splitlines():
        address, _, symbol = line.partition(" ")[0], *line.partition(" ")[1:]
        match = re.match(r"[tTwW] (?:void )?(?:\w+::|\(anonymous namespace\)::)*(\w+)[<(]", symbol)
        if match and match.group(1) in names and "[clone" not in symbol and "{lambda" not in symbol:
            found[int(address, 16)] = (match.group(1), symbol[2:].partition("(anonymous namespace)::")[2] or symbol[2:])
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{type: (exit status, output, addresses of the kernels that ran)}; both types at once, one core each."""
    folder = tmp_path_factory.mktemp("races")
    started = {}
    for kind in TYPES:
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPS_SAMPLE="1", EMU_KERNELS=str(folder / kind))
        output = open(folder / f"{kind}.txt", "wb")
        started[kind] = subprocess.Popen([str(PROGRAM), "bits", "--implementation", f"cuda/{kind}"], env=environment,
                                         stdout=output, stderr=subprocess.STDOUT)
    done = {}
    for kind, process in started.items():
        status = process.wait()
        text = (folder / f"{kind}.txt").read_text(errors="replace")
        launched = (folder / kind).read_text() if (folder / kind).exists() else ""
        done[kind] = status, text, {int(line.split("\t")[0], 16) for line in launched.splitlines()}
    return done


@suite
@pytest.mark.parametrize("kind", TYPES)
def test_no_operation_races(runs, kind):
    status, output, _ = runs[kind]
    assert status == 0, output[-3000:]
    assert len(re.findall(r"\[ +OK \]", output)) >= 20, output[-3000:]


@suite
def test_every_kernel_was_launched(runs):
    names = kernel_names()
    known = instantiations(names)
    launched = set().union(*(addresses for _, _, addresses in runs.values()))
    assert launched <= set(known), "a kernel ran that kernels/cuda does not have, or nm names otherwise"
    ran = {known[address][0] for address in launched}
    never = [known[address][1] for address in sorted(set(known) - launched)]
    report = [f"{len(ran)} of {len(names)} kernels of kernels/cuda ran under the race checker, "
              f"{len(launched)} of their {len(known)} instantiations; none is left out for its block size"]
    report += [f"ran      {name}" for name in sorted(ran)]
    report += [f"NOT RUN  {name}" for name in sorted(names - ran)]
    report += [f"not run  {symbol}" for symbol in never]
    (PROGRAM.parent / "race_kernels.txt").write_text("\n".join(report) + "\n", encoding="utf-8")
    assert ran == names, f"never launched: {sorted(names - ran)}"
    assert not never, "no case launches\n" + "\n".join(never)


# Whole steps: what one operation leaves for the next, batches and losses on their way between host and device,
# validation, statistics, generation and a checkpoint in between. Two micro-steps a step, two rows of padding.
TRAINING = ["--n-layer", "2", "--n-embd", "32", "--n-head", "2", "--n-ffn", "40", "--vocab-size", "61", "--seq-len", "5",
            "--batch-size", "2", "--total-batch-tokens", "20", "--steps", "4", "--val-every", "2", "--val-batches", "1",
            "--stats-every", "2", "--save-every", "2", "--device", "cuda", "--train-data", str(SHARD), "--val-data", str(SHARD)]


@pytest.mark.skipif(not TRAIN.exists() and "TRAIN_GPT_RACE" not in os.environ, reason="no train_gpt for the race checker: `make race` builds it")
@pytest.mark.parametrize("flags", ["--arch gpt2 --dtype fp32 --cuda-graph off",
                                   "--arch gpt2 --dtype bf16 --cuda-graph on --sdd paper --placement sandwich",
                                   "--arch llama --dtype bf16 --gpas layer --recompute act",
                                   "--arch llama --dtype bf16 --norm bhyt --residual-dtype fp32 --recompute block"])
def test_no_training_races(tmp_path, flags):
    done = subprocess.run([str(TRAIN), *TRAINING, *flags.split(), "--out", str(tmp_path / "out")], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr.decode()


# --------------------------------------------------------------------------------------------- is every barrier needed?

CUDA = ROOT / "kernels" / "cuda"
BARRIER = re.compile(r"^\s*(__syncthreads|__syncwarp)\(\);")
# Of each file with barriers: what is compiled for it, and the operations that run them.
PROBED = {
    "attention.cu": ("attention.cu", "attention_forward attention_backward"),
    "attention_decode.cu": ("attention_decode.cu", "attention_decode"),
    "attention_mma.cu": ("attention_mma.cu", "attention_forward"),
    "attention_mma.cuh": ("attention_mma.cu attention_mma_backward.cu", "attention_forward attention_backward"),
    "attention_mma_backward.cu": ("attention_mma_backward.cu", "attention_backward"),
    "columns.cu": ("columns.cu", "linear_backward_weight junction_backward"),
    "cross_entropy.cu": ("cross_entropy.cu", "cross_entropy"),
    "embedding.cu": ("embedding.cu", "embedding_backward"),
    "junction_usual.cuh": ("junction_backward.cu", "junction_backward"),
    "muon.cu": ("muon.cu", "scaled_copy"),
    "stats.cu": ("stats.cu", "tensor_stats"),
    "types.cuh": ("junction.cu", "junction_forward"),  # layernorm sums over a block twice
    "variant.cu": ("variant.cu", "product_norm bhyt_terms"),
}


def barriers():
    for path in sorted(CUDA.glob("*.cu*")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            if BARRIER.match(line):
                yield path.name, number


def test_each_file_with_barriers_can_be_probed():
    assert set(PROBED) == {name for name, _ in barriers()}


@pytest.mark.skipif(not os.environ.get("TEST_ALL"), reason="compiles a file for each barrier: make test-all")
@pytest.mark.parametrize("name,number", list(barriers()))
def test_a_barrier_that_is_taken_out_is_missed(tmp_path, name, number):
    """Each barrier of kernels/cuda taken out by itself: some case of the suite must fault without it."""
    for path in CUDA.glob("*.cu*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
    lines[number] = BARRIER.sub("", lines[number])
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path in tmp_path.glob("*.cu*"):  # what they include from other folders stays there
        path.write_text(re.sub(r'"\.\./(\.\./)?(src/|kernels\.h)', lambda m: f'"{ROOT}/{"" if m[1] else "kernels/"}{m[2]}',
                               path.read_text(encoding="utf-8")), encoding="utf-8")
    sources, operations = (words.split() for words in PROBED[name])

    def commands(target, new):  # what make would run if that file were new
        said = subprocess.run(["make", "-n", "-W", new, target], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return [line for line in said.stdout.decode().splitlines() if line.startswith(("g++", "c++", "clang++"))]

    program, suite_path = tmp_path / "test_ops_race", PROGRAM.relative_to(ROOT)
    built = [f"{suite_path.parent}/race/{source[:-3]}.o" for source in sources]
    linking = commands(suite_path, built[0])[-1].replace(f"-o {suite_path}", f"-o {program}")
    for source, object_file in zip(sources, built):
        compiling, = commands(object_file, f"kernels/cuda/{source}")
        compiling = re.sub(r"-MMD -MP|-Ikernels/cuda", "", compiling).replace(f"kernels/cuda/{source}", str(tmp_path / source))
        mutant = tmp_path / f"{source}.o"
        subprocess.run(compiling.replace(f"-o {object_file}", f"-o {mutant}"), shell=True, cwd=ROOT, check=True)
        linking = linking.replace(f" {object_file} ", f" {mutant} ")
    subprocess.run(linking, shell=True, cwd=ROOT, check=True)
    said = ""
    for operation in operations:
        for kind in TYPES:
            done = subprocess.run([str(program), "bits", "--implementation", f"cuda/{kind}", "--operation", operation],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                                  env=dict(os.environ, OMP_NUM_THREADS="1", OPS_SAMPLE="1"))
            said += done.stderr.decode()[-300:]
            if done.returncode == 70:  # a race; or poison, where the read came before the write
                assert re.search("race: |uninitialised memory", done.stderr.decode()), done.stderr.decode()
                return
    pytest.fail(f"no case faults without it: {said}")
