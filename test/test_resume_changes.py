"""Does a resumed run go on as the run it was, and say whatever it does not go on with?

Runs the executable named by TRAIN_GPT (default: ./train_gpt).
"""
import json
import os
import re
import shutil

import pytest

# (Fixtures are asked for by name.)
from faults import (
    SMALL, base, begun, checkpoints, data, out, picture, rewrite_manifest, run, same_bits, tmp_path)
from program import file_bytes, metrics, sentences, step_directory, write_shard


def resumed(base, out, *flags, **more):
    """A fresh copy of the straight run's step 2 goes on with more flags: what came of it."""
    shutil.rmtree(out, ignore_errors=True)
    begun(base, out, 2)
    return run(*base[0], *flags, "--out", out, "--resume", "auto", **more)


def said(done):
    lines = re.findall(r"^resume changes: (.*)$", done.stdout, re.MULTILINE)
    assert len(lines) <= 1
    return lines[0] if lines else ""


def refused(base, out, *flags):
    """The line of a resume that --allow-change would let through, and that leaves everything as it was."""
    shutil.rmtree(out, ignore_errors=True)
    begun(base, out, 2)
    before = picture(out)
    line = run(*base[0], *flags, "--out", out, "--resume", "auto", code=2).stderr
    assert "--allow-change" in line and step_directory(out, 2) in line and picture(out) == before
    done = resumed(base, out, *flags, "--allow-change")
    assert checkpoints(out) == [2, 4, 6] and said(done)
    return line


# --------------------------------------------------------------------------------------------------------------- flags


def test_a_run_that_goes_on_as_it_was_says_nothing(base, out):
    done = resumed(base, out)
    assert said(done) == "" and done.stderr == "" and "changes" not in metrics(out, "event")[0]
    assert "allow-change" not in file_bytes(step_directory(out, 6), "config.ini").decode()
    # What is no property of the run is nobody's news.
    done = resumed(base, out, "--keep", 3, "--save-every", 1, "--log-every", 2, "--recompute", "block", "--max-minutes", 9,
                   "--stats-every", 3)
    assert said(done) == "" and done.stderr == ""
    same_bits(out, base[1], 6)


CHANGES = {"--lr": (3e-4, "0.01", "0.0003"), "--lr-schedule": ("linear", "constant", "linear"),
           "--weight-decay": (0, "0.1", "0"), "--z-loss": ("1e-4", "0", "0.0001"), "--grad-clip": (0.5, "1", "0.5"),
           "--clip-eps": ("1e-6", "0", "1e-06"),
           "--beta1": (0.8, "0.9", "0.8"), "--beta2": (0.99, "0.95", "0.99"), "--adam-eps": ("1e-6", "1e-08", "1e-06"),
           "--decay-on": ("all", "matrices", "all"), "--skip-sigma": (6, "0", "6"), "--lr-final-frac": (0, "0.1", "0"),
           "--steps": (8, "6", "8"), "--warmup-steps": (4, "0", "4"), "--batch-size": (4, "2", "4")}  # fmt: skip


def test_every_flag_that_differs_is_in_one_line_and_in_the_event(base, out):
    flags = [word for name, (value, _, _) in CHANGES.items() for word in (name, value)]
    line = said(resumed(base, out, *flags))
    for name, (_, before, after) in CHANGES.items():
        assert f"{name} {before} → {after}" in line, (name, line)
        assert metrics(out, "event")[0]["changes"][name[2:]] == [before, after]
    assert metrics(out, "event")[0]["changes"].pop("total-batch-tokens") == ["16", "32"]  # follows the batch
    assert len(metrics(out, "event")[0]["changes"]) == len(CHANGES) + 1 == line.count("→") - 1  # the last: the rate
    assert metrics(out, "event")[0]["event"] == "resume"
    # From here on that is the run: its next resume has nothing to say.
    for step in (6, 8):
        shutil.rmtree(step_directory(out, step))
    assert said(run("--resume", out)) == ""


