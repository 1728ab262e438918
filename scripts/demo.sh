#!/usr/bin/env bash
# Does it learn? Trains `tiny` about two minutes on two cores, on text whose entropy is known.
#
# Called by `make demo`; installs nothing. Everything it makes is in build/demo/. Exit 0 only if the loss ends
# within 10 % of the floor, while the best model that counts byte triples stays 50 % above it.
# DEMO_STEPS=N takes another number of steps, DEMO_DTYPE=bf16 another type.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=build/demo
steps=${DEMO_STEPS:-1600}
[[ $steps =~ ^[1-9][0-9]{0,8}$ ]] || { echo "demo.sh: DEMO_STEPS='$steps': a number of steps is needed" >&2; exit 2; }

[ -x ./train_gpt ] || { echo "demo.sh: there is no ./train_gpt yet: run make first" >&2; exit 1; }

if [ ! -e $folder/language.json ] || [ data/language.py -nt $folder/language.json ] \
    || [ data/grammar.py -nt $folder/language.json ]; then
    echo "Making the synthetic language …"
    python3 data/language.py --out $folder
fi

# share N: a run of DEMO_STEPS is that of 1,600 in small.
share() {
    echo $((steps > $1 ? steps / $1 : 1))
}

rm -rf $folder/run
./train_gpt --preset tiny \
    --train-data "$folder/language_train_*.bin" --val-data "$folder/language_val_*.bin" \
    --out $folder/run --steps "$steps" --batch-size 16 --lr 2e-3 --warmup-steps "$(share 20)" --lr-final-frac 0.05 \
    ${DEMO_DTYPE:+--dtype "$DEMO_DTYPE"} --beta2 0.99 --val-every "$(share 4)" --val-batches 100 --log-every "$(share 16)"

for prompt in "where is otto?" "mira has 3 plums and 4 more:" "the cats (near this wasp"; do
    echo
    echo "── The model goes on from \"$prompt\":"
    ./train_gpt --preset tiny --out $folder/run --resume auto --generate "$prompt" --max-new-tokens 160
done
echo

if python3 -c 'import matplotlib' 2>/dev/null; then
    python3 scripts/plot.py $folder/run/metrics.jsonl --floor $folder/language.json --out $folder/run/loss.png
else
    echo "No loss.png: matplotlib is not installed (python3-matplotlib)."
fi

exec python3 scripts/demo_verdict.py $folder/run/metrics.jsonl $folder/language.json
