"""How are the results of a GPU kept? In one JSON file, written anew after every measurement.

{"gpu": …, "commit": …, "marks": {name: number or null}, "targets": {name: {"target", "command", "met"}},
 "parts": {part: {"status": "running|done|failed|skipped", "reason", "seconds", "rows": […], "marks": {…},
                  "passed", "failed"}}}
"""

import json
import os
import re
import time

from gpu import marks


def file_name(gpu, commit):
    return (
        re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
        + "-"
        + re.sub(r"[^A-Za-z0-9.]+", "-", commit)
        + ".json"
    )


class Results:
    """A results file. An older one of the same GPU and commit is added to; a part that runs again replaces
    itself."""

    def __init__(self, path, gpu, commit, machine):
        self.path = path
        self.data = {"gpu": gpu, "commit": commit, "parts": {}}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                old = json.load(file)
            if (old.get("gpu"), old.get("commit")) == (gpu, commit):
                self.data["parts"] = old.get("parts", {})
        self.data["machine"] = machine

    def begin(self, name):
        return Part(self, name)

    def write(self):
        self.data["marks"] = self.marks()
        self.data["targets"] = {
            name: {
                "target": f"{relation} {target:g}" if relation else None,
                "command": marks.command(part),
                "met": marks.met(relation, target, self.data["marks"][name]),
            }
            for name, part, relation, target in marks.MARKS
        }
        order = ["gpu", "commit", "marks", "targets", "machine", "parts"]
        text = json.dumps({key: self.data[key] for key in order}, indent=1) + "\n"
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        with open(self.path + ".tmp", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(self.path + ".tmp", self.path)

    def marks(self):
        """Every mark; null is: not measured."""
        values = dict.fromkeys((name for name, *_ in marks.MARKS))
        parts = self.data["parts"]
        for part in parts.values():
            values.update({name: value for name, value in part.get("marks", {}).items() if name in values})
        for mark, key in (("tests.passed", "passed"), ("tests.failed", "failed")):
            counts = [part[key] for part in parts.values() if key in part]
            values[mark] = sum(counts) if counts else None
        errors = [part.get("errors") for name, part in parts.items() if name.startswith("sanitizer")]
        values["sanitizer.errors"] = sum(errors) if len(errors) >= 3 and None not in errors else None
        return values


class Part:
    """One part's results, on the disk after every change."""

    def __init__(self, results, name):
        self.results, self.name, self.started = results, name, time.monotonic()
        self.data = results.data["parts"][name] = {
            "status": "running",
            "command": marks.command(name),
            "rows": [],
            "marks": {},
        }
        results.write()

    def row(self, **fields):
        self.data["rows"].append(fields)
        self.save()

    def mark(self, name, value):
        self.data["marks"][name] = value
        self.save()

    def set(self, **fields):
        self.data.update(fields)
        self.save()

    def end(self, status, reason=None):
        self.data["status"] = status
        if reason:
            self.data["reason"] = reason
        self.save()

    def save(self):
        self.data["seconds"] = round(time.monotonic() - self.started, 1)
        self.results.write()
