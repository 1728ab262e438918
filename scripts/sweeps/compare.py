"""Is a variant better than the baseline, worse, or not told apart from it? Paired differences, Student's t, Holm.

Both were trained on the same seeds; on seed i they differ by d_i = loss of the variant − loss of the baseline. The interval is
    d̄ ± t(0.975; n − 1) · s/√n,    s² = Σ (d_i − d̄)² / (n − 1),
and p the two-sided probability of a |t| = |d̄|/(s/√n) as large if there were no difference (Student, Biometrika 1908). It
takes the differences for independent and normal. Among m comparisons some would look different by chance, so p is
adjusted (Holm, Scand. J. Statist. 1979): of p_(1) ≤ … ≤ p_(m), the k-th becomes the largest of min(1, (m − j + 1)·p_(j)) for
j ≤ k, which bounds the probability of even one false verdict by LEVEL. The verdict goes by that; intervals are each one's own.
"""
import math

from sweeps import metrics

LEVEL = 0.05  # of the verdicts; the intervals hold 1 − LEVEL


def t_within(t, degrees):
    """P(|T| ≤ t) for Student's t with whole degrees of freedom: the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    if math.isinf(t):
        return 1.0
    angle = math.atan(t / math.sqrt(degrees))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(2 if odd else 1, degrees, 2):
        total += term
        term *= square * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(degrees, level=LEVEL):
    """The t with P(|T| ≤ t) = 1 − level."""
    low, high = 0.0, 1.0
    while t_within(high, degrees) < 1 - level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < 1 - level else (low, middle)
    return (low + high) / 2


def holm(p, to_come=0):
    """p-values adjusted for their number and that of those to come, in their order."""
    order, largest, adjusted = sorted(range(len(p)), key=p.__getitem__), 0.0, [0.0] * len(p)
    for k, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) + to_come - k) * p[i]))
        adjusted[i] = largest
    return adjusted


class Comparison:
    """differences {seed: d}; mean, low, high, p, adjusted: NaN where there is no such number; verdict: in words."""

    def __init__(self, differences, verdict=""):
        self.differences, self.verdict = differences, verdict
        self.mean = self.low = self.high = self.p = self.adjusted = math.nan
        values = list(differences.values())
        if values:
            self.mean = metrics.mean(values)
        if len(values) > 1:
            error = metrics.deviation(values) / math.sqrt(len(values))
            reach = t_quantile(len(values) - 1) * error
            self.low, self.high = self.mean - reach, self.mean + reach
            t = abs(self.mean) / error if error else 0.0 if self.mean == 0 else math.inf
            self.p = 1 - t_within(t, len(values) - 1)

    def cells(self):
        """[difference, 95 % interval, adjusted p] for a table; a dash where there is none."""
        interval = p = "–"
        if math.isfinite(self.low):
            interval = "%s to %s" % (signed(self.low), signed(self.high))
        if math.isfinite(self.adjusted):
            p = "%.4f" % self.adjusted if self.adjusted >= 1e-4 else "< 0.0001"
        return [signed(self.mean), interval, p]

    def record(self):
        """What a file of JSON holds: null where there is no number."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high, "p": self.p, "p_holm": self.adjusted}
        return {"by_seed": self.differences, **{name: x if math.isfinite(x) else None for name, x in numbers.items()}}


def signed(value):
    return "%+.4f" % value if math.isfinite(value) else "–"


def compare(losses, baseline):
    """The Comparison of two {seed: loss, infinite where the run diverged, None where there is none yet}, not yet adjusted."""
    pairs = [(seed, losses[seed], baseline[seed]) for seed in losses if seed in baseline]
    whole = [pair for pair in pairs if None not in pair]
    found = Comparison({seed: a - b for seed, a, b in whole if math.isfinite(a) and math.isfinite(b)})
    for who, place in (("", 1), ("the baseline ", 2)):
        lost = [pair[0] for pair in whole if math.isinf(pair[place])]
        if lost:
            found.verdict = "%sdiverged on %s" % (who, seeds_in_words(lost))
            found.mean = found.low = found.high = found.p = math.nan  # of those that are left: no fair choice
            return found
    if len(whole) < len(pairs) or not pairs:
        found.verdict = "unfinished: %d of %d seeds" % (len(whole), len(pairs))
        found.low = found.high = found.p = math.nan  # who looks early, and stops at what pleases, finds too much
    elif len(pairs) == 1:
        found.verdict = "one seed: no interval"
    return found


def seeds_in_words(seeds):
    return "seed%s %s" % ("s" if len(seeds) > 1 else "", ", ".join(seeds))


def judge(comparisons, to_come=0):
    """Adjusts the p-values of those that have an interval and no other verdict, together, and says what they come to. Those
    that are `to_come` count as if their p were the largest: what is told early is told still when all is done.
    Returns how many p is adjusted for."""
    judged = [found for found in comparisons if not found.verdict]
    for found, adjusted in zip(judged, holm([found.p for found in judged], to_come)):
        found.adjusted = adjusted
        if adjusted < LEVEL:
            found.verdict = "better" if found.mean < 0 else "worse"
        else:
            found.verdict = "not told apart"
    return len(judged) + to_come
