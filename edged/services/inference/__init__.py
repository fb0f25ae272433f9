"""The companion: serving the newest model to the devices' samples, in a process of its own.

Belongs here: prediction, model swaps, their report. Imports no other service. Does not: running a .tflite file
(`adapters.tflite`).
"""
