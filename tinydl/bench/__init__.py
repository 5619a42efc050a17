"""Measuring: how fast the kernels and whole training steps are, and how sure one can be of it.

A speed is never a number alone. It is a ratio to a peer that did the same work on the same machine in the same
minutes, with an interval that says how far it can be trusted:

    operations/     what is measured: matmul, conv2d, passes over memory, training steps; each by tinydl and by peers
    worker          a child process with threads and BLAS set up before anything is imported, which times calls
    contenders      who takes part, and who may share a process with whom
    rounds          contenders take turns, so that a slow minute of the machine hits all alike
    statistics      medians, ratios of paired rounds, bootstrap intervals, geometric means
    peaks           what the machine could do at most: multiply-adds a second, bytes a second
    results         all of it as JSON, and the comparison with an earlier file
    tables, pictures

``tinydl bench`` is its command line (tinydl/cli/bench.py).
"""
