"""The trainer's arithmetic: layers, model, loss, in numpy, explicit forward and backward."""
