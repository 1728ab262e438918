#!/usr/bin/env bash
# What does EleutherAI's lm_eval make of a run? It loads the run's newest checkpoint through transformers.
#
#   scripts/lm_eval.sh RUN TASKS [ARGUMENTS OF lm_eval …]
#   scripts/lm_eval.sh out/run hellaswag,arc_easy --batch_size 8
#   scripts/lm_eval.sh out/run my_task --include_path my_tasks    a task of one's own, no network
#
# RUN is a run, a checkpoint, or another directory with config.json, model.safetensors and tokenizer files; a run whose
# data were made without a tokenizer takes one from TOKENIZER=DIR. LM_EVAL says which lm_eval (pip install "lm_eval[hf]").
# The same questions without it: data/prepare_eval.py, then train_gpt --eval.
set -euo pipefail

fail() {
    echo "lm_eval.sh: $1" >&2
    exit 2
}

[ $# -ge 2 ] || fail "usage: lm_eval.sh RUN TASKS [ARGUMENTS OF lm_eval …]"
run=$1 tasks=$2
shift 2
lm_eval=${LM_EVAL:-lm_eval}
command -v "$lm_eval" > /dev/null ||
    fail "'$lm_eval' is not there: pip install \"lm_eval[hf]\", or say LM_EVAL=…/bin/lm_eval"
folder=$run
[ -e "$folder/config.json" ] || folder=$run/latest
[ -e "$folder/config.json" ] ||
    fail "$run holds no config.json, and neither does $run/latest: is it a run with a checkpoint?"
case $folder in *[,=]*) fail "$folder: lm_eval cannot be given a name with a comma or '='" ;; esac
arguments=pretrained=$folder,trust_remote_code=True
if [ -n "${TOKENIZER:-}" ]; then
    arguments+=,tokenizer=$TOKENIZER
else
    [ -e "$folder/tokenizer.json" ] || fail "$folder holds no tokenizer.json: TOKENIZER=DIR names a directory that does"
fi
exec "$lm_eval" --model hf --model_args "$arguments" --tasks "$tasks" "$@"
