"""Does a run survive what machines do to it: kills, failing system calls, full disks, vanishing files?

Runs the executable named by TRAIN_GPT (default: ./train_gpt) with faults.py's harness.
TEST_ALL=1: every system call of a save and 200 kills; else a choice of them and 40.
"""
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

# (Fixtures are asked for by name.)
from faults import (
    ALL, MANIFEST, SMALL, base, begun, calls_of, checkpoints, chosen, data, fault, latest_is_whole, leftovers, out,
    picture, run, same_bits, start, tmp_path, wait_for)
from program import MODEL, MOMENTS, events, file_bytes, metrics, sentences, step_directory, write_shard

# ------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("deed", ["kill", "tear"])
def test_a_kill_at_any_system_call_of_a_save_loses_nothing(deed, base, fault, tmp_path):
    """Saving step 4 and removing step 2 after it (--keep 1), from the first look at --out to the last."""
    arguments = [*base[0][:-2], "--keep", 1, "--save-every", 4, "--resume", "auto"]
    before, trace = str(tmp_path / "before"), str(tmp_path / "trace")
    begun(base, before, 2)
    with open(os.path.join(before, "metrics.jsonl"), "w", encoding="ascii") as file:
        file.write('{"type":"note"}\n')
    os.symlink("step_00000002", os.path.join(before, "latest"))

    def killed(at):
        out = str(tmp_path / f"{deed}{at}")
        shutil.copytree(before, out, symlinks=True)
        run(*arguments, "--steps", 4, "--out", out, code=-9, env=fault(PATH=out, AT=at, DO=deed))
        there = checkpoints(out)
        assert there in ([2], [4], [2, 4]) and latest_is_whole(out), at
        done = run(*arguments, "--steps", 6, "--out", out)
        assert "passing over" not in done.stderr and f"resumed from {step_directory(out, there[-1])}" in done.stdout
        assert checkpoints(out) == [6] and leftovers(out) == [], at
        assert os.readlink(os.path.join(out, "latest")) == "step_00000006"
        assert metrics(out, "note") and events(out)[-1] == "end", at  # and no line between them is torn
        same_bits(out, base[1], 6)
        shutil.rmtree(out)
        return there

    out = str(tmp_path / "traced")
    shutil.copytree(before, out, symlinks=True)
    run(*arguments, "--steps", 4, "--out", out, env=fault(PATH=out, TRACE=trace))
    calls = calls_of(trace)
    assert {call for _, call, _ in calls} >= {*FAILURES, "unlink", "rmdir", "symlink"}
    if deed == "tear":
        points = chosen([entry for entry in calls if entry[1] in ("pwrite", "write")])
    else:
        points = chosen(calls, leave_out=("close", "pread"))
    outcomes = [killed(number) for number, _, _ in points]
    assert [2] in outcomes and (deed == "tear" or [4] in outcomes and [2, 4] in outcomes)
    print(f"{len(points)} of {len(calls)} calls: {deed}")


def test_a_kill_at_any_system_call_of_the_first_save_loses_nothing(base, fault, tmp_path):
    """From the making of --out to the end; where there is no checkpoint yet, --resume auto starts afresh."""
    arguments, trace = [*base[0], "--save-every", 4, "--resume", "auto"], str(tmp_path / "trace")
    out = str(tmp_path / "run")
    run(*arguments, "--steps", 4, "--out", out, env=fault(PATH=out, TRACE=trace))
    shutil.rmtree(out)
    points, outcomes = chosen(calls_of(trace), leave_out=("close", "pread", "write")), []
    for at, _, _ in points:
        run(*arguments, "--steps", 4, "--out", out, code=-9, env=fault(PATH=out, AT=at, DO="kill"))
        outcomes.append(checkpoints(out) if os.path.exists(out) else None)
        done = run(*arguments, "--out", out)
        assert done.stderr == "" and latest_is_whole(out) and leftovers(out) == [], at
        same_bits(out, base[1], 6)
        shutil.rmtree(out)
    assert None in outcomes and [] in outcomes and [4] in outcomes
    print(f"{len(points)} of {len(calls_of(trace))} calls: kill in the first save")


