"""The promises of a run about its data's tokenizer: the vocabulary follows it, what does not fit is refused, its files go into
every checkpoint and stay there, whatever becomes of the data."""
import json
import os
import shutil
import sys

import pytest

from program import ROOT, SMALL, file_bytes, metrics, refused, run, run_script, step_directory, write_shard

sys.path.insert(0, os.path.join(ROOT, "data"))

import tokenizer_files  # noqa: E402
from pretrained_tokenizer import as_json  # noqa: E402
from shards import ShardSet, pack_ids  # noqa: E402
from token_bytes import container  # noqa: E402

NAMES = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "token_bytes.safetensors"]
NO_PRESET = ["--n-layer", 1, "--n-embd", 32, "--n-head", 2, "--seq-len", 16, "--batch-size", 2, "--warmup-steps", 0]


class Made:
    """An encoder of so many ids, as tokenizer_files takes one; no package needed. mark: makes it another one."""

    settings, end = {}, None

    def __init__(self, vocab_size, mark=""):
        self.name, self.vocab_size, self.eot, self._mark = "made%s" % mark, vocab_size, vocab_size - 1, mark

    def tokenizer_json(self):
        return as_json({"version": "1.0", "mark": self._mark, "model": {"vocab": {str(i): i for i in range(self.vocab_size)}}})

    def token_table(self):
        return [b"%d" % i for i in range(self.vocab_size - 1)] + [b""], False


def make_set(folder, name="x", vocab_size=300, mark="", seed=1, facts=()):
    """A set on disk, as data/prepare.py writes it; returns the flags that train and validate on it."""
    encoder = Made(vocab_size, mark)
    files, _ = tokenizer_files.tokenizer_files(encoder)
    ids = [(7 * i * i + i // 3 + seed) % vocab_size for i in range(400)]
    with ShardSet(str(folder), name, vocab_size, 1000) as shards:
        shards.train.write(pack_ids(ids, 2))
        shards.val.write(pack_ids(ids[:100], 2))
        shards.commit(dict(tokenizer_files.tokenizer_facts(encoder, files, True), **dict(facts)), files)
    return ["--train-data", folder / (name + "_train_*.bin"), "--val-data", folder / (name + "_val_*.bin")]


def change_facts(folder, name="x", **facts):
    path = folder / (name + ".json")
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **facts)))


def train(*arguments, steps=1, **more):
    return run(*NO_PRESET, "--steps", steps, "--val-every", 0, *arguments, **more)


def companions(out, step=1):
    """{name: content} of those that a checkpoint has, all of which its manifest lists."""
    folder = step_directory(out, step)
    listed = {file["name"] for file in json.loads(file_bytes(folder, "manifest.json"))["files"]}
    found = {name: file_bytes(folder, name) for name in NAMES if os.path.exists(os.path.join(folder, name))}
    assert found.keys() <= listed
    return found


# ---------------------------------------------------------------------------------------------------------
# The vocabulary


@pytest.mark.parametrize("given", [[], ["--preset", "micro", "--vocab-size", "auto"]])
def test_the_vocabulary_follows_the_data(given, tmp_path):
    data, out = make_set(tmp_path), tmp_path / "run"
    train(*data, *given, "--out", out)
    assert json.loads(file_bytes(step_directory(out, 1), "config.json"))["vocab_size"] == 300
    assert "vocab-size = auto (300)" in file_bytes(out, "config.ini").decode()
    assert metrics(out, "event")[0]["flags"]["vocab-size"] == 300
    # a config.ini of one run is the flags of another: auto follows that one's data
    other = make_set(tmp_path, "y", 320)
    train("--config", out / "config.ini", *other, "--out", tmp_path / "again")
    assert json.loads(file_bytes(step_directory(tmp_path / "again", 1), "config.json"))["vocab_size"] == 320
    done = run(*NO_PRESET, *data, "--dry-run")
    assert "300" in done.stdout


def test_more_ids_than_the_model_has_are_refused_before_any_step(tmp_path):
    data = make_set(tmp_path)
    refused(*SMALL, *data, says=(f"--train-data: {tmp_path}/x.json: its tokenizer, made, has 300 ids, and the model 256",
                                 "--vocab-size auto follows the data"))  # fmt: skip
    refused(*NO_PRESET, *data, "--vocab-size", 299, says="has 300 ids, and the model 299")
    small = make_set(tmp_path, "small", 256)
    refused(*SMALL, *small[:2], *data[2:], says=f"--val-data: {tmp_path}/x.json: its tokenizer, made, has 300 ids")
    train(*small, "--out", tmp_path / "run")
    refused("--resume", tmp_path / "run", "--steps", 2, *data, says="a checkpoint's vocabulary does not grow")
    refused("--resume", tmp_path / "run", "--eval-only", *data, says="--val-data: ")
    refused(*NO_PRESET, "--init-from", step_directory(tmp_path / "run", 1), *data, says="are of another tokenizer")


