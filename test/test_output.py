"""Does what the program prints arrive, or is it said that it did not; and does it leave a terminal as it was?"""
import os
import pty
import random
import re
import resource
import signal
import subprocess

import pytest

from program import PROGRAM, SMALL, checkpoints, environment, file_bytes, losses, run, sentences, write_shard, without_notice

LOST = {"full": r"stdout: No space left on device", "closed": "stdout is closed", "reader gone": "stdout: Broken pipe"}


def lose(how, *arguments, closed=(1,), **more):
    """Runs the program with a stdout that takes nothing: (exit code, stderr)."""
    command, stdout = [PROGRAM, *map(str, arguments)], None
    if how == "closed":
        command = ["sh", "-c", 'exec "$@" ' + " ".join(f"{fd}>&-" for fd in closed), "sh", *command]
    elif how == "full":
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stdout = os.pipe()
        os.close(reader)
    try:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
                              env=environment(), **more)
    finally:
        if stdout is not None:
            os.close(stdout)
    return done.returncode, without_notice(done.stderr)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A shard, and a run of a few steps over it."""
    folder = tmp_path_factory.mktemp("output")
    write_shard(folder / "a.bin", sentences(2000, 1))
    run(*SMALL, "--train-data", folder / "a.bin", "--steps", 3, "--out", folder / "run")
    return folder / "a.bin", folder / "run"


@pytest.mark.parametrize("how", LOST)
def test_results_that_did_not_arrive_are_exit_1(trained, how):
    shard, out = trained
    for mode in (["--help"], ["--version"], ["--list-variants"], ["--dry-run"], ["--smoke"],
                 ["--resume", out, "--generate", "x", "--max-new-tokens", 4],
                 ["--resume", out, "--eval-only", "--val-data", shard]):
        code, said = lose(how, *mode)
        assert code == 1 and re.fullmatch(rf"train_gpt: {LOST[how]}[^\n]*\n", said), (mode, code, said)


@pytest.mark.parametrize("how", LOST)
def test_training_goes_on_without_a_terminal_if_its_results_are_kept(trained, tmp_path, how):
    arguments = [*SMALL, "--train-data", trained[0], "--steps", 5]
    code, said = lose(how, *arguments, "--out", tmp_path / "run")
    assert code == 0 and re.fullmatch(rf"train_gpt: {LOST[how]}; the run goes on[^\n]*\n", said), said
    assert len(losses(tmp_path / "run")) == 5 and checkpoints(tmp_path / "run") == ["step_00000005"]
    code, said = lose(how, *arguments)
    assert code == 1 and re.fullmatch(rf"train_gpt: {LOST[how]}[^\n]*stops after step 1\n", said), said


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_files_are_not_written_into_where_descriptors_were_closed(trained, tmp_path, closed):
    """The next file to be opened would be descriptor 1, and take in what is printed."""
    arguments = [*SMALL, "--train-data", trained[0], "--steps", 3]
    before = file_bytes(trained[0])
    assert lose("closed", *arguments, "--out", tmp_path / "run", closed=closed)[0] == 0
    assert file_bytes(trained[0]) == before
    assert losses(tmp_path / "run") == losses(trained[1])
    for name in ("model.safetensors", "config.json"):
        assert file_bytes(tmp_path / "run" / "latest" / name) == file_bytes(trained[1] / "latest" / name)


def test_a_message_is_not_written_into_the_metrics_where_stderr_was_closed(trained, tmp_path):
    """The last checkpoint does not fit: what is said of that must not land in the file that was opened as descriptor 2."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    arguments = [*SMALL, "--train-data", trained[0], "--steps", 3, "--out", tmp_path / "run"]
    assert lose("closed", *arguments, closed=(0, 1, 2), preexec_fn=limit) == (1, "")
    assert losses(tmp_path / "run") == losses(trained[1]), "or a line that is no JSON"


def on_terminal(*arguments):
    """What a terminal gets, its own \\r before \\n left out."""
    master, slave = pty.openpty()
    process = subprocess.Popen([PROGRAM, *arguments], stdout=slave, stderr=subprocess.PIPE, env=environment())
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        shown += piece
    os.close(master)
    assert process.wait() == 0, process.stderr.read()
    return shown.replace(b"\r\n", b"\n")


def test_a_sample_moves_no_terminals_cursor(trained):
    """Whatever bytes come, split wherever: escapes on a terminal that say which bytes they were, raw in a pipe."""
    draw = random.Random(7)
    edges = [b"\x01", b"\x1b", b"\t", b"\x7f", b"\x80", b"\x9b", b"\xa0", b"\xbf", b"\xc2", b"\xc3", b"\xe0", b"\xed", b"\xf0",
             b"\xf4", b"\xff", b"a", "é".encode(), "✓".encode(), "🙂".encode(), "\x9b".encode()]
    prompt = "naïve ✓ 🙂 ".encode() + b"".join(draw.choice(edges) for _ in range(6000))
    command = ["--resume", str(trained[1]), "--max-new-tokens", "100", "--temperature", "5", "--generate", prompt]
    raw = subprocess.run([PROGRAM, *command], stdout=subprocess.PIPE, env=environment(), check=True).stdout
    shown = on_terminal(*command)
    assert raw.startswith(prompt) and shown.startswith("naïve ✓ 🙂 ".encode())
    text = shown.decode()  # all of it is UTF-8
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), shown) == raw
    assert shown.count(b"\\x") < len(raw) and "✓".encode() in shown


def test_names_in_progress_lines_move_no_cursor(trained, tmp_path):
    out = tmp_path / "a\x1b[2Jb\nc"
    done = run(*SMALL, "--train-data", trained[0], "--steps", 2, "--out", out)
    assert "checkpoint " in done.stdout and "\x1b" not in done.stdout and "[2Jb?c/step_" in done.stdout


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_saves_the_run_and_nohup_keeps_it_going(trained, tmp_path, ignored):
    out, steps = str(tmp_path / "run"), 400 if ignored else 10 ** 7
    command = [PROGRAM, *SMALL, "--train-data", str(trained[0]), "--steps", str(steps), "--out", out]
    command = ["nohup", *command] if ignored else command
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
                          preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)) as process:  # the tests' own nohup
        for line in process.stdout:
            if line.startswith("step 3/"):
                process.send_signal(signal.SIGHUP)
                break
        told = process.stdout.read()
        assert process.wait(timeout=60) == 0, process.stderr.read()
    assert ("stopping after step" in told and "SIGHUP" in told) != ignored
    assert len(checkpoints(out)) == 1 and (checkpoints(out) == ["step_00000400"]) == ignored
