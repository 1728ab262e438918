"""Is scripts/hf/modeling_train_gpt.py a model as transformers has them: generation with caches and padding, labels,
checkpointing, tied weights, bf16, torch.compile, saving; the same initial weights as the program's; and what a checkpoint
must hold for it?
"""

import json
import os
import pathlib
import re
import sys

import numpy
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import variants
from program import MODEL, ROOT, file_bytes, run, step_directory
from tensors import read_tensors

sys.path.insert(0, os.path.join(ROOT, "scripts"))
from hf.configuration_train_gpt import CHOICES, TrainGptConfig  # noqa: E402
from hf.modeling_train_gpt import TrainGptForCausalLM  # noqa: E402

# Each has what the others lack; together both families, RoPE and positions, and each method.
VARIANTS = {
    "llama lns bhyt gpas": "--arch llama --placement lns --norm bhyt --gpas sublayer --n-kv-head 2",
    "gpt2 bhyt": "--arch gpt2 --norm bhyt --bhyt-gamma-var on",
    "gpt2 post sdd": "--arch gpt2 --placement post --sdd released --activation swiglu",
    "llama sandwich sdd gpas": "--arch llama --placement sandwich --sdd paper --gpas layer --tie-embeddings on",
    "llama dyt": "--arch llama --norm dyt --embed-scale on --positions learned",
    "gpt2 derf": "--arch gpt2 --norm derf --placement sandwich --embed-scale on",
    "llama keel gpas": "--arch llama --placement keel --gpas sublayer --sdd paper",
    "llama hybrid gpas": "--arch llama --placement hybrid-first --gpas sublayer --norm derf --n-kv-head 1",
    "gpt2 deepnorm gpas": "--arch gpt2 --placement deepnorm --gpas layer --positions rope --tie-embeddings off",
}  # fmt: skip
FLAGS = {name: [word for item in variants.SHAPE.items() for word in ("--" + item[0], str(item[1]))] + flags.split()
         for name, flags in VARIANTS.items()}  # fmt: skip
