"""What a person types and pastes: foreign names, globs without quotes, files that editors have saved; and what answers."""

import os
import threading

import pytest

from program import SMALL, refused, run, sentences, write_shard


def layers(*arguments, **more):
    text = run("--preset", "micro", "--dry-run", *arguments, **more).stdout
    return int(text.split(" layers")[0].split()[-1])


def test_names_of_other_programs_lead_to_ours():
    for name, ours in (
        ("--learning-rate", "here it is --lr"),
        ("--learning_rate=1e-3", "here it is --lr"),
        ("--max-iters", "here it is --steps"),
        ("--block-size", "here it is --seq-len"),
        ("--gradient_accumulation_steps", "here it is --total-batch-tokens"),
        ("--size-batch", "the nearest is --batch-size"),
        ("-b", "-b: no such flag; here it is --batch-size"),
        ("-lr", "two dashes: --lr"),
        ("lr=3e-4", "two dashes make it one: --lr=3e-4"),
        ("–lr", "two hyphens: --lr"),
        ("—lr", "two hyphens: --lr"),
        ("––lr", "two hyphens: --lr"),
        ("--lr\u00a0", "U+00A0"),
    ):
        refused(name, "1", says=ours)
    for name in ("--ema", "--wombat", "--zzz"):
        text = refused(name, "1")
        assert "nearest" not in text and "here it is" not in text


def test_underscores_are_dashes():
    assert layers("--n_layer", "6") == layers("--n_layer=6") == 6
    assert layers("--n-layer", "3", "--n_layer", "6") == 6
    refused("--n_layer", "x", says=("--n-layer", "'x'"))


def test_short_questions():
    assert run("-h").stdout == run("--help").stdout
    assert run("-V").stdout == run("--version").stdout
    refused("--help=norm", says="--help takes no value")


def test_no_flag_is_taken_for_the_value_of_another():
    message = refused("--train-data", "--val-data", "x", says=("--train-data needs a value", "--val-data is a flag"))
    assert "--train-data=--val-data" in message
    refused("--out", "--n_layer=3", says="--out needs a value")
    assert layers("--train-data=--val-data") == 2  # who means it can say it


def test_without_flags_it_says_where_to_begin():
    refused(says=("--help", "scripts/quickstart.sh", "--smoke"))
    refused("--preset", "micro", says=("--train-data is missing", "data/prepare.py"))


def test_an_unquoted_glob_is_told_to_be_quoted(tmp_path):
    for name in ("text_train_0000.bin", "text_train_0001.bin", "text_train_0010.bin"):
        write_shard(tmp_path / name, sentences(500, 1))
    names = sorted(map(str, tmp_path.iterdir()))
    refused("--train-data", *names, *SMALL, says=f"quoted: --train-data '{tmp_path}/text_train_*.bin'")
    refused("--train-data", names[0], names[2], says=f"--train-data '{tmp_path}/text_train_*.bin'")
    refused(f"--val-data={names[0]}", names[1], says=f"--val-data '{tmp_path}/text_train_*.bin'")
    refused("--steps", "3", names[1], says="is not a flag")
    refused(names[1], says="is not a flag")
    path = tmp_path / "mine.ini"
    path.write_text("lr = 1e-3\n")
    refused(path, says=f"--config {path}")


def test_a_config_file_is_read_as_editors_save_it(tmp_path):
    path = tmp_path / "some.ini"
    for text in (
        b"\xef\xbb\xbfpreset = micro\nn-layer = 3\n",
        b"\xef\xbb\xbfpreset = micro\r\nn_layer = 3\r\n",
        b"\xef\xbb\xbf# a comment\r\n\r\npreset=micro\r\nn-layer=3",
    ):
        path.write_bytes(text)
        assert layers("--config", path) == 3
    path.write_bytes(b"\xef\xbb\xbf")
    assert layers("--config", path) == 2
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        mark = "" if encoding == "utf-16" else "\ufeff"
        path.write_bytes((mark + "preset = micro\n").encode(encoding))
        refused("--config", path, says=(str(path), "UTF-16", "UTF-8"))


