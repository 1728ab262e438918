"""Which runs does a grid mean, and what is each one's directory called?

A grid file holds `name = value` lines in sections; README.md beside this file is its manual:

    [sweep]             about, baseline, diverged-above, tune-seed, widen, margin
    [flags]             train_gpt's flags for every run
    [grid]              flag = several values, separated by commas: an axis
    [tune]              flag = several values: an axis of which each variant takes its best (tuning.py)
    [AXIS POINT]        a point of a named axis: the flags that it sets
    [claims]            words = POINT < POINT: what is to be judged of a sweep that tunes (claims.py)

The runs are all combinations. A value `x5` multiplies what the flag was before.
"""
import configparser
import decimal
import glob
import hashlib
import itertools
import json
import math
import os
import re
import shlex

FOLDER = os.path.dirname(os.path.abspath(__file__))
PLAN = "sweep.json"
MOST_RUNS = 10000
MOST_WIDENED = 20
LONGEST_NAME = 160

# Flags that a grid cannot set, and why.
NOT_HERE = {
    "out": "each run has its own directory under --out",
    "resume": "the sweep resumes by itself",
    "threads": "use the sweep's own --threads",
    "config": "a run's name could not tell what is in the file; write its lines under [flags]",
}
for _mode in ("dry-run", "eval-only", "eval", "eval-out", "generate", "generate-tokens", "generate-file", "probe", "smoke", "version",
              "help", "list-variants"):
    NOT_HERE[_mode] = "a sweep trains"
# Flags without which a run gives the same numbers: they don't change its name.
NOT_IN_NAME = {"keep", "log-every", "save-every", "max-minutes"}
# The sweep's defaults, under the grid's [flags].
DEFAULTS = {"keep": "1", "log-every": "100"}


class Failure(Exception):
    """What was wrong with the input, in one line."""


class Axis:
    """points: {label: {flag: value}}, in order. `named`: it came from [AXIS POINT] sections; others have a
    list of values there until resolve()."""

    def __init__(self, name, points, named):
        self.name, self.points, self.named = name, points, named


class Grid:
    def __init__(self, name):
        self.name, self.about, self.baseline, self.diverged_above = name, "", None, None
        self.flags, self.axes = {}, {}
        # What is tuned, as an Axis of values; the seed that it is tuned on, values that may be added, and how much worse an edge
        # must be for none to be: None is the default.
        self.tune, self.tune_seed, self.widen, self.margin = None, None, None, None
        self.whole = None  # whether what is tuned has whole numbers only; None: nobody has asked the program
        self.claims = []  # [Claim]


class Claim:
    """words: what is claimed; lower, higher: labels of two points of one axis, the first of which is to have the lower loss."""

    def __init__(self, words, lower, higher):
        self.words, self.lower, self.higher = words, lower, higher


class Run:
    """labels: {axis: label of its point}; flags: {name: text}, as train_gpt gets them."""

    def __init__(self, name, labels, flags):
        self.name, self.labels, self.flags = name, labels, flags

    def steps(self):
        """How many updates it has, or None where the program's default decides."""
        text = self.flags.get("steps", "")
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


# ----------------------------------------------------------------------------------------------------- values


def number(text):
    """The decimal that a text is, or None. Words like nan are no numbers here."""
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?", text):
        return None
    return decimal.Decimal(text)


def canonical(text):
    """One spelling for one value: 1e-3, 0.0010 and 0.001 are 0.001."""
    value = number(text)
    if value is None:
        return text
    if value == 0:
        return "0"
    value = value.normalize()
    return format(value, "f") if -6 < value.adjusted() < 10 else str(value).lower().replace("e+", "e")


def multiply(flag, text, before):
    """x5 times what the flag was before."""
    factor, base = number(text[1:]), number(before or "")
    if base is None:
        raise Failure("%s = %s multiplies nothing: give %s a number under [flags]" % (flag, text, flag))
    try:
        return canonical(str(base * factor))
    except decimal.DecimalException:
        raise Failure("%s = %s times %s is no number" % (flag, text, before)) from None


def merge(flags, more):
    """Sets flags over others. An empty value takes the flag away."""
    result = dict(flags)
    for flag, value in more.items():
        if value == "":
            result.pop(flag, None)
        elif value[0] == "x" and number(value[1:]) is not None:
            result[flag] = multiply(flag, value, flags.get(flag))
        else:
            result[flag] = value
    return result