# A step that leaves the weights as they are.
UNCHANGED = ["--steps", 1, "--lr", 0, "--weight-decay", 0, "--warmup-steps", 0, "--val-every", 0, "--dtype", "fp32"]
each = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return variants.write_text(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """{name: the directory of a checkpoint after three steps in fp64}. BHyT's c is then older than the weights."""
    return {
        name: variants.checkpoint(tmp_path_factory.mktemp("run"), data, flags, steps=3) for name, flags in FLAGS.items()
    }


def some_tokens(rows=2, length=10, seed=3):
    return torch.randint(1, 256, (rows, length), generator=torch.Generator().manual_seed(seed))


def apart(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


# ------------------------------------------------------------------------------------------------- a checkpoint


@each
def test_a_checkpoint_alone_gives_the_logits_of_its_run(name, trained, data, tmp_path):
    want = variants.probe(tmp_path / "probe", *data, "--batch-size", 2, "--resume", trained[name])
    model = variants.load(trained[name])
    tokens, logits = torch.from_numpy(want["tokens"].astype("i8")), torch.from_numpy(want["logits"].copy())
    with torch.no_grad():
        assert apart(model(tokens).logits, logits) < 1e-9
        if "bhyt" in name:  # training changes weights, and c with them
            c = model.config.bhyt_c
            model.train().eval()
            assert model.config.bhyt_c is None and len(c) == 3
            assert 1e-9 < apart(model(tokens).logits, logits) < 0.1


@each
def test_a_checkpoint_holds_the_code_as_it_is_here_and_resumes(name, trained, data):
    manifest = json.loads(file_bytes(trained[name], "manifest.json"))
    for file in ("configuration_train_gpt.py", "modeling_train_gpt.py"):
        assert file_bytes(trained[name], file) == file_bytes(ROOT, "scripts", "hf", file)
        assert file in [entry["name"] for entry in manifest["files"]]
    run(*FLAGS[name], *data, "--steps", 3, "--lr", "1e-2", "--warmup-steps", 0, "--val-every", 0, "--dtype", "fp64",
        "--resume", trained[name], "--out", os.path.dirname(trained[name]))  # fmt: skip


def test_each_flag_that_makes_a_model_is_a_setting_here_and_each_of_its_values():
    """What the program writes into config.json, against the parameters of TrainGptConfig."""
    source = pathlib.Path(ROOT, "src", "checkpoint", "huggingface.c").read_text(encoding="utf-8")
    lists = re.findall(r"HUGGINGFACE_(?:OWN|INITIAL)_FLAGS\[\] = \{(.*?)\};", source, re.DOTALL)
    flags = re.findall(r'"([a-z0-9-]+)"', "".join(lists))
    table = pathlib.Path(ROOT, "src", "settings", "flags.c").read_text(encoding="utf-8")
    header = pathlib.Path(ROOT, "src", "settings", "flags.h").read_text(encoding="utf-8")
    known = TrainGptConfig().to_dict()
    assert len(lists) == 2 and len(flags) > 30
    keys = {flag: flag.replace("-", "_") for flag in flags} | {"rope-scaling": "rope_type"}
    for flag in flags:
        assert keys[flag] in known, flag
        choice = re.search(rf'CHOICE\("{flag}", \w+, "[^"]*",\s*("[^"]*"|\w+)', table)
        if choice:
            words = choice[1] if choice[1][0] == '"' else re.search(rf'#define {choice[1]} +"([^"]*)"', header)[1]
            values = set(words.strip('"').split("|")) - {"auto"}
            assert values == set(CHOICES[keys[flag]]), flag


@each
def test_what_is_left_open_follows_as_in_the_program(name, trained):
    flags = FLAGS[name]
    given = {flag[2:].replace("-", "_"): value for flag, value in zip(flags[::2], flags[1::2]) if flag != "--batch-size"}
    numbers = {key: float(value) if "." in value else int(value) for key, value in given.items() if value[0].isdigit()}
    written, here = json.loads(file_bytes(trained[name], "config.json")), TrainGptConfig(**given | numbers).to_dict()
    keys = set(written) - {"bhyt_c", "auto_map", "architectures", "torch_dtype", "bos_token_id", "eos_token_id"}
    assert len(keys) > 40
    for key in keys:
        same = here[key] == written[key] if isinstance(written[key], str) else here[key] == pytest.approx(written[key], 1e-8)
        assert same, (key, here[key], written[key])


@pytest.mark.parametrize("setting", [{"norm": "crms"}, {"placement": "resi-dual"}, {"arch": "mamba"}, {"sdd": "on"}])
def test_what_the_model_does_not_compute_is_refused_by_its_key(setting):
    with pytest.raises(NotImplementedError, match=" ".join(*setting.items())):
        TrainGptConfig(**setting)


# ---------------------------------------------------------------------------------------------------- generation


@each
def test_a_cache_changes_no_token_of_any_kind_of_generation(name, trained):
    model = variants.load(trained[name])
    ids = some_tokens(2, 4)
    common = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 7, "min_new_tokens": 7, "pad_token_id": 0}
    want = model.generate(ids, do_sample=False, use_cache=False, **common)
    assert torch.equal(model.generate(ids, do_sample=False, **common), want)
    assert torch.equal(model.generate(ids, do_sample=False, cache_implementation="static", **common), want)
    beams = [model.generate(ids, num_beams=3, do_sample=False, use_cache=cache, **common) for cache in (True, False)]
    assert torch.equal(*beams)
    with torch.no_grad():  # in pieces of several tokens
        first = model(ids[:, :3])
        cache = first.get("cache", first.get("past_key_values"))
        pieces = torch.cat((first.logits, model(want[:, 3:8], past_key_values=cache).logits), 1)
        assert apart(pieces, model(want[:, :8]).logits) < 1e-12


@each
def test_a_padded_row_gives_what_it_gives_alone(name, trained):
    model = variants.load(trained[name])
    short, long = some_tokens(1, 3), some_tokens(1, 5, seed=4)
    for left in (True, False):
        pad = torch.zeros(1, 2, dtype=torch.long)
        ids = torch.cat((torch.cat((pad, short) if left else (short, pad), 1), long))
        mask = torch.ones_like(ids)
        mask[0, : 2 if left else None] = 0
        mask[0, 2 if left else 0 : 5 if left else 3] = 1
        with torch.no_grad():
            logits, alone = model(ids, attention_mask=mask).logits, model(short).logits
        assert apart(logits[:1, 2:] if left else logits[:1, :3], alone) < 1e-12
    common = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 0}
    ids = torch.cat((torch.cat((pad, short), 1), long))
    mask = (torch.arange(5) >= torch.tensor([[2], [0]])).long()
    both = model.generate(ids, attention_mask=mask, **common)
    for i, row in enumerate((short, long)):
        assert (
            both[i, 5:].tolist()
            == model.generate(row, attention_mask=torch.ones_like(row), **common)[0, row.shape[1] :].tolist()
        )


