"""Indirect object identification: Wang et al. (2022), arXiv:2211.00593. Start with README.md."""