def check_flag(flag, where):
    """The flag's plain name: `--lr` and `lr` are one."""
    name = flag[2:] if flag.startswith("--") else flag
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise Failure("%s: '%s' is not the name of a flag" % (where, flag))
    if name in NOT_HERE:
        raise Failure("%s: --%s cannot be in a grid: %s" % (where, name, NOT_HERE[name]))
    return name


def check_value(flag, value, where):
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise Failure("%s: the value of %s holds a control character" % (where, flag))
    return value


def split_values(flag, text, where):
    values = [value.strip() for value in text.split(",")]
    if "" in values:
        raise Failure("%s: %s = %s has an empty value" % (where, flag, text))
    return values


def read_number(text, where):
    value = number(text.strip())
    if value is None:
        raise Failure("%s: '%s' is not a number" % (where, text))
    return float(value)


def counted(count, thing):
    """1 run, 2 runs."""
    return "%d %s%s" % (count, thing, "" if count == 1 else "s")


def left_out(count, thing):
    """1 row is left out, 2 rows are left out."""
    return "%s %s left out" % (counted(count, thing), "is" if count == 1 else "are")


# ---------------------------------------------------------------------------------------------------- reading


def ready_made():
    """{name: path} of the grids that come along."""
    paths = sorted(glob.glob(os.path.join(glob.escape(FOLDER), "*.ini")))
    return {os.path.splitext(os.path.basename(path))[0]: path for path in paths}


def find(text):
    """The path of a grid that is named by its file or, if it is ready-made, by its name."""
    if os.path.isfile(text):
        return text
    known = ready_made()
    if text in known:
        return known[text]
    raise Failure("%s: no such file, and no ready-made grid of that name (%s)" % (text, ", ".join(known)))


def parse(path):
    parser = configparser.ConfigParser(
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=(" #", "\t#"),
        empty_lines_in_values=False,
        default_section="\n",
    )
    parser.optionxform = str
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors put a mark first
            parser.read_file(file, source=path)
    except OSError as error:
        raise Failure("%s: %s" % (path, error.strerror)) from None
    except (configparser.Error, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None) or (getattr(error, "errors", None) or [[None]])[0][0]
        what = {
            "DuplicateOptionError": "'%s' stands there twice" % getattr(error, "option", ""),
            "DuplicateSectionError": "[%s] stands there twice" % getattr(error, "section", ""),
            "MissingSectionHeaderError": "a line before the first [section]",
            "UnicodeDecodeError": "not UTF-8",
        }.get(type(error).__name__, "not a line of the form name = value")
        raise Failure("%s%s: %s" % (path, ":%d" % line if line else "", what)) from None
    return parser


def read_settings(grid, section, where):
    for key, value in section.items():
        if key == "about":
            grid.about = " ".join(value.split())
        elif key == "baseline":
            grid.baseline = value
        elif key == "diverged-above":
            grid.diverged_above = read_number(value, "%s: diverged-above" % where)
        elif key == "tune-seed":
            grid.tune_seed = check_value("seed", value, where)
        elif key == "widen":
            grid.widen = read_widen(value, "%s: widen" % where)
        elif key == "margin":
            grid.margin = read_margin(value, "%s: margin" % where)
        else:
            raise Failure(
                "%s: [sweep] knows about, baseline, diverged-above, tune-seed, widen and margin, not '%s'" % (where, key)
            )


def read_widen(text, where):
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) > MOST_WIDENED:
        raise Failure("%s: '%s' is not a number from 0 to %d" % (where, text, MOST_WIDENED))
    return int(text)


def read_margin(text, where):
    value = read_number(text, where)
    if not 0 <= value < math.inf:
        raise Failure("%s: '%s' is not a number from 0 up" % (where, text))
    return value


def read_claim(words, text, where):
    """A Claim from `words = POINT < POINT`."""
    lower, less, higher = (part.strip() for part in text.partition("<"))
    if not less or not lower or not higher or lower == higher or re.search(r"[\s<]", lower + higher):
        raise Failure("%s: [claims] %s = %s: expected POINT < POINT, the lower loss first" % (where, words, text))
    return Claim(check_value("claim", words, where), lower, higher)


def read(text):
    """A Grid from a file or a ready-made grid's name."""
    path = find(text)
    parser = parse(path)
    grid = Grid(os.path.splitext(os.path.basename(path))[0])
    for title in parser.sections():
        section, words = parser[title], title.split()
        if title == "sweep":
            read_settings(grid, section, path)
        elif title == "flags":
            for flag, value in section.items():
                set_flag(grid, flag, value, path)
        elif title == "grid":
            for flag, value in section.items():
                set_axis(grid, flag, value, path)
        elif title == "tune":
            if len(section) != 1:
                raise Failure("%s: [tune] holds one flag: one is tuned, the others are axes or fixed" % path)
            for flag, value in section.items():
                set_tune(grid, flag, value, path)
        elif title == "claims":
            grid.claims = [read_claim(*claim, path) for claim in section.items()]
        elif len(words) == 2:
            add_point(grid, words[0], words[1], section, "%s [%s]" % (path, title))
        else:
            raise Failure("%s: [%s] is none of [sweep], [flags], [grid], [tune], [claims] and [AXIS POINT]" % (path, title))
    return grid


