"""Shared by all tests."""

import torch

# Test processes share the cores, and more threads than cores make everything many times slower. Tests of threading
# set their own number.
torch.set_num_threads(1)
