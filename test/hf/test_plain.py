"""Do plain gpt2 and llama checkpoints mean the same to transformers as to this program, both ways?

Compares logits of the first batch as --probe writes them (fp64) with those of transformers on the same weights in
fp64.
"""
import json
import os

import pytest

from program import refused, run, write_shard

SHAPE = ["--n-layer", 2, "--n-embd", 32, "--n-head", 4, "--vocab-size", 96, "--seq-len", 16, "--batch-size", 2]
TRAINING = ["--steps", 3, "--lr", "1e-2", "--warmup-steps", 0, "--val-every", 0, "--dtype", "fp64"]

# gpt2 is fp64 throughout in transformers: only the order of sums differs. Its llama takes norms, angles and softmax in
# fp32 whatever the model's type is, with 2⁻²⁴ a rounding, some dozens of them one after the other.
TOLERANCE = {"gpt2": 1e-10, "llama": 1e-5}

CASES = {"gpt2": ["--arch", "gpt2"], "gpt2 untied": ["--tie-embeddings", "off", "--n-ffn", 72], "llama": ["--arch", "llama"],
         "llama grouped": ["--arch", "llama", "--n-kv-head", 2, "--n-ffn", 40, "--rope-base", 500],
         "llama tied": ["--arch", "llama", "--tie-embeddings", "on"],
         "llama biases": ["--arch", "llama", "--bias", "on"],
         "llama linear RoPE": ["--arch", "llama", "--rope-scaling", "linear", "--rope-factor", 3],
         "llama llama3 RoPE": ["--arch", "llama", "--rope-scaling", "llama3", "--rope-original-seq-len", 8],
         "llama eps": ["--arch", "llama", "--norm-eps", "1e-3", "--placement", "mix", "--mix-post-layers", 0],
         "llama learned scaling": ["--arch", "llama", "--placement", "lns", "--lns-init", "on"],
         "gpt2 eps": ["--norm-eps", "1e-3", "--placement", "lns", "--n-layer", 1]}


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers", reason="transformers is not installed")
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.bin"
    write_shard(path, [(7 * i * i + i // 3) % 96 for i in range(600)])
    return ["--train-data", str(path)]


def probe(path, *arguments):
    from safetensors.torch import load_file
    run(*arguments, "--dtype", "fp64", "--probe", path)
    return load_file(path)


def same_logits(torch, model, tensors, tolerance):
    with torch.no_grad():
        logits = model(tensors["tokens"].long()).logits
    want = tensors["logits"]
    scale = want.pow(2).mean().sqrt()
    assert scale > 0.01 and logits.dtype == torch.float64
    assert ((logits - want).abs().max() / scale).item() < tolerance


def read_back(torch, folder):
    from transformers import AutoModelForCausalLM
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, output_loading_info=True,
                                                          attn_implementation="eager")
    assert not any(loading.values()), loading  # no key missing, unexpected, or of another shape
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_loads_in_transformers_and_gives_the_same_logits(case, torch, data, tmp_path):
    out = str(tmp_path / "run")
    run(*SHAPE, *data, *CASES[case], *TRAINING, "--out", out)
    model = read_back(torch, os.path.join(out, "step_00000003"))
    same_logits(torch, model, probe(str(tmp_path / "probe"), "--resume", out), TOLERANCE[case.split()[0]])
    with torch.no_grad():  # and the test would see a wrong weight
        next(model.parameters()).mul_(1.001)
    with pytest.raises(AssertionError):
        same_logits(torch, model, probe(str(tmp_path / "probe"), "--resume", out), TOLERANCE[case.split()[0]])


# Each a step away from what GPT2LMHeadModel or LlamaForCausalLM computes; test_huggingface_config.c has all pairs.
NOT_THEIRS = [
    "--placement post --final-norm on", "--placement deepnorm --final-norm on", "--placement mix", "--placement lns",
    "--placement sandwich", "--norm dyt", "--norm bhyt-exact", "--norm bhyt", "--norm derf", "--final-norm off", "--embed-norm on",
    "--embed-scale on", "--gpas layer", "--gpas sublayer", "--sdd paper", "--sdd released", "--arch gpt2 --positions rope",
    "--arch gpt2 --activation swiglu", "--arch gpt2 --norm rmsnorm", "--arch gpt2 --bias off", "--arch gpt2 --n-kv-head 2",
    "--norm layernorm", "--activation gelu", "--bias on --activation gelu", "--positions learned",
    "--arch gpt2 --placement lns", "--placement keel",
    "--placement hybrid", "--placement hybrid-first",
]  # fmt: skip


def test_what_transformers_does_not_compute_it_refuses_without_the_checkpoint_s_code(torch, data, tmp_path):
    from transformers import AutoModelForCausalLM
    for i, flags in enumerate(NOT_THEIRS):
        out = str(tmp_path / str(i))
        run(*SHAPE, *data, "--n-layer", 4, "--arch", "llama", *flags.split(), *TRAINING, "--steps", 1, "--out", out)
        with pytest.raises(ValueError, match="trust_remote_code"):
            AutoModelForCausalLM.from_pretrained(os.path.join(out, "step_00000001"), trust_remote_code=False)


def foreign(torch, case):
    """A model of transformers' own making, with weights that are nowhere at their initial value."""
    import transformers
    torch.manual_seed(7)
    tied = case in ("gpt2", "llama tied")
    if case.startswith("gpt2"):
        config = transformers.GPT2Config(vocab_size=96, n_positions=16, n_embd=32, n_layer=2, n_head=4, n_inner=128,
                                         tie_word_embeddings=tied)
    else:
        config = transformers.LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                          num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
                                          tie_word_embeddings=tied, rms_norm_eps=1e-6)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


# What a config.json may say beside the shape, and None, or the words of the refusal.
CONSTANTS = [
    ("gpt2", {"layer_norm_epsilon": 0.1}, None), ("gpt2", {"n_inner": 40}, None), ("gpt2", {"tie_word_embeddings": False}, None),
    ("gpt2", {"activation_function": "gelu_pytorch_tanh"}, None), ("gpt2", {"activation_function": "relu"}, "activation_function relu"),
    ("gpt2", {"activation_function": "gelu"}, None), ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights false"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx true"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention true"),
    ("llama", {"rms_norm_eps": 0.1}, None), ("llama", {"rope_theta": 100.0}, None), ("llama", {"num_key_value_heads": None}, None),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}, None), ("llama", {"foo": 3}, None),
    ("llama", {"attention_bias": True, "mlp_bias": True}, None), ("llama", {"head_dim": 8, "hidden_act": "swish"}, None),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, None),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 8}}, None),
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 8.0}}, "rope_parameters dynamic"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"), ("llama", {"hidden_act": "relu"}, "hidden_act relu"),
    ("llama", {"attention_bias": True}, "mlp_bias false with attention_bias true"), ("llama", {"head_dim": 16}, None),
    ("llama", {"sliding_window": 4}, "sliding_window 4"), ("llama", {"is_causal": False}, "is_causal false"),
    ("gemma", {}, "model_type gemma"), ("phi3", {"pad_token_id": 0}, "model_type phi3"), # of other families: hf/test_families.py
]  # fmt: skip


