"""Samples and what they travel in: payloads and their codecs, packs, cursors, predictions.

Belongs here: values and their strict encoding. Does not: which samples an epoch draws (`domain.epochs`), what the
archive holds of them (`domain.archive`).
"""
