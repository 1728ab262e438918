"""Do models of other families mean the same here as in transformers, read and written?

Each family's class makes a tiny model with random weights; --init-from takes it by its config.json alone, and --probe's logits
are compared: in fp32 with transformers' in fp32, which is as far from the truth, in fp64 with transformers' computed in fp64 throughout (its norms, angles and
softmax are fp32 whatever the model is, so `torch.float32` is fp64 meanwhile). Then a checkpoint of this program loads in
transformers under the family's own name. Skipped where torch and transformers are not installed; what every machine tests of
the same parts is test_reference.py's fixtures_families.
"""
import json
import os

import pytest

from program import refused, run, write_shard

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

VOCAB, LENGTH = 96, 24
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": LENGTH}
GPT2 = {"n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 4}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 50.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}

# The model, its config, and the model_type that a checkpoint of it has here.
FAMILIES = {
    "gpt2": ("gpt2", GPT2, "gpt2"),
    "gpt2 exact GELU": ("gpt2", {**GPT2, "activation_function": "gelu", "n_inner": 40}, "gpt2"),
    "llama 2": ("llama", {**LLAMA, "num_key_value_heads": 4}, "llama"),
    "llama 3.1": ("llama", {**LLAMA, "rope_parameters": LLAMA3}, "llama"),
    "llama linear": ("llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}, "llama"),
    "llama heads": ("llama", {**LLAMA, "head_dim": 6, "attention_bias": True, "mlp_bias": True}, "llama"),
    "smollm": ("llama", {**LLAMA, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}, "llama"),
    "mistral": ("mistral", {**LLAMA, "sliding_window": None}, "llama"),
    "mistral nemo": ("mistral", {**LLAMA, "sliding_window": None, "head_dim": 16, "rope_theta": 1e6}, "llama"),
    "mistral odd": ("mistral", {**LLAMA, "sliding_window": 24, "hidden_size": 30, "head_dim": 8}, "mistral"),
    "qwen2": ("qwen2", LLAMA, "qwen2"),
    "qwen2 tied": ("qwen2", {**LLAMA, "tie_word_embeddings": True, "rope_theta": 1e6, "use_sliding_window": False}, "qwen2"),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 16}, "qwen3"),
    "qwen3 tied": ("qwen3", {**LLAMA, "head_dim": 6, "num_key_value_heads": 1, "tie_word_embeddings": True}, "qwen3"),
    "olmo2": ("olmo2", LLAMA, "olmo2"),
    "olmo2 odd": ("olmo2", {**LLAMA, "num_key_value_heads": 4, "hidden_size": 40, "rms_norm_eps": 1e-6}, "olmo2"),
}
NAMES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
         "qwen3": "Qwen3ForCausalLM", "olmo2": "Olmo2ForCausalLM"}

# Over the logits' rms, largest difference of some 4,600: roundings of 2^-24 in two layers, here and there.
FP32_TOLERANCE = 4e-6
FP64_TOLERANCE = 1e-9
# How far from the truth this program's fp32 may be, in units of transformers' own fp32: the same roundings in another order. Of these
# families with three seeds each, and of GPT-2 and LLaMA with 8 layers: rms 0.61 to 1.09, the largest of the logits (two extremes of
# some 4,600 draws) 0.35 to 1.34.
FP32_RMS, FP32_LARGEST = 1.25, 2.0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.bin"
    write_shard(path, [(7 * i * i + i // 3) % VOCAB for i in range(600)])
    return ["--train-data", str(path), "--batch-size", 2]


@pytest.fixture
def logits_in_fp64(monkeypatch):
    """The logits of a directory's model, in which whatever transformers asks to be fp32 is fp64."""

    def compute(folder, tensors):
        model = load(folder, torch.float64)
        with monkeypatch.context() as patch:
            for name in ("float32", "float"):
                patch.setattr(torch, name, torch.float64)
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            for module in model.modules():
                if hasattr(module, "inv_freq"):  # made in fp32
                    module.__init__(model.config)
            return logits_of(model, tensors)

    return compute


@pytest.fixture
def distance_in_fp64(logits_in_fp64):
    return lambda folder, tensors: largest(logits_in_fp64(folder, tensors), tensors["logits"])


def make(family, folder, **how):
    """Saves a model whose weights are nowhere at their initial value."""
    kind, settings, _ = FAMILIES[family]
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCAB, bos_token_id=None, eos_token_id=None, pad_token_id=None,
                                               **settings)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, **how)


def load(folder, dtype):
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True,
                                                                       attn_implementation="eager")
    assert not any(loading.values()), loading
    return model.eval()


def probe(path, *arguments):
    from safetensors.torch import load_file
    run(*arguments, "--device", "cpu", "--probe", path)
    return load_file(path)


def logits_of(model, tensors):
    with torch.no_grad():
        return model(tensors["tokens"].long()).logits


def rms(values):
    return values.double().pow(2).mean().sqrt()