@pytest.mark.parametrize("kind, more, says", CONSTANTS, ids=[f"{kind} {' '.join(more)}" for kind, more, _ in CONSTANTS])
def test_a_config_alone_gives_the_same_logits_or_is_refused_by_name(kind, more, says, torch, data, tmp_path):
    """No flag tells anything of the model."""
    import transformers
    gpt2 = {"n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    other = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "max_position_embeddings": 16}  # fmt: skip
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(kind, vocab_size=96, **{**(gpt2 if kind == "gpt2" else other), **more})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = str(tmp_path / "weights")
    model.eval().save_pretrained(folder)
    arguments = [*data, "--batch-size", 2, "--init-from", folder]
    if says:
        refused(*arguments, "--probe", tmp_path / "probe", says=(folder, says))
    else:
        same_logits(torch, model.double(), probe(str(tmp_path / "probe"), *arguments), TOLERANCE[kind])


FLAGS = {"gpt2": ["--arch", "gpt2"], "gpt2 untied": ["--arch", "gpt2", "--tie-embeddings", "off"],
         "llama": ["--arch", "llama", "--n-kv-head", 2, "--n-ffn", 64],
         "llama tied": ["--arch", "llama", "--n-kv-head", 2, "--n-ffn", 64, "--tie-embeddings", "on"]}


@pytest.mark.parametrize("form", ["single", "sharded", "base", "bfloat16"])
@pytest.mark.parametrize("case", FLAGS)
def test_weights_of_transformers_load_here_and_give_the_same_logits(case, form, torch, data, tmp_path):
    model, folder = foreign(torch, case), str(tmp_path / "weights")
    if form == "base" and case in ("gpt2 untied", "llama"):
        pytest.skip("without its head an untied model is not whole")
    if form == "bfloat16":
        model = model.to(torch.bfloat16)
    (model.base_model if form == "base" else model).save_pretrained(folder, **(
        {"max_shard_size": "20KB"} if form == "sharded" else {}))
    if form == "sharded":
        with open(os.path.join(folder, "model.safetensors.index.json"), encoding="utf-8") as file:
            assert len(set(json.load(file)["weight_map"].values())) > 2
    arguments = [*SHAPE, *data, *FLAGS[case], "--init-from"]
    tensors = probe(str(tmp_path / "probe"), *arguments, folder)
    # (Its rotary angles have become bf16 in a model that was: read anew.)
    same_logits(torch, read_back(torch, folder) if form == "bfloat16" else model.double(), tensors,
                TOLERANCE[case.split()[0]])
    if form in ("single", "sharded"):  # the file itself, too
        name = "model.safetensors" + (".index.json" if form == "sharded" else "")
        again = probe(str(tmp_path / "probe2"), *arguments, os.path.join(folder, name))
        assert torch.equal(again["logits"], tensors["logits"])


@pytest.mark.parametrize("case", ["gpt2", "gpt2 untied", "llama grouped", "llama tied"])
def test_through_transformers_and_back_no_bit_changes(case, torch, data, tmp_path):
    from safetensors.torch import load_file
    first, second, folder = str(tmp_path / "first"), str(tmp_path / "second"), str(tmp_path / "weights")
    common = [*SHAPE, *data, *CASES[case], *TRAINING]
    run(*common, "--out", first)
    read_back(torch, os.path.join(first, "step_00000003")).save_pretrained(folder)
    run(*common, "--init-from", folder, "--lr", 0, "--weight-decay", 0, "--steps", 1, "--out", second)
    before = load_file(os.path.join(first, "step_00000003", "model.safetensors"))
    after = load_file(os.path.join(second, "step_00000001", "model.safetensors"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
