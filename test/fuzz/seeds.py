#!/usr/bin/env python3
"""Where do fuzzing's first inputs come from? From real files of the program.

    test/fuzz/seeds.py PROGRAM DIRECTORY

Trains a tiny model with PROGRAM (train_gpt) and writes DIRECTORY/TARGET/seed_* for every target, from what that
leaves and from a few texts that a user might write; and config.dict and flags.dict, the words of the table of flags.
"""
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def shard(tokens, wide=False):
    header = (20240801, 7, len(tokens)) if wide else (20240520, 1, len(tokens))
    return struct.pack("<256i", *header, *[0] * 253) + struct.pack("<%d%s" % (len(tokens), "I" if wide else "H"), *tokens)


def shards():
    """Deed (mode, vocabulary, first, count), then the file; with mode 1 without the header's idle bytes."""
    tokens = [random.randrange(256) for _ in range(24)]
    for mode in range(4):
        for wide in (False, True):
            whole = shard(tokens, wide)
            file = whole[:12] + whole[1024:] if mode & 1 else whole
            yield struct.pack("<4I", mode, 256, 3 + mode, 21 - mode) + file
            yield struct.pack("<4I", mode, 100, 0, 24) + file
    yield struct.pack("<4I", 1, 256, 0, 1024 + 48) + whole[:12]  # a header, and a file's size
    yield struct.pack("<4I", 1, 256, 0, 0) + shard([])[:12]


def megatron(kind, lengths, documents, width, wrong=b""):
    starts = [width * sum(lengths[:i]) for i in range(len(lengths))]
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, kind, len(lengths), len(documents))
    index += struct.pack("<%di" % len(lengths), *lengths) + struct.pack("<%dq" % len(lengths), *starts)
    return struct.pack("<I", width * sum(lengths)) + index + struct.pack("<%dq" % len(documents), *documents) + wrong


def indices():
    """The bytes of the .bin, then an index of Megatron's."""
    for kind, width in (1, 1), (2, 1), (3, 2), (4, 4), (5, 8), (8, 2):
        yield megatron(kind, [5, 0, 4, 3], [0, 2, 3, 4], width)
    yield megatron(8, [], [0], 2)
    yield megatron(8, [1], [0, 0, 1, 1], 2)
    yield megatron(8, [2, 3], [0, 2], 2, b"\0\1")  # modes
    yield megatron(6, [2, 3], [0, 2], 8)  # floats


MIXTURES = ["web/*.bin:0.7,books/*.bin:0.3", "a:1", "a,b:1.5,c:x:2", "a:1,b", "a:0", "a:-1", "a:1e3", "a:1,", ":1", "a:.5,b:5.",
            "a:123456789012345,b:0.000000001", "data/*.bin", "a:0.333333333,b:0.666666666,c:0.000000001"]  # fmt: skip


def tensors(header, data=b"", more=0):
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return struct.pack("<Q", more) + struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(files):
    for file in files:  # the header of a real one, its data only claimed
        (length,) = struct.unpack("<Q", file[:8])
        yield struct.pack("<Q", len(file) - 8 - length) + file[: 8 + length]
    widths = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2,
              "I8": 1, "U8": 1, "BOOL": 1, "F8_E5M2": 1, "F8_E4M3": 1, "C64": 8}  # fmt: skip
    for dtype, width in widths.items():
        yield tensors({"w": entry(dtype, [3], 0, 3 * width)}, bytes(random.randrange(256) for _ in range(3 * width)))
    yield tensors({"__metadata__": {"format": "pt", "ü": "\"\\\n"}, "a": entry("F32", [], 0, 4),
                   "b": entry("U8", [2, 0, 3], 4, 4), "c": entry("F64", [1, 1], 4, 12)}, bytes(range(12)))  # fmt: skip
    yield tensors({"big": entry("U8", [2**26, 2**26], 0, 2**52)}, more=2**52)
    yield tensors({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12))
    yield tensors({})


