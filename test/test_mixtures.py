"""Does a mixture of sources train on its shares, go on where it stood, at any number of ranks, and is it known again? Which row
comes when: test_mixture.c.

Ranks need mpirun; without it that test is skipped.
"""
import json

import pytest

from mpi import by_one_and_by_two, has_mpi
from program import MODEL, file_bytes, losses, metrics, refused, run, sentences, step_directory, write_shard

SMALL = "--preset micro --seq-len 16 --batch-size 4 --lr 1e-3 --warmup-steps 0 --lr-schedule constant --device cpu".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sources")
    write_shard(place / "web_train_000000.bin", sentences(16 * 40 + 1, 1))
    write_shard(place / "web_train_000001.bin", sentences(16 * 23 + 1, 2), wide=True)
    write_shard(place / "books_train_000000.bin", sentences(16 * 11 + 1, 3))
    for name in "web", "books":
        (place / f"{name}.json").write_text(json.dumps({"tokenizer": "bytes", "vocab_size": 256, "end_of_document": 46}))
    return place


def mixture(folder, web="0.7", books="0.3"):
    return f"{folder}/web_train_*.bin:{web},{folder}/books_train_*.bin:{books}"


def train(folder, out, data, *more):
    return run(*SMALL, "--train-data", data, "--out", out, *more)


def test_a_run_says_what_it_makes_of_each_source(folder, tmp_path):
    said = train(folder, tmp_path / "a", mixture(folder), "--steps", "20").stdout
    assert "data: 3 shards, 1,187 tokens: 74 windows of 16\n" in said
    assert f"data: share 0.7 of the rows: {folder}/web_train_*.bin: 2 shards, 1,010 tokens: 63 windows; 0.889 epochs\n" in said
    assert f"data: share 0.3 of the rows: {folder}/books_train_*.bin: 1 shard, 177 tokens: 11 windows; 2.18 epochs\n" in said
    start = next(line for line in metrics(tmp_path / "a", "event") if line["event"] == "start")["data"]["train"]["sources"]
    assert [(source["share"], source["shards"], source["windows"]) for source in start] == [(0.7, 2, 63), (0.3, 1, 11)]
    assert start[1]["epochs"] == pytest.approx(20 * 4 * 0.3 / 11)


def test_it_goes_on_bit_for_bit_and_only_ratios_count(folder, tmp_path):
    train(folder, tmp_path / "a", mixture(folder), "--steps", "9")
    train(folder, tmp_path / "b", mixture(folder, "7", "3"), "--steps", "5")
    train(folder, tmp_path / "b", mixture(folder, "700", "300.0"), "--steps", "9", "--resume", "auto")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert file_bytes(step_directory(tmp_path / "a", 9), MODEL) == file_bytes(step_directory(tmp_path / "b", 9), MODEL)


def test_one_source_is_no_mixture(folder, tmp_path):
    train(folder, tmp_path / "a", f"{folder}/web_train_*.bin", "--steps", "4")
    train(folder, tmp_path / "b", f"{folder}/web_train_*.bin:0.1", "--steps", "4")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_other_shares_are_another_run(folder, tmp_path):
    train(folder, tmp_path / "a", mixture(folder), "--steps", "3")
    resume = [*SMALL, "--out", tmp_path / "a", "--resume", "auto", "--steps", "5", "--train-data"]
    refused(*resume, mixture(folder, "0.6", "0.4"), says=["--train-data is not what it was: the shares are 0.6 of 2 shards, 0.4 of 1 shard; "
                                                          "they were 0.7 of 2 shards, 0.3 of 1 shard", "--allow-change"])
    refused(*resume, f"{folder}/*_train_*.bin", says="the shares are no mixture; they were 0.7 of 2 shards")
    said = run(*resume, mixture(folder, "0.6", "0.4"), "--allow-change").stdout
    assert "resume changes: --steps 3 → 5" in said and "; --train-data: the shares are 0.6 of 2 shards" in said
    event = next(line for line in metrics(tmp_path / "a", "event") if line["event"] == "resume")
    assert event["train_data"].startswith("the shares are 0.6")


def test_what_is_no_mixture_is_refused(folder, tmp_path):
    data = [*SMALL, "--steps", "1", "--train-data"]
    refused(*data, f"{folder}/web_train_*.bin:0.7,{folder}/books_train_*.bin", says=["--train-data: '", "has no weight"])
    refused(*data, mixture(folder, "0", "1"), says="--train-data: weight '0' is not above 0")
    refused(*data, f"{folder}/web_train_*.bin:1,{folder}/none_*.bin:1", says="no file matches")
    refused(*data, mixture(folder), "--seq-len", "200", says=["a window needs 201 tokens", "books_train_000000.bin, has 177"])
    refused(*data, mixture(folder), "--val-data", mixture(folder),
            says=("weights are for --train-data", "one pattern names all files", "'data/*_val_*.bin'"))
    write_shard(tmp_path / "other_train_000000.bin", sentences(100, 1))
    (tmp_path / "other.json").write_text(json.dumps({"tokenizer": "gpt2", "vocab_size": 257}))
    refused(*data, f"{folder}/web_train_*.bin:1,{tmp_path}/other_train_*.bin:1",
            says=["are of different tokenizers: bytes, gpt2"])


@pytest.mark.parametrize("weight", ["nan", "inf", "x", "", "70%", " 0.7", "1/3", "."])
def test_a_word_in_a_weights_place_is_named(folder, weight):
    data, no_weight = [*SMALL, "--steps", "1", "--train-data"], f"and '{weight}' is no weight: in PATTERN:WEIGHT"
    refused(*data, mixture(folder, weight), says=("no file matches", no_weight))
    refused(*data, mixture(folder, weight, weight), says=("no file matches", no_weight))
    refused(*data, f"{folder}/none/*.bin:{weight},b:0.3", says=("no file matches", no_weight))
    refused(*data, mixture(folder, books=weight), says=(f"weight '{weight}' of '", "is no positive decimal number"))


def test_a_name_with_a_colon_in_it_stays_a_name(folder, tmp_path):
    shard = tmp_path / "web:nan"
    write_shard(shard, sentences(161, 1))
    for data in (shard, f"{tmp_path}/w*:nan", f"{shard}:1", f"{shard}:0.5,{folder}/books_train_*.bin:0.5"):
        run(*SMALL, "--steps", "1", "--train-data", data)
    refused(*SMALL, "--train-data", "s3://none/a.bin", says="train_gpt: --train-data: s3://none/a.bin: no such file\n")


def test_a_list_of_names_is_told_from_a_pattern(folder):
    for data in (f"{folder}/web_train_000000.bin,{folder}/web_train_000001.bin", "none_a/*.bin,none_b/*.bin"):
        refused(*SMALL, "--train-data", data, says="several files are named by a pattern with * ? [ ], not by a list")


@pytest.mark.skipif(not has_mpi(), reason="no mpirun, or a build without MPI")
@pytest.mark.parametrize("more", [[], ["--pack", "documents"], ["--doc-mask", "on"]])
def test_ranks_draw_the_same_rows(folder, tmp_path, more):
    more = ["--total-batch-tokens", "256", *more, "--train-data", mixture(folder)]
    shard = folder / "web_train_000000.bin"
    outs = by_one_and_by_two(tmp_path, shard, 5, *more, "--val-data", shard)
    one, two = map(losses, outs)
    assert len(one) == len(two) == 5 and max(abs(a - b) for a, b in zip(one, two)) < 2e-5, (one, two)
    assert [line["tokens"] for line in metrics(outs[0])] == [line["tokens"] for line in metrics(outs[1])]
