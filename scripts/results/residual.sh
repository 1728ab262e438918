#!/usr/bin/env bash
# What does a variant do to the residual stream? Trains four byte models of 12 layers on the synthetic language (500 steps
# of 0.13 s each on one free core), and draws residual.png: the stream's rms over layer and step. Goes on where it was cut.
#
#     scripts/results/residual.sh [FOLDER]       out/residual
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/residual}

program=${TRAIN_GPT:-./train_gpt}
[ -x "$program" ] || { echo "residual.sh: there is no $program yet: run make first" >&2; exit 1; }
[ -e "$out/data/language.json" ] || python3 data/language.py --out "$out/data"

train() { # NAME FLAG…
    "$program" --arch llama --vocab-size 256 --seq-len 64 --n-layer 12 --n-embd 64 --n-head 4 --batch-size 8 --threads 1 \
        --train-data "$out/data/language_train_*.bin" --val-data "$out/data/language_val_*.bin" --val-every 100 --val-batches 10 \
        --lr 4e-3 --warmup-steps 30 --lr-schedule constant --steps 500 --stats-every 10 --log-every 50 --out "$out/$1" --resume auto "${@:2}"
}

train "pre"
train "pre + GPAS" --gpas sublayer
train "post + SDD" --placement post --sdd released --sdd-init-scale 0.1
train "BHyT" --norm bhyt

scripts/plot.py "$out/pre" "$out/pre + GPAS" "$out/post + SDD" "$out/BHyT" --only heat --fields residual_rms \
    --title "rms of the residual stream after each layer" --out scripts/results/residual.png
