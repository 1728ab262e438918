"""What does the whole program promise on the command line, and does it keep it?

Runs the executable named by TRAIN_GPT (default: ./train_gpt) on shards of a few thousand bytes that the tests make.
"""
import json
import math
import os
import pty
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import time

import numpy
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.abspath(os.environ.get("TRAIN_GPT", os.path.join(ROOT, "train_gpt")))
SMALL = ["--preset", "micro", "--seq-len", "16", "--batch-size", "4", "--lr", "1e-3", "--warmup-steps", "0"]
MODEL, MOMENTS = "model.safetensors", "optimizer-0-of-1.safetensors"

# ------------------------------------------------------------------------------------------------------ helpers


def environment(**more):
    return dict(os.environ, OMP_NUM_THREADS="1", **more)


def run(*arguments, code=0, cwd=None, **more):
    """Runs the program to its end. A refusal or failure is one line on stderr, and what is not asked for is quiet."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                          check=False, cwd=cwd, env=environment(**more.pop("env", {})), **more)
    done.out, done.err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert done.returncode == code, f"exit {done.returncode}, not {code}: {arguments}\n{done.out[-2000:]}\n{done.err[-2000:]}"
    if code:
        assert re.fullmatch(r"train_gpt: [^\n]*\n", done.err), f"not one line: {done.err!r}"
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.err), repr(done.err)
    return done


def refused(*arguments, says=(), **more):
    """The message of a run that ends with exit 2."""
    message = run(*arguments, code=2, **more).err
    for word in [says] if isinstance(says, str) else says:
        assert word in message, f"'{word}' is not in: {message}"
    return message


def write_shard(path, tokens, wide=False, magic=None, version=None, count=None):
    header = [magic or (20240801 if wide else 20240520), version or (7 if wide else 1),
              len(tokens) if count is None else count]
    with open(path, "wb") as file:
        file.write(struct.pack("<256i", *header, *[0] * 253))
        file.write(numpy.asarray(tokens, dtype="<u4" if wide else "<u2").tobytes())


def sentences(count, seed):
    """Printable bytes that can be learned a little."""
    draw = random.Random(seed)
    words = ["the ", "cat ", "sat ", "on ", "a ", "mat. ", "dog ", "ran "]
    text = ""
    while len(text) < count:
        text += draw.choice(words)
    return list(text[:count].encode())


def read_tensors(path):
    """Name → numpy array, of a safetensors file."""
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    header.pop("__metadata__", None)
    types = {"F32": "<f4", "F64": "<f8", "U32": "<u4"}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = numpy.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_tensors(path, tensors, dtype=None):
    header, data = {}, b""
    for name, value in tensors.items():
        raw = numpy.ascontiguousarray(value).tobytes()
        header[name] = {"dtype": dtype or {"f4": "F32", "f8": "F64"}[value.dtype.str[1:]], "shape": list(value.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def metrics(out, kind="train"):
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if line["type"] == kind]


def losses(out):
    return [line["loss"] for line in metrics(out)]


def file_bytes(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def checkpoints(out):
    return sorted(name for name in os.listdir(out) if name.startswith("step_"))


def step_directory(out, step):
    return os.path.join(out, f"step_{step:08d}")


def flags_of_the_table():
    """(kind, name) of every row in src/flags.c."""
    with open(os.path.join(ROOT, "src", "flags.c"), encoding="utf-8") as file:
        rows = re.findall(r'^ +(INT|REAL|TEXT|PROMPT|CHOICE|MODE)\("([a-z0-9-]+)"', file.read(), re.MULTILINE)
    assert len(rows) > 50
    return rows


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two shards to train on (125 + 62 windows of 16) and one to validate on (43)."""
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "text_train_0.bin", sentences(2010, 1))
    write_shard(folder / "text_train_1.bin", sentences(1000, 2), wide=True)
    write_shard(folder / "text_val_0.bin", sentences(700, 3))
    return ["--train-data", str(folder / "text_train_*.bin"), "--val-data", str(folder / "text_val_*.bin")]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data):
    """A finished run of 6 steps with checkpoints 3 and 6."""
    out = str(tmp_path_factory.mktemp("trained") / "run")
    run(*SMALL, *data, "--steps", 6, "--save-every", 3, "--val-every", 2, "--out", out)
    return out


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "run")


# -------------------------------------------------------------------------------------------------------- flags


def test_help_names_every_flag_and_preset():
    text = run("--help").out
    for _, name in flags_of_the_table():
        assert f"  --{name} " in text, name
    for preset in ("micro", "tiny", "gpt2-124m", "llama-1b", "sdd-1b"):
        assert preset in text
    assert "exit codes" in text


def test_questions_are_answered_whatever_else_is_asked():
    assert re.match(r"train_gpt \S+ \(.*\)\n$", run("--version").out)
    text = run("--list-variants").out
    for word in ("layernorm", "rmsnorm", "pre"):
        assert word in text
    assert run("--resume", "auto", "--help").out == run("--help").out
    assert run("--resume", "nowhere", "--lr", "nan", "--version").out == run("--version").out


