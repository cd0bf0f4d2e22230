"""BYOL: learning a backbone from images without labels (Grill et al. 2020, https://arxiv.org/abs/2006.07733)."""
