"""What tests of the whole program share: small data, and a finished run."""

import signal

import pytest

from program import SMALL, run, sentences, write_shard

# A shell starts what it puts into the background with SIGINT ignored, and programs inherit that: then tests that
# interrupt one would wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two shards to train on (125 + 62 windows of 16) and one to validate on (43)."""
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "text_train_0.bin", sentences(2010, 1))
    write_shard(folder / "text_train_1.bin", sentences(1000, 2), wide=True)
    write_shard(folder / "text_val_0.bin", sentences(700, 3))
    return ["--train-data", str(folder / "text_train_*.bin"), "--val-data", str(folder / "text_val_*.bin")]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data):
    """A finished run of 6 steps with checkpoints 3 and 6."""
    out = str(tmp_path_factory.mktemp("trained") / "run")
    run(*SMALL, *data, "--steps", 6, "--save-every", 3, "--val-every", 2, "--out", out)
    return out


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """20,000 sentences to train on; a file of tests may have a shard of its own."""
    path = tmp_path_factory.mktemp("data") / "text.bin"
    write_shard(path, sentences(20000, 1))
    return path