def test_kills_at_random_instants_end_in_the_same_bits(data, tmp_path):
    """Each life is cut short at a random time or ends well; what the last one leaves equals an undisturbed run."""
    draw, kills, finished = random.Random(1), 0, 0
    arguments = [*SMALL, *data, "--steps", 800, "--save-every", 11, "--keep", 2, "--total-batch-tokens", 32]
    straight = str(tmp_path / "straight")
    began = time.monotonic()
    run(*arguments, "--out", straight)
    longest = (time.monotonic() - began) / 2
    while kills < (200 if ALL else 40):
        out, there = str(tmp_path / f"run{finished}"), []
        while True:
            with start(*arguments, "--out", out, "--resume", "auto") as process:
                try:
                    errors = process.communicate(timeout=draw.uniform(0, longest))[1]
                except subprocess.TimeoutExpired:
                    process.kill()
                    errors = process.communicate(timeout=60)[1]
            assert "passing over" not in errors and process.returncode in (0, -9), errors
            before, there = there, checkpoints(out) if os.path.exists(out) else []
            assert not there or latest_is_whole(out)
            longest *= 1.2 if there == before else 0.97  # lives long enough to get on, short enough to be cut
            if os.path.exists(os.path.join(out, "metrics.jsonl")):
                said = [line["step"] for line in metrics(out, "event") if line["event"] == "checkpoint"]
                assert not said or there[-1] >= said[-1]  # what was reported as saved is there
            if process.returncode == 0:
                break
            kills += 1
        assert there == [792, 800] and leftovers(out) == []
        same_bits(out, straight, 800)
        finished += 1
    assert finished > 0
    print(f"{kills} kills over {finished} runs")


# --------------------------------------------------------------------------------------------- failing system calls


def test_what_a_name_promises_is_on_the_disk_before_the_name(base, fault, out):
    """Of a power cut nothing can be seen here but the order: files, their directory, the name, --out, and only then an
    older one goes."""
    trace = out + ".trace"
    run(*base[0], "--keep", 1, "--out", out, env=fault(PATH=out, TRACE=trace))
    # A file of tensors is written under a name of its own in the same directory, which is synced after all files.
    calls = [(call, path.replace(".safetensors.partial", ".safetensors")) for _, call, path in calls_of(trace)]
    for step, older in ((4, 2), (6, 4)):
        partial = os.path.join(out, f".step_{step:08d}.partial")
        begin, named = calls.index(("mkdir", partial)), calls.index(("rename", partial))
        writing = calls[begin:named]
        synced = [path for call, path in writing if call == "fsync"]
        names = sorted(os.listdir(step_directory(base[1], step)))
        assert sorted(synced) == sorted([partial, *(os.path.join(partial, name) for name in names)])
        assert synced[-2:] == [os.path.join(partial, MANIFEST), partial]
        for path in synced[:-1]:
            last = max(i for i, call in enumerate(writing) if call[0] in ("write", "pwrite") and call[1] == path)
            assert last < writing.index(("fsync", path)), path
        out_synced = calls.index(("fsync", out), named)
        assert out_synced < calls.index(("rename", step_directory(out, older)))


FAILURES = {"mkdir": errno.ENOSPC, "open": errno.EMFILE, "pwrite": errno.ENOSPC, "fsync": errno.EIO, "close": errno.EIO,
            "rename": errno.EIO, "pread": errno.EIO}


def test_a_save_that_fails_in_any_call_is_reported_and_tried_again(base, fault, tmp_path):
    trace = str(tmp_path / "trace")
    run(*base[0], "--out", tmp_path / "traced", env=fault(PATH="/.step_00000004.partial", TRACE=trace))
    points = chosen(calls_of(trace))
    assert {call for _, call, _ in points} == set(FAILURES)
    for at, call, path in points:
        out = str(tmp_path / f"{at}")
        setting = {"PATH": "/.step_00000004.partial", "AT": at, "DO": f"fail:{FAILURES[call]}"}
        text = run(*base[0], "--out", out, env=fault(**setting)).stdout
        says = re.search(r"^checkpoint failed: (.*); the run goes on; last good checkpoint: (.*)$", text, re.MULTILINE)
        # A close after reading cannot lose anything: it may fail unseen.
        if not says and call == "close":
            assert checkpoints(out) == [2, 4, 6]
            continue
        assert says, (at, call, path)
        assert os.strerror(FAILURES[call]) in says[1] and "step_00000004" in says[1]
        assert says[2] == step_directory(out, 2)
        assert checkpoints(out) == [2, 6] and leftovers(out) == []
        assert events(out) == ["start", "checkpoint", "checkpoint failed", "checkpoint", "end"]
        same_bits(out, base[1], 6)
        shutil.rmtree(out)
    print(f"{len(points)} calls failed")


