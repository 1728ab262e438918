"""Does --eval say what lm_eval says of the same weights and the same questions?

Made-up records in the benchmarks' own forms go both ways: through data/prepare_eval.py and --eval, and through lm_eval's own
tasks (their prompts, their cleaning, their tokenisation) and transformers. Skipped where lm_eval is not installed.
"""
import json
import os
import random
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from program import ROOT, run, run_script  # noqa: E402

for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "DISABLE_MULTIPROC"):
    os.environ.setdefault(name, "1")
lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")
tokenizers = pytest.importorskip("tokenizers")

# fp32 both: sums of at most some dozens of losses of a few nats.
TOLERANCE = 1e-4
N = 30
SUBJECTS = ["the cat", "a dog", "my aunt", "the wörm", "nobody"]
VERBS = ["sat on", "ran to", "ate", "sang of", "thought about"]
OBJECTS = ["the mat", "a plum", "it all", "the café", "nothing [sic]", "his hat  twice"]
DRAW = random.Random(7)


def phrase():
    return f"{DRAW.choice(SUBJECTS)} {DRAW.choice(VERBS)} {DRAW.choice(OBJECTS)}"


def different(count, make):
    """Choices alike would be likely alike, but for rounding, which then chooses."""
    made = []
    while len(made) < count:
        made += {make()} - set(made)
    return made


def records():
    """{task: (lm_eval's file, kind for prepare_eval.py, records, which split)}"""
    swag = [{"activity_label": "Living", "ctx_a": f"{phrase()}. [title] {phrase()}", "ctx_b": DRAW.choice(SUBJECTS),
             "label": str(DRAW.randrange(4)),
             "endings": different(4, lambda: f"{DRAW.choice(VERBS)} {DRAW.choice(OBJECTS)}")} for _ in range(N)]
    arc = [{"question": f"Why is it that {phrase()}?", "choices": {"text": different(4, phrase), "label": list("ABCD")},
            "answerKey": DRAW.choice("ABCD")} for _ in range(N)]
    piqa = [{"goal": phrase(), "sol1": phrase(), "sol2": phrase() + ".", "label": DRAW.randrange(2)} for _ in range(N)]
    words = [{"text": f"{phrase()}, and so {DRAW.choice(SUBJECTS)} {DRAW.choice(('sat', 'ran', 'ate', 'sang'))}"}
             for _ in range(N)]
    return {"hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag", swag, "validation"),
            "arc": ("arc/arc_easy.yaml", "arc", arc, "test"), "piqa": ("piqa/piqa.yaml", "piqa", piqa, "validation"),
            "lambada": ("lambada/lambada_openai.yaml", "lambada", words, "test")}


RECORDS = records()
# One that transformers knows, and one that its checkpoint brings the code of.
MODELS = {"gpt2": ["--seq-len", 20, "--steps", 60], 
          "variant": ["--arch", "llama", "--gpas", "sublayer", "--sdd", "paper", "--norm", "bhyt", "--seq-len", 96,
                      "--steps", 300]}


def make_tokenizer(folder, text):
    """Byte-level BPE as GPT-2's: merges over the borders of words, a token that ends documents."""
    from tokenizers import decoders, models, pre_tokenizers, trainers
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=384, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """A run whose checkpoint has its tokenizer from its data: gpt2 of subwords, the variant of bytes."""
    folder = tmp_path_factory.mktemp(request.param)
    text = " ".join(phrase() + "." for _ in range(3000))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    tokenizer = make_tokenizer(folder / "bpe", text) if request.param == "gpt2" else "bytes"
    made = run_script("data/prepare.py", folder / "text.txt", "--tokenizer", tokenizer, "--out", folder, "--name", "set")
    assert made.returncode == 0, made.stderr
    run("--preset", "micro", "--vocab-size", 384 if request.param == "gpt2" else 256, *MODELS[request.param],
        "--train-data", folder / "set_train_*.bin", "--lr", "3e-3", "--out", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """lm_eval's own tasks, over files of ours."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, (yaml, _, rows, split) in RECORDS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        splits = {"training_split": "null", "validation_split": "null", "test_split": "null", f"{split}_split": split}
        if name == "lambada":
            del splits["training_split"]
        (folder / f"ours_{name}.yaml").write_text(
            f"include: {os.path.join(os.path.dirname(lm_eval.__file__), 'tasks', yaml)}\ntask: ours_{name}\ntag: null\n"
            f"dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n    {split}: {folder}/{name}.jsonl\n"
            + "".join(f"{key}: {value}\n" for key, value in splits.items()))
    return folder


@pytest.fixture(scope="module")
def theirs(model, tasks):
    from lm_eval.tasks import TaskManager
    found = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={model}/latest,dtype=float32,trust_remote_code=True", device="cpu",
        batch_size=4, log_samples=True,
        tasks=[f"ours_{name}" for name in RECORDS], task_manager=TaskManager(include_path=str(tasks), include_defaults=False))
    return found["results"], found["samples"]


@pytest.mark.parametrize("name", RECORDS)
def test_likelihoods_and_accuracies_are_lm_evals(name, model, tasks, theirs, tmp_path):
    made = run_script("data/prepare_eval.py", RECORDS[name][1], tasks / f"{name}.jsonl", "--tokenizer", model,
                      "--out", tmp_path / "items.jsonl")
    assert made.returncode == 0, made.stderr
    done = run("--resume", model, "--eval", tmp_path / "items.jsonl", "--eval-out", tmp_path / "answers.jsonl",
               "--device", "cpu")
    *answers, result = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    results, samples = theirs[0][f"ours_{name}"], sorted(theirs[1][f"ours_{name}"], key=lambda sample: sample["doc_id"])
    assert len(answers) == len(samples) == N
    for answer, sample in zip(answers, samples):
        want = [float(likelihood) for ((likelihood, _),) in sample["resps"]]
        assert answer["loglikelihoods"] == pytest.approx(want, abs=TOLERANCE), (name, answer["row"])
        if name == "lambada":
            assert str(answer["greedy"]) == str(sample["resps"][0][0][1])
    assert result["acc"] == pytest.approx(results["acc,none"], abs=1e-12)
    assert result["acc_stderr"] == pytest.approx(results["acc_stderr,none"], abs=1e-9)
    if name == "lambada":
        assert result["perplexity"] == pytest.approx(results["perplexity,none"], rel=TOLERANCE)
        assert result["perplexity_stderr"] == pytest.approx(results["perplexity_stderr,none"], rel=0.5)  # theirs is drawn
        assert 0 < result["acc"] < 1
    else:
        assert result["acc_norm"] == pytest.approx(results["acc_norm,none"], abs=1e-12)
        assert result["acc_norm_stderr"] == pytest.approx(results["acc_norm_stderr,none"], abs=1e-9)
    assert (name == "hellaswag") <= ("longer than --seq-len" in done.stderr)  # some are, and were cropped alike


def test_the_script_runs_lm_eval_on_a_run(model, tasks, theirs, tmp_path):
    if "variant" not in str(model):
        pytest.skip("one model is enough: it takes lm_eval long to start")
    program = os.path.join(os.path.dirname(sys.executable), "lm_eval")
    command = [os.path.join(ROOT, "scripts", "lm_eval.sh"), str(model), "ours_arc", "--include_path", str(tasks),
               "--device", "cpu", "--output_path", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, env=dict(os.environ, LM_EVAL=program), capture_output=True, text=True, timeout=600,
                          check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = tmp_path.rglob("results_*.json")
    found = json.loads(written.read_text())["results"]["ours_arc"]
    assert found["acc,none"] == theirs[0]["ours_arc"]["acc,none"]
