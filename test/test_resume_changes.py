"""Does a resumed run go on as the run it was, and say whatever it does not go on with?

Runs the executable named by TRAIN_GPT (default: ./train_gpt).
"""
import re

import pytest

# (Fixtures are asked for by name.)
from faults import SMALL, base, begun, data, out, picture, run, same_bits, tmp_path
from program import metrics

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