def test_a_few_ids_more_are_no_word_and_many_are_a_line(tmp_path):
    data, says = make_set(tmp_path, vocab_size=257), "is more than the 257 ids of"
    assert says not in train(*data, "--vocab-size", 384).stdout
    assert f"--vocab-size 512 {says} {tmp_path}/x.json's tokenizer, made: the others are never trained" in train(
        *data, "--vocab-size", 512).stdout  # fmt: skip


def test_training_and_validation_are_by_one_tokenizer(tmp_path):
    data, other = make_set(tmp_path), make_set(tmp_path, "y", mark=" two")
    refused(*NO_PRESET, *data[:2], *other[2:], says=(
        f"--val-data: {tmp_path}/y.json is of another tokenizer (made_two with 300 ids, sha256", f"than {tmp_path}/x.json (made with"))
    refused(*NO_PRESET, "--train-data", tmp_path / "*_train_*.bin", says="are of different tokenizers")
    change_facts(tmp_path, "y", tokenizer_sha256=None)  # an older set: its size is all there is
    train(*data[:2], *other[2:])
    change_facts(tmp_path, "y", vocab_size=299, end_of_document=None)
    refused(*NO_PRESET, *data[:2], *other[2:], says="is of another tokenizer")


@pytest.mark.parametrize("facts, says", [
    ({"vocab_size": -1}, "field 'vocab_size' must be a number from 1 to"), ({"vocab_size": "300"}, "field 'vocab_size'"),
    ({"vocab_size": 1e300}, "field 'vocab_size'"), ({"vocab_size": 300.5}, "which is not whole"), ({"vocab_size": 1, "end_of_document": None}, "nothing to learn"),
    ({"end_of_document": 300}, "field 'end_of_document' must be a number from 0 to 299"), ({"end_of_document": [1]}, "'end_of_document'"),
    ({"tokenizer_sha256": "12"}, "64 hexadecimal digits"), ({"tokenizer_sha256": 5}, "'tokenizer_sha256'"),
])  # fmt: skip
def test_a_set_that_says_something_wrong_is_refused_by_its_field(facts, says, tmp_path):
    data = make_set(tmp_path)
    change_facts(tmp_path, **facts)
    refused(*NO_PRESET, *data, says=("--train-data: ", "x.json", says))


def test_data_without_facts_are_taken_as_they_are(tmp_path):
    write_shard(tmp_path / "t.bin", [i % 300 for i in range(200)])
    out = tmp_path / "run"
    train("--train-data", tmp_path / "t.bin", "--vocab-size", 300, "--out", out)
    assert companions(out) == {} and " sha256=" not in file_bytes(step_directory(out, 1), "state.json").decode()
    data = make_set(tmp_path)
    for hostile in ("{", "[]", "\0" * 50):
        (tmp_path / "x.json").write_text(hostile)
        assert f"{tmp_path}/x.json cannot be read" in train(*data, "--vocab-size", 300).stdout


# ---------------------------------------------------------------------------------------------------------
# The files


def test_checkpoints_carry_the_files_for_as_long_as_the_tokenizer_is_the_same(tmp_path):
    data, out, away = make_set(tmp_path / "data"), tmp_path / "run", tmp_path / "away"
    train(*data, "--out", out, "--temperature", 0.5, "--top-k", 7, "--top-p", 0.9)
    first = companions(out)
    assert set(first) == set(NAMES)
    for name in set(NAMES) - {"generation_config.json"}:
        assert first[name] == file_bytes(tmp_path / "data" / "x.tokenizer", name)
    assert json.loads(first["generation_config.json"]) == {
        "eos_token_id": 299, "do_sample": True, "top_k": 7, "top_p": 0.9, "temperature": 0.5}  # fmt: skip
    away.mkdir()  # the shards alone, elsewhere: the checkpoint's own are kept
    for name in os.listdir(tmp_path / "data"):
        if name.endswith(".bin"):
            shutil.move(tmp_path / "data" / name, away / name)
    shutil.rmtree(tmp_path / "data")
    data = ["--train-data", away / "x_train_*.bin", "--val-data", away / "x_val_*.bin"]
    run("--resume", out, "--steps", 2, *data, "--temperature", 0)
    second = companions(out, 2)
    assert {name: second[name] for name in set(NAMES) - {"generation_config.json"}} == {
        name: first[name] for name in set(NAMES) - {"generation_config.json"}}  # fmt: skip
    assert json.loads(second["generation_config.json"]) == {"eos_token_id": 299, "do_sample": False}
    shutil.rmtree(away)  # and go on into a run that begins with these weights
    write_shard(tmp_path / "t.bin", [i % 300 for i in range(200)])
    train("--init-from", step_directory(out, 2), "--train-data", tmp_path / "t.bin", "--out", tmp_path / "tuned")
    assert companions(tmp_path / "tuned")["tokenizer.json"] == first["tokenizer.json"]
    assert json.loads(companions(tmp_path / "tuned")["generation_config.json"])["eos_token_id"] == 299


