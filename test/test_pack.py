"""Does --pack documents train and validate on one document a row, with padding that counts for nothing, whoever reads: micro-steps,
several ranks, a resume; and are documents of Megatron's index the same as those of its tokens? Which rows: test_documents.c.

Ranks need mpirun; without it that test is skipped.
"""
import json
import random
import struct

import pytest

from mpi import by_one_and_by_two, has_mpi
from program import MODEL, file_bytes, losses, metrics, refused, run, step_directory, write_shard

END, T = 3, 16
SMALL = f"--preset micro --seq-len {T} --batch-size 8 --lr 1e-3 --warmup-steps 0 --lr-schedule constant --device cpu".split()


def documents(count, seed):
    """Of 1 to 40 tokens, the end among them."""
    draw = random.Random(seed)
    return [[draw.randrange(4, 200) for _ in range(draw.randrange(40))] + [END] for _ in range(count)]


def flat(texts):
    return [token for text in texts for token in text]


def rows_of(texts):
    return [min(len(text), T + 1) for text in texts if len(text) > 1]


def write_megatron(stem, texts):
    """Each document in two sequences."""
    lengths = [n for text in texts for n in (len(text) // 2, len(text) - len(text) // 2)]
    starts = [2 * sum(lengths[:i]) for i in range(len(lengths))]
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(lengths), len(texts) + 1)
    index += struct.pack(f"<{len(lengths)}i", *lengths) + struct.pack(f"<{len(lengths)}q", *starts)
    index += struct.pack(f"<{len(texts) + 1}q", *range(0, 2 * len(texts) + 1, 2))
    stem.with_suffix(".idx").write_bytes(index)
    stem.with_suffix(".bin").write_bytes(struct.pack(f"<{sum(lengths)}H", *flat(texts)))


TRAIN, VAL = documents(200, 1), documents(30, 2)
while len(rows_of(TRAIN)) % 8:  # epochs of whole steps
    TRAIN.pop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("documents")
    write_shard(place / "set_train_000000.bin", flat(TRAIN))
    write_shard(place / "set_val_000000.bin", flat(VAL))
    (place / "set.json").write_text(json.dumps({"end_of_document": END}))
    write_megatron(place / "meg_text_document", TRAIN)
    return place


def flags(folder, *more):
    return ["--train-data", folder / "set_train_*.bin", "--val-data", folder / "set_val_*.bin", "--pack", "documents", *more]


def test_an_epoch_is_every_document_once_and_tokens_are_those_that_count(folder, tmp_path):
    rows = rows_of(TRAIN)
    epoch = len(rows) // 8
    said = run(*SMALL, *flags(folder, "--out", tmp_path / "a", "--steps", 2 * epoch)).stdout
    tokens = [line["tokens"] for line in metrics(tmp_path / "a")]
    assert sum(tokens[:epoch]) == sum(tokens[epoch:]) == sum(rows) - len(rows)
    assert max(tokens) <= 8 * T and min(tokens) < max(tokens)
    start = next(line for line in metrics(tmp_path / "a", "event") if line["event"] == "start")["data"]["train"]
    assert (start["documents"], start["rows"], start["windows"], start["targets"]) == (len(TRAIN), len(rows), len(rows), sum(rows) - len(rows))
    cut = [len(text) - T - 1 for text in TRAIN if len(text) > T + 1]
    assert (start["documents_cut"], start["tokens_cut"], start["documents_unused"]) == (len(cut), sum(cut), len(TRAIN) - len(rows))
    assert f"data: {len(TRAIN)} documents, one a row of {T}: {len(rows)} rows, " in said
    assert f"data: {len(cut)} documents are longer than a row and are cut: {sum(cut):,} tokens are not used" in said
    val = rows_of(VAL)
    assert metrics(tmp_path / "a", "val")[-1]["tokens"] == sum(val) - len(val)


def test_the_loss_is_the_mean_over_targets_not_over_rows(folder, tmp_path):
    """Documents validated by themselves, and together."""
    run(*SMALL, *flags(folder, "--out", tmp_path / "a", "--steps", "3", "--dtype", "fp64"))
    texts, apart = [VAL[0][:2] + [END], [5, 6, 7, 8, 9, END], [9] * 30 + [END]], []

    def loss(name, tokens):
        write_shard(tmp_path / name, tokens)
        said = run("--resume", tmp_path / "a", "--eval-only", "--val-data", tmp_path / name, "--end-of-document", END).stdout.split()
        return float(said[2]), int(said[5])

    for i, text in enumerate(texts):
        apart.append(loss(f"{i}.bin", text))
        assert apart[-1][1] == min(len(text) - 1, T)
    together, count = loss("all.bin", flat(texts))
    assert count == sum(n for _, n in apart) == 2 + 5 + T
    mean = sum(one * n for one, n in apart) / count
    assert abs(together - mean) < 2e-6, (together, mean)  # six digits are printed
    assert abs(together - sum(one for one, _ in apart) / 3) > 1e-4


def test_micro_steps_and_a_resume_change_nothing(folder, tmp_path):
    def train(name, *more):
        run(*SMALL, *flags(folder, "--out", tmp_path / name, "--total-batch-tokens", "256", *more))
        return losses(tmp_path / name)

    whole = train("a", "--steps", "6", "--batch-size", "16")
    parts = train("b", "--steps", "6", "--batch-size", "4")
    assert max(abs(a - b) for a, b in zip(whole, parts)) < 2e-5
    assert [line["tokens"] for line in metrics(tmp_path / "a")] == [line["tokens"] for line in metrics(tmp_path / "b")]
    train("c", "--steps", "3", "--batch-size", "16")
    train("c", "--steps", "6", "--batch-size", "16", "--resume", "auto")
    assert losses(tmp_path / "c") == whole
    assert file_bytes(step_directory(tmp_path / "a", 6), MODEL) == file_bytes(step_directory(tmp_path / "c", 6), MODEL)
    # A row is one document: masking them changes nothing that counts.
    assert train("d", "--steps", "6", "--batch-size", "16", "--doc-mask", "on") == whole
    assert train("e", "--steps", "6", "--batch-size", "16", "--pack-long", "split") != whole


def test_another_packing_is_another_order_of_the_data(folder, tmp_path):
    run(*SMALL, *flags(folder, "--out", tmp_path / "a", "--steps", "2"))
    resume = ["--resume", tmp_path / "a", "--steps", "3"]
    refused(*resume, "--pack", "stream", says=["--pack documents → stream", "--allow-change"])
    refused(*resume, "--pack-long", "split", says="--pack-long cut → split")
    assert "resume changes: --pack documents → stream" in run(*resume, "--pack", "stream", "--allow-change").stdout


def test_who_knows_no_end_of_documents_is_told(folder, tmp_path):
    write_shard(tmp_path / "bare.bin", flat(TRAIN))
    data = [*SMALL, "--steps", "1", "--train-data", tmp_path / "bare.bin", "--pack", "documents"]
    refused(*data, says=["--train-data: --pack documents: no NAME.json beside", "--end-of-document ID"])
    said = run(*data, "--end-of-document", "250").stdout
    assert "--train-data: each shard is one document: is token 250 what ends them?" in said
    said = run(*SMALL, "--steps", "1", "--train-data", tmp_path / "bare.bin", "--doc-mask", "on", "--end-of-document", "250").stdout
    assert f"--train-data: token 250 is not among the first {len(flat(TRAIN))} tokens: is it what ends documents?" in said


@pytest.mark.skipif(not has_mpi(), reason="no mpirun, or a build without MPI")
def test_ranks_share_the_documents_and_what_the_loss_is_divided_by(folder, tmp_path):
    outs = by_one_and_by_two(tmp_path, folder / "set_train_000000.bin", 4, *flags(folder), "--total-batch-tokens", "256")
    for kind in "train", "val":
        one, two = (metrics(out, kind) for out in outs)
        assert len(one) == len(two) > 0 and [line["tokens"] for line in one] == [line["tokens"] for line in two]
        assert max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two)) < 2e-5
    norms = [[line["grad_norm"] for line in metrics(out)] for out in outs]
    assert max(abs(a - b) for a, b in zip(*norms)) < 2e-5


