"""What training sees of a mixture; names only, so that a command's help does not load PyTorch.

straight    the hard weight, as deployed, with the gradients of the posterior's soft weight
hard_finish posterior, and straight in the last fifth of the training
posterior   the soft weight ``sum_k softmax_k(log density / temperature) mean_k``
paper       the published soft weight (Dong et al., ICML 2022), temperature 0.01
"""

from __future__ import annotations

FORMS = ("straight", "hard_finish", "posterior", "paper")
