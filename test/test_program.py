"""What does the whole program promise on the command line, and does it keep it?

Flags, the dry run, bad data and weights, and the modes besides training (test_training.py).
"""

import itertools
import math
import os
import re
import resource
import shutil
import subprocess
import time

import numpy
import pytest

from program import (
    MODEL,
    PROGRAM,
    SMALL,
    environment,
    file_bytes,
    flags_of_the_table,
    losses,
    metrics,
    refused,
    run,
    sentences,
    step_directory,
    write_shard,
)
from tensors import read_tensors, write_tensors

# -------------------------------------------------------------------------------------------------------- flags


def test_help_names_every_flag_and_preset():
    text = run("--help").stdout
    for _, name in flags_of_the_table():
        assert f"  --{name} " in text, name
    for preset in ("micro", "tiny", "gpt2-124m", "llama-1b", "sdd-1b"):
        assert preset in text
    assert "exit codes" in text


def test_questions_are_answered_whatever_else_is_asked():
    assert re.match(r"train_gpt \S+ \(.*\)\nranks are taken from", run("--version").stdout)
    text = run("--list-variants").stdout
    for word in ("layernorm", "rmsnorm", "pre"):
        assert word in text
    assert run("--resume", "auto", "--help").stdout == run("--help").stdout
    assert run("--resume", "nowhere", "--lr", "nan", "--version").stdout == run("--version").stdout


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
    without = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}  # a processor that has it does as if it had not
    refused("--device", "cpu", "--dtype", "bf16", "--dry-run", env=without, says="--dtype bf16 on the CPU: without")


def test_a_message_is_one_printable_line_whatever_is_in_the_names():
    refused("--train-data", "no\nsuch\x1b[2Jfile\r", *SMALL, says="no?such?[2Jfile?")
    refused("--bad\nflag", "1", says="bad?flag")
    refused("--lr", "1\n2")
    refused("--preset", "\x07")


def test_values_come_after_a_space_or_an_equals_sign_and_the_last_one_counts():
    def layers(*arguments):
        return int(re.search(r"(\d+) layers", run("--preset", "micro", "--dry-run", *arguments).stdout)[1])

    assert layers() == 2
    assert layers("--n-layer", "3") == layers("--n-layer=3") == layers("--n-layer", "5", "--n-layer=3") == 3
    assert layers("--preset", "tiny") == 4
    assert layers("--n-layer", "3", "--preset", "tiny") == 3  # a preset lies below every other flag


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "some.ini"
    path.write_text("# mine\npreset = tiny\nn-layer = 3\nbatch-size = 5  # small\n")

    def shape(*arguments):
        text = run("--config", path, "--dry-run", *arguments).stdout
        return tuple(
            int(re.search(word, text)[1]) for word in (r"(\d+) layers", r"(\d+) wide", r"(\d+) sequences")
        )

    assert shape() == (3, 128, 5)
    assert shape("--n-layer", "1") == (1, 128, 5)
    assert shape("--preset", "micro") == (3, 64, 5)  # the file's preset gives way, its settings stay
    assert shape("--preset", "micro", "--batch-size", "7", "--n-layer=9") == (9, 64, 7)
    for text, says in (
        ("n-layer = many", "line 1"),
        ("\n\nlr = nan", "line 3"),
        ("smoke = 1", "command line"),
        ("n-layer 3", "name = value"),
        ("config = other", "command line"),
        ("a\0b", "zero byte"),
    ):
        path.write_text(text)
        refused("--config", path, "--dry-run", says=(str(path), says))
    refused("--config", tmp_path, says=str(tmp_path))
    refused("--config", tmp_path / "none.ini", says="none.ini")


