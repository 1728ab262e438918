"""The model card of an export: README.md, whose first lines the Hugging Face Hub reads."""

import json
import math
import os
from dataclasses import dataclass

# Of machines, files and moments, not of the model.
NOT_TOLD = {
    "out",
    "resume",
    "config",
    "init-from",
    "device",
    "threads",
    "rendezvous",
    "timeout",
    "keep",
    "save-every",
    "log-every",
    "probe",
}
ARXIV = {
    "gpas": "2506.22049", "sdd": "2502.15499", "bhyt": "2601.09719", "bhyt-exact": "2601.09719", "dyt": "2503.10622", "derf": "2512.10938",
    "sandwich": "2502.02732", "deepnorm": "2203.00555", "mix": "2412.13795", "lns": "2502.05795",
    "keel": "2601.19895", "hybrid": "2503.04598", "hybrid-first": "2503.04598",
}  # fmt: skip


@dataclass
class Facts:
    name: str
    config: dict
    flags: dict  # config.ini's
    state: dict  # state.json's
    result: object  # sweeps.metrics.Result
    parameters: int
    dtype: str
    curve: bool
    tokenizer: bool


def plain(text):
    """What comes from files, where Markdown must not make anything of it."""
    return "".join(c if c.isprintable() and c not in "|`<>" else " " for c in str(text))[:300]


def get(config, *names):
    """The first of these keys that the config has: the families' own names."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def variant(config):
    """ "lns, bhyt, gpas sublayer (silu)"; "" for a plain model."""
    if config.get("model_type") != "train_gpt":
        return ""
    words = ["placement " + plain(config.get("placement")), "norm " + plain(config.get("norm"))]
    if config.get("gpas") != "off":
        words.append("GPAS %s, %s" % (plain(config.get("gpas")), plain(config.get("gpas_act"))))
    if config.get("sdd") != "off":
        words.append("SDD " + plain(config.get("sdd")))
    return "; ".join(words)


def papers(config):
    if config.get("model_type") != "train_gpt":
        return []
    keys = [config.get("norm"), config.get("placement")] + [key for key in ("gpas", "sdd") if config.get(key) != "off"]
    return sorted({ARXIV[key] for key in keys if key in ARXIV})


def header(facts):
    tags = ["train_gpt", "pretrained", *(["custom_code"] if facts.config.get("model_type") == "train_gpt" else [])]
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags:", *("- " + tag for tag in tags)]
    lines += ["- arxiv:" + number for number in papers(facts.config)]
    loss = facts.result.final_val()
    if math.isfinite(loss):
        entry = {"name": facts.name, "results": [{
            "task": {"type": "text-generation"},
            "dataset": {"name": data_name(facts.flags.get("val-data")) or "validation set", "type": "custom"},
            "metrics": [{"name": "loss (nats per token)", "type": "loss", "value": round(loss, 4)}],
        }]}  # fmt: skip
        lines += ["model-index:", "- " + json.dumps(entry)]
    return ["---", *lines, "---"]


def data_name(pattern):
    """A glob of shards without the machine's directories."""
    return plain(os.path.basename(pattern)) if pattern else ""


def table(rows):
    return ["| | |", "|---|---|", *("| %s | %s |" % (name, value) for name, value in rows if value not in (None, ""))]


def shape(facts):
    c = facts.config
    heads, groups = get(c, "n_head", "num_attention_heads"), get(c, "n_kv_head", "num_key_value_heads")
    family = c.get("arch") if c.get("model_type") == "train_gpt" else c.get("model_type")
    return table([
        ("parameters", "{:,}".format(facts.parameters)),
        ("family", plain(family)),
        ("variant", variant(c)),
        ("layers, width", "%s, %s" % (get(c, "n_layer", "num_hidden_layers"), get(c, "n_embd", "hidden_size"))),
        ("heads", heads if groups in (None, heads) else "%s, %s of keys and values" % (heads, groups)),
        ("context", get(c, "seq_len", "n_positions", "max_position_embeddings")),
        ("vocabulary", c.get("vocab_size")),
        ("weights", facts.dtype),
    ])  # fmt: skip


def number(loss):
    return "%.4f (perplexity %.2f)" % (loss, math.exp(min(loss, 700))) if math.isfinite(loss) else ""


def training(facts):
    flags, result, step = facts.flags, facts.result, facts.state.get("step", facts.result.step)
    tokens = flags.get("total-batch-tokens", "")
    seen = "{:,}".format(step * int(tokens)) if tokens.isdigit() and isinstance(step, int) else ""
    return table([
        ("step", "%s of %s" % (step, plain(flags.get("steps", "?")))),
        ("tokens seen", seen),
        ("tokens an update", plain(tokens)),
        ("training data", data_name(flags.get("train-data"))),
        ("validation data", data_name(flags.get("val-data"))),
        ("learning rate", plain(" ".join(filter(None, (flags.get("lr"), flags.get("lr-schedule")))))),
        ("training loss, last tenth", number(result.train_loss())),
        ("validation loss, last", number(result.final_val())),
        ("validation loss, best", number(result.best_val())),
        ("device", plain(facts.state.get("device", ""))),
        ("train_gpt", plain(facts.state.get("version", ""))),
    ])  # fmt: skip


def usage(facts):
    own = facts.config.get("model_type") == "train_gpt"
    trust = ", trust_remote_code=True" if own else ""
    lines = [
        "```python",
        "from transformers import AutoModelForCausalLM" + (", AutoTokenizer" if facts.tokenizer else ""),
        "",
    ]
    lines.append('model = AutoModelForCausalLM.from_pretrained("%s"%s)' % (facts.name, trust))
    if facts.tokenizer:
        lines += ['tokenizer = AutoTokenizer.from_pretrained("%s")' % facts.name,
                  'ids = tokenizer("Once upon", return_tensors="pt")',
                  "print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0]))"]  # fmt: skip
    lines.append("```")
    if own:
        lines += [
            "",
            "No class of transformers computes this model; `modeling_train_gpt.py` beside it does: `trust_remote_code`.",
        ]
    if not facts.tokenizer:
        lines += ["", "No tokenizer was kept with this checkpoint."]
    return lines


def all_flags(facts):
    """As config.ini has them; what names a file keeps its last part."""
    told = {name: value for name, value in facts.flags.items() if name not in NOT_TOLD}
    lines = [
        "%s = %s" % (name, os.path.basename(value) if "/" in value else value) for name, value in sorted(told.items())
    ]
    return [
        "<details><summary>All flags</summary>",
        "",
        "```",
        *(line.replace("```", "") for line in lines),
        "```",
        "",
        "</details>",
    ]


def text(facts):
    losses = ["", "![loss over steps](loss.png)"] if facts.curve else []
    read = [
        "",
        "Papers: " + ", ".join("[arXiv:%s](https://arxiv.org/abs/%s)" % (n, n) for n in papers(facts.config)) + ".",
    ]
    parts = [
        header(facts), [""], ["# " + plain(facts.name)], [""],
        ["Pretrained from scratch with train_gpt. A base model: it continues text, and has been taught nothing else."],
        [""], shape(facts), read if papers(facts.config) else [],
        [""], ["## Use"], [""], usage(facts), [""], ["## Training"], [""],
        training(facts), losses, [""], ["Losses are nats per token."], [""], all_flags(facts),
    ]  # fmt: skip
    return "\n".join(line for part in parts for line in part) + "\n"
