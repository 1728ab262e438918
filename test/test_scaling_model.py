"""Is scripts/results/scaling.md what its script says, does the model behave as such a thing must, and does it know our shapes?"""

import os
import re
import sys

import pytest

from program import ROOT, file_bytes, run, run_script

sys.path.insert(0, os.path.join(ROOT, "scripts"))
import scaling_model as model  # noqa: E402


def test_the_page_is_what_the_script_prints():
    done = run_script("scripts/scaling_model.py")
    assert done.returncode == 0 and done.stdout == file_bytes(model.PAGE).decode() + "\n"
    assert file_bytes(model.PAGE.replace(".md", ".png"))[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", model.MODELS)
def test_more_gpus_are_never_more_efficient_and_a_better_network_never_worse(name):
    parts, cluster = model.layers_of(model.MODELS[name]), model.Cluster()
    by_gpus = [model.efficiency(cluster, parts, 32768, gpus) for gpus in (8, 64, 512, 1024)]
    assert by_gpus == sorted(by_gpus, reverse=True) and all(0 < e < 1 for e in by_gpus)
    fast = model.Cluster(nic=400, hop=0.1, call=1, **{"far-hop": 0.1})
    for gpus in 8, 64, 512, 1024:
        assert model.efficiency(fast, parts, 32768, gpus) >= model.efficiency(cluster, parts, 32768, gpus)
        assert model.efficiency(cluster, parts, 32768, gpus, hidden=True) >= model.efficiency(cluster, parts, 32768, gpus)
    assert model.efficiency(cluster, parts, 32768, 1) == pytest.approx(1)


def test_a_network_without_cost_and_gpus_without_spread_lose_nothing():
    free = model.Cluster(nvlink=1e9, nic=1e9, hop=0, call=0, spread=0, memory=1e9, **{"far-hop": 0})
    assert model.efficiency(free, model.layers_of(model.MODELS["1.5B"]), 32768, 1024) == pytest.approx(1, abs=1e-3)


def test_the_buckets_hold_every_layer_once_and_are_as_large_as_asked():
    parts = model.layers_of(model.MODELS["7B"])
    buckets = model.buckets_of(parts, 25e6)
    assert sum(size for size, _, _ in buckets) == pytest.approx(sum(parts))
    assert [first for _, first, _ in buckets[1:]] == [last + 1 for _, _, last in buckets[:-1]]
    assert all(4 * size >= 25e6 for size, _, _ in buckets[:-1])


def test_the_models_are_as_large_as_this_program_s():
    for name, flags in (("124M", "--preset gpt2-124m"), ("1.5B", "--preset gpt2-1558m"),
                        ("7B", "--arch llama --n-layer 32 --n-embd 4096 --n-head 32 --n-ffn 11008")):
        ours = int(re.search(r"^parameters: (\d+)$", run(*flags.split(), "--dry-run").stdout, re.MULTILINE)[1])
        assert sum(model.layers_of(model.MODELS[name])) == pytest.approx(ours, rel=0.01), name


def test_the_published_points_are_said_to_agree_only_where_they_do():
    page = model.page(model.Cluster())
    for what, _, least, most, value, _, _ in model.published(model.Cluster()):
        row = next(line for line in page.splitlines() if line.startswith(f"| {what} |"))
        assert ("agrees" in row) == (least <= value <= most) and ("misses" in row) != ("agrees" in row)
    done = run_script("scripts/scaling_model.py", "--set", "speed=3")
    assert done.returncode == 2 and "speed is no assumption" in done.stderr
