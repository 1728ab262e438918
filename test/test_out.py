"""Is --out made where it is not there, and is it said what stands in its way?"""
import os
import stat
import subprocess

import pytest

from program import PROGRAM, SMALL, checkpoints, environment, refused, run, sentences, write_shard


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "a.bin"
    write_shard(path, sentences(400, 1))
    return [*SMALL, "--train-data", str(path), "--steps", "1"]


def test_parents_are_made_with_the_rights_that_the_umask_leaves(data, tmp_path):
    out = tmp_path / "new" / "deep" / "run"
    subprocess.run([PROGRAM, *data, "--out", out], check=True, stdout=subprocess.PIPE, env=environment(),
                   preexec_fn=lambda: os.umask(0o027))
    assert checkpoints(out) == ["step_00000001"]
    for made in (out, out.parent, out.parent.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o750
    run(*data, "--resume", "auto", "--out", out, "--steps", 2)
    assert checkpoints(out) == ["step_00000001", "step_00000002"]


def test_all_spellings_of_a_directory_are_that_directory(data, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for given in ("a/", "b//c/", "./d/../e", "link", "link/f"):
        done = run(*data, "--out", given, cwd=tmp_path)
        assert checkpoints(tmp_path / given) == ["step_00000001"] and "//step_" not in done.stdout, given
    assert "step 2/2" in run("--resume", "a/", "--steps", 2, cwd=tmp_path).stdout


def test_what_stands_in_the_way_is_named(data, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    for out, says in {"file": "file: not a directory", "file/": "file", "new/../file/run": "file: not a directory",
                      "dangling": "dangling: a symbolic link to a place that is not there",
                      "dangling/run": "dangling: a symbolic link to a place that is not there",
                      "/proc/nothing/run": "/proc/nothing: cannot be made: No such file or directory",
                      "new/" + "x" * 300 + "/run": "cannot be made: File name too long", "": "--out: the value is empty"}.items():
        refused(*data, "--out", out, says=("--out", says), cwd=tmp_path)
    assert not (tmp_path / "nowhere").exists() and not os.path.exists("/proc/nothing")


def test_a_run_that_is_refused_makes_no_directory(data, tmp_path):
    refused(*data, "--out", "new/run", "--val-data", "absent.bin", cwd=tmp_path)
    refused(*data, "--out", "new/run", "--n-head", 3, cwd=tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_probe_that_cannot_be_written_is_refused_before_any_work(data, tmp_path):
    (tmp_path / "folder").mkdir()
    for path, says in {"folder": "no file", "folder/": "no file", "/dev/full": "no file", "absent/probe": "cannot create"}.items():
        refused(*data, "--probe", path, says=("--probe", says), cwd=tmp_path)
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == []


def test_a_probe_replaces_nothing_that_it_is_made_of(data, tmp_path):
    run(*data, "--steps", 1, "--out", "run", cwd=tmp_path)
    model = tmp_path / "run" / "latest" / "model.safetensors"
    before = model.read_bytes()
    for path, flags in (("run/latest/model.safetensors", ["--resume", "run"]), ("run/step_00000001/state.json", ["--resume", "run"]),
                        ("run/latest/model.safetensors", ["--init-from", "run/latest"]),
                        ("run/latest/model.safetensors", ["--init-from", "run/latest/model.safetensors"])):
        refused(*data, *flags, "--probe", path, says="a file of the model", cwd=tmp_path)
    shard = data[data.index("--train-data") + 1]
    refused(*data, "--probe", shard, says="a file of --train-data", cwd=tmp_path)
    assert model.read_bytes() == before
    for _ in range(2):
        run(*data, "--resume", "run", "--probe", "probe", cwd=tmp_path)  # an earlier one it does
