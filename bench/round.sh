#!/bin/sh
# One round of a study, for a machine that is lent for minutes: check it, warm it up, measure, tell.
# usage: bench/round.sh STUDY.toml HOURS [RESULTS]
set -e
study=$1 hours=$2 results=${3:-data/results}
run="${PYTHON:-python3} -m fasttricks"
budget=$(sed -n 's/^budget = "\(.*\)"/\1/p' "$study")

$run info
echo "Warming up (letters weights are made now, where the model has none)"
$run train --tricks all --pretrain --budget "$budget" --images 2560 --share-devices
$run bench "$study" --hours "$hours" --results "$results"
$run report --results "$results"
