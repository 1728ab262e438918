#!/usr/bin/env python3
"""Runs fuzz targets for a while, each on a copy of its committed inputs, and says how it went.

    test/fuzz/fuzz.py [--seconds S] [--jobs N] [--build DIR] TARGET...

`make fuzz` builds the targets and calls this. TAP: one test a target, with executions, covered edges and inputs at
the end. A target called text_NAME is fuzz_text.py's NAME. What breaks a target is kept as DIR/crash-TARGET-*, and the
end of its output is shown. Where DIR/fuzz_TARGET was not built, for want of clang, it is skipped.
"""
import argparse
import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
WORDS = {"manifest": ("json", "state"), "state": ("json", "state"), "index": ("json", "state")}  # else its own


def dictionary(target, folder):
    paths = [os.path.join(HERE, name + ".dict") for name in WORDS.get(target, (target,))]
    text = "".join(open(path, encoding="ascii").read() for path in paths if os.path.exists(path))
    with open(os.path.join(folder, "words"), "w", encoding="ascii") as file:
        file.write(text)
    return ["-dict=" + file.name] if text else []


def call(command, seconds):
    """(exit status, output)"""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + 120, check=False)
        return done.returncode, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        return "timeout", (error.stdout or b"").decode(errors="replace")


def fuzz_text(target, chosen):
    command = [sys.executable, os.path.join(HERE, "fuzz_text.py"), target, "--keep", chosen.build]
    status, output = call(command + ["--seconds", str(chosen.seconds)], chosen.seconds)
    last = (output.strip().splitlines() or [""])[-1]
    if status == 0 and last.endswith("is not here"):
        return True, "# SKIP " + last, output
    return status == 0, re.sub(r"^\S+ +", "", last), output


def fuzz(target, chosen):
    """(good, what to say, output)"""
    if target.startswith("text_"):
        return fuzz_text(target[5:], chosen)
    program = os.path.join(chosen.build, "fuzz_" + target)
    if not os.path.exists(program):
        return True, "# SKIP clang with libFuzzer is not here", ""
    with tempfile.TemporaryDirectory() as folder:
        inputs = os.path.join(folder, "inputs")
        os.mkdir(inputs)
        for path in glob.glob(os.path.join(HERE, "corpus", target, "*")) + glob.glob(os.path.join(HERE, "regressions", target, "*")):
            shutil.copy(path, inputs)
        if not os.listdir(inputs):
            return False, "no committed inputs", ""
        command = [program, "-max_total_time=%d" % chosen.seconds, "-timeout=10", "-rss_limit_mb=2048", "-max_len=8192",
                   "-print_final_stats=1", "-artifact_prefix=%s/crash-%s-" % (chosen.build, target)]  # fmt: skip
        status, output = call(command + dictionary(target, folder) + [inputs], chosen.seconds)
        found = re.findall(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: \d+ corp: (\d+)/", output, re.MULTILINE)
    if status != 0 or not found:
        return False, "exit status %s" % status, output
    return True, "%s executions, %s edges, %s inputs" % found[-1], output


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--build", default="build/fuzz")
    chosen = parser.parse_args(arguments)
    print("1..%d" % len(chosen.targets), flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        results = pool.map(lambda target: fuzz(target, chosen), chosen.targets)
        for i, (target, (good, words, output)) in enumerate(zip(chosen.targets, results), 1):
            print("%s %d - %-12s %s" % ("ok" if good else "not ok", i, target, words), flush=True)
            if not good:
                failed += 1
                print("\n".join("# " + line for line in output.splitlines()[-60:]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
