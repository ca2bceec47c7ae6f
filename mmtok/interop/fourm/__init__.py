"""4M and 4M-21 (Mizrahi et al. 2023; Bachmann et al. 2024): checkpoints, modalities and texts."""
