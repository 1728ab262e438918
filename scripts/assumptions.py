"""What do our models of machines assume? Named numbers with a unit and a reason each, and what --set name=value makes of them."""

import math

SCALES = {"TFLOP/s": 1e12, "TB/s": 1e12, "GB/s": 1e9, "GHz": 1e9, "MB": 1e6, "µs": 1e-6, "ns": 1e-9, "%": 0.01}


class Assumptions:
    """Of a table {name: (value, unit, why)}, some of them changed; [name] is in units of one: bytes, FLOPs, seconds. A name that
    is none of the table's, or a number below 0 or not finite, is a ValueError."""

    def __init__(self, table, changes=()):
        self.table, self.values = table, {name: row[0] for name, row in table.items()}
        for name, value in changes:
            if name not in table:
                raise ValueError(f"{name} is no assumption; there are {', '.join(table)}")
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value:g}: a number of 0 or more is wanted")
            self.values[name] = float(value)

    def __getitem__(self, name):
        return self.values[name] * SCALES.get(self.table[name][1], 1)

    def rows(self):
        """As lines of a table in Markdown."""
        return ["| name | value | why |", "|---|---|---|",
                *(f"| `{name}` | {self.values[name]:g} {unit} | {why} |" for name, (_, unit, why) in self.table.items())]  # fmt: skip


def read_changes(texts):
    """[(name, number)] of words like mfu=0.5; others are a ValueError."""
    changes = []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            changes.append((name, float(value)))
        except ValueError:
            raise ValueError(f"--set takes name=value, a number: not {text}") from None
    return changes
