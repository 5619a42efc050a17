#!/bin/sh
# Everything in results/ that many processes took part in, measured anew: about ten minutes on a quiet machine.
#   benchmarks/measure_distributed.sh MPI_PYTHON [TORCH_PYTHON]
# MPI_PYTHON has mpi4py and an mpiexec beside it (make test leaves .venv-mpich/bin/python and .venv-openmpi/bin/python),
# TORCH_PYTHON has PyTorch (.venv-peers/bin/python). As root it measures over emulated links, too. PYTHON=… runs the
# scripts themselves.
set -e
mpi=${1:?usage: benchmarks/measure_distributed.sh MPI_PYTHON [TORCH_PYTHON]}
torch=$2
here=$(dirname "$0")/distributed

measure() {
    script=$1
    shift
    "${PYTHON:-python3}" "$here/$script.py" --mpi-python "$mpi" "$@"
}

measure weak_scaling
measure weak_scaling --way none --way thread --way poll --name overlap-shared-memory cnn:64 mlp-5m:256
measure allreduce
measure drift
measure kills
if [ "$(id -u)" = 0 ]; then
    measure overlap
    measure wire
    measure network
    measure scaling
fi
if [ -n "$torch" ]; then
    measure against_ddp --peer-python "$torch"
    [ "$(id -u)" != 0 ] || measure against_ddp --peer-python "$torch" --rate 1gbit lenet:64 cnn-wide:128 mlp-5m:32
fi