@pytest.mark.parametrize("form", ["missing", "empty", "wrong"])
def test_every_flag_refuses_a_missing_empty_or_wrong_value(form):
    wrong = {"INT": "0x10", "REAL": "1e999", "CHOICE": "perhaps"}
    for kind, name in flags_of_the_table():
        if kind == "MODE":
            refused(f"--{name}=1", says=(name, "no value"))
        elif form == "missing":
            refused(f"--{name}", says=(name, "needs a value"))
        elif form == "empty" and kind != "PROMPT":
            refused(f"--{name}=", says=name)
            refused(f"--{name}", "", says=name)
        elif form == "wrong" and kind in wrong:
            refused(f"--{name}", wrong[kind], "--dry-run", says=(name, wrong[kind]))


def test_wrong_words_on_the_command_line():
    refused("--n-layers", "3", says=("--n-layers", "--n-layer"))
    refused("--learningrate=1", says="no such flag")
    refused("n-layer", "3", says="n-layer")
    refused("-n", "3")
    refused("--", "3")
    refused("--=3")
    refused("")
    refused("--" + "x" * 5000)
    refused("--preset", "gpt5", says=("gpt5", "gpt2-124m"))
    refused("--lr", "1e30", says=("--lr", "100"))
    refused("--device", "cuda", "--dtype", "fp64", "--dry-run", says="--")
    refused("--device", "cpu", "--dtype", "bf16", "--dry-run", says="bf16")


def test_a_message_is_one_printable_line_whatever_is_in_the_names():
    refused("--train-data", "no\nsuch\x1b[2Jfile\r", *SMALL, says="no?such?[2Jfile?")
    refused("--bad\nflag", "1", says="bad?flag")
    refused("--lr", "1\n2")
    refused("--preset", "\x07")


def test_values_come_after_a_space_or_an_equals_sign_and_the_last_one_counts():
    def layers(*arguments):
        return int(re.search(r"(\d+) layers", run("--preset", "micro", "--dry-run", *arguments).out)[1])

    assert layers() == 2
    assert layers("--n-layer", "3") == layers("--n-layer=3") == layers("--n-layer", "5", "--n-layer=3") == 3
    assert layers("--preset", "tiny") == 4
    assert layers("--n-layer", "3", "--preset", "tiny") == 3  # a preset lies below every other flag


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "some.ini"
    path.write_text("# mine\npreset = tiny\nn-layer = 3\nbatch-size = 5  # small\n")

    def shape(*arguments):
        text = run("--config", path, "--dry-run", *arguments).out
        return tuple(int(re.search(word, text)[1]) for word in (r"(\d+) layers", r"(\d+) wide", r"(\d+) sequences"))

    assert shape() == (3, 128, 5)
    assert shape("--n-layer", "1") == (1, 128, 5)
    assert shape("--preset", "micro") == (3, 64, 5)  # the file's preset gives way, its settings stay
    assert shape("--preset", "micro", "--batch-size", "7", "--n-layer=9") == (9, 64, 7)
    for text, says in (("n-layer = many", "line 1"), ("\n\nlr = nan", "line 3"), ("smoke = 1", "command line"),
                       ("n-layer 3", "name = value"), ("config = other", "command line"), ("a\0b", "zero byte")):
        path.write_text(text)
        refused("--config", path, "--dry-run", says=(str(path), says))
    refused("--config", tmp_path, says=str(tmp_path))
    refused("--config", tmp_path / "none.ini", says="none.ini")


def test_shapes_that_do_not_fit_together_are_refused():
    for arguments, says in (
            (["--n-embd", 100, "--n-head", 3], "--n-embd 100"), (["--n-head", 4, "--n-kv-head", 3], "--n-kv-head 3"),
            (["--positions", "rope", "--n-embd", 9, "--n-head", 3], "rope"), (["--n-embd", 2048, "--n-head", 4], "256"),
            (["--total-batch-tokens", 1000], "--total-batch-tokens 1000"), (["--warmup-steps", 11, "--steps", 10], "11"),
            (["--batch-size", 1000000, "--seq-len", 1000000], "--batch-size 1000000"),
            (["--n-embd", 65537], "65536"), (["--vocab-size", 4294967294], "--vocab-size"),
            (["--vocab-size", 1], "--vocab-size")):
        refused("--preset", "micro", "--dry-run", *arguments, says=says)


# ------------------------------------------------------------------------------------------------------ dry run


def parameters(*arguments):
    return int(re.search(r"^parameters: (\d+)$", run("--dry-run", *arguments).out, re.MULTILINE)[1])


