"""BYOL: self-supervised pre-training of a backbone (Grill et al. 2020, https://arxiv.org/abs/2006.07733)."""