def largest(logits, want):
    """The largest difference over the rms."""
    scale = rms(want)
    assert logits.dtype == want.dtype and scale > 0.01
    return ((logits - want).abs().max() / scale).item()


def distance(model, tensors):
    return largest(logits_of(model, tensors), tensors["logits"])


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_logits_are_those_of_transformers(family, data, tmp_path):
    make(family, tmp_path / "model")
    tensors = probe(str(tmp_path / "probe"), *data, "--init-from", tmp_path / "model", "--dtype", "fp32")
    model = load(tmp_path / "model", torch.float32)
    assert distance(model, tensors) < FP32_TOLERANCE
    with torch.no_grad():  # and a weight that is wrong would be seen
        list(model.parameters())[-2 if model.config.tie_word_embeddings else -3].mul_(1.01)
    assert distance(model, tensors) > FP32_TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_logits_are_as_near_to_the_truth_as_transformers_own(family, data, tmp_path, logits_in_fp64):
    make(family, tmp_path / "model")
    tensors = probe(str(tmp_path / "probe"), *data, "--init-from", tmp_path / "model", "--dtype", "fp32")
    truth = logits_in_fp64(tmp_path / "model", tensors)
    ours, theirs = tensors["logits"].double() - truth, logits_of(load(tmp_path / "model", torch.float32), tensors).double() - truth
    assert ours.shape == truth.shape and 0 < rms(ours) < FP32_RMS * rms(theirs)
    assert ours.abs().max() < FP32_LARGEST * theirs.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_fp64_logits_are_those_of_transformers(family, data, tmp_path, distance_in_fp64):
    make(family, tmp_path / "model", max_shard_size="20KB")
    assert (tmp_path / "model" / "model.safetensors.index.json").exists()
    tensors = probe(str(tmp_path / "probe"), *data, "--init-from", tmp_path / "model", "--dtype", "fp64")
    assert distance_in_fp64(tmp_path / "model", tensors) < FP64_TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_carries_the_familys_name_and_loads_in_transformers(family, data, tmp_path, distance_in_fp64):
    make(family, tmp_path / "model")
    run(*data, "--init-from", tmp_path / "model", "--steps", 2, "--lr", "1e-2", "--warmup-steps", 0, "--val-every", 0,
        "--dtype", "fp64", "--out", tmp_path / "run")
    folder = tmp_path / "run" / "step_00000002"
    written = json.loads((folder / "config.json").read_text())
    kind = FAMILIES[family][2]
    assert (written["model_type"], written["architectures"]) == (kind, [NAMES[kind]])
    tensors = probe(str(tmp_path / "probe"), *data, "--resume", tmp_path / "run")
    assert distance_in_fp64(folder, tensors) < FP64_TOLERANCE
    assert distance_in_fp64(tmp_path / "model", tensors) > 1e-3, "training moved nothing"
    tensors = probe(str(tmp_path / "again"), *data, "--init-from", folder, "--dtype", "fp64")  # and as a start for the next run
    assert distance_in_fp64(folder, tensors) < FP64_TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "llama 3.1", "qwen3", "olmo2"])
def test_a_shorter_sequence_is_the_same_model(family, data, tmp_path, distance_in_fp64):
    make(family, tmp_path / "model")
    tensors = probe(str(tmp_path / "probe"), *data, "--init-from", tmp_path / "model", "--seq-len", 9, "--dtype", "fp64")
    assert tensors["tokens"].shape == (2, 9)
    assert distance_in_fp64(tmp_path / "model", tensors) < FP64_TOLERANCE


# Of one family or another, what is not computed here.
REFUSED = [
    ("mistral", {"sliding_window": 8}, "sliding_window 8"), ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "sliding"),
    ("qwen3", {"attention_bias": True}, "attention_bias true"), ("olmo2", {"attention_bias": True}, "attention_bias true"),
    ("llama", {"attention_bias": True}, "mlp_bias false with attention_bias true"), ("llama", {"hidden_act": "gelu"}, "hidden_act gelu"),
    ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 8}}, "yarn"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
    ("gemma", {}, "model_type gemma"), ("qwen3_moe", {}, "model_type qwen3_moe"), ("phi3", {}, "model_type phi3"),
    ("olmo3", {}, "model_type olmo3"), ("gpt_neox", {}, "model_type gpt_neox"), ("mixtral", {}, "model_type mixtral"),
]  # fmt: skip


@pytest.mark.parametrize("kind, more, says", REFUSED, ids=[f"{kind} {' '.join(more)}" for kind, more, _ in REFUSED])
def test_what_is_not_computed_is_refused_by_name(kind, more, says, data, tmp_path):
    transformers.AutoConfig.for_model(kind, vocab_size=VOCAB, **{**LLAMA, **more}).save_pretrained(tmp_path)
    make("llama 2", tmp_path / "other")
    os.rename(tmp_path / "other" / "model.safetensors", tmp_path / "model.safetensors")
    refused(*data, "--init-from", tmp_path, "--probe", tmp_path / "probe", says=(str(tmp_path), says))
