"""PyTorch and transformers for these tests: one thread, no network, and a cache of modules that is gone afterwards."""

import os
import tempfile

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