def test_presets_have_the_published_numbers_of_parameters():
    def llama(vocabulary, layers, width, heads, kv_heads, ffn, tied=False):
        attention = 2 * width * width + 2 * width * (width // heads * kv_heads)
        return (1 if tied else 2) * vocabulary * width + layers * (attention + 3 * width * ffn + 2 * width) + width

    for preset, count in {"gpt2-124m": 124439808, "gpt2-350m": 354823168, "gpt2-774m": 774030080,
                          "gpt2-1558m": 1557611200, "llama-71m": llama(32000, 12, 512, 8, 8, 1368),
                          "llama-130m": llama(32000, 12, 768, 12, 12, 2048),
                          "llama-250m": llama(32000, 24, 768, 16, 16, 2560),
                          "llama-350m": llama(32000, 24, 1024, 16, 16, 2736),
                          "llama-1b": llama(32000, 24, 2048, 32, 32, 5461),
                          "llama-374m": llama(128256, 16, 1024, 16, 4, 4096, tied=True),
                          "sdd-581m": llama(50304, 8, 2048, 32, 8, 8192, tied=True),
                          "sdd-1b": llama(50304, 16, 2048, 32, 8, 8192, tied=True)}.items():
        assert parameters("--preset", preset) == count, preset


@pytest.mark.parametrize("preset", ["micro", "tiny", "micro --arch llama --n-kv-head 1", "micro --bias off --norm rmsnorm",
                                    "micro --arch llama --bias on --norm layernorm --positions learned"])
def test_a_dry_run_counts_what_a_checkpoint_holds(preset, data, out):
    arguments = ["--preset", *preset.split(), "--batch-size", 1, "--steps", 1, "--vocab-size", 256]
    run(*arguments, "--train-data", data[1], "--out", out)
    tensors = read_tensors(os.path.join(step_directory(out, 1), MODEL))
    assert sum(tensor.size for tensor in tensors.values()) == parameters(*arguments)
    assert metrics(out, "event")[0]["parameters"] == parameters(*arguments)


def test_a_model_beyond_any_machine_is_counted_right_or_refused():
    width, layers, ffn, vocabulary, length = 65536, 1000, 262144, 50257, 1024
    largest = ["--n-embd", width, "--n-head", 256, "--n-layer", layers, "--n-ffn", ffn]
    per_layer = 4 * width * width + 4 * width + 2 * width * ffn + width + ffn + 4 * width
    assert parameters(*largest) == vocabulary * width + length * width + layers * per_layer + 2 * width
    assert parameters("--preset", "micro", "--vocab-size", 2147483584) > 64 * 2147483584
    text = run(*largest, "--dry-run").out
    rows = {name: float(size) for name, size in re.findall(r"^  (\w+) +([-\d.]+) MB", text, re.MULTILINE)}
    assert rows["weights"] == rows["gradients"] == pytest.approx(rows["moments"] / 2)
    assert rows["weights"] >= 4e-6 * layers * per_layer
    refused(*largest, "--dry-run", "--activation", "swiglu", "--dtype", "fp64", "--batch-size", 2047, "--seq-len",
            1048576, says="--batch-size")


def test_a_run_that_cannot_fit_into_memory_fails_at_once(data):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    layers = 2 * memory // (12 * 4096 ** 2 * 16) + 1  # fp32 weights, gradients and two moments of twice the memory

    def limit():  # were it to start after all, the machine would not suffer; a sanitizer needs the addresses itself
        if b"__asan_init" not in file_bytes(PROGRAM):
            resource.setrlimit(resource.RLIMIT_AS, (memory // 3, memory // 3))

    error = run("--n-embd", 4096, "--n-head", 32, "--n-layer", min(layers, 1000), *data, code=1, preexec_fn=limit).err
    assert re.search(r"out of memory: this run takes [\d.]+ GB, .* has [\d.]+ GB", error) or layers > 1000


# --------------------------------------------------------------------------------------------------------- data


def test_bad_shards_are_refused_with_file_and_place(tmp_path):
    good = sentences(100, 5)
    cases = {"magic": dict(magic=20240521), "version": dict(version=2), "short": dict(count=101), "long": dict(count=99),
             "negative": dict(count=-1)}
    for name, wrong in cases.items():
        write_shard(tmp_path / name, good, **wrong)
    for name, content in {"empty": b"", "header": b"\0" * 1000, "text": b"hello " * 500}.items():
        (tmp_path / name).write_bytes(content)
        cases[name] = None
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    write_shard(tmp_path / "good", good)
    for name in [*cases, "folder", "pipe"]:
        refused(*SMALL, "--train-data", tmp_path / name, says=("--train-data", str(tmp_path / name)))
        refused(*SMALL, "--train-data", tmp_path / "good", "--val-data", tmp_path / name,
                says=("--val-data", str(tmp_path / name)))
    refused(*SMALL, "--train-data", tmp_path / "*.bin", says="*.bin")
    refused(*SMALL, says="--train-data")


def test_a_shard_must_hold_a_window(tmp_path):
    for count in (0, 1, 16):
        write_shard(tmp_path / "few", sentences(count, 5))
        refused(*SMALL, "--train-data", tmp_path / "few", says=("few", "17"))
    write_shard(tmp_path / "few", sentences(17, 5))
    run(*SMALL, "--train-data", tmp_path / "few", "--val-data", tmp_path / "few", "--steps", 3)


@pytest.mark.parametrize("wide", [False, True])
def test_a_token_beyond_the_vocabulary_is_named_by_file_and_byte(wide, tmp_path, out):
    tokens = sentences(2000, 5)
    tokens[1234] = 256
    path = tmp_path / "bad"
    write_shard(path, tokens, wide=wide)
    place = f"byte {1024 + 1234 * (4 if wide else 2)}"
    refused(*SMALL, "--train-data", path, "--steps", 100, "--out", out, says=(str(path), place, "256"))
    write_shard(tmp_path / "good", sentences(2000, 5))
    refused(*SMALL, "--train-data", tmp_path / "good", "--val-data", path, "--val-every", 1, "--steps", 2,
            says=("--val-data", str(path), place))
    run(*SMALL, "--vocab-size", 257, "--train-data", path, "--steps", 2)


# ------------------------------------------------------------------------------------------------------ weights


def test_weights_that_do_not_match_are_refused_by_tensor(tmp_path, trained):
    good = read_tensors(os.path.join(step_directory(trained, 6), MODEL))
    name = "transformer.h.1.mlp.c_fc.weight"
    path = tmp_path / "weights.safetensors"
    arguments = [*SMALL, "--eval-only", "--init-from", path, "--val-data", "unused"]

    def changed(**tensors):
        write_tensors(path, {**good, **tensors})

    write_tensors(path, {key: value for key, value in good.items() if key != name})
    refused(*arguments, says=(str(path), name))
    changed(**{"lm_head.weight": good["transformer.wte.weight"] * 2})
    refused(*arguments, says="lm_head.weight")
    changed(**{name: good[name].T})
    refused(*arguments, says=(name, "[256, 64]", "[64, 256]"))
    changed(**{name: good[name].reshape(-1)})
    refused(*arguments, says=(name, "[16384]"))
    changed(**{name: good[name].reshape(64, 256, 1)})
    refused(*arguments, says=(name, "[64, 256, 1]"))
    write_tensors(path, good, dtype="I32")
    refused(*arguments, says="I32")
    path.write_bytes(b"no such thing" * 100)
    refused(*arguments, says=str(path))
    path.write_bytes(b"")
    refused(*arguments, says=str(path))
    write_tensors(path, good)
    whole = path.read_bytes()
    for size in (4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(*arguments, says=str(path))
    refused(*SMALL, "--eval-only", "--init-from", tmp_path, "--val-data", "unused", says=str(tmp_path))
    refused(*SMALL, "--eval-only", "--init-from", tmp_path / "none", "--val-data", "unused", says="none")


def test_a_run_can_start_from_given_weights(tmp_path, trained, data):
    weights = os.path.join(step_directory(trained, 6), MODEL)
    text = run(*SMALL, *data, "--eval-only", "--init-from", weights).out
    wide = tmp_path / "wide.safetensors"
    write_tensors(wide, {name: value.astype("<f8") for name, value in read_tensors(weights).items()})
    assert run(*SMALL, *data, "--eval-only", "--init-from", wide).out == text
    run(*SMALL, *data, "--steps", 2, "--init-from", weights, "--out", tmp_path / "run")
    assert losses(tmp_path / "run")[0] < losses(trained)[0]


# --------------------------------------------------------------------------------------------------------- runs


def trains_the_same(first, second, step):
    assert losses(first) == losses(second)
    for name in (MODEL, MOMENTS):
        assert file_bytes(step_directory(first, step), name) == file_bytes(step_directory(second, step), name), name


def test_the_same_command_gives_the_same_bits(data, trained, out):
    run(*SMALL, *data, "--steps", 6, "--save-every", 3, "--val-every", 2, "--out", out)
    trains_the_same(trained, out, 6)
    assert [line["loss"] for line in metrics(out, "val")] == [line["loss"] for line in metrics(trained, "val")]


def test_two_threads_give_the_same_bits_run_after_run(data, tmp_path):
    for name in ("a", "b"):
        run(*SMALL, *data, "--steps", 3, "--threads", 2, "--out", tmp_path / name)
    trains_the_same(tmp_path / "a", tmp_path / "b", 3)


def test_validating_sampling_and_saving_change_nothing_in_training(data, tmp_path):
    run(*SMALL, *data, "--steps", 4, "--val-every", 0, "--out", tmp_path / "a")
    run(*SMALL, *data, "--steps", 4, "--val-every", 1, "--sample-every", 1, "--save-every", 1, "--max-new-tokens", 20,
        "--out", tmp_path / "b")
    trains_the_same(tmp_path / "a", tmp_path / "b", 4)


def test_another_seed_gives_another_run(data, tmp_path, trained):
    run(*SMALL, *data, "--steps", 6, "--seed", 2, "--out", tmp_path / "a")
    assert losses(tmp_path / "a") != losses(trained)


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_recomputing_changes_no_bit(arch, data, tmp_path):
    for mode in ("none", "act", "block"):
        run(*SMALL, *data, "--arch", arch, "--vocab-size", 256, "--steps", 3, "--recompute", mode, "--out", tmp_path / mode)
    trains_the_same(tmp_path / "none", tmp_path / "act", 3)
    trains_the_same(tmp_path / "none", tmp_path / "block", 3)


def test_accumulating_gradients_is_a_larger_batch_in_the_same_order(data, tmp_path):
    # In fp64, the sums of a step differ by rounding, 1e-16 of a gradient's size; AdamW passes on at most
    # lr · 1e-16 / eps = 1e-11 of that to a weight in a step, and the loss is less sensitive than the weights' sum.
    for batch in (4, 2, 1):
        run(*SMALL, *data, "--dtype", "fp64", "--steps", 4, "--batch-size", batch, "--total-batch-tokens", 64, "--out",
            tmp_path / str(batch))
    for batch in ("2", "1"):
        assert losses(tmp_path / batch) == pytest.approx(losses(tmp_path / "4"), rel=1e-9)
        assert losses(tmp_path / batch)[0] == pytest.approx(losses(tmp_path / "4")[0], rel=1e-14)
    assert len(set(losses(tmp_path / "4"))) == 4


RESUMES = {"plain": [], "accumulation": ["--batch-size", 2, "--total-batch-tokens", 128],
           "llama": ["--arch", "llama", "--vocab-size", 256, "--n-kv-head", 1],
           "window": ["--skip-sigma", 3], "fp64": ["--dtype", "fp64"],
           # 187 windows of 16 tokens: an epoch ends in step 3 of 80 windows each
           "epoch": ["--batch-size", 8, "--total-batch-tokens", 1280]}


@pytest.mark.parametrize("case", RESUMES)
def test_a_resumed_run_ends_with_the_same_bits(case, data, tmp_path):
    straight, broken = str(tmp_path / "straight"), str(tmp_path / "broken")
    arguments = [*SMALL, *data, *RESUMES[case], "--steps", 5, "--save-every", 2]
    run(*arguments, "--out", straight, "--keep", 3)
    os.makedirs(broken)
    shutil.copytree(step_directory(straight, 2), step_directory(broken, 2))
    text = run(*arguments, "--out", broken, "--resume", "auto").out
    assert step_directory(broken, 2) in text
    assert [line["step"] for line in metrics(broken)] == [3, 4, 5]
    assert losses(broken) == losses(straight)[2:]
    for name in (MODEL, MOMENTS, "state.json"):
        assert file_bytes(step_directory(broken, 5), name) == file_bytes(step_directory(straight, 5), name), name
    assert metrics(broken, "event")[0]["event"] == "resume"


def test_resume_needs_nothing_but_the_checkpoint(data, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(step_directory(tmp_path / "run", 6))
    run("--resume", step_directory(tmp_path / "run", 3), "--out", tmp_path / "other")
    trains_after = losses(tmp_path / "other")
    assert trains_after == losses(trained)[3:]
    run("--resume", tmp_path / "run", "--out", tmp_path / "third")
    assert losses(tmp_path / "third") == trains_after


def test_resume_and_out_may_stand_in_a_config_file(data, trained, tmp_path):
    shutil.copytree(step_directory(trained, 3), step_directory(tmp_path / "run #1", 3))
    path = tmp_path / "run.ini"
    path.write_text(f'resume = auto\nout = "{tmp_path}/run #1"\n')
    run("--config", path)
    assert losses(tmp_path / "run #1") == losses(trained)[3:]
    run("--config", path, "--resume", "auto")  # and the directory's name came through config.ini
    path.write_text("resume = auto\n")
    refused("--config", path, *SMALL, *data, says="--out")


def test_resume_auto_without_a_checkpoint_starts(data, trained, out):
    run(*SMALL, *data, "--steps", 6, "--out", out, "--resume", "auto", "--save-every", 3)
    assert losses(out) == losses(trained)
    run(*SMALL, *data, "--steps", 6, "--out", out, "--resume", "auto", "--save-every", 3)  # nothing left to do
    assert len(losses(out)) == 6 and checkpoints(out) == ["step_00000003", "step_00000006"]


def test_resume_refuses_another_model(trained, data, tmp_path):
    refused("--resume", trained, "--norm", "rmsnorm", says=("layernorm", "rmsnorm"))
    refused("--resume", trained, "--n-layer", 3, says="transformer.h.2.")
    refused("--resume", trained, "--n-layer", 1, says="transformer.h.1.")
    refused("--resume", trained, "--n-embd", 128, says="transformer.wte.weight")
    refused("--resume", tmp_path, says=str(tmp_path))
    refused("--resume", tmp_path / "nowhere", says="nowhere")
    refused("--resume", "auto", *SMALL, *data, says="--out")


def test_resume_with_other_threads_says_so(trained, tmp_path):
    done = run("--resume", step_directory(trained, 3), "--threads", 2, "--out", tmp_path / "run")
    assert re.fullmatch(r"train_gpt: .*1 threads.*2.*\n", done.err)


def test_a_directory_with_later_checkpoints_is_not_written_over(trained, data, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    before = file_bytes(step_directory(tmp_path / "run", 6), MODEL)
    for arguments in (["--seed", 2], ["--resume", step_directory(tmp_path / "run", 3), "--lr", "1e-4"]):
        refused(*SMALL, *data, "--steps", 6, *arguments, "--out", tmp_path / "run", says=("step_00000006", "--resume auto"))
    assert file_bytes(step_directory(tmp_path / "run", 6), MODEL) == before


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_as_many_checkpoints_are_kept_as_asked(keep, data, out):
    run(*SMALL, *data, "--steps", 5, "--save-every", 2, "--keep", keep, "--out", out)
    assert checkpoints(out) == ["step_00000002", "step_00000004", "step_00000005"][-keep:]
    assert not [name for name in os.listdir(out) if "partial" in name]
    assert [line["path"] for line in metrics(out, "event") if line["event"] == "checkpoint"] == [
        step_directory(out, step) for step in (2, 4, 5)]


def test_without_out_nothing_is_written(data, tmp_path):
    run(*SMALL, *data, "--steps", 1, "--save-every", 1, cwd=tmp_path)
    assert os.listdir(tmp_path) == []


def test_max_minutes_ends_with_a_checkpoint(data, out):
    text = run(*SMALL, *data, "--steps", 10000000, "--max-minutes", 0.01, "--out", out).out
    last = metrics(out)[-1]["step"]
    assert checkpoints(out) == [f"step_{last:08d}"] and "--max-minutes" in text
    assert metrics(out, "event")[-1]["reason"] == "--max-minutes"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_step_and_writes_a_checkpoint(number, data, out):
    with subprocess.Popen([PROGRAM, *SMALL, *data, "--steps", "10000000", "--out", out], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment()) as process:
        while not process.stdout.readline().startswith(b"step 3/"):
            assert process.poll() is None
        process.send_signal(number)
        text, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and errors == b""
    assert number.name.encode() in text
    last = metrics(out)[-1]["step"]
    assert checkpoints(out) == [f"step_{last:08d}"]
    # What it wrote is what a run of so many steps would have at that point: it goes on from there.
    run("--resume", "auto", "--out", out, "--steps", last + 1, "--warmup-steps", 0)
    assert metrics(out)[-1]["step"] == last + 1


def test_a_checkpoint_that_cannot_be_written_is_a_failure(data, out):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))

    # Python ignores SIGXFSZ: so will the program, and see EFBIG.
    error = run(*SMALL, *data, "--steps", 3, "--save-every", 2, "--out", out, code=1, preexec_fn=limit,
                restore_signals=False).err
    assert MODEL in error
    assert checkpoints(out) == [] and len(losses(out)) == 3
    assert not [name for name in os.listdir(out) if "partial" in name]


@pytest.mark.parametrize("place", ["/dev/null/run", "/proc/run", "missing/parent/run"])
def test_an_out_that_cannot_be_made_is_refused(place, data, tmp_path):
    refused(*SMALL, *data, "--steps", 1, "--out", place, cwd=tmp_path, says=("--out", place))


def test_an_out_that_is_a_file_is_refused(data, tmp_path):
    (tmp_path / "file").write_text("")
    refused(*SMALL, *data, "--steps", 1, "--out", tmp_path / "file", says="file")


# ------------------------------------------------------------------------------------------------------ metrics


def test_metrics_have_the_documented_fields(trained):
    train, val, events = (metrics(trained, kind) for kind in ("train", "val", "event"))
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]
    for line in train:
        assert set(line) == {"type", "step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "flops", "mfu", "ms"}
        assert line["tokens"] == 64 and line["ms"] > 0 and line["grad_norm"] > 0 and math.isfinite(line["loss"])
        assert line["tokens_per_s"] == pytest.approx(64 / (line["ms"] * 1e-3))
        assert line["mfu"] is None  # the peak of a CPU is not known
    assert train[0]["loss"] == pytest.approx(math.log(256), abs=0.1)  # nats per token, of uniform guesses
    assert [line["step"] for line in val] == [2, 4, 6]
    assert all(set(line) == {"type", "step", "loss", "tokens"} and line["tokens"] == 43 * 16 for line in val)
    assert [line["event"] for line in events] == ["start", "checkpoint", "checkpoint", "end"]
    start = events[0]
    assert {"version", "kernels", "device", "parameters", "flags"} <= set(start)
    settings = {name for kind, name in flags_of_the_table() if kind not in ("MODE", "PROMPT")}
    unset = {"preset", "init-from", "config", "resume", "probe"}
    assert set(start["flags"]) == settings - unset
    assert start["flags"]["n-layer"] == 2 and start["flags"]["lr"] == 1e-3 and start["flags"]["dtype"] == "fp32"


def shape_of(schedule, step, steps, warmup, final, decay):
    """The formulas of schedule.h, with a peak of 1."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (steps - 1 - warmup)
    into = 1 - (steps - 1 - step) / (decay * steps)
    factor = {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done, "constant": 1,
              "wsd": 1 if into <= 0 else 1 - math.sqrt(into)}[schedule]
    return final + (1 - final) * factor


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_the_learning_rate_follows_its_schedule(schedule, data, out):
    run("--preset", "micro", "--seq-len", 4, "--batch-size", 1, *data[:2], "--steps", 12, "--warmup-steps", 3, "--lr", 0.003,
        "--lr-final-frac", 0.05, "--lr-schedule", schedule, "--wsd-decay-frac", 0.5, "--out", out)
    rates = [line["lr"] for line in metrics(out)]
    assert rates == pytest.approx([0.003 * shape_of(schedule, step, 12, 3, 0.05, 0.5) for step in range(12)], rel=1e-12)


def test_elsewhere_than_on_a_terminal_progress_is_plain_lines(data):
    text = run(*SMALL, *data, "--steps", 7, "--log-every", 3, "--val-every", 0).out
    assert "\r" not in text and "\x1b" not in text
    assert re.findall(r"^step (\d+)/7  loss", text, re.MULTILINE) == ["1", "3", "6", "7"]
    assert "GFLOP a token (6" in text  # the formula behind the rate, in words
    assert len(re.findall(r"^step 7/7  val loss", text, re.MULTILINE)) == 1


def test_on_a_terminal_progress_rewrites_one_line(data, out):
    mine, theirs = pty.openpty()
    with subprocess.Popen([PROGRAM, *SMALL, *data, "--steps", "7", "--val-every", "4", "--out", out], stdout=theirs,
                          env=environment()) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(mine, 65536)
            except OSError:  # the other side is closed
                piece = b""
            if not piece:
                break
            text += piece
        assert process.wait(timeout=60) == 0
    os.close(mine)
    lines = text.decode().split("\r\n")
    assert lines[-1] == ""
    # All steps up to the validation stand in one line, which the validation's own line then takes the place of.
    first = [line for line in lines if "step 1/7" in line]
    assert len(first) == 1 and [f"\rstep {i}/7 " in first[0] for i in range(1, 8)] == [True] * 4 + [False] * 3
    assert first[0].split("\r")[-1].startswith("\x1b[Kstep 4/7  val loss")
    assert "ETA" in first[0] and "tok/s" in first[0] and "GFLOP/s" in first[0]


# ------------------------------------------------------------------------------------------------ what AdamW does


def random_weights(trained, path, seed=1):
    draw = numpy.random.default_rng(seed)
    tensors = {name: (draw.normal(1 if value.ndim == 1 and ".weight" in name else 0, 0.05, value.shape)).astype("<f4")
               for name, value in read_tensors(os.path.join(step_directory(trained, 6), MODEL)).items()}
    write_tensors(path, tensors)
    return tensors


@pytest.mark.parametrize("where", ["matrices", "no-embeddings", "all"])
def test_weights_decay_only_where_decay_on_says(where, trained, data, tmp_path):
    path = tmp_path / "random.safetensors"
    start = random_weights(trained, path)
    arguments = [*SMALL, *data, "--init-from", path, "--steps", 1, "--lr", 0.01, "--lr-schedule", "constant"]
    ends = []
    for decay in (0, 10):
        out = tmp_path / str(decay)
        run(*arguments, "--weight-decay", decay, "--decay-on", where, "--out", out)
        ends.append(read_tensors(os.path.join(step_directory(out, 1), MODEL)))
    for name, value in start.items():
        embedding = name in ("transformer.wte.weight", "transformer.wpe.weight")
        decays = {"matrices": value.ndim == 2, "no-embeddings": value.ndim == 2 and not embedding, "all": True}[where]
        lost = ends[0][name].astype(float) - ends[1][name]
        # lr · decay · w, rounded where each run's update was: half an ulp of fp32 at twice the weight's size, thrice
        assert numpy.abs(lost - (0.1 * value if decays else 0)).max() <= (3 * 2 ** -23 * 2 if decays else 0), name


def test_a_run_that_diverges_ends_with_3_and_keeps_finite_checkpoints(trained, data, out):
    os.makedirs(out)
    shutil.copytree(step_directory(trained, 3), step_directory(out, 3))
    # Decay of lr · 10 = 1000 times the weight in a step: beyond fp32 after a dozen.
    error = run(*SMALL, *data, "--out", out, "--resume", "auto", "--steps", 60, "--save-every", 1, "--keep", 100, "--lr", 100,
                "--weight-decay", 10, "--decay-on", "all", "--lr-schedule", "constant", "--warmup-steps", 0, code=3).err
    events = metrics(out, "event")
    assert [event["event"] for event in events[-4:]] == ["skip", "skip", "skip", "diverged"]
    assert checkpoints(out)[-1] in error and len(checkpoints(out)) > 3
    for step in checkpoints(out):
        for name in (MODEL, MOMENTS):
            assert all(numpy.isfinite(value).all() for value in read_tensors(os.path.join(out, step, name)).values()), step


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_weights_that_are_no_numbers_end_with_3_and_no_checkpoint(value, trained, data, tmp_path, out):
    path = tmp_path / "bad.safetensors"
    tensors = random_weights(trained, path)
    tensors["transformer.h.0.attn.c_attn.weight"][3, :] = value
    write_tensors(path, tensors)
    done = run(*SMALL, *data, "--init-from", path, "--out", out, "--steps", 50, "--save-every", 1, code=3)
    assert "3 steps in a row" in done.err
    events = metrics(out, "event")
    assert [event["event"] for event in events] == ["start", "skip", "skip", "skip", "diverged"]
    assert checkpoints(out) == [] and done.err.endswith("last checkpoint: none\n")


# -------------------------------------------------------------------------------------------------------- modes


def test_smoke_trains_and_leaves_nothing(tmp_path):
    assert "smoke:" in run("--smoke", env={"TMPDIR": str(tmp_path)}, cwd=tmp_path).out
    refused("--smoke", "--n-kv-head", 3, env={"TMPDIR": str(tmp_path)})
    assert os.listdir(tmp_path) == []


def test_modes_that_need_weights_or_data_say_so(data, trained):
    refused(*SMALL, "--eval-only", *data, says="--resume")
    refused(*SMALL, "--generate", "x", says="--resume")
    refused("--resume", trained, "--eval-only", "--val-data", "/nowhere/*", says="/nowhere/*")
    weights = os.path.join(step_directory(trained, 6), MODEL)
    refused(*SMALL, "--eval-only", "--init-from", weights, says="--val-data")
    refused("--preset", "micro", "--vocab-size", 300, "--generate", "x", "--init-from", weights, says="--vocab-size 300")
    refused("--preset", "micro", "--vocab-size", 300, *data, "--sample-every", 1, says="--vocab-size 300")


def test_eval_only_gives_the_runs_last_validation_loss(trained):
    last = metrics(trained, "val")[-1]
    for arguments, tolerance in (([], 5.1e-7), (["--batch-size", 3], 2e-6)):  # printed to 1e-6; fp32 rounding beside it
        text = run("--resume", trained, "--eval-only", *arguments).out
        loss, tokens = re.fullmatch(r"val loss ([\d.]+) nats/token over (\d+) tokens\n", text).groups()
        assert float(loss) == pytest.approx(last["loss"], abs=tolerance) and int(tokens) == last["tokens"]


def generated(trained, prompt, *arguments):
    done = subprocess.run([PROGRAM, "--resume", trained, "--generate", prompt, *map(str, arguments)], check=True,
                          stdout=subprocess.PIPE, env=environment(), timeout=60)
    assert done.stdout.startswith(prompt.encode()) and done.stdout.endswith(b"\n")
    return done.stdout[len(prompt.encode()):-1]


def test_generation_repeats_itself_and_goes_beyond_the_window(trained):
    once = generated(trained, "the cat", "--max-new-tokens", 100)  # the window is 16
    assert len(once) == 100
    assert generated(trained, "the cat", "--max-new-tokens", 100) == once
    assert generated(trained, "the cat", "--max-new-tokens", 30) == once[:30]
    assert generated(trained, "the cat", "--max-new-tokens", 100, "--seed", 5) != once
    assert len(generated(trained, "the cat sat on a mat. " * 9, "--max-new-tokens", 40)) == 40
    assert len(generated(trained, "", "--max-new-tokens", 5)) == 5
    assert len(generated(trained, "käse", "--max-new-tokens", 5)) == 5


def test_temperature_zero_takes_the_likeliest_token(trained, tmp_path):
    greedy = generated(trained, "the dog", "--temperature", 0, "--max-new-tokens", 40)
    assert generated(trained, "the dog", "--temperature", 0, "--seed", 9, "--max-new-tokens", 40) == greedy
    assert generated(trained, "the dog", "--top-k", 1, "--max-new-tokens", 40) == greedy
    # The forward pass over a window agrees with generation through the cache.
    probe = tmp_path / "probe.safetensors"
    run("--resume", trained, "--probe", probe)
    tensors = read_tensors(probe)
    window = bytes(tensors["tokens"][0].astype("u1"))
    for length in (1, 8, 16):
        want = int(tensors["logits"][0, length - 1].argmax())
        assert generated(trained, window[:length].decode(), "--temperature", 0, "--max-new-tokens", 1) == bytes([want])


def test_samples_are_printed_on_the_way(data, tmp_path):
    done = subprocess.run([PROGRAM, *SMALL, *data, "--steps", "4", "--sample-every", "2", "--max-new-tokens", "10"],
                          check=True, stdout=subprocess.PIPE, env=environment(), timeout=60)
    assert re.findall(rb"sample after (\d+) steps:", done.stdout) == [b"2", b"4"]
    write_shard(tmp_path / "few", [i % 5 for i in range(100)])
    run(*SMALL, "--vocab-size", 5, "--train-data", tmp_path / "few", "--steps", 2, "--sample-every", 1)


@pytest.mark.parametrize("arguments", [["--dtype", "fp32"], ["--dtype", "fp64", "--arch", "llama", "--n-kv-head", "1"]])
def test_a_probe_holds_what_is_documented(arguments, data, tmp_path, out):
    path = tmp_path / "probe.safetensors"
    common = [*SMALL, *data, *arguments, "--vocab-size", 256]
    run(*common, "--probe", path)
    run(*common, "--steps", 1, "--out", out)
    probe, model = read_tensors(path), read_tensors(os.path.join(step_directory(out, 1), MODEL))
    real = "<f8" if "fp64" in arguments else "<f4"
    shapes = {"tokens": (4, 16), "targets": (4, 16), "loss": (1,), "logits": (4, 16, 256)}
    shapes.update({f"residual.{layer}": (4, 16, 64) for layer in range(3)})
    shapes.update({f"grad.{name}": value.shape for name, value in model.items()})
    assert {name: value.shape for name, value in probe.items()} == shapes
    for name, value in probe.items():
        assert value.dtype.str == ("<u4" if name in ("tokens", "targets") else real), name
        assert value.dtype.str == "<u4" or numpy.isfinite(value).all(), name
    assert (probe["targets"][:, :-1] == probe["tokens"][:, 1:]).all()
    # The loss is the mean cross-entropy of the logits, and that of a run's first step; its norm is the gradients'.
    logits = probe["logits"].astype(float)
    log_sum = numpy.log(numpy.exp(logits).sum(-1))
    picked = numpy.take_along_axis(logits, probe["targets"][..., None].astype(int), -1)[..., 0]
    rounding = 1e-12 if real == "<f8" else 1e-6  # a few ulp of numbers around 5
    assert probe["loss"][0] == pytest.approx((log_sum - picked).mean(), rel=rounding)
    assert probe["loss"][0] == pytest.approx(losses(out)[0], rel=rounding)
    norm = math.sqrt(sum((value.astype(float) ** 2).sum() for name, value in probe.items() if name.startswith("grad.")))
    assert norm == pytest.approx(metrics(out)[0]["grad_norm"], rel=1e-12 if real == "<f8" else 1e-5)


def test_a_probe_that_cannot_be_written_fails_in_one_line(data):
    assert "--probe" in run(*SMALL, *data, "--probe", "/nowhere/probe.safetensors", code=1).err


@pytest.mark.parametrize("shape", ["--n-embd 1 --n-head 1", "--n-embd 3 --n-head 3 --n-layer 1", "--seq-len 1 --batch-size 1",
                                   "--n-embd 70 --n-head 7 --n-ffn 13 --vocab-size 257",
                                   "--arch llama --n-embd 26 --n-head 13 --n-kv-head 1 --n-ffn 1 --vocab-size 256",
                                   "--n-embd 256 --n-head 1 --n-layer 1"])
def test_odd_shapes_train(shape, data, out):
    run("--preset", "micro", "--seq-len", 7, "--batch-size", 3, *shape.split(), *data, "--steps", 2, "--out", out)
    assert all(math.isfinite(loss) for loss in losses(out))


def test_a_small_run_starts_at_once(data):
    run(*SMALL, *data, "--steps", 1)  # pages are in memory now
    began = time.monotonic()
    run(*SMALL, *data, "--steps", 1)
    assert time.monotonic() - began < 5  # under one when nothing else runs; a hang is what this finds
