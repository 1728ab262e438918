"""The promises of data/fetch.py: a set of many files by many processes is prepare.py's, token for token, whatever was killed on
the way; what a recipe, a folder or the Hub has wrong is one line."""
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from program import ROOT, run, run_script

sys.path.insert(0, os.path.join(ROOT, "data"))

import fetch  # noqa: E402
from console import Failure  # noqa: E402

FILES = ["en/c4-train.%05d-of-00012.json.gz" % i for i in range(12)]
VAL = ["en/c4-validation.%05d-of-00002.json.gz" % i for i in range(2)]


@pytest.fixture(scope="module")
def c4(tmp_path_factory):
    """A folder that is laid out like allenai/c4, with other files beside; documents are numbered."""
    folder, draw, n = tmp_path_factory.mktemp("c4"), random.Random(1), 0
    for path in [*FILES, *VAL, "en.noclean/c4-train.00000-of-00002.json.gz", "README.md"]:
        lines = []
        for _ in range(draw.randint(0, 60)):
            n += 1
            lines.append(json.dumps({"text": "document %d: %s\n" % (n, "words " * draw.randint(0, 200)), "url": "u"}))
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))
    return folder


def without_progress(stderr):
    """What was said but how far it is, which a slow machine has time for."""
    return "".join(line for line in stderr.splitlines(True) if not line.startswith("fetch: "))


def fetched(*arguments, **options):
    done = run_script("data/fetch.py", *arguments, **options)
    done.stderr = without_progress(done.stderr)
    return done


def shards(folder, name="c4"):
    return {path.name: path.read_bytes() for path in folder.glob(name + "_*.bin")}


@pytest.fixture(scope="module")
def prepared(c4, tmp_path_factory):
    """What prepare.py makes of the same files."""
    out = tmp_path_factory.mktemp("prepared")
    done = run_script("data/prepare.py", *[c4 / path for path in FILES], "--val-files", *[c4 / path for path in VAL], "--name", "c4",
                      "--shard-tokens", 100_000, "--out", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def arguments_for(c4, out, *more):
    return ["c4", "--from", c4, "--tokenizer", "bytes", "--shard-tokens", 100_000, "--out", out, *more]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_set_by_processes_is_the_one_that_prepare_makes(c4, prepared, tmp_path, workers):
    done = fetched(*arguments_for(c4, tmp_path, "--workers", workers))
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert shards(tmp_path) == shards(prepared) and len(shards(tmp_path)) > 2
    ours, theirs = (json.loads((folder / "c4.json").read_text()) for folder in (tmp_path, prepared))
    for key in theirs.keys() - {"skipped"}:
        assert ours[key] == theirs[key], key
    assert [source["file"] for source in ours["sources"]] == FILES + VAL
    assert sorted(os.listdir(tmp_path)) == sorted([*shards(prepared), "c4.json", "c4.tokenizer"])
    run("--preset", "micro", "--steps", 1, "--val-every", 0, "--train-data", tmp_path / "c4_train_*.bin")
    done = fetched(*arguments_for(c4, tmp_path))
    assert done.returncode == 0 and "is there already" in done.stdout


def test_a_subword_tokenizer_comes_to_the_same(c4, tmp_path):
    pytest.importorskip("tokenizers")
    files = [c4 / path for path in FILES]
    assert run_script("data/train_tokenizer.py", *files, "--vocab-size", 300, "--out", tmp_path / "t").returncode == 0
    assert run_script("data/prepare.py", *files[:4], "--tokenizer", tmp_path / "t", "--name", "c4", "--val-fraction", 0.2,
                      "--out", tmp_path / "p").returncode == 0  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps({"train": ["en/c4-train*"], "val_fraction": 0.2}))
    done = fetched(tmp_path / "mine.json", "--from", c4, "--files", 4, "--tokenizer", tmp_path / "t", "--workers", 2, "--name", "c4",
                   "--out", tmp_path / "f")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert shards(tmp_path / "f") == shards(tmp_path / "p")


