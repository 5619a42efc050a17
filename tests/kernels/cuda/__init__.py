import os

# There are some two hundred kernels, a second each: a test run takes those that need most of a GPU, and
# `make test-cuda` all.
ALL = "TINYDL_TEST_ALL_CUDA_KERNELS" in os.environ