def test_a_damaged_file_of_a_checkpoint_is_seen(tmp_path):
    out = tmp_path / "run"
    train(*make_set(tmp_path), "--out", out)
    path = os.path.join(step_directory(out, 1), "tokenizer.json")
    with open(path, "r+b") as file:
        file.truncate(100)
    refused("--resume", out, says="tokenizer.json: 100 bytes long; its manifest says")


def test_another_tokenizer_on_a_resume_is_refused_and_with_consent_its_files_go_on(tmp_path):
    out, data = tmp_path / "run", make_set(tmp_path)
    train(*data, "--out", out)
    make_set(tmp_path, mark="2")  # the same tokens
    resume = ["--resume", out, "--steps", 2, *data]
    message = refused(*resume, says=("--train-data is not what it was: tokenizer made (sha256 ", "…) there, made2 (", "--allow-change"))
    assert "tokens" not in message.split("made2")[1]
    refused("--resume", out, "--eval-only", *data, says="is of another tokenizer (made2, sha256")
    run("--resume", out, "--eval-only", "--allow-change", *data)
    done = run(*resume, "--allow-change")
    assert "the tokenizer of %s/x.json is another than that of the weights; checkpoints carry it" % tmp_path in done.stdout
    assert companions(out, 2)["tokenizer.json"] == file_bytes(tmp_path / "x.tokenizer", "tokenizer.json")


def test_a_checkpoint_of_before_takes_the_files_of_its_data(tmp_path):
    """As older versions wrote them: no files, and a fingerprint without a hash."""
    out, data = tmp_path / "run", make_set(tmp_path)
    facts = json.loads((tmp_path / "x.json").read_text())
    change_facts(tmp_path, tokenizer_sha256=None)
    os.rename(tmp_path / "x.tokenizer", tmp_path / "y.tokenizer")
    train(*data, "--out", out)
    assert companions(out) == {}
    os.rename(tmp_path / "y.tokenizer", tmp_path / "x.tokenizer")
    (tmp_path / "x.json").write_text(json.dumps(facts))
    done = run("--resume", out, "--steps", 2, *data)
    assert "resume changes: --steps" in done.stdout and "tokenizer" not in done.stdout
    assert set(companions(out, 2)) == set(NAMES)


