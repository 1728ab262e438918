"""Is each published run in scripts/recipes a run of this program, planned on a machine without a GPU, with every number's
source beside it?"""
import os
import re

import pytest

from program import ROOT, cpu_bf16, run

FOLDER = os.path.join(ROOT, "scripts", "recipes")
# Millions of parameters, of the shapes as published.
PARAMETERS = {"gpas-71m": 70.58, "gpas-130m": 134.11, "gpas-250m": 247.37, "gpas-350m": 367.97, "gpas-1b": 1339.08,
              "gpas-1b-sandwich": 1339.18, "bhyt-374m": 374.64, "bhyt-1b": 1235.81, "bhyt-3b": 3212.75, "sdd-581m": 692.12,
              "sdd-1b": 1178.88, "sdd-1b-pre": 1178.52, "hybridnorm-1b": 1178.49}
TOKENS = {"gpas-71m": 1.31e9, "gpas-350m": 7.86e9, "bhyt-374m": 20 * 374.64e6, "sdd-1b": 200e9, "bhyt-3b": 19.66e9, "hybridnorm-1b": 1e12}
NAMES = sorted(name[:-4] for name in os.listdir(FOLDER) if name.endswith(".ini"))


def text_of(name):
    with open(os.path.join(FOLDER, name + ".ini"), encoding="utf-8") as file:
        return file.read()


def flags_of(name):
    """→ {flag: (value, comment)}"""
    found = re.findall(r"^([a-z0-9-]+) = (\S+)(?: +# (.+))?$", text_of(name), re.MULTILINE)
    assert len(dict.fromkeys(flag for flag, _, _ in found)) == len(found)
    return {flag: (value, comment) for flag, value, comment in found}


def test_each_recipe_is_known_here_and_in_the_table():
    assert set(NAMES) == set(PARAMETERS)
    with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as file:
        assert set(re.findall(r"`([\w-]+)\.ini`", file.read())) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_plans_its_run(name):
    done = run("--config", os.path.join(FOLDER, name + ".ini"), "--dry-run")
    assert "memory (cuda/bf16" in done.stdout
    assert f" {PARAMETERS[name]} M parameters" in done.stdout
    updates, tokens, unit = re.search(r"; (\d+) updates, ([\de+.]+) ([MBT]) tokens", done.stdout).groups()
    assert flags_of(name)["steps"][0] == updates
    if name in TOKENS:
        assert float(tokens) * {"M": 1e6, "B": 1e9, "T": 1e12}[unit] == pytest.approx(TOKENS[name], rel=0.01)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", None])
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_plans_its_run_on_a_cpu_too(name, dtype):
    """In the recipe's type, which is bf16, where this processor has it."""
    flags = ["--config", os.path.join(FOLDER, name + ".ini"), "--device", "cpu", "--dry-run", *(["--dtype", dtype] if dtype else [])]
    done = run(*flags, code=0 if dtype == "fp32" or not cpu_bf16().startswith("refused") else 2)
    if done.returncode == 0:
        assert f"memory (cpu/{'f32' if dtype == 'fp32' else 'bf16'}, " in done.stdout and f" {PARAMETERS[name]} M parameters" in done.stdout
    else:
        assert "--dtype bf16 on the CPU: without " in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_number_has_its_source(name):
    text = text_of(name)
    assert re.match(r"# .*arXiv \d{4}\.\d{5}", text)
    assert f"--config scripts/recipes/{name}.ini " in text and f"--out out/{name}\n" in text
    assert all(re.fullmatch(r"#.*|[a-z0-9-]+ = \S+( +# .+)?|", line) for line in text.splitlines())
    bare = [flag for flag, (value, comment) in flags_of(name).items() if re.fullmatch(r"[\d.e+-]+", value) and not comment]
    assert not bare


@pytest.mark.parametrize("name", NAMES)
def test_schedules_and_clips_are_those_of_the_programs_that_theirs_are_written_in(name):
    flags = {flag: value for flag, (value, _) in flags_of(name).items()}
    clips = float(flags["grad-clip"]) > 0 or "gpas-clip" in flags
    assert flags.get("clip-eps", "0") == ("1e-6" if clips else "0")
    if name.startswith(("gpas", "bhyt")):  # a LambdaLR of transformers' kind
        assert flags["lr-from-zero"] == "on" and int(flags["schedule-steps"]) == int(flags["steps"]) + 1
    if name.startswith("gpas"):
        assert 10 * int(flags["warmup-steps"]) == int(flags["steps"])
    if name.startswith("bhyt"):
        assert int(flags["bhyt-refresh"]) == max(1, min(1000, int(flags["steps"]) // 50))