def test_a_directory_that_cannot_be_synced_costs_no_older_checkpoint(base, fault, out):
    """fsync of --out after the rename: the first after step 2, the second after step 4."""
    trace = out + ".trace"
    run(*base[0], "--out", out, env=fault(CALLS="fsync", PATH=out, TRACE=trace))
    at = [number for number, _, path in calls_of(trace) if path == out][1]
    shutil.rmtree(out)
    text = run(*base[0][:-2], "--keep", 1, "--save-every", 2, "--steps", 4, "--out", out, code=1,
               env=fault(CALLS="fsync", PATH=out, AT=at, DO=f"fail:{errno.EIO}"))
    assert f"{out}: cannot fsync" in text.stderr and step_directory(out, 2) in text.stderr
    assert checkpoints(out) == [2, 4]
    run(*base[0][:-2], "--keep", 1, "--out", out, "--resume", "auto")
    assert checkpoints(out) == [6]


@pytest.mark.parametrize("call", ["rename", "open", "unlink", "rmdir"])
def test_an_old_checkpoint_that_cannot_be_removed_hurts_nothing(call, base, fault, out):
    part = "/step_00000002" if call == "rename" else "/.step_00000002.old"
    setting = {"CALLS": call, "PATH": part, "AT": 1, "TIMES": 0, "DO": "fail:5"}
    run(*base[0][:-2], "--keep", 1, "--steps", 4, "--out", out, env=fault(**setting))
    assert 4 in checkpoints(out)
    run(*base[0][:-2], "--keep", 1, "--out", out, "--resume", "auto")
    assert checkpoints(out) == [6] and leftovers(out) == []
    same_bits(out, base[1], 6)


def test_short_writes_and_reads_change_nothing(base, fault, out):
    everywhere = fault(CALLS="write,pwrite,read,pread", PATH=os.path.dirname(out), AT=1, TIMES=0, DO="short")
    run(*base[0], "--steps", 4, "--out", out, env=fault(CALLS="pwrite,pread", PATH="step_", AT=1, TIMES=0, DO="short"))
    assert checkpoints(out) == [2, 4]
    run(*base[0], "--out", out, "--resume", "auto", env={**everywhere, "FAULT_CALLS": "pwrite,read,pread"})
    assert checkpoints(out) == [2, 4, 6]
    same_bits(out, base[1], 6)


def test_short_reads_of_the_data_change_nothing(base, fault, data, out):
    folder = os.path.dirname(data[1])
    run(*base[0], "--out", out, env=fault(CALLS="pread", PATH=folder, AT=1, TIMES=0, DO="short"))
    same_bits(out, base[1], 6)


def test_a_checkpoint_that_reads_back_otherwise_is_none(base, fault, tmp_path):
    """A disk that returns other bits than were written to it, once, at each read of a save in turn."""
    trace = str(tmp_path / "trace")
    setting = {"CALLS": "pread", "PATH": "/.step_00000004.partial"}
    run(*base[0], "--out", tmp_path / "traced", env=fault(**setting, TRACE=trace))
    reads = calls_of(trace)
    seen = 0
    for at, _, path in reads:
        out = str(tmp_path / f"{at}")
        text = run(*base[0][:-2], "--keep", 1, "--out", out, env=fault(**setting, AT=at, DO="flip")).stdout
        says = re.search(r"^checkpoint failed: (.*); the run goes on", text, re.MULTILINE)
        assert not says or f"/.step_00000004.partial/{os.path.basename(path)}: " in says[1], says[1]
        seen += says is not None
        assert checkpoints(out) == [6]
        same_bits(out, base[1], 6)
    # Five files are read twice, the manifest once.
    assert seen == 11 == len(reads), [path for _, _, path in reads]


@pytest.mark.parametrize("name", [MODEL, MOMENTS, "state.json", "config.ini", MANIFEST])
@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_checkpoint_that_cannot_be_read_is_refused_by_file(name, call, base, fault, out):
    begun(base, out, 2)
    before = picture(out)
    setting = {"CALLS": call, "PATH": f"/step_00000002/{name}", "AT": 1, "TIMES": 0}
    failing = fault(**setting, DO=f"fail:{errno.EIO}")
    message = run(*base[0], "--out", out, "--resume", "auto", code=2, env=failing).stderr
    assert f"{step_directory(out, 2)}/{name}" in message and os.strerror(errno.EIO) in message
    if call == "pread":
        message = run(*base[0], "--out", out, "--resume", "auto", code=2, env=fault(**setting, DO="flip")).stderr
        assert f"{step_directory(out, 2)}/{name}" in message
    assert picture(out) == before


