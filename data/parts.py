"""How do many processes turn many files into one set, so that a kill loses and doubles no document?

Each input file becomes a part by itself: NAME.parts/train_00017.tokens, and train_00017.json, which comes last and says
that the part is whole: documents, bytes, hashes. A part is made under another name and renamed when it is on the disk;
whoever is killed leaves parts that are whole, and the next run makes the others. When all are there they are put
together in the order of the files: the tokens, to the last, of prepare.py on the same files in that order.

NAME.parts/plan.json says which files with which tokenizer; another plan under the same name is refused.
"""
import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
from collections import Counter

from console import EXIT_RUNTIME, Failure, Progress, os_failure
from encoders import make_encoder
from prepare import Writer
from records import Skipped
from shards import file_sha256
from sources import Source
from unknown import Unknown, add_facts

COPY_BYTES = 1 << 22


class PartStream:
    """What a Writer writes into: a file, and its hash. A process whose parent is gone stops here, for the next run may
    have begun."""

    def __init__(self, path, width):
        self.path, self.width, self.n_tokens = path, width, 0
        self.sha256 = hashlib.sha256()
        self._parent = multiprocessing.parent_process().pid  # getppid() is another's already where it was killed early
        self._file = open(path, "xb")

    def write(self, packed):
        if os.getppid() != self._parent:
            os.remove(self.path)
            os._exit(EXIT_RUNTIME)
        self._file.write(packed)
        self.sha256.update(packed)
        self.n_tokens += len(packed) // self.width

    def close(self):
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class Quiet:
    """In place of Progress, in a process that has no line of its own."""

    def update(self, n_bytes, share_done):
        pass


def sync_folder(folder):
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put(path, data):
    """A file under its name, whole and on the disk, in a single moment."""
    partial = "%s.partial-%d" % (path, os.getpid())
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(os.path.dirname(path) or ".")


def make_part(folder, name, path, encoder, options):
    """NAME.parts/name.* from one input file."""
    skipped, tokens = Skipped(), os.path.join(folder, name + ".tokens")
    source = Source(path, options["format"], options["field"], options["skip_bad"], skipped)
    writer = Writer(encoder, options["separator"], Quiet(), 0)
    stream = PartStream("%s.partial-%d" % (tokens, os.getpid()), writer.width)
    try:
        n_documents = writer.write([source], stream)
        stream.close()
        os.replace(stream.path, tokens)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(stream.path)
        raise
    facts = {
        "source": {"bytes": os.path.getsize(path), "sha256": file_sha256(path)}, "documents": n_documents,
        "tokens": stream.n_tokens, "tokens_sha256": stream.sha256.hexdigest(), "skipped": skipped.facts(), **writer.facts(),
    }  # fmt: skip
    put(os.path.join(folder, name + ".json"), json.dumps(facts).encode())


def asked(link):
    """The tasks that come over a link, until whoever asks is done, or gone."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            yield link.recv()


def answer(link, failure):
    with contextlib.suppress(ConnectionError):
        link.send(failure)


def work(folder, options, bring, link):
    """A process: makes the parts that it is asked for, and answers None or a Failure, its last word. bring(task) is a context with
    the path of the task's file. A link of its own, and no queue: a lock that a killed process held would stop the others."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    try:
        encoder = make_encoder(options["tokenizer"], options["eot_token"], options["special_tokens"] == "control")
        for task in asked(link):
            with bring(task) as path:
                make_part(folder, task["part"], path, encoder, options)
            answer(link, None)
    except KeyboardInterrupt:
        pass
    except Failure as failure:
        answer(link, failure)
    except OSError as error:
        answer(link, os_failure(error.filename or folder, error))
    except MemoryError:
        answer(link, Failure("out of memory", EXIT_RUNTIME))