def start(arguments):
    command = [sys.executable, os.path.join(ROOT, "data/fetch.py"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def whole_parts(out):
    folder = out / "c4.parts"
    return len([name for name in os.listdir(folder) if name.endswith("0.json") or name[-6:-5].isdigit()]) if folder.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_at_any_moment_loses_and_doubles_nothing(c4, prepared, tmp_path, number):
    arguments, kills, seen, again = arguments_for(c4, tmp_path, "--workers", 2), 0, 0, None
    for attempt in range(20):
        process = start(arguments)
        while process.poll() is None and whole_parts(tmp_path) < seen + 3:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(number)
        stderr = without_progress(process.communicate(timeout=30)[1])
        kills += 1
        if number == signal.SIGTERM and process.returncode == 1:
            assert "files done: the same command goes on" in stderr and stderr.count("\n") == 1
        assert not (tmp_path / "c4.json").exists() or shards(tmp_path) == shards(prepared)
        seen = max(seen, whole_parts(tmp_path))
    again = fetched(*arguments)
    assert kills >= 1 and again.returncode == 0, again.stderr
    assert shards(tmp_path) == shards(prepared)
    assert sorted(os.listdir(tmp_path)) == sorted([*shards(prepared), "c4.json", "c4.tokenizer"])


def children_of(process):
    with open("/proc/%d/task/%d/children" % (process.pid, process.pid)) as file:
        return [int(pid) for pid in file.read().split()]


def test_a_worker_that_is_killed_ends_all_with_a_line(c4, prepared, tmp_path):
    arguments = arguments_for(c4, tmp_path, "--workers", 3)
    for wait in (0, 1, 3, 6):  # parts that are whole before
        process = start(arguments)
        while process.poll() is None and (whole_parts(tmp_path) < wait or len(children_of(process)) < 2):
            time.sleep(0.005)
        for pid in children_of(process)[-1:] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        stderr = without_progress(process.communicate(timeout=30)[1])
        assert process.returncode == 0 or "a worker was killed (exit code -9): the same command goes on" in stderr, stderr
        assert stderr.count("\n") == (process.returncode != 0)
    assert fetched(*arguments).returncode == 0 and shards(tmp_path) == shards(prepared)


def test_another_plan_under_the_same_name_is_refused(c4, tmp_path):
    folder = tmp_path / "c4.parts"
    process = start(arguments_for(c4, tmp_path, "--workers", 1))
    while process.poll() is None and not whole_parts(tmp_path):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    if folder.exists():
        done = fetched(*arguments_for(c4, tmp_path, "--separator", "newline"))
        assert done.returncode == 2 and "begun with other files or flags (options)" in done.stderr and done.stderr.count("\n") == 1
        (folder / "plan.json").write_text("[")
        assert fetched(*arguments_for(c4, tmp_path)).returncode == 2


def test_a_bad_file_among_many_is_one_line_and_the_others_are_kept(c4, tmp_path):
    copy = tmp_path / "copy"
    (copy / "en").mkdir(parents=True)
    for path in [*FILES[:3], *VAL]:
        (copy / path).write_bytes((c4 / path).read_bytes())
    (copy / FILES[1]).write_bytes((c4 / FILES[0]).read_bytes()[:-20] + b"0123456789")
    done = fetched(*arguments_for(copy, tmp_path, "--workers", 1))
    assert done.returncode == 2 and "00001-of-00012.json.gz: damaged" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.bin")) and (tmp_path / "c4.parts/train_00000.json").exists()
    (copy / FILES[1]).write_bytes((c4 / FILES[1]).read_bytes())
    done = fetched(*arguments_for(copy, tmp_path))
    assert done.returncode == 2 and "(files)" in done.stderr  # its size has changed: it is another file


# ---------------------------------------------------------------------------------------------------------
# Recipes and places


HUB_FILES = {  # a few of what these repositories hold
    "c4": [*FILES, *VAL], "fineweb": ["sample/10BT/000_00000.parquet", "sample/10BT/014_00000.parquet", "data/CC-MAIN-2013-20/a.parquet"],
    "fineweb-edu": ["sample/10BT/000_00000.parquet", "sample/100BT/000_00000.parquet"],
    "openwebtext": ["plain_text/train-00000-of-00080.parquet", "README.md"],
    "tinystories": ["data/train-00000-of-00004-2d5a1467fff1081b.parquet", "data/validation-00000-of-00001-869c898b519ad725.parquet",
                    "TinyStories-train.txt"],
    "shakespeare": ["input.txt"],
}  # fmt: skip


@pytest.mark.parametrize("name", fetch.recipe_names())
def test_a_recipe_is_whole_and_finds_its_files(name):
    recipe = fetch.read_recipe(name)
    tasks = fetch.tasks_of(recipe, dict.fromkeys(HUB_FILES[name], 1), fetch.parse_arguments([name]))
    assert {task["split"] for task in tasks} == ({"train", "val"} if recipe["val"] else {"train"})
    assert (recipe["repository"] or recipe["url"]) and recipe["about"] and bool(recipe["val"]) != (recipe["val_fraction"] > 0)


def test_files_are_taken_in_the_order_of_their_numbers():
    recipe = dict(fetch.read_recipe("fineweb"), train=["*"])
    tasks = fetch.tasks_of(recipe, {"p-10": 1, "p-9": 1, "p-1": 1, "q": 1}, fetch.parse_arguments(["fineweb"]))
    assert [task["file"] for task in tasks] == ["p-1", "p-9", "p-10", "q"]


@pytest.mark.parametrize("recipe, says", [
    ("{", "not JSON"), ("[]", "not a JSON object"), ('{"train": ["a"], "evil": 1}', "'evil' is no key"), ('{"train": "a"}', "must be a list"),
    ('{"train": [1]}', "must be a list of patterns"), ('{}', "names no files"), ('{"train": ["a"], "val_fraction": 2}', "'val_fraction' 2"),
    ('{"train": ["a"], "field": 3}', "'field' must be a text"), ('{"train": ["nothing*"]}', "no file matches nothing*; there are"),
])  # fmt: skip
def test_a_recipe_that_is_wrong_is_one_line(c4, tmp_path, recipe, says):
    (tmp_path / "r.json").write_text(recipe)
    with pytest.raises(Failure) as caught:
        fetch.work([str(tmp_path / "r.json"), "--from", str(c4), "--tokenizer", "bytes", "--out", str(tmp_path)])
    assert says in str(caught.value) and os.listdir(tmp_path) == ["r.json"]


def test_a_recipe_is_not_replaced_by_its_set(c4, tmp_path):
    (tmp_path / "r.json").write_text('{"train": ["*/c4-train*"], "format": "json"}')
    with pytest.raises(Failure, match="r.json is there, and tells of no set"):
        fetch.work([str(tmp_path / "r.json"), "--from", str(c4), "--tokenizer", "bytes", "--out", str(tmp_path)])
    assert os.listdir(tmp_path) == ["r.json"] and "c4-train" in (tmp_path / "r.json").read_text()


@pytest.mark.parametrize("arguments, says", [
    (["nothing"], "nothing: no such recipe; there are c4, fineweb"), ([], "which recipe?"), (["c4", "--from", "/none"], "no such folder"),
    (["c4", "--workers", "0"], "--workers 0: 1 to"), (["c4", "--val-fraction", "1"], "--val-fraction 1: "),
])  # fmt: skip
def test_arguments_that_are_wrong_are_one_line(arguments, says):
    with pytest.raises(Failure, match=says):
        fetch.work(arguments)


HUB = '''
import os, shutil, types
HERE = {here!r}
class HfApi:
    def repo_info(self, repository, repo_type, revision, files_metadata):
        if {broken!r} == "list": raise OSError("no route to host\\nsecond line")
        assert (repository, repo_type, revision, files_metadata) == ("allenai/c4", "dataset", "main", True)
        names = [os.path.join("en", name) for name in sorted(os.listdir(os.path.join(HERE, "en")))]
        return types.SimpleNamespace(sha="abc123", siblings=[
            types.SimpleNamespace(rfilename=name, size=os.path.getsize(os.path.join(HERE, name))) for name in names])
def hf_hub_download(repository, name, repo_type, revision, local_dir):
    if {broken!r} == name: raise OSError("connection reset")
    assert revision == "abc123"
    path = os.path.join(local_dir, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(os.path.join(HERE, name), path)
    return path
'''


def test_the_hub_is_asked_for_its_files_which_stay_no_longer_than_they_are_read(c4, prepared, tmp_path):
    """huggingface_hub itself is stood in for: it needs a network."""
    module, out = tmp_path / "huggingface_hub.py", tmp_path / "out"
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    arguments = [argument for argument in arguments_for(c4, out, "--workers", 2) if argument not in ("--from", c4)]
    module.write_text(HUB.format(here=str(c4), broken="list"))
    done = fetched(*arguments, env=environment)
    assert done.returncode == 1 and "allenai/c4: the Hub does not give it: no route to host; --from DIR" in done.stderr
    assert done.stderr.count("\n") == 1 and not out.exists()
    module.write_text(HUB.format(here=str(c4), broken=FILES[0]))
    done = fetched(*arguments[:-1], 1, env=environment)
    assert done.returncode == 1 and "connection reset" in done.stderr and not list(out.iterdir())
    module.write_text(HUB.format(here=str(c4), broken=FILES[7]))
    done = fetched(*arguments, env=environment)
    assert done.returncode == 1 and "connection reset" in done.stderr and done.stderr.count("\n") == 1
    module.write_text(HUB.format(here=str(c4), broken=""))
    done = fetched(*arguments, env=environment)
    assert done.returncode == 0, done.stderr
    assert shards(out) == shards(prepared) and json.loads((out / "c4.json").read_text())["plan"]["revision"] == "abc123"
    assert not (out / "c4.parts").exists()
    module.write_text("raise ImportError")
    done = fetched(*arguments, env=environment)
    assert done.returncode == 2 and "pip install huggingface_hub" in done.stderr


def test_parquet_recipes_read_a_copy_of_the_repository(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet

    texts = ["story %d. " % i * 20 for i in range(300)]
    (tmp_path / "data").mkdir()
    for i, name in enumerate(HUB_FILES["tinystories"][:2]):
        pyarrow.parquet.write_table(pyarrow.table({"text": texts[i * 200 : (i + 1) * 200]}), str(tmp_path / name))
    done = fetched("tinystories", "--from", tmp_path, "--tokenizer", "bytes", "--out", tmp_path / "o", "--workers", 2)
    assert done.returncode == 0, done.stderr
    from shards import read_shard

    for split, part in (("train", texts[:200]), ("val", texts[200:])):
        ids = read_shard(tmp_path / "o" / ("tinystories_%s_000000.bin" % split))[1]
        assert bytes(list(ids)).decode().split("\0") == part
