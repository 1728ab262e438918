"""Is a checkpoint that was damaged, forged, or another model's refused in one line, with nothing changed on disk?

Runs the executable named by TRAIN_GPT (default: ./train_gpt) with faults.py's harness. All positions of a flipped bit
are test_checkpoint.c's; here is a choice of them, or with TEST_ALL=1 every byte of a manifest and 200 of each file.
"""
import json
import os
import random
import re
import shutil

import numpy
import pytest

# (Fixtures are asked for by name.)
from faults import (
    ALL, MANIFEST, base, begun, checkpoints, data, flip, leftovers, out, picture, rewrite_manifest, run, same_bits,
    tmp_path)
from program import MODEL, MOMENTS, file_bytes, step_directory
from tensors import read_tensors, write_tensors

# -------------------------------------------------------------------------------------------------------- bad input


def refused(base, out, *more, says=()):
    """A resume that ends with exit 2 and one line, and changes nothing on disk."""
    before = picture(out)
    message = run(*base[0], "--out", out, *(more or ["--resume", "auto"]), code=2).stderr
    for word in says:
        assert word in message, f"'{word}' is not in: {message}"
    assert picture(out) == before
    return message


def test_no_flipped_bit_of_a_checkpoint_goes_unseen(base, out):
    """All of test_checkpoint.c's positions, here through the program: a choice, or every byte of the manifest."""
    draw = random.Random(3)
    begun(base, out, 2)
    place = step_directory(out, 2)
    size = os.path.getsize(os.path.join(place, MANIFEST))
    positions = [(MANIFEST, i) for i in (range(size) if ALL else draw.sample(range(size), 25))]
    for name in sorted(os.listdir(place)):
        size = os.path.getsize(os.path.join(place, name))
        positions += [(name, draw.randrange(size)) for _ in range(200 if ALL else 5) if name != MANIFEST]
    for name, position in positions:
        bit = draw.randrange(8)
        flip(os.path.join(place, name), position, bit)
        refused(base, out, says=(f"{place}/{name}",))
        flip(os.path.join(place, name), position, bit)
    run(*base[0], "--out", out, "--resume", "auto")
    same_bits(out, base[1], 6)
    print(f"{len(positions)} flips")


