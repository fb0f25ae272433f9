"""A model's layers by compiled kernels, where this machine has them; `domain.nn` is the reference and the fallback.

`build` compiles kernels.c when edged is installed, and never later; `library` loads what was compiled, and checks that
it fits this CPU, this code and this source. Where either has a reason not to, numpy computes alone.
"""
