"""Servers that `edged demo` starts for itself, as child processes.

Here belongs what runs on this machine, for one run. Not what nodes speak to them: `kafka`, `mqtt`, `hdfs`, `s3`.
"""