class Parts:
    """NAME.parts in a folder, while it is filled. Use as a context manager: it belongs to one process at a time.

        with Parts("out/data/web.parts", plan) as parts:
            parts.make(tasks, options, bring, n_workers=4)
            facts = parts.assemble(shards, separator, tasks)

    A task is {"part": "train_00017", "split": "train", "file": "en/c4-train.00017.json.gz"}.
    """

    def __init__(self, folder, plan):
        self.folder, self.plan = folder, plan

    def __enter__(self):
        path = os.path.join(self.folder, "plan.json")
        try:
            os.makedirs(self.folder, exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path):
                self._check_plan(path)
            for name in os.listdir(self.folder):
                if ".partial-" in name:  # of a run that was killed
                    os.remove(os.path.join(self.folder, name))
            put(path, json.dumps(self.plan, indent=1).encode())
        except BlockingIOError:
            os.close(self._lock)
            raise Failure("%s: another run is writing it" % self.folder) from None
        except OSError as error:
            raise os_failure("--out: " + (error.filename or self.folder), error) from None
        return self

    def __exit__(self, kind, error, trace):
        """What holds no part yet is of no use to a run that goes on; where a signal ended one that holds some, it is said."""
        try:
            if not error or not os.path.isdir(self.folder):
                return
            if not any(name.endswith(".tokens") for name in os.listdir(self.folder)):
                self.remove()
            elif kind is KeyboardInterrupt:
                done = sum(self.facts({"part": part}) is not None for part, *_ in self.plan["files"])
                raise Failure("interrupted with %d of %d files done: the same command goes on" % (done, len(self.plan["files"])),
                              EXIT_RUNTIME) from None  # fmt: skip
        finally:
            os.close(self._lock)

    def _check_plan(self, path):
        try:
            with open(path, "rb") as file:
                before = json.loads(file.read())
        except (ValueError, RecursionError):
            before = None
        if before != self.plan:
            differing = sorted(key for key in self.plan if not isinstance(before, dict) or before.get(key) != self.plan[key])
            os.close(self._lock)
            raise Failure("%s: it was begun with other files or flags (%s): repeat those, or remove it, or take another --name"
                          % (self.folder, ", ".join(differing) or "more of them"))  # fmt: skip

    def facts(self, task):
        """What a part says of itself; None while it is not whole."""
        try:
            with open(os.path.join(self.folder, task["part"] + ".json"), "rb") as file:
                facts = json.loads(file.read())
            size = os.path.getsize(os.path.join(self.folder, task["part"] + ".tokens"))
            return facts if size == facts["tokens"] * self.plan["token_bytes"] else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def make(self, tasks, options, bring, n_workers):
        """Makes the parts that are not there; returns how many were."""
        left = [task for task in tasks if not self.facts(task)]
        if not left:
            return len(tasks)
        context = multiprocessing.get_context("spawn")  # forking a process whose library has threads is no good
        workers, progress = {}, Progress("fetch")
        try:
            for _ in range(min(n_workers, len(left))):
                link, theirs = context.Pipe()
                workers[link] = context.Process(target=work, args=(self.folder, options, bring, theirs), daemon=True)
                workers[link].start()
                theirs.close()  # so that the link ends where the worker does
            self._hand_out(left, workers, progress, len(tasks))
        finally:
            progress.clear()
            for worker in workers.values():
                if worker.pid:
                    worker.terminate()
                    worker.join()
        return len(tasks) - len(left)

    def _hand_out(self, left, workers, progress, n_all):
        """A task to each worker, and another for each answer, until all are done."""
        n_done, n_bytes, tasks, doing = n_all - len(left), 0, iter(left), {}

        def ask(link):
            task = next(tasks, None)
            if task:
                link.send(task)
                doing[link] = task

        try:
            for link in workers:
                ask(link)
            while doing:
                for link in multiprocessing.connection.wait(list(doing)):
                    failure = link.recv()
                    if failure:
                        raise failure
                    n_done += 1
                    n_bytes += self.facts(doing.pop(link))["text_bytes"]
                    progress.update(n_bytes, n_done / n_all)
                    ask(link)
        except (EOFError, ConnectionError):
            workers[link].join()
            raise Failure("a worker was killed (exit code %d): the same command goes on" % workers[link].exitcode, EXIT_RUNTIME) from None

    def _copy(self, task, facts, stream):
        """A part's tokens, held to its own hash."""
        path, digest = os.path.join(self.folder, task["part"] + ".tokens"), hashlib.sha256()
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(COPY_BYTES), b""):
                digest.update(piece)
                stream.write(piece)
        if digest.hexdigest() != facts["tokens_sha256"]:
            raise Failure("%s: damaged: its hash is not the one that was written; remove it to make it again" % path, EXIT_RUNTIME)

    def assemble(self, shards, separator, tasks):
        """All parts in order into a ShardSet. Returns the facts that its NAME.json gets of them."""
        total, literals, skipped, n, unknown = Counter(), Counter(), {}, Counter(), Unknown().facts()
        for task in tasks:
            facts, split = self.facts(task), task["split"]
            stream = shards.train if split == "train" else shards.val
            if n[split] and facts["documents"]:
                stream.write(separator)
            n[split] += facts["documents"]
            self._copy(task, facts, stream)
            literals.update(facts["special_tokens_in_text"])
            unknown = add_facts(unknown, facts["unknown"])
            total.update(text_bytes=facts["text_bytes"], uncertain_seams=facts["uncertain_seams"])
            for kind, one in facts["skipped"].items():
                before = skipped.get(kind, {"count": 0, "first": one["first"]})
                skipped[kind] = {"count": before["count"] + one["count"], "first": before["first"]}
        return {"train_documents": n["train"], "val_documents": n["val"], "text_bytes": total["text_bytes"], "skipped": skipped,
                "special_tokens_in_text": dict(literals), "uncertain_seams": total["uncertain_seams"], "unknown": unknown,
                "sources": [dict(file=task["file"], **self.facts(task)["source"]) for task in tasks]}  # fmt: skip

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)
