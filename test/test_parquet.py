"""The promises of data/prepare.py about Parquet: a column's texts, row by row; what is wrong is one line."""
import os
import random
import sys

import pytest

from program import ROOT, run_script

sys.path.insert(0, os.path.join(ROOT, "data"))

from console import Failure  # noqa: E402
from records import Skipped  # noqa: E402
from sources import Source  # noqa: E402

TEXTS = ["to be\n", None, "ünï©ødé ✓", "", "x" * 3000, "to be\n"] * 700


@pytest.fixture(scope="module")
def arrow():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet
    return pyarrow


def write(arrow, path, **columns):
    arrow.parquet.write_table(arrow.table(columns), str(path), row_group_size=1500)
    return str(path)


def documents(path, **more):
    source = Source(path, **more)
    return [piece.decode() for piece, starts in source.documents() if starts], str(source.skipped)


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
@pytest.mark.parametrize("name", ["a.parquet", "a.txt", "part-0"])
def test_a_column_of_texts_is_documents_whatever_the_file_is_called(arrow, tmp_path, kind, name):
    types = {"string": arrow.string(), "large_string": arrow.large_string(), "dictionary": arrow.dictionary(arrow.int32(), arrow.string())}
    column = arrow.array(TEXTS, arrow.string()).cast(types[kind])
    path = write(arrow, tmp_path / name, id=list(range(len(TEXTS))), content=column)
    found, skipped = documents(path, field="content")
    assert found == [text for text in TEXTS if text]
    assert skipped == "700 null (first: %s:2), 700 empty (first: %s:4)" % (path, path)


def test_prepare_makes_the_same_set_of_parquet_as_of_lines(arrow, tmp_path):
    texts = [text for text in TEXTS if text]
    write(arrow, tmp_path / "a.parquet", text=texts)
    import json
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name in ("a.parquet", "b.jsonl"):
        done = run_script("data/prepare.py", tmp_path / name, "--out", tmp_path)
        assert done.returncode == 0, done.stderr
    for split in ("train", "val"):
        assert (tmp_path / f"a_{split}_000000.bin").read_bytes() == (tmp_path / f"b_{split}_000000.bin").read_bytes()


@pytest.mark.parametrize("case, says", [
    ("no column", ": no column 'text' (columns here: id, content); see --field"), ("numbers", ": column 'text' holds int64, not text"),
    ("cut", ": damaged Parquet data: "), ("cut at the end", ": damaged Parquet data: "), ("magic alone", ": damaged Parquet data: "),
    ("named so", ": no Parquet file: it does not begin with PAR1"), ("packed", "inside packed data or a pipe"), ("format", "where --format says jsonl"),
    ("bytes", ": row 2: not UTF-8 at byte 1"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(arrow, tmp_path, case, says):
    path, more = tmp_path / "a.parquet", {}
    columns = {"text": TEXTS} if case not in ("no column", "numbers") else {"id": [1], "content": ["a"]} if case == "no column" else {"text": [1]}
    data = open(write(arrow, path, **columns), "rb").read()
    if case == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif case == "cut at the end":
        path.write_bytes(data[:-5])
    elif case == "magic alone":
        path.write_bytes(b"PAR1\0")
    elif case == "named so":
        path.write_text("text")
        more = {"form": "parquet"}
    elif case == "packed":
        import gzip
        path = tmp_path / "a.parquet.gz"
        path.write_bytes(gzip.compress(data))
    elif case == "format":
        more = {"form": "jsonl"}
    elif case == "bytes":
        raw = arrow.array([b"a", b"b\xff"], arrow.binary())
        column = arrow.Array.from_buffers(arrow.string(), 2, raw.buffers())
        write(arrow, path, text=column)
    with pytest.raises(Failure) as caught:
        documents(str(path), **more)
    assert says in str(caught.value) and caught.value.exit_code == 2 and "\n" not in str(caught.value)
    if case == "bytes":
        assert documents(str(path), skip_bad=True) == (["a"], "1 bad (first: %s:2)" % path)


def test_damage_in_the_middle_is_a_line_or_seen_by_nobody(arrow, tmp_path):
    path = tmp_path / "a.parquet"
    data = bytearray(open(write(arrow, path, text=["%d words" % i for i in range(5000)]), "rb").read())
    draw, seen = random.Random(1), 0
    for _ in range(30):
        broken = bytearray(data)
        at = draw.randrange(8, len(data) - 8)
        broken[at : at + 4] = draw.randbytes(4)
        path.write_bytes(broken)
        try:
            documents(str(path))
        except Failure as failure:
            seen += "damaged" in str(failure) or "UTF-8" in str(failure) or "column" in str(failure)
    assert seen > 0


def test_without_pyarrow_the_line_says_what_to_install(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1\x15\x04\x15\x10\0\0PAR1")
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    done = run_script("data/prepare.py", tmp_path / "a.parquet", "--out", tmp_path, env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert done.returncode == 2 and "needs the Python package pyarrow (pip install pyarrow)" in done.stderr
    assert Skipped().kinds == {}
