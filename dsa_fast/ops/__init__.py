"""Operators: one module per operator with its signature, checks, fake and autograd registration."""
