"""Is a flag that can do nothing refused or named, and a run that keeps nothing said to be one?"""
import os
import re

import pytest

from program import ROOT, SMALL, checkpoints, refused, run, sentences, write_shard

NOTHING = "nothing of this run is kept"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("needs") / "a.bin"
    write_shard(path, sentences(400, 1))
    return ["--train-data", path, "--steps", 1, "--device", "cpu"]


def rows(table):
    """(flag, terms) of a table in needs.c."""
    with open(os.path.join(ROOT, "src", "settings", "needs.c"), encoding="utf-8") as file:
        body = re.search(rf"Need {table}\[\] = \{{(.*?)\n\}};", file.read(), re.DOTALL)[1]
    return re.findall(r'\{"([^"]+)", "([^"]+)"\}', body)


def test_a_run_without_out_says_that_nothing_is_kept(data, tmp_path):
    assert f"no --out: {NOTHING}" in run(*SMALL, *data).stdout.split("step 1/")[0]
    assert NOTHING not in run(*SMALL, *data, "--out", tmp_path / "run").stdout


def test_what_would_come_to_nothing_is_refused(data, tmp_path):
    promised = rows("REFUSED")
    assert len(promised) == 6
    for flag, needed in promised:
        for more in ([], ["--dry-run"]):
            refused(*SMALL, *data, *more, f"--{flag}", 1, says=(f"--{flag}", f"without --{needed}"))
    val = ["--val-data", data[1]]
    for flags in (["--save-every", 0], ["--val-every", 0], ["--stats-every", 0], [*val, "--val-every", 1, "--val-batches", 2]):
        run(*SMALL, *data, *flags)
    out = tmp_path / "run"
    run(*SMALL, *data, "--out", out, "--save-every", 1, "--keep", 1, "--stats-every", 1)
    run(*SMALL, "--resume", out, "--steps", 2, "--save-every", 1, "--keep", 9)  # --out is the checkpoint's
    assert len(checkpoints(out)) == 2


def test_what_a_config_file_says_for_other_runs_is_not_refused(data, tmp_path):
    (tmp_path / "flags.ini").write_text("save-every = 5\nval-every = 7\ngpas-init = 1\n")
    done = run(*SMALL, *data, "--config", tmp_path / "flags.ini")
    assert "no effect" not in done.stdout and done.stderr == ""


# A value that is not the default, where 0.25 is none.
VALUES = {"rope-base": 500, "rope-scaling": "linear", "rope-factor": 3, "rope-original-seq-len": 77,
          "mix-post-layers": 1, "bhyt-refresh": 7, "max-new-tokens": 7, "top-k": 7, "lns-init": "on",
          "deepnorm-init": "off", "gpas-act": "relu", "bhyt-gamma-var": "on", "decay-on": "all", "residual-dtype": "fp32",
          "gemm-tune": "on", "reduce-dtype": "bf16", "zero": 0, "pack-long": "split", "end-of-document": 7, "stop-at-end": "off",
          "bucket-mb": 7, "check-sync": 7, "wsd-decay-steps": 0, "restart-steps": 7, "lr-from-zero": "on",
          "muon-split": "off"}


def test_each_flag_without_effect_is_named(data):
    idle = [(name, terms) for name, terms in rows("IDLE") if not terms.startswith("!") and terms != "temperature"
            and not terms.startswith("rope-scaling") and "gpas-clip" not in terms]  # which are given here
    assert len(idle) > 20
    flags = ["--lr-schedule", "constant", "--weight-decay", 0, "--final-norm", "off"]
    for name, _ in idle:
        flags += [f"--{name}", VALUES.get(name, 0.25)]
    told = [line for line in run(*SMALL, *data, *flags).stdout.splitlines() if "has no effect" in line]
    assert told == [f"--{name} has no effect " + lacks(terms) for name, terms in idle]
    assert run(*SMALL, *data, *flags, "--dry-run").stderr.splitlines() == ["train_gpt: " + line for line in told]


def lacks(terms):
    if terms == "several-ranks":
        return "with one rank"
    return "without " + " or ".join(f"--{term.replace('=', ' ')}" for term in terms.split())


def test_flags_with_effect_and_default_values_are_not_named(data, tmp_path):
    for flags in (["--gpas", "layer", "--gpas-init", 1], ["--placement", "mix", "--mix-post-layers", 1],
                  ["--norm", "bhyt", "--bhyt-refresh", 2, "--bhyt-lambda-attn", 1], ["--norm", "bhyt-exact", "--bhyt-lambda-mlp", 3],
                  ["--arch", "llama", "--rope-base", 500], ["--arch", "llama", "--rope-scaling", "linear", "--rope-factor", 3], ["--lr-schedule", "wsd", "--wsd-decay-frac", 0.5],
                  ["--sample-every", 1, "--temperature", 0.5, "--max-new-tokens", 3], ["--gpas-init", 0, "--top-k", 0]):
        assert "no effect" not in run(*SMALL, *data, *flags).stdout, flags
    for flag, words in (("factor", "linear|llama3"), ("original-seq-len", "llama3"), ("high-freq-factor", "llama3")):
        told = run(*SMALL, *data, "--arch", "llama", f"--rope-{flag}", 7).stdout
        assert f"--rope-{flag} has no effect without --rope-scaling {words}" in told
    told = "--clip-eps has no effect without --grad-clip or --gpas-clip"
    for flags, is_told in ((["--grad-clip", 0], True), ([], False), (["--grad-clip", 0, "--gpas", "layer", "--gpas-clip", 1], False)):
        assert (told in run(*SMALL, *data, "--clip-eps", 1e-6, *flags).stdout) == is_told
    run(*SMALL, *data, "--out", tmp_path / "run")
    weights = tmp_path / "run" / "latest" / "model.safetensors"
    done = run(*SMALL, *data, "--init-from", weights, "--init-std", 0.5)
    assert "--init-std has no effect with --init-from" in done.stdout
    done = run("--resume", tmp_path / "run", "--generate", "a", "--max-new-tokens", 3, "--temperature", 0, "--top-k", 5)
    assert done.stderr == "train_gpt: --top-k has no effect without --temperature\n" and len(done.stdout) == 5
    refused(*SMALL, *data, "--resume", tmp_path / "run", "--init-from", weights, says="two places to take the weights from")
    run(*SMALL, *data, "--resume", "auto", "--out", tmp_path / "run", "--init-from", weights)


def test_smoke_refuses_what_it_does_not_obey(tmp_path):
    own = {"n-layer": 2, "n-embd": 64, "n-head": 2, "seq-len": 64, "vocab-size": 256, "batch-size": 8, "steps": 5, "lr": "1e-3",
           "warmup-steps": 1, "log-every": 1, "preset": "tiny", "train-data": "x", "val-data": "x", "init-from": "x",
           "resume": "x"}
    for flag, value in own.items():
        refused("--smoke", f"--{flag}", value, says=("--smoke", f"--{flag} would have no effect"), env={"TMPDIR": tmp_path})
    done = run("--smoke", "--seed", 3, "--norm", "rmsnorm", "--total-batch-tokens", 1024, env={"TMPDIR": tmp_path})
    assert "rmsnorm" in done.stdout and "1024 tokens an update" in done.stdout and NOTHING not in done.stdout
    assert os.listdir(tmp_path) == []
    assert "all other flags are obeyed" in run("--help").stdout
