"""Samples to arrays: mini-batches, frozen features, and mini-batches of live samples.

Belongs here: decoding and normalising for the trainer. Does not: choosing samples (`services.epochs`).
"""
