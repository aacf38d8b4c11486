"""Latents for other tools: Neuronpedia, SAEDashboard, delphi. docs/exports-of-latents.md says what each gets."""