@pytest.mark.parametrize("wrong, says", [
    (lambda path: path.write_bytes(path.read_bytes()[:200]), "is not the tokenizer of these tokens: its sha256 is"),
    (lambda path: path.write_bytes(path.read_bytes().replace(b'"7"', b'"8"')), "is not the tokenizer of these tokens"),
    (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
    (lambda path: (path.unlink(), os.mkfifo(path)), "not a regular file"),
    (lambda path: os.truncate(path, (1 << 28) + 1), "more than such a file can have"),
])  # fmt: skip
def test_a_tokenizer_that_is_not_the_sets_is_refused_and_nothing_is_written(wrong, says, tmp_path):
    data = make_set(tmp_path)
    wrong(tmp_path / "x.tokenizer" / "tokenizer.json")
    refused(*NO_PRESET, *data, "--out", tmp_path / "run", says=("--train-data: ", "x.tokenizer/tokenizer.json", says))
    assert not (tmp_path / "run").exists() or not os.listdir(tmp_path / "run")
    shutil.rmtree(tmp_path / "x.tokenizer")
    assert f"{tmp_path}/x.tokenizer, which {tmp_path}/x.json tells of, is not there" in train(*data, "--out", tmp_path / "run").stdout


def test_links_and_what_is_no_json_beside_weights_are_refused(tmp_path):
    out = tmp_path / "run"
    write_shard(tmp_path / "t.bin", [i % 300 for i in range(200)])
    data = ["--train-data", tmp_path / "t.bin", "--vocab-size", 300]
    train(*data, "--out", out)
    weights = tmp_path / "weights"
    shutil.copytree(step_directory(out, 1), weights)
    (weights / "tokenizer.json").write_text("{}")
    (weights / "generation_config.json").write_text("{")
    arguments = ["--init-from", weights, "--train-data", tmp_path / "t.bin", "--out", tmp_path / "again"]
    refused(*NO_PRESET, *arguments, says="--init-from: generation_config.json: no valid JSON")
    (weights / "generation_config.json").write_text('{"pad_token_id": 3, "eos_token_id": [1, 2], "_from_model_config": true}')
    train(*arguments)
    assert json.loads(companions(tmp_path / "again")["generation_config.json"]) == {
        "pad_token_id": 3, "eos_token_id": [1, 2], "do_sample": True, "top_k": 0, "temperature": 0.8}  # fmt: skip
    (weights / "tokenizer.json").unlink()
    (weights / "tokenizer.json").symlink_to("/etc/passwd")
    refused(*NO_PRESET, *arguments[:-1], tmp_path / "third", says="tokenizer.json: a symbolic link")


def test_a_table_of_bytes_that_the_weights_lack_comes_from_the_data(tmp_path):
    out, data = tmp_path / "run", make_set(tmp_path)
    train(*data, "--out", out)
    weights = tmp_path / "weights"
    shutil.copytree(step_directory(out, 1), weights)
    (weights / "token_bytes.safetensors").unlink()
    train("--init-from", weights, *data, "--out", tmp_path / "again")
    assert set(companions(tmp_path / "again")) == set(NAMES)


def test_a_container_is_safetensors_whatever_it_holds():
    for table in ([b""], [b"a", b"", b"\xff" * 300]):
        data = container(table, False, None)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        assert length % 8 == 0 and "end_of_document" not in header["__metadata__"]
        assert len(data) == 8 + length + header["bytes"]["data_offsets"][1]


# ---------------------------------------------------------------------------------------------------------
# The shards themselves


def test_a_shard_that_is_not_the_listed_one_is_refused(tmp_path):
    data, out = make_set(tmp_path), tmp_path / "run"
    train(*data, "--out", out)
    path = tmp_path / "x_train_000000.bin"
    whole = path.read_bytes()
    for at in (1024, 1025 + 399, len(whole) - 2):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refused(*NO_PRESET, *data, says=("--train-data: ", "x_train_000000.bin: not the shard that", "x.json lists (400x2:"))
        assert "1 of 3 files are wrong" in run_script("data/check_set.py", tmp_path / "x.json").stderr
    path.write_bytes(whole)
    (tmp_path / "x_val_000000.bin").write_bytes(whole)
    refused(*NO_PRESET, *data, says=("--val-data: ", "x_val_000000.bin: not the shard that"))
    refused("--init-from", step_directory(out, 1), "--eval-only", *data, says=("--val-data: ", "not the shard that"))
    change_facts(tmp_path, shard_prints={"x_train_000000.bin": 5})
    refused(*NO_PRESET, *data, says="and there no text")
    change_facts(tmp_path, shard_prints={"other": 5})  # no word of it
    train(*data)


def test_samples_of_a_large_shard_are_known_again_and_check_set_sees_every_byte(tmp_path):
    ids = [(7 * i * i + i // 3) % 256 for i in range(50_000)]
    with ShardSet(str(tmp_path), "big", 256, 40_000) as shards:
        shards.train.write(pack_ids(ids, 2))
        shards.commit({})
    data = ["--train-data", tmp_path / "big_train_*.bin", "--vocab-size", 256]
    train(*data)
    path = tmp_path / "big_train_000000.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\1")
    refused(*NO_PRESET, *data, says="big_train_000000.bin: not the shard that")
    path.write_bytes(whole[:3000] + b"\1" + whole[3001:])  # between samples
    train(*data)
    done = run_script("data/check_set.py", tmp_path / "big.json")
    assert done.returncode == 2 and "1 of 2 files are wrong: %s: sha256 " % path in done.stderr and done.stderr.count("\n") == 1
    path.unlink()
    assert "No such file" in run_script("data/check_set.py", tmp_path / "big.json").stderr
    path.write_bytes(whole)
    done = run_script("data/check_set.py", tmp_path / "big.json")
    assert done.returncode == 0 and "all 2 files are as they were written" in done.stdout
    for hostile in ("[]", "{", '{"shards": {"train": ["../x"], "val": []}, "shard_sha256": {}}'):
        (tmp_path / "big.json").write_text(hostile)
        done = run_script("data/check_set.py", tmp_path / "big.json")
        assert done.returncode == 2 and done.stderr.count("\n") == 1