def test_a_schedule_that_is_longer_says_what_it_does_to_the_rate(base, out, tmp_path):
    straight = [*base[0], "--lr-schedule", "cosine", "--warmup-steps", "auto"]
    run(*straight, "--out", tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", out)
    line = said(run(*straight, "--steps", 300, "--out", out, "--resume", "auto", "--max-minutes", 1e-9))
    assert line == ("--steps 6 → 300 (the cosine now ends there), --warmup-steps 0 → 3 (auto); "
                    "lr at this step 0.001 → 0.01")
    assert metrics(out)[6]["step"] == 7 and metrics(out)[6]["lr"] == pytest.approx(0.01, rel=0.01)


def test_a_config_file_that_has_changed_is_as_good_as_a_flag(base, out, tmp_path):
    (tmp_path / "run.ini").write_text("lr = 2e-3\nweight-decay = 0.1\n")
    assert said(resumed(base, out, "--config", tmp_path / "run.ini")) == ""  # the command line of `base` says --lr too
    begun(base, out + ".other", 2)
    assert said(run("--resume", out + ".other", "--config", tmp_path / "run.ini")) == "--lr 0.01 → 0.002; lr at this step 0.01 → 0.002"


def test_a_larger_batch_takes_the_tokens_with_it_where_nobody_set_them(base, data, out):
    done = resumed(base, out, "--batch-size", 4)
    assert said(done) == "--batch-size 2 → 4, --total-batch-tokens 16 → 32 (auto)"
    assert [line["tokens"] for line in metrics(out)] == [32] * 4
    given = [*SMALL, *data, "--steps", 6, "--save-every", 2, "--keep", 9, "--total-batch-tokens", 32]
    run(*given, "--out", out + ".given")
    done = resumed((given, out + ".given"), out, "--batch-size", 4)
    assert said(done) == "--batch-size 2 → 4" and [line["tokens"] for line in metrics(out)] == [32] * 4
    run(*given, "--batch-size", 3, "--out", out, "--resume", "auto", code=2)


def test_where_a_run_began_is_not_read_again(base, out):
    model = os.path.join(step_directory(base[1], 4), "model.safetensors")
    assert "--init-from is not read" in said(resumed(base, out, "--init-from", model))
    same_bits(out, base[1], 6)


def test_modes_are_asked_nothing(base, data, out, tmp_path):
    write_shard(tmp_path / "other.bin", sentences(500, 9))
    begun(base, out, 2)
    other = ["--resume", out, "--seed", 2, "--train-data", tmp_path / "other.bin", "--lr", 1]
    for mode in (["--eval-only", "--val-data", tmp_path / "other.bin"], ["--generate", "a", "--max-new-tokens", 2],
                 ["--probe", tmp_path / "probe"], ["--dry-run"]):
        done = run(*other, *mode)
        assert done.stderr == "" and "resume changes" not in done.stdout


# ------------------------------------------------------------------------------------------------------------- consent


def test_another_seed_needs_a_word(base, out):
    assert "--seed 1337 → 2" in refused(base, out, "--seed", 2)
    assert metrics(out, "event")[0]["changes"] == {"seed": ["1337", "2"]}


def copy_of(data, folder):
    """The shards of `data` as FOLDER/x_train_00000N.bin."""
    os.makedirs(folder)
    for i in range(3):
        shutil.copy(os.path.join(os.path.dirname(data[1]), f"{i}.bin"), folder / f"x_train_{i:06d}.bin")
    return ["--train-data", folder / "*.bin"]


def test_the_same_shards_elsewhere_are_the_same_data(base, data, out, tmp_path):
    done = resumed(base, out, *copy_of(data, tmp_path / "moved"))
    assert said(done) == "" and done.stderr == ""
    same_bits(out, base[1], 6)


def test_other_shards_of_the_same_lengths_need_a_word(base, data, out, tmp_path):
    other = copy_of(data, tmp_path / "other")
    write_shard(tmp_path / "other" / "x_train_000001.bin", sentences(80, 77))
    line = refused(base, out, *other)
    assert "--train-data is not what it was: shard 2 of 3, " in line and "x_train_000001.bin, holds other tokens" in line
    assert "holds other tokens" in metrics(out, "event")[0]["train_data"]


def test_a_set_that_has_grown_names_what_is_new(base, data, out, tmp_path):
    grown = copy_of(data, tmp_path / "grown")
    write_shard(tmp_path / "grown" / "x_train_000003.bin", sentences(80, 77))
    line = refused(base, out, *grown)
    assert "1 of 4 shards are new, at the end, the first of them" in line and "x_train_000003.bin" in line


def test_another_tokenizer_is_named(data, out, tmp_path):
    """The same text, which another tokenizer made to other tokens of the same number."""
    sets = {}
    for name, seed in (("a", 1), ("b", 2)):
        write_shard(tmp_path / f"{name}_train_000000.bin", sentences(300, seed))
        (tmp_path / f"{name}.json").write_text(json.dumps({"tokenizer": f"tokenizer-{name}", "vocab_size": 256}))
        sets[name] = ["--train-data", tmp_path / f"{name}_train_*.bin"]
    base = [*SMALL, *sets["a"], "--steps", 6, "--save-every", 2, "--keep", 9]
    run(*base, "--out", tmp_path / "straight")
    assert "tokenizer tokenizer-a there, tokenizer-b here" in refused((base, tmp_path / "straight"), out, *sets["b"])


def test_other_validation_data_are_said(base, data, out, tmp_path):
    straight = [*base[0], "--val-data", data[1]]
    run(*straight, "--out", tmp_path / "straight")
    write_shard(tmp_path / "other.bin", sentences(100, 9))
    done = resumed((straight, tmp_path / "straight"), out, "--val-data", tmp_path / "other.bin")
    assert said(done).startswith("--val-data: ") and said(done).endswith("; losses before and after do not compare")
    assert metrics(out, "event")[0]["val_data"]
    assert said(resumed(base, out, *straight[-2:])) == f"--val-data none → {data[1]}"
    for name in ("model.safetensors", "optimizer-0-of-1.safetensors"):
        assert file_bytes(step_directory(out, 6), name) == file_bytes(step_directory(base[1], 6), name)


def test_a_directory_of_another_run_is_not_mixed_with_this_one(base, out, tmp_path):
    run(*base[0], "--steps", 2, "--seed", 3, "--out", tmp_path / "other")
    before = picture(tmp_path / "other")
    there = step_directory(base[1], 4)
    line = run("--resume", there, "--out", tmp_path / "other", code=2).stderr
    assert there in line and "--allow-change" in line and picture(tmp_path / "other") == before
    run("--resume", there, "--out", tmp_path / "other", "--allow-change")
    same_bits(tmp_path / "other", base[1], 6)


# ------------------------------------------------------------------------------------------------------- older versions


def rewrite(place, name, change):
    """A file of a checkpoint as another version would have written it; the manifest with it."""
    text = change(file_bytes(place, name).decode())
    with open(os.path.join(place, name), "w", encoding="utf-8") as file:
        file.write(text)
    rewrite_manifest(place, lambda manifest: None)


def test_a_checkpoint_without_a_fingerprint_goes_on_and_says_so(base, data, out, tmp_path):
    """As the versions before wrote them: no fingerprint, no device, and a number where "auto" was."""
    def older(state):
        return json.dumps({key: value for key, value in json.loads(state).items() if key not in ("train_data", "device")})

    def fresh():
        shutil.rmtree(out, ignore_errors=True)
        begun(base, out, 2)
        rewrite(step_directory(out, 2), "state.json", older)
        rewrite(step_directory(out, 2), "config.ini", lambda text: re.sub(r"auto \((.*)\)", r"\1", text))

    fresh()
    done = run(*base[0], "--out", out, "--resume", "auto")
    assert done.stderr == "" and said(done) == ""
    assert f"{step_directory(out, 2)} was written by an older version, without a fingerprint of its data" in done.stdout
    same_bits(out, base[1], 6)
    fresh()
    write_shard(tmp_path / "other.bin", sentences(500, 9))
    assert "62 windows in an epoch, and had 28" in run(*base[0], "--train-data", tmp_path / "other.bin", "--out", out,
                                                        "--resume", "auto", code=2).stderr


@pytest.mark.parametrize("text", ["", "x", "tokenizer=? shards=1 tokens=8 crc64=0 8x2:0", 7])
def test_a_fingerprint_that_is_none_is_refused(text, base, out):
    begun(base, out, 2)
    rewrite(step_directory(out, 2), "state.json", lambda state: json.dumps({**json.loads(state), "train_data": text}))
    line = run(*base[0], "--out", out, "--resume", "auto", code=2).stderr
    assert step_directory(out, 2) + "/state.json: field 'train_data'" in line


@pytest.mark.parametrize("field, value", [("version", "v0.1"), ("device", "Z80")])
def test_another_version_or_processor_says_that_bits_may_differ(field, value, base, out):
    begun(base, out, 2)
    rewrite(step_directory(out, 2), "state.json", lambda state: json.dumps({**json.loads(state), field: value}))
    done = run(*base[0], "--out", out, "--resume", "auto")
    assert re.fullmatch(rf"train_gpt: [^\n]* was written by version [^\n]*{value}[^\n]*: the bits may differ\n", done.stderr)


# ------------------------------------------------------------------------------------------------------- the run's end


@pytest.mark.parametrize("steps", [4, 5])
def test_a_run_beyond_its_end_says_so_and_writes_nothing(steps, base, out):
    begun(base, out, 2, 4, 6)
    before = picture(out)
    done = run(*base[0], "--steps", steps, "--out", out, "--resume", "auto")
    assert done.stdout == f"the run is at step 6 of --steps {steps}: nothing left to do; a larger --steps goes on\n"
    assert done.stderr == "" and picture(out) == before


def test_a_run_at_its_end_says_so_and_takes_no_step(base, out):
    begun(base, out, 6)
    text = run(*base[0], "--out", out, "--resume", "auto").stdout
    assert "the run is at step 6 of --steps 6: nothing left to do; a larger --steps goes on\n" in text
    assert not re.search(r"^step ", text, re.MULTILINE) and metrics(out) == []
    assert [line["event"] for line in metrics(out, "event")] == ["resume", "checkpoint", "end"]
    same_bits(out, base[1], 6)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_a_run_of_one_step_takes_the_learning_rate_it_was_given(schedule, data, out):
    run(*SMALL, *data, "--steps", 1, "--lr", 6e-4, "--lr-schedule", schedule, "--out", out)
    assert [line["lr"] for line in metrics(out)] == [6e-4]