def set_flag(grid, flag, value, where):
    """A flag of every run; it takes the place of an axis of that name, and of tuning it."""
    flag = check_flag(flag, where)
    grid.flags = merge(grid.flags, {flag: check_value(flag, value, where)})
    drop_values(grid, flag)


def drop_values(grid, flag):
    if flag in grid.axes and not grid.axes[flag].named:
        del grid.axes[flag]
    if grid.tune and grid.tune.name == flag:
        grid.tune = None


def set_axis(grid, flag, text, where):
    flag = check_flag(flag, where)
    if flag in grid.axes and grid.axes[flag].named:
        raise Failure("%s: %s is a named axis already" % (where, flag))
    values = [check_value(flag, value, where) for value in split_values(flag, text, where)]
    drop_values(grid, flag)
    grid.axes[flag] = Axis(flag, values, False)


def set_tune(grid, flag, text, where):
    """The flag of which each variant takes its best value, and those to begin with."""
    set_axis(grid, flag, text, where)
    grid.tune = grid.axes.pop(check_flag(flag, where))
    if grid.tune.name == "seed":
        raise Failure("%s: the seed is not tuned" % where)
    if len(grid.tune.points) < 2:
        raise Failure("%s: %s = %s: tuning begins with two values or more" % (where, flag, text))


def resolve(grid, axis):
    """The axis with its values as points: x5 is what it comes to."""
    if axis.named:
        return axis
    points = {}
    for value in axis.points:
        label = canonical(merge(grid.flags, {axis.name: value})[axis.name])
        if label in points:
            raise Failure("%s has the value %s twice" % (axis.name, label))
        points[label] = {axis.name: value}
    return Axis(axis.name, points, False)


def add_point(grid, axis, label, flags, where):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", label) or not re.fullmatch(r"[a-z][a-z0-9-]*", axis):
        raise Failure("%s: names of points are made of letters, digits, '.', '+' and '-'" % where)
    if axis in grid.axes and not grid.axes[axis].named:
        raise Failure("%s: %s is an axis of [grid] already" % (where, axis))
    points = grid.axes.setdefault(axis, Axis(axis, {}, True)).points
    if label in points:
        raise Failure("%s: %s %s is there already" % (where, axis, label))
    points[label] = {}
    for flag, value in flags.items():
        flag = check_flag(flag, where)
        points[label][flag] = check_value(flag, value, where)


def add_variant(grid, text):
    """`NAME: flag=value flag=value`, from the command line."""
    label, colon, rest = text.partition(":")
    where = "--variant %s" % text
    try:
        pairs = [word.partition("=") for word in shlex.split(rest)]
    except ValueError as error:
        raise Failure("%s: %s" % (where, str(error).lower())) from None
    if not colon or any(not equals for _, equals, _ in pairs):
        raise Failure("%s: expected 'NAME: FLAG=VALUE …'" % where)
    add_point(grid, "variant", label.strip(), {flag: value for flag, _, value in pairs}, where)


# ------------------------------------------------------------------------------------------------------- runs


def run_name(axes, labels, flags):
    """Readable by its points, and told apart from every other run by eight digits of its flags' SHA-256."""
    text = "\n".join(
        "%s=%s" % (flag, canonical(flags[flag])) for flag in sorted(flags) if flag not in NOT_IN_NAME
    )
    digits = hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = [labels[axis.name] if axis.named else "%s=%s" % (axis.name, labels[axis.name]) for axis in axes]
    readable = re.sub(r"[^A-Za-z0-9.+=_-]", "-", "_".join(parts))[:LONGEST_NAME].lstrip(".-") or "run"
    return "%s_%s" % (readable, digits)


def ordered_axes(grid):
    """Named axes first, seeds last."""
    axes = sorted(grid.axes.values(), key=lambda axis: (not axis.named, axis.name == "seed"))
    return [resolve(grid, axis) for axis in axes]