# -------------------------------------------------------------------------------------------------- disk and places


def can_mount():
    return os.geteuid() == 0 and shutil.which("mount")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if not can_mount() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False,
                                         stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting a small file system needs root")
    yield str(place)
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_stops_checkpoints_and_nothing_else(data, small_disk):
    out, filler = os.path.join(small_disk, "run"), os.path.join(small_disk, "filler")
    arguments = [*SMALL, *data, "--save-every", 20, "--keep", 2]
    with start(*arguments, "--steps", 10 ** 7, "--out", out) as process:
        wait_for(process, "^checkpoint /")
        wait_for(process, "^checkpoint /")
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
        failed = wait_for(process, "^checkpoint failed")
        good = re.search("last good checkpoint: (.*)$", failed)[1]
        assert os.strerror(errno.ENOSPC) in failed and int(good[-8:]) in checkpoints(out)
        wait_for(process, "^checkpoint failed")
        assert int(good[-8:]) in checkpoints(out)
        os.unlink(filler)
        step = int(wait_for(process, "^checkpoint /")[-9:])
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 0
    last = metrics(out)[-1]["step"]  # every line is whole
    assert checkpoints(out)[-1] == last >= step and leftovers(out) == []
    lost = re.search(r"metrics\.jsonl: written again; (\d+) lines were lost", errors)
    assert not lost or os.strerror(errno.ENOSPC) in errors
    straight = small_disk + ".straight"
    run(*arguments, "--steps", last, "--out", straight)
    same_bits(out, straight, last)


