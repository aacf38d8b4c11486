-- Made once everything is written.
CREATE INDEX by_firings ON latents(view, firings);
CREATE INDEX by_max ON latents(view, max);
CREATE INDEX by_energy ON latents(view, energy);
CREATE INDEX by_specific ON latents(view, specific);
CREATE INDEX by_token ON top_tokens(token, view, latent, firings);