def test_more_tokens_than_positions_are_refused(trained):
    model = variants.load(trained["gpt2 bhyt"])
    with pytest.raises(ValueError, match="13 tokens, and learned positions for seq_len 12"):
        model(some_tokens(1, 13))
    assert variants.load(trained["llama lns bhyt gpas"])(some_tokens(1, 30)).logits.shape == (1, 30, 256)


# ------------------------------------------------------------------------------------------------------ training


@each
def test_labels_give_the_loss_and_checkpointing_the_same_gradients(name, trained):
    model = variants.load(trained[name])
    ids = some_tokens()
    labels = ids.clone()
    labels[0, 4:6] = -100
    found = []
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        found.append((loss.item(), variants.gradients(model)))
    logits, targets = model(ids).logits[:, :-1], labels[:, 1:]
    each_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    assert abs(found[0][0] - each_loss.sum().item() / 16) < 1e-12
    assert abs(model(ids, labels=labels, num_items_in_batch=20).loss.item() - each_loss.sum().item() / 20) < 1e-12
    assert found[0][0] == found[1][0] and max(variants.worst(found[1][1], found[0][1]).values()) < 1e-12
    assert len(found[0][1]) == len(list(model.parameters()))


@each
def test_initial_weights_are_drawn_as_the_program_draws_them(name, data, tmp_path):
    """Constants to the bit; of normal numbers mean and standard deviation, within six standard errors."""
    flags = [*FLAGS[name], "--n-embd", 64, "--n-ffn", 96, "--gpas-init", 0.25, "--init-std-embed", 0.7,
             "--sdd-init-scale", 0.5, "--bhyt-lambda-mlp", 3, "--dyt-alpha-attn", 0.75]  # fmt: skip
    run(*flags, *data, *UNCHANGED, "--out", tmp_path / "run")
    folder = step_directory(tmp_path / "run", 1)
    ours = read_tensors(os.path.join(folder, MODEL))
    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    theirs = {key: x.detach().numpy() for key, x in model.named_parameters()}
    assert theirs.keys() == ours.keys()
    for key, x in theirs.items():
        assert x.shape == ours[key].shape and x.dtype == numpy.float32
        fused = 3 if key.endswith("c_attn.weight") else 1  # q, k and v may begin otherwise
        for have, want in zip(numpy.split(x, fused, -1), numpy.split(ours[key], fused, -1)):
            if (want == want.flat[0]).all():
                assert numpy.array_equal(have, want), key
                continue
            assert abs(have.mean()) < 6 * want.std() / have.size**0.5, key
            assert abs(have.std() / want.std() - 1) < 6 * have.size**-0.5, key
            assert abs(numpy.abs(have).max() / numpy.abs(want).max() - 1) < 0.5, key  # tails are cut alike


