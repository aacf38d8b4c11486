"""Expander sparse autoencoders."""
