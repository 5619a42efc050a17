# Two commands: `make train` trains the default model, `make test` runs the tests. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PEERS := .venv-peers

MPIS := mpich openmpi

# One process a core; with more than eight, each would get less than four of the default job's 32 samples a step.
RANKS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 8))')
LAUNCH = $(VENV)/bin/tinydl launch -n $(RANKS) --
MPI_WORKS = $(VENV)/bin/python -c 'import tinydl; tinydl.distributed.world().barrier()'

# The tests of several processes run with both MPIs, each in a light environment of its own.
MPI_READY := $(MPIS:%=.venv-%/.ready)
WITH_MPI = TINYDL_MPI_PYTHONS="$$(ls $(MPIS:%=.venv-%/bin/mpiexec) 2>/dev/null | sed 's|^|$(CURDIR)/|; s|mpiexec$$|python|' | paste -sd:)"

# The CUDA kernels are tested without a GPU: in Numba's simulator, and by assembling them. Nothing of CUDA is
# needed but a compiler and an assembler, which numba-cuda finds in packages of their own.
CUDA := .venv-cuda
CUDA_NEEDS := "numba-cuda>=0.30,<0.40" "cuda-bindings==13.*" "cuda-core<2" "cuda-pathfinder<2" \
	"nvidia-nvvm==13.*" "nvidia-nvjitlink==13.*" "nvidia-cuda-nvrtc==13.*"
WITH_CUDA = TINYDL_CUDA_PYTHON="$$(ls $(CURDIR)/$(CUDA)/.ready 2>/dev/null | sed 's|.ready$$|bin/python|')"

.PHONY: train test test-cluster test-cuda test-peers lint setup clean

# RANKS=1 trains in one process, without MPI.
train: $(READY)
	@if [ $(RANKS) -gt 1 ] && $(LAUNCH) $(MPI_WORKS) 2>/dev/null; then \
		echo $(LAUNCH) tinydl train $(ARGS); $(LAUNCH) $(VENV)/bin/tinydl train $(ARGS); \
	else \
		echo tinydl train $(ARGS), in one process; $(VENV)/bin/tinydl train $(ARGS); \
	fi

test: $(READY) $(MPI_READY) $(CUDA)/.ready
	$(WITH_MPI) $(WITH_CUDA) $(VENV)/bin/python -m pytest $(ARGS)

# Ranks on emulated hosts behind a shaped link: needs root and iproute2.
test-cluster: $(READY) $(MPI_READY)
	$(WITH_MPI) TINYDL_TEST_CLUSTER=1 $(VENV)/bin/python -m pytest tests/distributed/test_cluster.py $(ARGS)

# All kernels for GPUs, where `make test` assembles the most demanding ones.
test-cuda: $(CUDA)/.ready
	TINYDL_TEST_ALL_CUDA_KERNELS=1 $(WITH_CUDA) $(VENV)/bin/python -m pytest tests/kernels/cuda $(ARGS)

# The same layers, losses and optimizers against PyTorch, which is never a dependency: an environment of its own.
test-peers: $(PEERS)/.ready
	$(PEERS)/bin/python -m pytest --override-ini="addopts=--strict-markers -ra" tests/peers $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

setup: $(READY)

$(READY): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	$(VENV)/bin/python -m pip install --quiet --editable '.[mpi]' || echo "no MPI for this machine: one process only"
	touch $@

# What is not installed into the environment $(1) is read from the main one.
define share_main
$(VENV)/bin/python -c "import sysconfig as s; print('import site; site.addsitedir(%r)' % s.get_paths()['purelib'])" \
	> "$$($(1)/bin/python -c "import sysconfig as s; print(s.get_paths()['purelib'])")/main.pth"
endef

# Where an MPI, or CUDA's tools, cannot be had, the tests with them are skipped, and the next `make test` tries again.
$(CUDA)/.ready: $(READY)
	$(PYTHON) -m venv $(CUDA)
	@if $(CUDA)/bin/python -m pip install --quiet --no-deps $(CUDA_NEEDS); then \
		$(call share_main,$(CUDA)) && touch $@; \
	else echo "no numba-cuda for this machine: tests of the CUDA kernels are skipped"; fi

.venv-%/.ready: $(READY)
	$(PYTHON) -m venv .venv-$*
	@if .venv-$*/bin/python -m pip install --quiet mpi4py $*; then \
		$(call share_main,.venv-$*) && touch $@; \
	else echo "no $* for this machine: tests with it are skipped"; fi

$(PEERS)/.ready: pyproject.toml setup.py
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0 prodigyopt schedulefree --editable '.[data,test]'
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(CUDA) $(MPIS:%=.venv-%) build *.egg-info
