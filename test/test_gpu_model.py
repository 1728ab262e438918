"""Does the model of a GPU's step (scripts/gpu/model.py) count what the model of src/ computes, take each operation for as long as what
it needs most, and say what was measured beside what it predicts?"""
import json
import os
import re
import sys

import pytest

from program import ROOT, run_script

sys.path.insert(0, os.path.join(ROOT, "scripts"))

from gpu import model, step_costs  # noqa: E402
from gpu.step_costs import Operation, Step  # noqa: E402

SCRIPT = "scripts/gpu/model.py"
COMPILER, TABLE = step_costs.read_table()
RATES = model.Rates()
PRESETS = list(step_costs.SHAPES)


@pytest.mark.parametrize("preset", PRESETS)
def test_products_are_six_flops_a_weight_and_token(preset):
    step = Step(preset, TABLE)
    embedding = step.shape.V * step.shape.C if step.shape.swiglu else 0  # a table of its own, which no product reads
    flops = sum(o.count * o.flops for o in step.operations if o.part == "products")
    assert flops == pytest.approx(6 * (step.shape.parameters - embedding) * step.tokens, rel=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_attention_is_what_lies_below_the_diagonal_and_half_a_block_more(preset):
    s, step = step_costs.SHAPES[preset], Step(preset, TABLE)
    pairs = s.T * (s.T + 128) / 2 * s.H * s.B * step.micro * s.L
    flops = {o.name: o.count * o.flops for o in step.operations if o.part == "attention"}
    for name, products in ("attention_forward", 2), ("attention_dkv", 4), ("attention_dq", 3):
        assert flops[name] == pytest.approx(products * 2 * s.D * pairs, rel=1e-12)


def test_an_operation_takes_as_long_as_what_it_needs_most():
    rate, gap = RATES["memory"] * RATES["share"], RATES["gap"]
    seconds = lambda **work: RATES.seconds(Operation("update", "x", 1, **work))  # noqa: E731
    assert seconds(reads=3e9, writes=1e9) == (pytest.approx(4e9 / rate + gap), "memory")
    slots = RATES["sms"] * 4 * RATES["clock"] * RATES["issue"]
    assert seconds(reads=1e6, instructions=1e9) == (pytest.approx(1e9 / slots + gap), "instructions")
    assert seconds(reads=3e9, flight=1) == (pytest.approx(3e9 / (1e3 * RATES["sms"] / RATES["latency"]) + gap), "loads in flight")
    deep, shallow = (seconds(flops=1e12, depth=depth)[0] - gap for depth in (10**9, 128))
    assert deep == pytest.approx(1e12 / RATES["peak"] / RATES["gemm"]) and shallow == pytest.approx(2 * deep)
    assert seconds(writes=1e9, waves=1.25)[0] - gap == pytest.approx((seconds(writes=1e9)[0] - gap) * (1 + (2 / 1.25 - 1) / 2))
    assert seconds(writes=1e9, waves=0.5) == seconds(writes=1e9)


@pytest.mark.parametrize("name", model.ASSUMED)
def test_no_assumption_is_idle(name):
    """Each moves some prediction, and better hardware makes none slower."""
    better = -1 if name in ("ramp", "latency", "gap") else 1
    moved = [model.Prediction(preset, TABLE, model.Rates([(name, RATES.values[name] * 1.01**better)])) for preset in PRESETS]
    # At 700 ns only small launches wait for loads, and at these rates none for instructions.
    slower = {"latency": 3000.0, "clock": RATES.values["clock"] / 2, "issue": RATES.values["issue"] / 2}
    slow = model.Rates([(name, slower[name])]) if name in slower else RATES
    still = [model.Prediction(preset, TABLE, slow) for preset in PRESETS]
    assert all(a.seconds <= b.seconds for a, b in zip(moved, still))
    assert any(a.seconds < b.seconds for a, b in zip(moved, still))


def test_more_instructions_where_they_bind_cost_time():
    code = TABLE["attention_forward"]
    table = dict(TABLE, attention_forward=step_costs.Code(code.units, 1.5 * code.instr, code.threads, code.flight, code.waves))
    for preset in PRESETS:
        assert model.Prediction(preset, table, RATES).seconds > model.Prediction(preset, TABLE, RATES).seconds


def test_larger_updates_are_more_of_the_same_with_one_update():
    for preset in PRESETS:
        one, four = (model.Prediction(preset, TABLE, RATES, micro) for micro in (1, 4))
        assert four.step.tokens == 4 * one.step.tokens and one.tokens_per_s < four.tokens_per_s < 1.05 * one.tokens_per_s
        assert four.parts["update"] == pytest.approx(one.parts["update"])
        assert four.parts["attention"] == pytest.approx(4 * one.parts["attention"])


def test_parts_add_up_to_the_step():
    for preset in PRESETS:
        found = model.Prediction(preset, TABLE, RATES)
        assert sum(found.parts.values()) == pytest.approx(sum(seconds for seconds, _, _ in found.operations.values()))
        assert all(found.parts[part] > 0 for part in model.PARTS if part != "q, k, v")


def results(tmp_path):
    rows = [{"row": "copy", "bytes_per_s": 4.2e12},
            {"row": "product", "name": "gpt2-124m o 768->768 N=16384 forward", "tflops": 600.0},
            {"row": "product", "name": "gpt2-124m head 768->50257 N=8192 dx", "tflops": 650.0},
            {"row": "product", "name": "gpt2-124m o 768->768 N=16384 dw fp32 +=", "tflops": 620.0},
            {"row": "attention", "name": "attention_forward B=16 T=1024 H=12/12 D=64", "tflops": 250.0}]
    path = tmp_path / "h200.json"
    path.write_text(json.dumps({"marks": {"gpt2-124m.tokens_per_s": 512345.0}, "parts": {"operations": {"rows": rows}}}))
    return path


def test_what_was_measured_stands_beside_and_rates_are_fitted_to_it(tmp_path):
    said = run_script(SCRIPT, "--results", results(tmp_path)).stdout
    assert "| 512 k | 500 k |" in said and "fitted to h200.json" in said
    found = model.fit(json.loads(results(tmp_path).read_text()), RATES)
    assert found["share"] == pytest.approx(4.2 / 4.8)
    assert found["gemm"] == pytest.approx(650 / 989 * (1 + 128 / 50257))  # the middle of the three
    assert found["attention"] == pytest.approx(250 / 989 / 0.62)
    assert model.fit({"parts": {}}, RATES) == {} == model.fit({}, RATES)


def refused(*arguments):
    done = run_script(SCRIPT, *arguments)
    assert done.returncode == 2 and not done.stdout and len(done.stderr.splitlines()) == 1, done
    return done.stderr


def test_bad_input_is_a_line(tmp_path):
    assert "gem is no assumption; there are peak, gemm" in refused("--set", "gem=1")
    for value in "-1", "nan", "inf":
        assert "a number of 0 or more is wanted" in refused("--set", f"gemm={value}")
    assert "name=value" in refused("--set", "gemm")
    assert "none.json" in refused("--results", tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"marks": ')
    assert "cut.json" in refused("--results", tmp_path / "cut.json")
    text = open(step_costs.TABLE, encoding="utf-8").read()
    for name, damaged, says in (("row", text.replace("\nadamw ", "\nadam "), "no row adamw"), ("cell", text.replace(" 254 ", " x ", 1), None)):
        (tmp_path / name).write_text(damaged)
        if says is None:
            step_costs.read_table(tmp_path / name)  # registers are nobody's here
            continue
        with pytest.raises(step_costs.BadTable, match=says):
            Step(PRESETS[0], step_costs.read_table(tmp_path / name)[1])
    (tmp_path / "instr").write_text(re.sub(r"(\nattention_forward +\S+ +\S+ +)\d+", r"\1many", text))
    with pytest.raises(step_costs.BadTable, match="attention_forward"):
        step_costs.read_table(tmp_path / "instr")


def test_the_page_is_what_the_model_says_now():
    """`make gpu-model-write` after a change of the kernels' table, or of what is assumed."""
    with open(model.PAGE, encoding="utf-8") as file:
        assert file.read() == run_script(SCRIPT).stdout


SPEED = re.compile(r"[kMGT](?:B|FLOP)/s|\d [mµun]s\b|\d %|\bmeasured\.")


def speeds_in(text):
    """What its comments say about how fast something is."""
    return [found for comment in re.findall(r"/\*.*?\*/|//[^\n]*", text, re.DOTALL) for found in SPEED.findall(comment)]


def test_how_fast_a_kernel_is_says_the_model_and_no_comment():
    """kernels/cuda counts bytes and FLOPs. What time they take is assumed in one table, until a GPU has been asked."""
    assert speeds_in("/* 0.40 GB, floor 0.084 ms at 4.8 TB/s; 2 % more */") == ["4 ms", "TB/s", "2 %"]
    assert speeds_in("/* Bytes: 4·C. Not yet measured. */ x = 4 % y;") == ["measured."]
    folder = os.path.join(ROOT, "kernels", "cuda")
    for name in sorted(os.listdir(folder)):
        if name.endswith((".cu", ".cuh", ".md")):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
            assert (SPEED.findall(text) if name.endswith(".md") else speeds_in(text)) == [], name
