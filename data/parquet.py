"""Which documents does a Parquet file hold? One column of texts, some rows at a time, by the Python package pyarrow.

A row without text (null, empty) is left out and counted. A file that is cut, a column that is not there or holds no
texts, and bytes that are no UTF-8 are Failures that name the file, and the row where there is one.
"""
from console import Failure

MAGIC = b"PAR1"
ROWS = 1024  # at a time; what is in memory is a row group's column, as the file's writer chose it


def is_parquet(head):
    """By its first bytes; text may begin with the same letters."""
    return head.startswith(MAGIC) and b"\0" in head


def first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


def open_file(path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Failure("%s: a Parquet file needs the Python package pyarrow (pip install pyarrow)" % path) from None
    try:
        return pyarrow, pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from None


def damaged(path, error):
    return Failure("%s: damaged Parquet data: %s" % (path, first_line(error)))


def check_column(pyarrow, path, schema, field):
    """A Failure unless the column is there and holds texts."""
    if schema.get_field_index(field) < 0:
        twice = " once" if field in schema.names else ""
        names = ", ".join(schema.names[:20]) + (", …" if len(schema.names) > 20 else "")
        raise Failure("%s: no column %r%s (columns here: %s); see --field" % (path, field, twice, names))
    kind = schema.field(field).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    tests = [getattr(pyarrow.types, name, None) for name in ("is_string", "is_large_string", "is_string_view")]
    if not any(test(kind) for test in tests if test):
        raise Failure("%s: column %r holds %s, not text; see --field" % (path, field, kind))


def documents(path, field, skip_bad, skipped, moved):
    """Yields the texts of the column as UTF-8, with their rows. moved(share) is told how far it has come, from 0 to 1."""
    pyarrow, file = open_file(path)
    with file:
        check_column(pyarrow, path, file.schema_arrow, field)
        n_rows, row = file.metadata.num_rows, 0
        batches = file.iter_batches(batch_size=ROWS, columns=[field])
        while True:
            try:
                column = next(batches, None)
                texts = [] if column is None else column.column(0).cast(pyarrow.string()).cast(pyarrow.binary()).to_pylist()
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                raise damaged(path, error) from None
            if column is None:
                break
            for text in texts:
                row += 1
                if text and is_good(path, row, text, skip_bad, skipped):
                    yield text, row
                elif not text:
                    skipped.add("null" if text is None else "empty", "%s:%d" % (path, row))
            moved(row / max(n_rows, 1))


def is_good(path, row, text, skip_bad, skipped):
    """Is it UTF-8? Which Parquet promises and not every writer keeps."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        if not skip_bad:
            raise Failure("%s: row %d: not UTF-8 at byte %d; --skip-bad leaves such records out and counts them"
                          % (path, row, error.start)) from None  # fmt: skip
        skipped.add("bad", "%s:%d" % (path, row))
        return False
    return True