def make_run(grid, axes, combination):
    """The Run of one point of each axis; a point is (label, {flag: value})."""
    labels = {axis.name: label for axis, (label, _) in zip(axes, combination)}
    flags = merge(DEFAULTS, grid.flags)
    # Values of [grid] first: a named point may then multiply them.
    for axis, (_, changes) in sorted(zip(axes, combination), key=lambda pair: pair[0].named):
        flags = merge(flags, changes)
    return Run(run_name(axes, labels, flags), labels, flags)


def check_new(run, seen):
    """Notes a run in `seen`; a Failure if another one there has its flags."""
    other = seen.setdefault(run.name[-8:], run)
    if other is not run:
        raise Failure("%s and %s have the same flags" % (other.name, run.name))


def expand(grid):
    """The Plan of all runs of a grid."""
    axes, runs, seen = ordered_axes(grid), [], {}
    count = 1
    for axis in axes:
        count *= len(axis.points)
        if count > MOST_RUNS:
            raise Failure("the grid has more than %d runs" % MOST_RUNS)
    for combination in itertools.product(*(axis.points.items() for axis in axes)):
        run = make_run(grid, axes, combination)
        check_new(run, seen)
        runs.append(run)
    return Plan(grid.name, grid.about, grid.baseline, grid.diverged_above, [axis.name for axis in axes], runs)


def baseline_of(text, points):
    """(axis, label) of a baseline that is written POINT or AXIS=POINT; None if there is none of that name."""
    for axis, labels in points.items():
        for label in labels:
            if text in (label, "%s=%s" % (axis, label)):
                return axis, label
    return None


# ------------------------------------------------------------------------------------------------------- plan


class Plan:
    """What a sweep's directory holds in sweep.json: enough to go on, to report and to run one of its runs."""

    def __init__(self, name, about, baseline, diverged_above, axes, runs, tune=None):
        self.tune = tune  # of a sweep that tunes: what tuning.Tuning.record() says; the runs are then those known so far
        self.name, self.about, self.axes, self.runs = name, about, list(axes), runs
        self.baseline, self.diverged_above = baseline, diverged_above

    def check_baseline(self):
        if self.baseline is None or baseline_of(self.baseline, self.points()) is not None:
            return
        known = [label for axis, labels in self.points().items() for label in labels if axis != "seed"]
        raise Failure(
            "baseline %s: no such point; there are %s" % (self.baseline, ", ".join(known) or "none")
        )

    def points(self):
        """{axis: labels}, in order."""
        return {axis: list(dict.fromkeys(run.labels[axis] for run in self.runs)) for axis in self.axes}

    def series(self):
        """The axis whose points are compared: the baseline's, else the first but the seed; or None."""
        found = baseline_of(self.baseline, self.points()) if self.baseline else None
        others = [axis for axis in self.axes if axis != "seed"]
        return found[0] if found else others[0] if others else None

    def in_turn(self):
        """The runs in the order to run them: seed by seed, what is compared side by side in time."""
        points = self.points()
        axes = sorted(self.axes, key=lambda axis: (axis != "seed", axis == self.series()))
        return sorted(self.runs, key=lambda run: [points[axis].index(run.labels[axis]) for axis in axes])

    def write(self, out):
        record = {
            "name": self.name,
            "about": self.about,
            "baseline": self.baseline,
            "diverged_above": self.diverged_above,
            "axes": self.axes,
            **({"tune": self.tune} if self.tune else {}),
            "runs": [{"name": run.name, "labels": run.labels, "flags": run.flags} for run in self.runs],
        }
        path, draft = os.path.join(out, PLAN), os.path.join(out, ".%s.%d" % (PLAN, os.getpid()))
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.write("\n")
        os.replace(draft, path)


def read_plan(out):
    path = os.path.join(out, PLAN)
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        runs = [Run(run["name"], dict(run["labels"]), dict(run["flags"])) for run in record["runs"]]
        plan = Plan(
            record["name"],
            record["about"],
            record["baseline"],
            record["diverged_above"],
            record["axes"],
            runs,
            record.get("tune"),
        )
        for run in plan.runs:
            if not re.fullmatch(r"[A-Za-z0-9+=_][A-Za-z0-9.+=_-]*", run.name) or set(run.labels) != set(
                plan.axes
            ):
                raise ValueError("run %r" % run.name)
            for flag, value in run.flags.items():
                check_value(check_flag(flag, path), value, path)
    except FileNotFoundError:
        raise Failure(
            "--out %s holds no %s: name a grid (ready-made: %s)" % (out, PLAN, ", ".join(ready_made()))
        ) from None
    except OSError as error:
        raise Failure("%s: %s" % (path, error.strerror)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure("%s: not a sweep's plan (%s)" % (path, " ".join(str(error).split()))) from None
    return plan