def test_a_run_that_ends_on_a_full_disk_says_which_checkpoint_is_good(data, small_disk):
    """The signal asks for a last save, which cannot be: exit 1, and nothing is lost but the steps since the last one."""
    out = os.path.join(small_disk, "run")
    arguments = [*SMALL, *data, "--keep", 2]
    with start(*arguments, "--save-every", 40, "--steps", 10 ** 7, "--out", out) as process:
        good = re.search("^checkpoint (.*)$", wait_for(process, "^checkpoint /"))[1]
        with open(os.path.join(small_disk, "filler"), "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
        good = re.search("last good checkpoint: (.*)$", wait_for(process, "^checkpoint failed"))[1]
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert errors.splitlines()[-1].startswith("train_gpt: the last checkpoint could not be written: ")
    assert os.strerror(errno.ENOSPC) in errors and errors.endswith(f"last good checkpoint: {good}\n")
    step = int(good[-8:])
    assert checkpoints(out)[-1] == step and leftovers(out) == []
    os.unlink(os.path.join(small_disk, "filler"))
    run(*arguments, "--steps", step + 5, "--out", out, "--resume", "auto")
    run(*arguments, "--steps", step + 5, "--out", small_disk + ".straight")
    same_bits(out, small_disk + ".straight", step + 5)


def test_an_out_that_vanishes_during_training_does_not_end_it(base, out):
    with start(*base[0], "--steps", 3000, "--save-every", 1000, "--out", out) as process:
        wait_for(process, "^step 3/")
        shutil.rmtree(out)
        assert os.strerror(errno.ENOENT) in wait_for(process, "^checkpoint failed")
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert "last good checkpoint: none" in errors and not os.path.exists(out)


def test_what_stands_at_the_place_of_the_programs_files_is_not_followed(base, out, tmp_path):
    """Links and pipes under the names that a run writes to: refused, replaced or let be, never written through."""
    (tmp_path / "victim").write_text("mine\n")
    for make in (lambda path: os.symlink(tmp_path / "victim", path), os.mkfifo, os.mkdir):
        os.makedirs(out)
        make(os.path.join(out, "metrics.jsonl"))
        before = picture(out)
        assert f"{out}/metrics.jsonl" in run(*base[0], "--out", out, code=2).stderr
        assert {path: entry[0] for path, entry in picture(out).items()} == {
            path: entry[0] for path, entry in before.items()}
        shutil.rmtree(out)
    os.makedirs(out)
    (tmp_path / "folder").mkdir()
    for name in (".step_00000002.partial", ".step_00000004.old", ".latest.partial", "latest"):
        os.symlink(tmp_path / "folder", os.path.join(out, name))
    os.symlink(step_directory(base[1], 6), step_directory(out, 6))  # another run's, complete
    done = run(*base[0], "--out", out, "--resume", "auto", code=2)
    assert "none of the 1 checkpoints" in done.stderr and "symbolic link" in done.stderr
    shutil.copytree(step_directory(base[1], 2), step_directory(out, 2))
    before = picture(base[1])
    done = run(*base[0], "--out", out, "--resume", "auto")
    assert re.fullmatch(r"train_gpt: passing over [^\n]*step_00000006: a symbolic link[^\n]*\n", done.stderr)
    assert not os.path.islink(step_directory(out, 6)) and checkpoints(out) == [2, 4, 6] and leftovers(out) == []
    same_bits(out, base[1], 6)
    assert picture(base[1]) == before and os.listdir(tmp_path / "folder") == []
    assert (tmp_path / "victim").read_text() == "mine\n"
    assert os.readlink(os.path.join(out, "latest")) == "step_00000006"
    run(*base[0], "--out", str(tmp_path / "other"), "--resume", os.path.join(out, "latest"))  # the user's own word
    os.unlink(os.path.join(out, "latest"))
    os.mkdir(os.path.join(out, "latest"))
    run(*base[0], "--steps", 7, "--out", out, "--resume", "auto")
    assert os.listdir(os.path.join(out, "latest")) == [] and leftovers(out) == []


def test_a_disk_that_is_full_for_a_while(base, fault, out):
    """Without a file system of its own: every write into --out fails from the save of step 4 on, for some calls."""
    text = run(*base[0], "--out", out, env=fault(CALLS="mkdir,pwrite", PATH="step_00000004", AT=3, TIMES=0,
                                                 DO=f"fail:{errno.ENOSPC}")).stdout
    assert text.count("checkpoint failed") == 1 and checkpoints(out) == [2, 6]
    same_bits(out, base[1], 6)
    shutil.rmtree(out)
    error = run(*base[0], "--out", out, code=1, env=fault(CALLS="pwrite", PATH="step_0000000", AT=30, TIMES=0,
                                                          DO=f"fail:{errno.ENOSPC}")).stderr
    last = checkpoints(out)
    assert os.strerror(errno.ENOSPC) in error and (step_directory(out, last[-1]) if last else "none") in error


def test_metrics_that_cannot_be_written_are_said_once_and_leave_no_torn_line(base, fault, out):
    setting = {"CALLS": "write", "PATH": "metrics.jsonl", "AT": 3, "TIMES": 2}
    done = run(*base[0], "--out", out, env=fault(**setting, DO=f"fail:{errno.ENOSPC}"))
    assert [line.split(": ", 1)[1] for line in done.stderr.splitlines()] == [
        f"metrics.jsonl: {os.strerror(errno.ENOSPC)}; the run goes on, its lines are lost",
        "metrics.jsonl: written again; 2 lines were lost"]
    assert len(metrics(out)) + len(metrics(out, "event")) == 11 - 2
    same_bits(out, base[1], 6)
    shutil.rmtree(out)
    run(*base[0], "--out", out, env=fault(**setting, DO="short"))
    assert len(metrics(out)) + len(metrics(out, "event")) == 11 - 2


def test_an_out_that_cannot_be_written_is_refused_at_the_start(base, fault, tmp_path, small_disk):
    os.makedirs(os.path.join(small_disk, "run"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for out in (os.path.join(small_disk, "run"), os.path.join(small_disk, "new")):
        done = run(*base[0], "--out", out, code=2)
        assert f"--out {out}" in done.stderr and os.strerror(errno.EROFS) in done.stderr
        assert "step 1/" not in done.stdout


def test_an_out_without_permission_is_refused_at_the_start(base, fault, out):
    os.makedirs(out)
    setting = {"CALLS": "mkdir", "PATH": out + "/", "AT": 1, "DO": f"fail:{errno.EACCES}"}
    done = run(*base[0], "--out", out, code=2, env=fault(**setting))
    assert f"--out {out}" in done.stderr and "step 1/" not in done.stdout and os.listdir(out) == []


def test_two_runs_do_not_write_into_one_directory(base, out):
    with start(*base[0], "--steps", 10 ** 7, "--save-every", 10 ** 6, "--out", out) as process:
        wait_for(process, "^step 3/")
        assert "another run" in run(*base[0], "--steps", 10 ** 7, "--out", out, "--resume", "auto", code=2).stderr
    run(*base[0], "--out", out, "--resume", "auto", "--steps", 10 ** 6, "--max-minutes", 1e-3)  # the lock died with it


# ------------------------------------------------------------------------------------------------------------ data


@pytest.fixture
def shards(tmp_path):
    """Many shards, so that not all are open at once under a low limit."""
    for i in range(20):
        write_shard(tmp_path / f"shard{i:02d}.bin", sentences(60, i))
    return [str(tmp_path / f"shard{i:02d}.bin") for i in range(20)]


def few_files():
    import resource  # in the child, before the program starts
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


@pytest.mark.parametrize("damage", ["truncate", "shorten", "remove", "replace"])
def test_a_shard_that_changes_during_training_ends_the_run_with_a_checkpoint(damage, shards, out):
    arguments = [*SMALL, "--train-data", os.path.join(os.path.dirname(shards[0]), "*.bin"), "--save-every", 10 ** 6]
    whole = file_bytes(shards[7])
    with start(*arguments, "--steps", 10 ** 8, "--out", out, preexec_fn=few_files) as process:
        wait_for(process, "^step 5/")
        if damage == "remove":
            os.unlink(shards[7])
        elif damage == "replace":
            os.unlink(shards[7])
            write_shard(shards[7], sentences(61, 7))
        else:
            os.truncate(shards[7], 1024 + 20 if damage == "truncate" else len(whole) - 2)
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 2
    assert re.fullmatch(r"train_gpt: --train-data: [^\n]*\n", errors) and shards[7] in errors
    last = metrics(out)[-1]["step"]
    assert checkpoints(out) == [last] and step_directory(out, last) in errors
    if damage in ("truncate", "shorten"):
        assert re.search("byte|bytes", errors)
    with open(shards[7], "wb") as file:
        file.write(whole)
    run(*arguments, "--steps", last + 5, "--out", out, "--resume", "auto")
    run(*arguments, "--steps", last + 5, "--out", out + ".straight")
    same_bits(out, out + ".straight", last + 5)


def test_validation_data_that_change_end_the_run_with_a_checkpoint(base, out, tmp_path):
    """On the way, and at the end: nothing that was learned is lost."""
    path = tmp_path / "val.bin"
    write_shard(path, sentences(200, 5))
    whole = file_bytes(path)
    arguments = [*base[0], "--val-data", path, "--val-every", 5, "--steps", 10 ** 7, "--save-every", 0]
    with start(*arguments, "--out", out) as process:
        wait_for(process, "val loss")
        os.truncate(path, len(whole) - 40)
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 2
    last = metrics(out)[-1]["step"]
    assert re.fullmatch(r"train_gpt: --val-data: [^\n]*\n", errors) and str(path) in errors
    assert last % 5 == 0 and checkpoints(out) == [last] and step_directory(out, last) in errors
    path.write_bytes(whole)
    run(*base[0], "--steps", last + 2, "--out", out, "--resume", "auto")
    run(*base[0], "--val-data", path, "--steps", last + 2, "--out", out + ".straight")
    same_bits(out, out + ".straight", last + 2)


def test_a_shard_that_cannot_be_read_is_named_with_the_byte(base, fault, data, out):
    folder = os.path.dirname(data[1])
    setting = {"CALLS": "pread", "PATH": folder, "AT": 45, "TIMES": 0, "DO": "fail:5"}  # about 20 are read ahead at the start
    error = run(*base[0], "--steps", 40, "--out", out, code=2, env=fault(**setting)).stderr
    assert re.search(rf"{folder}/\d\.bin: byte \d+: cannot read: {os.strerror(5)}", error)
    assert 1 <= len(checkpoints(out)) <= 40 and step_directory(out, checkpoints(out)[-1]) in error


def test_another_place_in_the_data_on_resume_is_said(base, out, tmp_path):
    begun(base, out, 2)
    write_shard(tmp_path / "other.bin", sentences(500, 9))
    other = ["--train-data", tmp_path / "other.bin", "--allow-change"]
    error = run(*base[0], *other, "--out", out, "--resume", "auto").stderr
    assert re.fullmatch(r"train_gpt: [^\n]*4 windows of data with 28[^\n]*window 4 with 62 in an epoch\n", error)
    shutil.rmtree(out)
    begun(base, out, 2)
    error = run(*base[0], "--total-batch-tokens", 32, "--out", out, "--resume", "auto").stderr
    assert re.fullmatch(r"train_gpt: [^\n]*4 windows of data with 28[^\n]*window 8 with 28 in an epoch\n", error)