@each
def test_saved_and_begun_from_comes_back_bit_for_bit(name, data, tmp_path):
    folder = variants.checkpoint(tmp_path, data, FLAGS[name], dtype="fp32")
    model = variants.load(folder, torch_dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")
    assert {"modeling_train_gpt.py", "configuration_train_gpt.py"} <= set(os.listdir(tmp_path / "saved"))
    again = variants.load(tmp_path / "saved", torch_dtype=torch.float32)
    assert torch.equal(again(some_tokens()).logits, model(some_tokens()).logits)
    done = run(*data, "--init-from", tmp_path / "saved", "--batch-size", 2, *UNCHANGED, "--out", tmp_path / "second")
    assert "unknown keys" not in done.stderr
    before, after = read_tensors(os.path.join(folder, MODEL)), read_tensors(
        os.path.join(step_directory(tmp_path / "second", 1), MODEL)
    )
    assert before.keys() == after.keys() and all(numpy.array_equal(before[key], after[key]) for key in before)


# --------------------------------------------------------------------------------------------- types and tools


@each
def test_bf16_is_fp64_to_its_rounding_and_eager_is_sdpa(name, trained):
    exact, ids = variants.load(trained[name]), some_tokens()
    rounded = variants.load(trained[name], torch_dtype=torch.bfloat16)
    eager = variants.load(trained[name], attn_implementation="eager")
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        want = exact(ids).logits
        assert rounded.dtype == torch.bfloat16 and rounded(ids).logits.dtype == torch.bfloat16
        assert 1e-4 < apart(rounded(ids).logits.double(), want) < 0.2
        assert apart(eager(ids).logits, want) < 1e-12
        assert apart(eager(ids, attention_mask=mask).logits, exact(ids, attention_mask=mask).logits) < 1e-12


def test_the_base_model_is_the_same_without_its_head(trained):
    for name in ("gpt2 bhyt", "llama dyt"):
        whole, ids = variants.load(trained[name]), some_tokens()
        base = AutoModel.from_pretrained(trained[name], trust_remote_code=True, torch_dtype=torch.float64)
        assert type(base).__name__ == "TrainGptModel"
        assert torch.equal(base(ids).last_hidden_state, whole(ids, output_hidden_states=True).hidden_states[-1])


def test_tied_is_one_tensor_and_untied_two():
    for tied in ("on", "off"):
        for arch in ("gpt2", "llama"):
            config = TrainGptConfig(
                arch=arch,
                n_layer=1,
                n_head=2,
                n_embd=8,
                n_ffn=8,
                vocab_size=32,
                seq_len=8,
                tie_embeddings=tied,
                norm="dyt",
            )
            model = TrainGptForCausalLM(config)
            same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
            assert same == (tied == "on")


def test_what_is_kept_of_the_logits_is_what_was_asked_for(trained):
    model, ids = variants.load(trained["llama dyt"]), some_tokens()
    with torch.no_grad():
        whole = model(ids).logits
        assert torch.equal(model(ids, logits_to_keep=2).logits, whole[:, -2:])
        assert torch.equal(model(ids, logits_to_keep=torch.tensor([1, 4])).logits, whole[:, [1, 4]])
        assert torch.equal(model(ids, return_dict=False)[0], whole)
        assert apart(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, whole) < 1e-15


@pytest.mark.parametrize("name", list(VARIANTS)[: None if os.environ.get("TEST_ALL") else 1])
def test_torch_compile_takes_it_as_one_graph(name, trained):
    """Traced forward and backward; what Inductor makes of the graph takes it minutes, and is not looked at here."""
    model, ids = variants.load(trained[name]), some_tokens()
    want = model(ids, labels=ids).loss
    want.backward()
    gradients = variants.gradients(model)
    model.zero_grad()
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(ids, labels=ids).loss
    loss.backward()
    assert abs(loss.item() - want.item()) < 1e-12
    assert max(variants.worst(variants.gradients(model), gradients).values()) < 1e-9
