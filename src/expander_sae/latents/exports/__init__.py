"""Latents for other tools: Neuronpedia, SAEDashboard, delphi. docs/guides/exports-of-latents.md says what each gets."""
