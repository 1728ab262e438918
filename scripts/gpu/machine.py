"""What is there to measure, and with which programs? The GPU, the commit, the programs: given, or built."""

import glob
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = ["train_gpt", "test_ops_cuda", "test_collective_cuda", "gpu_probe"]


class Unavailable(Exception):
    """A part cannot run here; the text is the reason."""


def output(command, timeout=60):
    """What a command prints, or '' where it is not there or fails."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def smi():
    return shutil.which("nvidia-smi") or "/usr/local/nvidia/bin/nvidia-smi"


def gpu_name():
    lines = output([smi(), "--query-gpu=name", "--format=csv,noheader"]).splitlines()
    return lines[0].strip() if lines else None


def has_gpu():
    return bool(gpu_name() or glob.glob("/dev/nvidia[0-9]*"))


def gpu_facts():
    query = "driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
    lines = output([smi(), f"--query-gpu={query}", "--format=csv,noheader"]).splitlines()
    facts = dict(zip(query.split(","), (value.strip() for value in lines[0].split(",")))) if lines else {}
    nvcc = find_tool("nvcc")
    facts["nvcc"] = (output([nvcc, "--version"]).splitlines() or [None])[-1] if nvcc else None
    facts["processors"] = os.cpu_count()
    return facts


def commit(binaries):
    """Of the repository; without one, what the given programs' folder or train_gpt say of themselves."""
    if os.path.exists(os.path.join(ROOT, ".git")):
        text = output(["git", "-C", ROOT, "describe", "--always", "--dirty"])
        if text:
            return text
    note = os.path.join(binaries, "commit") if binaries else os.path.join(ROOT, "commit")
    if os.path.exists(note):
        with open(note, encoding="utf-8") as file:
            return file.read().strip()
    return "unversioned"


def cuda_roots():
    nvcc = shutil.which("nvcc")
    named = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    roots = named + [os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))] if nvcc else named
    return [
        root
        for root in roots + sorted(glob.glob("/usr/local/cuda*"), reverse=True)
        if root and os.path.isdir(root)
    ]


def find_tool(name):
    """nvcc, compute-sanitizer: on the path, or in a CUDA toolkit."""
    beside = [
        os.path.join(root, *where)
        for root in cuda_roots()
        for where in (("bin", name), ("compute-sanitizer", name))
    ]
    return shutil.which(name) or next((path for path in beside if os.access(path, os.X_OK)), None)


def environment(binaries=None, **more):
    """Libraries beside the programs, of the toolkit, and of PyTorch's packages (cuBLASLt and NCCL may be in no
    other place)."""
    import sysconfig

    packages = sysconfig.get_paths()["purelib"]
    folders = [os.path.join(binaries, "lib")] if binaries else []
    folders += [os.path.join(root, lib) for root in cuda_roots() for lib in ("lib64", "lib")]
    folders += sorted(glob.glob(os.path.join(packages, "nvidia", "*", "lib")), reverse=True)
    old = os.environ.get("LD_LIBRARY_PATH")
    path = ":".join([old] * bool(old) + [folder for folder in folders if os.path.isdir(folder)])
    return dict(os.environ, LD_LIBRARY_PATH=path, OMP_WAIT_POLICY="passive", **more)