# ------------------------------------------------------------------------------------------------------ Megatron's files


def test_megatrons_files_train_as_the_shards_of_the_same_tokens_do(folder, tmp_path):
    def train(name, data, *more):
        said = run(*SMALL, "--train-data", folder / data, "--steps", "4", "--out", tmp_path / name, *more).stdout
        return losses(tmp_path / name), file_bytes(step_directory(tmp_path / name, 4), MODEL), said

    for i, pack in enumerate((["--pack", "stream"], ["--pack", "documents"])):
        ours = train(f"ours{i}", "set_train_000000.bin", *pack)
        theirs = train(f"theirs{i}", "meg_text_document", *pack)  # the index says where documents end
        assert ours[:2] == theirs[:2]
    assert train("idx", "meg_*.idx")[0] == losses(tmp_path / "ours0")
    refused(*SMALL, "--steps", "1", "--train-data", folder / "meg_text_document", "--doc-mask", "on", says="--end-of-document ID")


def test_megatrons_files_go_on_and_are_known_again(folder, tmp_path):
    flags_of = ["--train-data", tmp_path / "m", "--out", tmp_path / "a"]
    write_megatron(tmp_path / "m", TRAIN)
    run(*SMALL, *flags_of, "--steps", "2")
    run(*SMALL, *flags_of, "--steps", "4", "--resume", "auto")
    run(*SMALL, "--train-data", tmp_path / "m.bin", "--out", tmp_path / "b", "--steps", "4")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    write_megatron(tmp_path / "m", TRAIN[1:])
    refused(*SMALL, *flags_of, "--steps", "5", "--resume", "auto", says=["--train-data is not what it was", "m.bin, has"])
    (tmp_path / "m.idx").write_bytes((tmp_path / "m.idx").read_bytes()[:-8])
    refused(*SMALL, *flags_of[:2], "--steps", "5", says=["--train-data: ", f"m.idx: byte 18: {2 * len(TRAIN) - 2} sequences and "
                                                         f"{len(TRAIN)} document indices make"])
