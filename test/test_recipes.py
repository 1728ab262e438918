"""Is each published run in scripts/recipes a run of this program, planned on a machine without a GPU, with every number's
source beside it?"""
import os
import re

import pytest

from program import ROOT, run

FOLDER = os.path.join(ROOT, "scripts", "recipes")
# Millions of parameters, of the shapes as published.
PARAMETERS = {"gpas-71m": 70.58, "gpas-130m": 134.11, "gpas-250m": 247.37, "gpas-350m": 367.97, "gpas-1b": 1339.08,
              "gpas-1b-sandwich": 1339.18, "bhyt-374m": 374.64, "bhyt-1b": 1235.81, "bhyt-3b": 3212.75, "sdd-581m": 692.12,
              "sdd-1b": 1178.88, "sdd-1b-pre": 1178.52, "hybridnorm-1b": 1178.49}
TOKENS = {"gpas-71m": 1.31e9, "gpas-350m": 7.86e9, "bhyt-374m": 20 * 374.64e6, "sdd-1b": 200e9, "hybridnorm-1b": 1e12}


def test_each_recipe_is_known_here_and_in_the_table():
    names = {name[:-4] for name in os.listdir(FOLDER) if name.endswith(".ini")}
    assert names == set(PARAMETERS)
    with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as file:
        assert set(re.findall(r"`([\w-]+)\.ini`", file.read())) == names


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_plans_its_run(name):
    path = os.path.join(FOLDER, name + ".ini")
    done = run("--config", path, "--dry-run")
    assert "memory (cuda/bf16" in done.stdout
    assert f" {PARAMETERS[name]} M parameters" in done.stdout
    updates, tokens, unit = re.search(r"; (\d+) updates, ([\de+.]+) ([MB]) tokens", done.stdout).groups()
    with open(path, encoding="utf-8") as file:
        assert re.search(rf"^steps = {updates}\b", file.read(), re.MULTILINE)
    if name in TOKENS:
        assert float(tokens) * {"M": 1e6, "B": 1e9}[unit] == pytest.approx(TOKENS[name], rel=0.01)


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_a_recipe_does_not_take_from_defaults_has_its_source(name):
    with open(os.path.join(FOLDER, name + ".ini"), encoding="utf-8") as file:
        text = file.read()
    assert re.match(r"# .*arXiv \d{4}\.\d{5}", text)
    assert f"--config scripts/recipes/{name}.ini " in text and f"--out out/{name}\n" in text
    assert all(re.fullmatch(r"#.*|[a-z0-9-]+ = \S+( +# .+)?|", line) for line in text.splitlines())
