"""Squared error and its gradients."""

from .api import ReconstructionLoss, reconstruction_loss

__all__ = ["ReconstructionLoss", "reconstruction_loss"]
