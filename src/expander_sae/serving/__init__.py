"""HTTP for monitors: texts or activations in, top latents out; requests that come together share one forward pass."""