def test_shapes_that_do_not_fit_together_are_refused():
    for arguments, says in (
        (["--n-embd", 100, "--n-head", 3], "--n-embd 100"),
        (["--n-head", 4, "--n-kv-head", 3], "--n-kv-head 3"),
        (["--positions", "rope", "--n-embd", 9, "--n-head", 3], "rope"),
        (["--n-embd", 2048, "--n-head", 4], "256"),
        (["--total-batch-tokens", 1000], "--total-batch-tokens 1000"),
        (["--warmup-steps", 11, "--steps", 10], "11"),
        (["--batch-size", 1000000, "--seq-len", 1000000], "--batch-size 1000000"),
        (["--n-embd", 65537], "65536"),
        (["--vocab-size", 4294967294], "--vocab-size"),
        (["--vocab-size", 1], "--vocab-size"),
    ):
        refused("--preset", "micro", "--dry-run", *arguments, says=says)


# ------------------------------------------------------------------------------------------------------ dry run


def parameters(*arguments):
    return int(re.search(r"^parameters: (\d+)$", run("--dry-run", *arguments).stdout, re.MULTILINE)[1])


def test_presets_have_the_published_numbers_of_parameters():
    def llama(vocabulary, layers, width, heads, kv_heads, ffn, tied=False):
        attention = 2 * width * width + 2 * width * (width // heads * kv_heads)
        return (
            (1 if tied else 2) * vocabulary * width
            + layers * (attention + 3 * width * ffn + 2 * width)
            + width
        )

    for preset, count in {
        "gpt2-124m": 124439808,
        "gpt2-350m": 354823168,
        "gpt2-774m": 774030080,
        "gpt2-1558m": 1557611200,
        "llama-71m": llama(32000, 12, 512, 8, 8, 1368),
        "llama-130m": llama(32000, 12, 768, 12, 12, 2048),
        "llama-250m": llama(32000, 24, 768, 16, 16, 2560),
        "llama-350m": llama(32000, 24, 1024, 16, 16, 2736),
        "llama-1b": llama(32000, 24, 2048, 32, 32, 5461),
        "llama-374m": llama(128256, 16, 1024, 16, 4, 4096, tied=True),
        "sdd-581m": llama(100278, 8, 2048, 32, 8, 8192, tied=True),
        "sdd-1b": llama(100278, 16, 2048, 32, 8, 8192, tied=True),
    }.items():
        assert parameters("--preset", preset) == count, preset


@pytest.mark.parametrize(
    "preset",
    [
        "micro",
        "tiny",
        "micro --arch llama --n-kv-head 1",
        "micro --bias off --norm rmsnorm",
        "micro --arch llama --bias on --norm layernorm --positions learned",
    ],
)
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
    text = run(*largest, "--dry-run").stdout
    rows = {name: float(size) for name, size in re.findall(r"^  (\w+) +([-\d.]+) MB", text, re.MULTILINE)}
    assert rows["weights"] == rows["gradients"] == pytest.approx(rows["moments"] / 2)
    assert rows["weights"] >= 4e-6 * layers * per_layer
    refused(
        *largest,
        "--dry-run",
        "--activation",
        "swiglu",
        "--dtype",
        "fp64",
        "--batch-size",
        2047,
        "--seq-len",
        1048576,
        says="--batch-size",
    )


def test_a_run_that_cannot_fit_into_memory_fails_at_once(data):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    layers = (
        2 * memory // (12 * 4096**2 * 16) + 1
    )  # fp32 weights, gradients and two moments of twice the memory

    def limit():  # were it to start after all, the machine would not suffer; a sanitizer needs the addresses itself
        if b"__asan_init" not in file_bytes(PROGRAM):
            resource.setrlimit(resource.RLIMIT_AS, (memory // 3, memory // 3))

    error = run(
        "--n-embd", 4096, "--n-head", 32, "--n-layer", min(layers, 1000), *data, code=1, preexec_fn=limit
    ).stderr
    assert re.search(r"out of memory: this run takes [\d.]+ GB, .* has [\d.]+ GB", error) or layers > 1000


# --------------------------------------------------------------------------------------------------------- data


def test_bad_shards_are_refused_with_file_and_place(tmp_path):
    good = sentences(100, 5)
    cases = {
        "magic": dict(magic=20240521),
        "version": dict(version=2),
        "short": dict(count=101),
        "long": dict(count=99),
        "negative": dict(count=-1),
    }
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
        refused(
            *SMALL,
            "--train-data",
            tmp_path / "good",
            "--val-data",
            tmp_path / name,
            says=("--val-data", str(tmp_path / name)),
        )
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
    refused(
        *SMALL,
        "--train-data",
        tmp_path / "good",
        "--val-data",
        path,
        "--val-every",
        1,
        "--steps",
        2,
        says=("--val-data", str(path), place),
    )
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
    text = run(*SMALL, *data, "--eval-only", "--init-from", weights).stdout
    wide = tmp_path / "wide.safetensors"
    write_tensors(wide, {name: value.astype("<f8") for name, value in read_tensors(weights).items()})
    assert run(*SMALL, *data, "--eval-only", "--init-from", wide).stdout == text
    run(*SMALL, *data, "--steps", 2, "--init-from", weights, "--out", tmp_path / "run")
    assert losses(tmp_path / "run")[0] < losses(trained)[0]


# -------------------------------------------------------------------------------------------------------- modes


def test_smoke_trains_and_leaves_nothing(tmp_path):
    assert "smoke:" in run("--smoke", env={"TMPDIR": str(tmp_path)}, cwd=tmp_path).stdout
    refused("--smoke", "--n-kv-head", 3, env={"TMPDIR": str(tmp_path)})
    assert os.listdir(tmp_path) == []


def test_modes_that_need_weights_or_data_say_so(data, trained, tmp_path):
    refused(*SMALL, "--eval-only", *data, says="--resume")
    refused(*SMALL, "--generate", "x", says="--resume")
    refused("--resume", trained, "--eval-only", "--val-data", "/nowhere/*", says="/nowhere/*")
    weights = os.path.join(step_directory(trained, 6), MODEL)
    refused(*SMALL, "--eval-only", "--init-from", weights, says="--val-data")
    refused(*SMALL, "--vocab-size", 300, "--generate", "x", "--init-from", weights, says=("--vocab-size 300", "vocab_size 256"))
    bare = shutil.copy(weights, tmp_path / "bare.safetensors")
    refused(*SMALL, "--vocab-size", 300, "--generate", "x", "--init-from", bare, says="--vocab-size 300")


def test_eval_only_gives_the_runs_last_validation_loss(trained):
    last = metrics(trained, "val")[-1]
    for arguments, tolerance in (
        ([], 5.1e-7),
        (["--batch-size", 3], 2e-6),
    ):  # printed to 1e-6; fp32 rounding beside it
        text = run("--resume", trained, "--eval-only", *arguments).stdout
        loss, tokens = re.fullmatch(r"val loss ([\d.]+) nats/token over (\d+) tokens\nperplexity [^\n]*\n", text).groups()
        assert float(loss) == pytest.approx(last["loss"], abs=tolerance) and int(tokens) == last["tokens"]


def test_a_short_validation_samples_the_whole_set(trained, tmp_path):
    """Two sets that begin alike: their few validation batches must not be the beginning's."""
    same, other = ([i * step % 251 for i in range(4000)] for step in (7, 11))
    write_shard(tmp_path / "a.bin", same + same)
    write_shard(tmp_path / "b.bin", same + other)
    few = ["--resume", trained, "--eval-only", "--val-batches", 5]

    def loss(name, *more):
        return run(*few, "--val-data", tmp_path / name, *more).stdout

    assert loss("a.bin") != loss("b.bin")
    assert loss("a.bin", "--seed", 5) == loss("a.bin")


def test_a_validation_over_tokens_reads_so_many_whatever_the_batch(trained, tmp_path):
    write_shard(tmp_path / "a.bin", [i * 7 % 251 for i in range(4000)])
    seen = set()
    for asked, batch, windows in ((1, 4, 1), (100, 3, 7), (100, 8, 7), (10**6, 3, 3999 // 16)):
        text = run("--resume", trained, "--eval-only", "--val-data", tmp_path / "a.bin", "--val-tokens", asked, "--batch-size",
                   batch).stdout
        loss, tokens = re.match(r"val loss ([\d.]+) nats/token over (\d+) tokens\n", text).groups()
        assert int(tokens) == 16 * windows, asked
        seen.add((asked, round(float(loss), 4)))
    assert len(seen) == 3  # the batch's size is none of a validation's
    refused("--resume", trained, "--eval-only", "--val-tokens", 5, "--val-batches", 5, says="give one")


def generated(trained, prompt, *arguments):
    done = subprocess.run(
        [PROGRAM, "--resume", trained, "--generate", prompt, *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=60,
    )
    assert b"differ" not in done.stderr  # other bits than in training are of no interest here
    assert done.stdout.startswith(prompt.encode()) and done.stdout.endswith(b"\n")
    return done.stdout[len(prompt.encode()) : -1]


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
        assert generated(
            trained, window[:length].decode(), "--temperature", 0, "--max-new-tokens", 1
        ) == bytes([want])


def test_samples_are_printed_on_the_way(data, tmp_path):
    done = subprocess.run(
        [PROGRAM, *SMALL, *data, "--steps", "4", "--sample-every", "2", "--max-new-tokens", "10"],
        check=True,
        stdout=subprocess.PIPE,
        env=environment(),
        timeout=60,
    )
    assert re.findall(rb"sample after (\d+) steps:", done.stdout) == [b"2", b"4"]
    write_shard(tmp_path / "few", [i % 5 for i in range(100)])
    run(*SMALL, "--vocab-size", 5, "--train-data", tmp_path / "few", "--steps", 2, "--sample-every", 1)


@pytest.mark.parametrize(
    "arguments", [["--dtype", "fp32"], ["--dtype", "fp64", "--arch", "llama", "--n-kv-head", "1"]]
)
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
    norm = math.sqrt(
        sum((value.astype(float) ** 2).sum() for name, value in probe.items() if name.startswith("grad."))
    )
    assert norm == pytest.approx(metrics(out)[0]["grad_norm"], rel=1e-12 if real == "<f8" else 1e-5)


@pytest.mark.parametrize("place", ["/nowhere/probe", "/dev/null", "/dev/null/probe", "folder", "pipe", "x" * 250])
def test_a_probe_that_cannot_be_written_is_refused_before_any_work(place, tmp_path):
    """Before the data are looked for, which are not there: a bad --out is bad usage too."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    refused(*SMALL, "--train-data", "nowhere", "--probe", place, cwd=tmp_path, says=f"--probe {place}")
    refused(*SMALL, "--train-data", "nowhere", "--probe", "good", cwd=tmp_path, says="--train-data")
    assert sorted(os.listdir(tmp_path)) == before and os.path.exists("/dev/null")


def test_two_modes_at_once_are_refused_by_name(trained, tmp_path):
    modes = [["--dry-run"], ["--smoke"], ["--eval-only"], ["--eval", "x"], ["--generate", "x"],
             ["--probe", tmp_path / "probe"]]
    for first, second in itertools.permutations(modes, 2):
        refused(
            "--resume", trained, *first, *second, env={"TMPDIR": str(tmp_path)}, says=(first[0], second[0])
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "shape",
    [
        "--n-embd 1 --n-head 1",
        "--n-embd 3 --n-head 3 --n-layer 1",
        "--seq-len 1 --batch-size 1",
        "--n-embd 70 --n-head 7 --n-ffn 13 --vocab-size 257",
        "--arch llama --n-embd 26 --n-head 13 --n-kv-head 1 --n-ffn 1 --vocab-size 256",
        "--n-embd 256 --n-head 1 --n-layer 1",
    ],
)
def test_odd_shapes_train(shape, data, out):
    run(
        "--preset",
        "micro",
        "--seq-len",
        7,
        "--batch-size",
        3,
        *shape.split(),
        *data,
        "--steps",
        2,
        "--out",
        out,
    )
    assert all(math.isfinite(loss) for loss in losses(out))


def test_a_small_run_starts_at_once(data):
    run(*SMALL, *data, "--steps", 1)  # pages are in memory now
    began = time.monotonic()
    run(*SMALL, *data, "--steps", 1)
    assert time.monotonic() - began < 5  # under one when nothing else runs; a hang is what this finds
