"""Model files: writing, reading and running .tflite, and frozen backbones.

Belongs here: the file format and the runtimes. Does not: training (`domain.nn`), swapping models
(`services.inference`).
"""