def test_truncated_missing_and_linked_files_are_refused(base, out):
    begun(base, out, 2)
    place = step_directory(out, 2)
    for name in sorted(os.listdir(place)):
        path, whole = os.path.join(place, name), file_bytes(place, name)
        for size in {0, 1, len(whole) // 2, len(whole) - 1}:
            os.truncate(path, size)
            refused(base, out, says=(f"{place}/{name}",))
        with open(path, "wb") as file:
            file.write(whole + b"\0")
        refused(base, out, says=(f"{place}/{name}",))
        os.unlink(path)
        refused(base, out, says=(place, name))
        os.symlink(step_directory(base[1], 2) + "/" + name, path)
        refused(base, out, says=(f"{place}/{name}", "symbolic link"))
        os.unlink(path)
        os.mkdir(path)
        refused(base, out, says=(f"{place}/{name}",))
        os.rmdir(path)
        os.mkfifo(path)
        refused(base, out, says=(f"{place}/{name}",))
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(whole)
    run(*base[0], "--out", out, "--resume", "auto")


def test_foreign_older_and_crafted_checkpoints_are_refused(base, out):
    begun(base, out, 2)
    place = step_directory(out, 2)
    os.mkdir(out + ".keep")
    shutil.copytree(place, out + ".keep/step")

    def fresh():
        shutil.rmtree(place)
        shutil.copytree(out + ".keep/step", place)

    rewrite_manifest(place, lambda manifest: None)
    assert file_bytes(place, MANIFEST) == file_bytes(base[1], "step_00000002", MANIFEST)  # the function above is right
    rewrite_manifest(place, lambda manifest: manifest.update(format=1))
    refused(base, out, says=(place, "format 1", "format 2"))
    rewrite_manifest(place, lambda manifest: manifest.update(format=2, step=3))
    refused(base, out, says=(place, "step 3"))
    for name in ("../step_00000002/state.json", "/etc/passwd", ".hidden", "a b", ""):
        fresh()
        rewrite_manifest(place, lambda manifest: manifest["files"][0].update(name=name))
        refused(base, out, says=(f"{place}/{MANIFEST}", f"'{name}'"))
    fresh()
    rewrite_manifest(place, lambda manifest: manifest["files"].pop(1))
    refused(base, out, says=(f"{place}/{MANIFEST}", MOMENTS))

    window = {"next": 5, "loss": [1.0, 2.0], "norm": [1.0, 2.0]}
    for change, *says in (({"applied": -1}, "'applied'"), ({"applied": 3}, "'applied'"), ({"step": 1.5}, "'step'"),
                          ({"skips_in_a_row": 1}, "'skips_in_a_row'"), ({"windows": "4"}, "'windows'"),
                          ({"threads": 0}, "'threads'"), ({"kernels": "x" * 100}, "'kernels'"),
                          ({"variant": "post layernorm"}, "variant 'post layernorm'"),
                          ({"step": 1, "applied": 1}, "'step' is 1", "step 2"), ({"step": 3}, "'step' is 3", "step 2"),
                          ({"window": None}, "'window'"), ({"window": window}, "'window'", "'next' is 5")):
        fresh()
        state = {**json.loads(file_bytes(place, "state.json")), **change}
        with open(os.path.join(place, "state.json"), "w", encoding="ascii") as file:
            json.dump(state, file)
        rewrite_manifest(place, lambda manifest: None)
        refused(base, out, says=(place, *says))
    for text in ("{", "[]", "{} {}", '{"step": 1, "step": 2}', "", "\0"):
        fresh()
        with open(os.path.join(place, "state.json"), "w", encoding="ascii") as file:
            file.write(text)
        rewrite_manifest(place, lambda manifest: None)
        refused(base, out, says=(f"{place}/state.json",))
    fresh()
    with open(os.path.join(place, "config.ini"), "a", encoding="ascii") as file:
        file.write("no-such-flag = 1\n")
    rewrite_manifest(place, lambda manifest: None)
    refused(base, out, says=(f"{place}/config.ini", "no-such-flag"))
    fresh()
    os.unlink(os.path.join(place, MANIFEST))
    refused(base, out, says=(place, "older version"))
    refused(base, out, "--resume", place, says=(place, "older version"))


# ------------------------------------------------------------------------------------------------- moments in several files


def parts_of(name, value, count):
    """A tensor in so many ranges, as several ranks would have it; a Conv1D's of its transpose."""
    turned = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
    flat = (value.T if turned else value).reshape(-1)
    cuts = [flat.size * i // count for i in range(count + 1)]
    return [(f"{name}{'.T' * turned}[{begin}:{end}]", flat[begin:end]) for begin, end in zip(cuts, cuts[1:])]


def share_out(place, count, change=lambda files: None):
    """The moments of one rank as those of so many, without the program: every third tensor as a whole, the others in parts. Then
    `change` may do as it likes with the files, {name: {name: array}}."""
    files = [{} for _ in range(count)]
    for i, (name, value) in enumerate(read_tensors(os.path.join(place, MOMENTS)).items()):
        if i % 3 == 2 or value.size < count:
            files[i % count][name] = value
            continue
        for file, (part, values) in zip(files, parts_of(name, value, count)):
            file[part] = values
    os.unlink(os.path.join(place, MOMENTS))
    files = {f"optimizer-{rank}-of-{count}.safetensors": file for rank, file in enumerate(files)}
    change(files)
    for name, tensors in files.items():
        write_tensors(os.path.join(place, name), tensors)

    def list_them(manifest):
        keep = [entry for entry in manifest["files"] if not entry["name"].startswith("optimizer")]
        manifest["files"] = keep + [{"name": name, "bytes": 0, "crc64": "0" * 16} for name in files]
    rewrite_manifest(place, list_them)
    rewrite_manifest(place, lambda manifest: None)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_moments_in_any_number_of_files_are_the_same_moments(count, base, out):
    begun(base, out, 2)
    share_out(step_directory(out, 2), count)
    run(*base[0], "--out", out, "--resume", "auto")
    same_bits(out, base[1], 6)


def first_part(files, of="wte.weight"):
    """(file, name) of the first part of a tensor of the first moments."""
    return next((file, name) for file in files for name in files[file] if name.startswith("m.") and of in name and "[" in name)


def renamed(new):
    """The first part under another name: of what it was called, its range replaced."""
    def change(files):
        file, name = first_part(files)
        files[file] = {new(name) if key == name else key: value for key, value in files[file].items()}
    return change


def taken_out(files):
    file, name = first_part(files)
    del files[file][name]


def said_twice(files):
    file, name = first_part(files)
    files["optimizer-1-of-2.safetensors"][name] = files[file][name]


def shortened(files):
    """By its first element, under a name that says so."""
    file, name = first_part(files)
    files[file][re.sub(r"\[0:", "[1:", name)] = files[file].pop(name)[1:]


def lengthened(files):
    file, name = first_part(files)
    end = int(re.search(r":(\d+)\]", name)[1])
    files[file][name.replace(f":{end}]", f":{end + 1}]")] = numpy.append(files[file].pop(name), numpy.float32(0))


def beyond(files):
    last = files["optimizer-1-of-2.safetensors"]
    last[WTE + "[2048:4097]"] = numpy.append(last.pop(WTE + "[2048:4096]"), numpy.float32(0))


def without_its_turn(files):
    file, name = first_part(files, "c_fc.weight")
    files[file][name.replace(".T[", "[")] = files[file].pop(name)


def misshapen(files):
    file, name = first_part(files)
    files[file][name] = files[file][name].reshape(1, -1)


def whole_beside_its_parts(files):
    file, name = first_part(files)
    files[file][name.split("[")[0]] = numpy.zeros((256, 16), numpy.float32)


WTE = "m.transformer.wte.weight"
FORGERIES = [
    (taken_out, ["its 2 files of moments: no elements 0 to 2047 of tensor " + WTE]),
    (said_twice, ["optimizer-1-of-2.safetensors: tensor " + WTE + "[0:2048]: optimizer-0-of-2.safetensors has some of it, too"]),
    (shortened, ["no elements 0 to 0 of tensor " + WTE]),
    (lengthened, [WTE + "[2048:4096]: optimizer-0-of-2.safetensors has some of it, too, in " + WTE + "[0:2049]"]),
    (beyond, [WTE + "[2048:4097]: this model's has 4096 elements"]),
    (misshapen, [WTE + "[0:2048] is [1, 2048]; what its name says is [2048]"]),
    (without_its_turn, ["c_fc.weight[0:", "which this model does not have"]),
    (whole_beside_its_parts, ["has some of it, too"]),
    (renamed(lambda name: name.replace("[0:2048]", "[0:2047]")), ["is [2048]; what its name says is [2047]"]),
    *((renamed(lambda name, text=text: name.replace("[0:2048]", text)), [f"tensor {WTE}{text}, which this model does not have"])
      for text in ("[0:2048", "[0-2048]", "[:2048]", "[0:]", "[00:2048]", "[0:02048]", "[2048:0]", "[0:0]", "[-1:2047]", "[0:2048]x", "[ 0:2048]",
                   "[0:2048][0:2048]", "[0:99999999999999999999]", ".T[0:2048]", "[", "]")),
    (renamed(lambda name: "w" + name[1:]), ["tensor w.transformer.wte.weight[0:2048], which this model does not have"]),
    (renamed(lambda name: name[2:]), ["tensor transformer.wte.weight[0:2048], which this model does not have"]),
    (lambda files: files.pop("optimizer-1-of-2.safetensors"), [MANIFEST, "does not list optimizer-1-of-2.safetensors"]),
    (lambda files: files.update({"optimizer-2-of-2.safetensors": {}}), [MANIFEST, "optimizer-2-of-2.safetensors, which is no file of a rank"]),
    (lambda files: files.update({MOMENTS: {}}), [MANIFEST, MOMENTS, "of one checkpoint only one can be"]),
    (lambda files: files.update({"optimizer-1-of-2.safetensors": {}}), ["its 2 files of moments: no "]),
]


@pytest.mark.parametrize("change,says", FORGERIES)
def test_moments_that_do_not_have_every_element_once_are_refused_by_name(change, says, base, out):
    begun(base, out, 2)
    place = step_directory(out, 2)
    share_out(place, 2, change)
    refused(base, out, says=(place, *says))


def test_a_checkpoint_of_another_model_is_refused_by_tensor_or_flag(base, out):
    begun(base, out, 2)
    place = step_directory(out, 2)
    for change, says in ((["--norm", "rmsnorm"], "rmsnorm"),
                         (["--n-head", 4, "--n-kv-head", 4], "--n-head is 2 there and 4 here"),
                         (["--n-layer", 2], "transformer.h.1."), (["--n-embd", 32], "transformer.wte.weight"),
                         (["--seq-len", 16, "--total-batch-tokens", 32], "transformer.wpe.weight"),
                         (["--n-ffn", 32], "mlp.c_fc.weight"), (["--vocab-size", 257], "transformer.wte.weight"),
                         (["--tie-embeddings", "off"], "lm_head.weight"),
                         (["--norm-eps", "1e-3"], "--norm-eps"), (["--arch", "llama", "--norm", "layernorm"], "tensor"),
                         (["--bias", "off"], "bias")):
        refused(base, out, "--resume", "auto", *change, says=(place, says))


@pytest.mark.parametrize("line", ["", "norm-eps = auto\n"])
def test_what_a_checkpoint_leaves_open_is_not_compared(line, base, out):
    """A build before this one may not have known a flag, or have written it unresolved."""
    begun(base, out, 2)
    path = os.path.join(step_directory(out, 2), "config.ini")
    with open(path, encoding="utf-8") as file:
        text = re.sub("(?m)^norm-eps = .*\n", line, file.read())
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    rewrite_manifest(step_directory(out, 2), lambda manifest: None)
    run(*base[0], "--out", out, "--resume", "auto")
    same_bits(out, base[1], 6)


def test_a_resume_writes_where_the_checkpoint_stands_not_where_its_files_say(base, out, tmp_path):
    """The directory was moved, or came from somebody else: config.ini's own `out` is never written to."""
    run(*base[0], "--steps", 2, "--out", tmp_path / "old")
    os.rename(tmp_path / "old", out)
    for resume, last in ((out, 4), (step_directory(out, 4), 6)):
        text = run(*base[0], "--steps", last, "--resume", resume).stdout
        assert f"checkpoint {step_directory(os.path.realpath(out), last)}" in text
    assert checkpoints(out) == [2, 4, 6] and not os.path.exists(tmp_path / "old")
    same_bits(out, base[1], 6)


VARIANTS = ["", "--norm rmsnorm", "--norm dyt", "--norm bhyt-exact", "--norm bhyt", "--placement post",
            "--placement sandwich", "--placement keel", "--placement hybrid", "--placement hybrid-first", "--placement deepnorm", "--placement mix --mix-post-layers 1",
            "--placement lns", "--final-norm off", "--embed-norm on", "--embed-scale on", "--gpas layer",
            "--gpas sublayer", "--gpas layer --gpas-act tanh", "--sdd paper", "--sdd released",
            "--norm bhyt --bhyt-gamma-var on", "--norm bhyt --bhyt-lambda-final 1", "--positions rope",
            "--activation swiglu --n-ffn 64", "--arch llama"]


def test_no_variant_loads_into_another(base, tmp_path):
    """Each into the next and into the first, tensors of the same names and shapes or not: directory and tensor or
    flag in one line; nothing on disk changes, and no --out is made."""
    def place(i):
        return str(tmp_path / f"{i}")

    for i, variant in enumerate(VARIANTS):
        run(*base[0], *variant.split(), "--steps", 1, "--out", place(i))
        run(*base[0], *full(variant), "--steps", 2, "--out", place(i), "--resume", "auto")  # its own it takes
    before, target = picture(tmp_path), str(tmp_path / "target")
    for i, variant in enumerate(VARIANTS):
        for other in {0, (i + 1) % len(VARIANTS)} - {i}:
            there = step_directory(place(other), 1)
            # What the other one's config.ini says lies below the command line: so each is said in full.
            message = run(*base[0], *full(variant), "--resume", there, "--out", target, code=2).stderr
            said = there in message and re.search("tensor|variant|--[a-z]", message)
            assert said, (variant, VARIANTS[other], message)
    assert picture(tmp_path) == before and not os.path.exists(target)


def full(variant):
    """Every flag of a variant, with those that it leaves at their defaults."""
    flags = {"--arch": "gpt2", "--placement": "pre", "--embed-norm": "off", "--embed-scale": "off", "--gpas": "off",
             "--gpas-act": "silu", "--sdd": "off", "--bhyt-gamma-var": "off", "--bhyt-lambda-final": "0"}
    for name in ("norm", "norm-eps", "final-norm", "positions", "activation", "mix-post-layers", "bias",
                 "tie-embeddings", "n-ffn"):
        flags["--" + name] = "auto"
    words = variant.split()
    flags.update(zip(words[::2], words[1::2]))
    return [word for pair in flags.items() for word in pair]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(base, out):
    begun(base, out, 2, 4, 6)
    flip(os.path.join(step_directory(out, 6), MODEL), 5000, 1)
    os.truncate(os.path.join(step_directory(out, 4), "state.json"), 10)
    done = run(*base[0], "--out", out, "--resume", "auto")
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert f"{step_directory(out, 6)}/{MODEL}" in lines[0] and "damaged" in lines[0]
    assert f"{step_directory(out, 4)}/state.json" in lines[1] and "10 bytes" in lines[1]
    assert f"resumed from {step_directory(out, 2)}" in done.stdout
    assert checkpoints(out) == [2, 4, 6] and leftovers(out) == []  # the damaged ones were replaced
    same_bits(out, base[1], 6)


def test_a_damaged_newer_checkpoint_does_not_count_among_those_kept(base, out):
    begun(base, out, 2, 6)
    flip(os.path.join(step_directory(out, 6), MODEL), 5000, 1)
    run(*base[0][:-2], "--keep", 1, "--steps", 4, "--out", out, "--resume", "auto")
    assert sorted(name for name in os.listdir(out) if "step" in name) == ["step_00000004", "step_00000006"]
    text = run(*base[0][:-2], "--keep", 1, "--out", out, "--resume", "auto").stdout
    assert f"resumed from {step_directory(out, 4)}" in text and checkpoints(out) == [6]
    same_bits(out, base[1], 6)


def test_saving_a_step_that_is_there_is_no_error(base, out):
    begun(base, out, 2, 4, 6)
    before = picture(step_directory(out, 6)), picture(step_directory(out, 4))
    run(*base[0], "--out", out, "--resume", "auto")
    assert (picture(step_directory(out, 6)), picture(step_directory(out, 4))) == before


def test_names_in_the_directory_that_are_no_checkpoints_are_let_be(base, out):
    begun(base, out, 2)
    for name in ("step_3", "step_00000009x", "step_-0000001", "other", ".step_notes"):
        os.mkdir(os.path.join(out, name))
    os.mkdir(os.path.join(out, ".step_00000003.partial"))
    run(*base[0][:-2], "--keep", 1, "--out", out, "--resume", "auto")
    assert sorted(os.listdir(out)) == [".step_notes", "config.ini", "latest", "metrics.jsonl", "other", "step_-0000001", "step_00000006",
                                       "step_00000009x", "step_3"]