def test_a_config_comes_through_a_pipe_too(tmp_path):
    text = "preset = micro\nn-layer = 3\n"
    assert layers("--config", "/dev/stdin", input=text) == 3
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_text, args=(text,), daemon=True)
    writer.start()
    assert layers("--config", fifo) == 3
    writer.join(10)


def test_of_several_configs_the_later_wins(tmp_path):
    shape, mine = tmp_path / "shape.ini", tmp_path / "mine.ini"
    shape.write_text("preset = micro\nn-layer = 3\nn-embd = 32\n")
    mine.write_text("n-layer = 5\n")
    both = run("--config", shape, "--config", mine, "--dry-run").stdout
    assert "5 layers, 32 wide" in both
    assert "3 layers, 32 wide" in run("--config", mine, "--config", shape, "--dry-run").stdout
    mine.write_text("preset = tiny\n")  # presets lie below all files
    assert "3 layers, 32 wide, 4 heads" in run("--config", shape, "--config", mine, "--dry-run").stdout
    refused("--config", shape, "--config", tmp_path / "none.ini", "--dry-run", says="none.ini")


@pytest.mark.parametrize("again", ["lr-schedule = wsd", "lr_schedule = cosine", "lr-schedule=cosine # the same"])
def test_a_flag_has_one_line_of_a_file(again, tmp_path):
    path = tmp_path / "some.ini"
    path.write_text("lr = 1e-3\nlr-schedule = cosine\n\n" + again + "\n")
    refused("--config", path, "--dry-run", says=(str(path), "line 4", "lr-schedule stands in line 2 already"))


def test_a_plan_says_what_a_run_would_refuse_of_its_data(tmp_path):
    nowhere = str(tmp_path / "none_*.bin")
    said = run("--preset", "micro", "--dry-run", "--train-data", nowhere).stdout
    assert f"a run would refuse --train-data: no file matches '{nowhere}'" in said
    write_shard(tmp_path / "text_train_0000.bin", sentences(500, 1))
    assert "refuse" not in run("--preset", "micro", "--dry-run", "--train-data", str(tmp_path / "text_*.bin")).stdout


def test_a_period_of_restarts_that_does_not_end_with_the_run_is_said():
    plan = ["--preset", "micro", "--dry-run", "--lr-schedule", "cosine-restarts", "--steps", "100", "--warmup-steps", "10"]
    assert "schedule:" not in run(*plan).stdout + run(*plan, "--restart-steps", "30").stdout
    assert "schedule: ends 1 step into a restart of 89, at a learning rate of 0.0006, not at the final 6e-05" \
        in run(*plan, "--restart-steps", "89").stdout
    refused(*plan, "--restart-steps", "91", says="more than the 90 steps after the warmup")


@pytest.mark.parametrize("line, says", [
    ("n-layer\u00a0= 3", "U+00A0"),
    ("\u00a0n-layer = 3", "U+00A0"),
    ("n-layer = 3\u00a0", "U+00A0"),
    ("n-layer =\u20093", "U+2009"),
    ("arch = llama\u3000", "U+3000"),
    ("out = \u00a0x", "U+00A0"),
    ("\ufeffn-layer = 3", "U+FEFF"),
    ("\u00a0", "U+00A0"),
    ("--n-layer = 3", "it is n-layer"),
    ("learning_rate = 1e-3", "here it is --lr"),
    ("compile = False", "the program is compiled"),
    ("dtype = 'bfloat16'", "fp32|bf16"),
])
def test_a_line_that_looks_right_and_is_not_says_why(line, says, tmp_path):
    path = tmp_path / "some.ini"
    path.write_text("steps = 5\n" + line + "\n", encoding="utf-8")
    refused("--config", path, "--dry-run", says=(str(path), "line 2", says))


def test_an_odd_blank_inside_a_path_is_the_paths_own(tmp_path):
    name = tmp_path / "a\u00a0b.bin"
    write_shard(name, sentences(500, 1))
    path = tmp_path / "some.ini"
    path.write_text(f"train-data = {name}\nsteps = 1\n", encoding="utf-8")
    run("--config", path, *SMALL)
    edge = tmp_path / "c.bin\u00a0"
    os.rename(name, edge)
    path.write_text(f'train-data = "{edge}"\nsteps = 1\n', encoding="utf-8")
    run("--config", path, *SMALL)
