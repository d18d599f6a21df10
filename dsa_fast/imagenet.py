"""The normalization of networks trained on ImageNet, shared by transforms and models."""

MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
"""Mean R, G, B of ImageNet in [0, 1]. It is subtracted before the network, so 0 is the mean color."""

STD: tuple[float, float, float] = (0.229, 0.224, 0.225)
"""Standard deviation of R, G, B of ImageNet in [0, 1]."""
