#!/bin/sh
# Everything in results/, measured anew: about fifteen minutes on a quiet machine.
#   benchmarks/measure.sh [PYTHON] [FOLDER]      PYTHON: one that has torch, for it to take part
# EXTRA="--clock cpu" for the runs with one thread, where other programs use the machine, too.
set -e
python=${1:-python3}
folder=${2:-$(dirname "$0")/results}

bench() {
    name=$1
    shift
    "$python" -m tinydl bench "$@" --output "$folder" --name "$name"
}

"$python" -m tinydl doctor
bench matmul-float32-1-thread matmul --seconds 0.2 $EXTRA
bench matmul-float64-1-thread matmul --dtype float64 --seconds 0.2 $EXTRA
bench matmul-float32-avx2-1-thread matmul --instructions avx2 --peer openblas --seconds 0.2 $EXTRA
bench conv2d-float32-1-thread conv2d $EXTRA
bench passes-float32-1-thread passes $EXTRA
bench step-float32-1-thread step $EXTRA
bench ladder-matmul ladder matmul --shape 1024 $EXTRA
bench ladder-conv2d ladder conv2d $EXTRA
bench roofline-float32-1-thread roofline $EXTRA
bench matmul-float32-2-threads matmul --threads 2 --peer openblas --peer torch
bench conv2d-float32-2-threads conv2d --threads 2
bench step-float32-2-threads step --threads 2