def moments():
    """Lines of tensors, as fuzz_moments.c reads them, of its model: in one file, in three, and with something wrong."""
    layer, plain = "transformer.h.0.", {"transformer.wte.weight": (5, 8), "transformer.wpe.weight": (3, 8)}
    turned = {"attn.c_attn.weight": (8, 24), "attn.c_proj.weight": (8, 8), "mlp.c_fc.weight": (8, 3), "mlp.c_proj.weight": (3, 8)}
    vectors = {"attn.c_attn.bias": 24, "attn.c_proj.bias": 8, "mlp.c_fc.bias": 3, "mlp.c_proj.bias": 8, "ln_1.weight": 8,
               "ln_1.bias": 8, "ln_2.weight": 8, "ln_2.bias": 8}  # fmt: skip
    shapes = {**plain, **{layer + name: shape for name, shape in turned.items()},
              **{layer + name: (size,) for name, size in vectors.items()},
              "transformer.ln_f.weight": (8,), "transformer.ln_f.bias": (8,)}  # fmt: skip
    for files in 1, 3:
        lines = []
        for which in "mv":
            for i, (name, shape) in enumerate(shapes.items()):
                elements, mark = shape[0] * shape[-1] if len(shape) > 1 else shape[0], ".T" * (name[len(layer) :] in turned)
                if files == 1 or i % 3 == 1:
                    lines.append(f"{i % files} {which}.{name} {' '.join(map(str, shape))}")
                    continue
                cuts = [0, elements // 3, elements // 2, elements]
                lines += [f"{f} {which}.{name}{mark}[{a}:{b}] {b - a}" for f, (a, b) in enumerate(zip(cuts, cuts[1:])) if a < b]
        yield "\n".join(lines).encode()
        yield "\n".join(lines[1:]).encode()
        yield "\n".join(lines + lines[-1:]).encode()
        yield "\n".join([lines[0] + " I32"] + lines[1:]).encode()
    whole = "\n".join(lines)  # of three files
    yield whole.replace("[20:40] 20", "[20:41] 21").encode()
    yield whole.replace("[0:13] 13", "[00:13] 13").encode()
    yield whole.replace(".T[0:", "[0:").encode()


def tokens():
    """The model's vocabulary less one, then a table of its tokens' bytes."""
    def table(pieces, **metadata):
        offsets = [sum(map(len, pieces[:i])) for i in range(len(pieces) + 1)]
        size = 8 * len(offsets)
        header = {"__metadata__": {"format": "token_bytes", **metadata}, "offsets": entry("I64", [len(offsets)], 0, size),
                  "bytes": entry("U8", [offsets[-1]], size, size + offsets[-1])}  # fmt: skip
        return tensors(header, struct.pack("<%dq" % len(offsets), *offsets) + b"".join(pieces))[8:]

    yield bytes([3]) + table([b"", b"a", b" the", b"\xc3"], end_of_document="0", strip_leading_space="true")
    yield bytes([9]) + table([b"x", b"", b"yz"], strip_leading_space="false")
    yield bytes([1]) + table([b"x", b"", b"yz"])
    yield bytes([255]) + table([bytes([i]) for i in range(256)] + [b""], end_of_document="256")
    yield bytes([255]) + table([b""] + [bytes([i]) for i in range(1, 256)], end_of_document="0")


def texts(run, own):
    def read(name):
        with open(os.path.join(run, name), "rb") as file:
            return file.read()

    index = {"metadata": {"total_size": 12}, "weight_map": {"h.0.ln_1.weight": "model-00001-of-00002.safetensors",
             "h.0.ln_1.bias": "model-00002-of-00002.safetensors"}}  # fmt: skip
    state = read("state.json")
    bhyt = json.loads(state)
    bhyt.update(bhyt_c=[1.5, 2e-3], window={"next": 2, "loss": [5.5, 5.25], "norm": [1, 0.5]})
    bhyt["val_data"] = "tokenizer=bytes shards=2 tokens=0 crc64=0123456789abcdef 0x2:0123456789abcdef 0x4:0123456789abcdef"
    bhyt["train_data"] = "tokenizer=gpt2 sha256=%s shards=1 tokens=0 crc64=0123456789abcdef 0x2:0123456789abcdef" % ("09af" * 16)
    full = dict(bhyt, window={"next": 17, "loss": [0.5] * 128, "norm": [1.0] * 128})
    odd = b' {"a": [1, -0.5e+3, true, false, null, [], {}], "b\\u00e9\\ud83d\\ude00\xc3\xa9": "\\"\\\\\\/\\b\\f\\n\\r\\t", "": 1e999}\n'
    listed = {"tokenizer": "gpt2", "tokenizer_sha256": "09af" * 16, "vocab_size": 50257, "end_of_document": 50256, "separator": "eot",
              "shards": {"train": ["x_train_000000.bin"], "val": []}, "shard_prints": {"x_train_000000.bin": "9x2:0123456789abcdef"}}
    older = {"vocab_size": 256, "tokenizer": "bytes", "eot_token": 0, "separator": "eot", "end_of_doc": None}
    return {
        "json": [json.dumps(listed).encode(), json.dumps(older).encode(), read("config.json"), state, read("manifest.json"), json.dumps(index).encode(), odd],
        "huggingface": [read("config.json"), own] + [json.dumps(shape).encode() for shape in SHAPES],
        "state": [state] + [json.dumps(value).encode() for value in (bhyt, full)],
        "manifest": [read("manifest.json"), read("manifest.json").replace(b"model", b"m")],
        "index": [json.dumps(index).encode(), json.dumps(index, indent=2).encode() + b"\n"],
        "config": [read("config.ini"), b'# a comment\n lr=1e-3 # and one here\nout = "a # \\"b\\" \\x0a\\\\"\r\n\npreset = tiny\n'],
        "safetensors": list(safetensors([read("model.safetensors"), read("optimizer-0-of-1.safetensors")])),
        "shard": list(shards()),
        "moments": list(moments()),
        "tokens": list(tokens()),
    }


SHAPES = [
    {"model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": 32, "n_inner": None, "n_positions": 8, "vocab_size": 19,
     "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "scale_attn_weights": True, "foo": 1},
    {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
     "max_position_embeddings": 8, "rope_scaling": None, "rope_theta": 500.0, "rms_norm_eps": 1e-5, "head_dim": 8,
     "attention_bias": True, "mlp_bias": True, "layer_types": ["full_attention"], "tie_word_embeddings": True},
    {"architectures": ["LlamaModel"], "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}, "sliding_window": 4},
    {"model_type": "gemma", "final_logit_softcapping": 30.0},
    {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}, "hidden_act": "relu"},
    {"model_type": "mistral", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 30, "head_dim": 8, "vocab_size": 19,
     "max_position_embeddings": 8, "sliding_window": None, "num_key_value_heads": None},
    {"model_type": "qwen2", "num_attention_heads": 4, "hidden_size": 32, "use_sliding_window": False, "sliding_window": 4,
     "num_key_value_heads": 2, "rope_scaling": {"type": "linear", "factor": 2}},
    {"model_type": "qwen3", "num_attention_heads": 4, "hidden_size": 32, "num_key_value_heads": 1, "head_dim": 6, "attention_bias": False},
    {"model_type": "olmo2", "num_attention_heads": 4, "hidden_size": 32, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}},
    {"model_type": "gpt2", "activation_function": "gelu", "n_layer": 2},
]  # fmt: skip


LINES = [
    "--preset tiny --steps 10 --lr=1e-3 --smoke",
    "--arch llama --n-layer 2 --n-head 4 --n-kv-head 2 --n-embd 64 --seq-len 32 --batch-size 2",
    "--norm bhyt --placement pre --gpas layer --sdd off --bhyt-refresh 0",
    "--norm dyt --placement sandwich --gpas sublayer --gpas-act tanh",
    "--placement deepnorm --norm layernorm --deepnorm-init off --final-norm on",
    "--placement mix --mix-post-layers 3 --norm rmsnorm --lns-init on --sdd paper",
    "--out a --resume auto --generate Once --total-batch-tokens 24576 --warmup-steps 5",
    "--config @ --help --version --list-variants --dry-run --eval-only",
    "--lr x", "--n-lyer 2", "lr", "--lr", "--smoke=1", "--preset none", "--out=", "--n-head 5",
]  # fmt: skip


def command_lines(config):
    for i, line in enumerate(LINES):
        first = config if i % 4 == 0 else b"# base\nn-layer = 2\n" if i % 4 == 1 else b""
        yield b"".join(word + b"\0" for word in [first] + line.encode().split())


def words_of_flags():
    """(Names of flags, all that can be their values.)"""
    with open(os.path.join(HERE, "..", "..", "src", "settings", "flags.c"), encoding="utf-8") as file:
        text = file.read()
    names = re.findall(r'^ +(?:INT|REAL|TEXT|PROMPT|CHOICE|MODE)\("([a-z0-9-]+)"', text, re.MULTILINE)
    words = set(names)
    for choices in re.findall(r'"([a-z0-9|-]+\|[a-z0-9|-]+)"', text):
        words.update(choices.split("|"))
    words.update(re.findall(r'^ +\{"([a-z0-9-]+)",', text, re.MULTILINE))
    return sorted(names), sorted(words)


def questions():
    """What a model can be asked (a bit each: text, a small vocabulary, short continuations), then a row."""
    ids = {"context_ids": [1, 2], "choice_ids": [[3], [4, 5]], "answer": 1, "choice_chars": [1, 2], "choice_bytes": [2, 2]}
    text = {"context": "a\u3000 \n", "choices": ["\u00e4", "b c"], "answer": 0, "delimiter": "", "id": "x"}
    rows = [ids, text, {"context_ids": [9], "target_ids": [1, 99, 2]}, {"context": "", "target": " mat"}, dict(ids, answer=2),
            dict(ids, choice_ids=[]), dict(ids, choice_ids=[[], [1]]), dict(ids, choice_chars=[0, 1]), dict(text, choices=[1, "a"]),
            dict(ids, context_ids=[-1, 1e300, 0.5]), {"context_ids": [1]}]  # fmt: skip
    for number, row in enumerate(rows):
        for ascii_only in (False, True):
            yield bytes([1 + 2 * (number % 4)]) + json.dumps(row, ensure_ascii=ascii_only).encode()


def main(program, directory):
    random.seed(1)
    with tempfile.TemporaryDirectory() as work:
        with open(os.path.join(work, "t.bin"), "wb") as file:
            file.write(shard([random.randrange(97, 123) for _ in range(400)]))
        command = [os.path.abspath(program), "--preset", "micro", "--n-layer", "1", "--n-embd", "16", "--seq-len", "8",
                   "--batch-size", "2", "--steps", "3", "--train-data", "t.bin", "--out", "run"]  # fmt: skip
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))
        variant = ["--arch", "llama", "--norm", "bhyt", "--placement", "lns", "--gpas", "layer", "--out", "own"]
        subprocess.run(command + variant, cwd=work, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))
        with open(os.path.join(work, "own", "step_00000003", "config.json"), "rb") as file:
            own = file.read()
        seeds = texts(os.path.join(work, "run", "step_00000003"), own)
    seeds["megatron"], seeds["mixture"] = list(indices()), [text.encode() for text in MIXTURES]
    seeds["items"] = list(questions())
    seeds["flags"] = list(command_lines(seeds["config"][1]))
    for target, inputs in seeds.items():
        os.makedirs(os.path.join(directory, target), exist_ok=True)
        for i, value in enumerate(inputs):
            with open(os.path.join(directory, target, "seed_%02d" % i), "wb") as file:
                file.write(value)
    names, words = words_of_flags()
    assert len(names) > 50 and len(words) > len(names)
    dictionaries = {"config": words, "flags": ["--%s\\x00" % name for name in names] + ["%s\\x00" % word for word in words]}
    for target, entries in dictionaries.items():
        with open(os.path.join(directory, target + ".dict"), "w", encoding="ascii") as file:
            file.write("".join('"%s"\n' % entry for entry in entries))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
