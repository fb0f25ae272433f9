"""Computes a model's layers by compiled kernels, where this machine has them.

`build` compiles kernels.c when edged is installed, and never later; `library` loads what was compiled, and checks that
it fits this CPU, this code and this source. Where either has a reason not to, numpy computes alone.
"""
