"""Everything third-party and everything outside the process: one module per client, behind a port.

Foreign exceptions are translated here; retries happen here, and only here.
"""
