"""Did the demo's model learn the language? Prints the demo's last two lines; the exit code is the answer.

    demo_verdict.py RUN/metrics.jsonl language.json
"""
import json
import math
import sys

LOSS_OVER_FLOOR = 1.10  # a model may be this far above the floor
COUNTS_OVER_FLOOR = 1.50  # and counting triples must stay this far above it, or the language was too easy
NOISE = 0.03  # a loss so far below the floor is no luck: 200,000 tokens of validation vary by about 0.3 %


def final_validation_loss(path):
    loss = math.nan
    with open(path) as file:
        for line in file:
            record = json.loads(line)
            if record.get("type") == "val":
                loss = record["loss"] if isinstance(record["loss"], (int, float)) else math.nan
    return loss


def main(metrics, facts_path):
    with open(facts_path) as file:
        facts = json.load(file)
    floor, counts = facts["floor_nats_per_token"], facts["order2_nats_per_token"]
    loss = final_validation_loss(metrics)
    wrong = ""
    if not loss <= LOSS_OVER_FLOOR * floor:
        wrong = "the loss is more than %.2f × the floor" % LOSS_OVER_FLOOR
    elif loss < (1 - NOISE) * floor:
        wrong = "the loss is below the floor, which is impossible"
    elif counts < COUNTS_OVER_FLOOR * floor:
        wrong = "the count model is less than %.2f × the floor" % COUNTS_OVER_FLOOR
    if wrong:
        print("demo: FAILED: %s" % wrong)
    print("demo: order-2 count model %.3f nats/token" % counts)
    print("demo: val loss %.3f nats/token, floor %.3f" % (loss, floor))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