def build(folder, jobs, log, settings=()):
    """Builds PROGRAMS into a folder inside the tree, with gcc, make and nvcc alone. Unavailable says why it
    cannot."""
    nvcc = find_tool("nvcc")
    if not nvcc:
        raise Unavailable("there is no nvcc, and no --binaries DIR was given")
    env = dict(os.environ, PATH=os.path.dirname(nvcc) + os.pathsep + os.environ.get("PATH", ""))
    command = [
        "make",
        f"-j{jobs}",
        "-C",
        ROOT,
        "STANDALONE=1",
        "CUDA=1",
        "WARNINGS=-Wall -Wextra",
        "CUDA_WERROR=",
        "LDFLAGS=-static-libgcc -static-libstdc++",
        f"BUILD={folder}",
        *settings,
        *(f"{folder}/{name}" for name in PROGRAMS),
    ]
    with open(log, "wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=env, check=False)
    if done.returncode:
        with open(log, encoding="utf-8", errors="replace") as file:
            raise Unavailable(f"the build failed ({log}): {' | '.join(file.read().splitlines()[-3:])}")


def pack(folder):
    """Leaves of a build what another machine needs: the programs, their commit, and the OpenMP library in
    lib/."""
    os.makedirs(os.path.join(folder, "lib"), exist_ok=True)
    for line in output(["ldd", os.path.join(folder, "train_gpt")]).splitlines():
        words = line.split()
        if words and words[0].startswith("libgomp") and len(words) > 2:
            shutil.copy(words[2], os.path.join(folder, "lib", words[0]))
    for name in os.listdir(folder):
        if name not in PROGRAMS + ["lib", "commit"]:
            path = os.path.join(folder, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    subprocess.run(["strip", *(os.path.join(folder, name) for name in PROGRAMS)], check=False)


class Machine:
    """Programs and their environment, as the parts see them."""

    def __init__(self, folder, env, device, python=sys.executable):
        self.folder, self.env, self.device, self.python = folder, env, device, python
        self.named = {}  # program → its file, where it is not in the folder
        self.scratch = None  # a folder for data and logs
        self.sanitizer = find_tool("compute-sanitizer")
        self.rehearsal = False
        self.preset = None  # in the place of every model, if given
        self.dtype = "bf16" if device == "cuda" else "fp32"  # of trainings

    def gpu_count(self):
        """How many GPUs a program sees."""
        chosen = self.env.get("CUDA_VISIBLE_DEVICES")
        if chosen is not None:
            return len([word for word in chosen.split(",") if word])
        return len(output([smi(), "--query-gpu=name", "--format=csv,noheader"]).splitlines()) or 1

    def start_ranks(self, ranks, script):
        """The words before a command that start it so many times; the script is sh's, and takes the number from RANKS."""
        return ["sh", "-c", script, "sh"]

    def program(self, name):
        path = self.named.get(name) or os.path.join(self.folder, name)
        if not os.access(path, os.X_OK):
            raise Unavailable(f"{path} is not there")
        return path


class Rehearsal(Machine):
    """The same parts without a GPU: the emulation for kernels, the CPU for whole steps."""

    PLACES = {
        "train_gpt": ["train_gpt"],
        "train_gpt_emu": ["build/emu/train_gpt", "train_gpt_emu"],
        "test_ops_cuda": ["build/test_ops_emu"],
        "test_collective_cuda": ["build/test_collective"],
        "gpu_probe": ["build/emu/gpu_probe"],
    }

    def __init__(self, env, python=sys.executable):
        super().__init__(ROOT, dict(env, OMP_NUM_THREADS="1"), "cpu", python)
        self.rehearsal, self.preset = True, "micro"
        self.given = {
            "train_gpt": os.environ.get("TRAIN_GPT"),
            "train_gpt_emu": os.environ.get("TRAIN_GPT_EMU"),
        }

    def start_ranks(self, ranks, script):
        """The emulated NCCL goes by MPI, as CPUs' ranks do."""
        if not shutil.which("mpirun"):
            raise Unavailable("several ranks are rehearsed by mpirun (Debian: openmpi-bin), which is not there")
        root = ["--allow-run-as-root"] * (os.getuid() == 0)
        return ["mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", *root, "-n", str(ranks)]

    def program(self, name):
        places = [self.given.get(name)] if self.given.get(name) else []
        places += [os.path.join(ROOT, place) for place in self.PLACES[name]]
        for path in places:
            if os.access(path, os.X_OK):
                return os.path.abspath(path)
        raise Unavailable(f"{name} is rehearsed by {self.PLACES[name][0]}, which is not built")
