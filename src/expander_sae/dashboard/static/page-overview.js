"use strict";
(() => {
  const { h, count, number, percent } = app;

  const fact = (name, value, hint) => h("div", { class: "fact" }, h("dt", {}, name), h("dd", {}, value), hint && h("dd", { class: "hint" }, hint));

  const between = (edges, i) => `${number(10 ** edges[i], 2)} to ${number(10 ** edges[i + 1], 2)}`;

  // Without the empty bins at both ends.
  function trimmed({ edges, counts }) {
    const first = Math.max(0, counts.findIndex((n) => n > 0) - 1);
    const last = Math.min(counts.length, counts.findLastIndex((n) => n > 0) + 2);
    return { edges: edges.slice(first, last + 1), counts: counts.slice(first, last) };
  }

  function distribution(title, words, whole, linkOf) {
    const { edges, counts } = trimmed(whole);
    const link = linkOf && ((i) => linkOf(10 ** edges[i], 10 ** edges[i + 1]));
    const decades = app.decades(edges[0], edges[edges.length - 1]);
    return h("section", { class: "card" }, h("h2", {}, title), h("p", { class: "quiet" }, words),
      app.histogram({ counts, ticks: decades, link, label: `${title}: ${count(counts.reduce((a, b) => a + b, 0))} latents, most of them at ${between(edges, counts.indexOf(Math.max(...counts)))}`,
        tip: (i) => `${between(edges, i)}: ${count(counts[i])} latents` }));
  }

  app.pages.overview = {
    name: "Overview",
    async draw(root, route, signal) {
      const view = app.view(route.params);
      const overview = await app.get("overview", { view: view.name }, signal);
      const places = await app.get("places", { view: view.name }, signal);
      const meta = app.store.meta;
      const search = (params) => app.link("search", [], { view: view.name, ...params });
      app.put(root,
        h("h1", {}, app.shown(view.name)),
        h("p", { class: "lead" }, count(view.n_latents), " latents of ", view.degree ? `degree ${view.degree}` : "a dense dictionary",
          ` on ${view.d_in} coordinates, k = ${view.k}, of `, app.shown(meta.model_id || "an unnamed model"), ", ", app.shown(meta.hook || "unknown place"), "."),
        h("dl", { class: "facts" },
          fact("tokens read", count(view.tokens)),
          fact("alive", count(overview.alive), percent(overview.alive / view.n_latents)),
          fact("dead", h("a", { href: search({ alive: "dead" }) }, count(overview.dead)), percent(overview.dead / view.n_latents)),
          fact("unexplained variance", number(view.fvu), "FVU, 0 is perfect"),
          fact("read by", app.shown(view.reading || "–")),
          fact("SAE", app.shown(view.sae || view.kind))),
        h("div", { class: "overview-columns" },
          places.n > 0 && h("section", { class: "card" }, h("h2", {}, "Map"),
            h("p", { class: "quiet" }, "Latents whose directions are alike lie near each other. Click one to open it; drag to move; Ctrl and the wheel, or + and −, to enlarge."),
            app.map(view.name, places, async (j) => (await app.get("summaries", { view: view.name, latents: j })).items[0])),
          h("div", {},
            distribution("Density", "Share of the tokens on which a latent fires. A bar opens its latents.", overview.density,
              (lo, hi) => search({ lo: lo.toPrecision(6), hi: Math.min(1, hi).toPrecision(6) })),
            distribution("Energy", "A latent's share of the squared activations of all.", overview.energy))),
        h("section", { class: "card" }, h("h2", {}, "Where to begin"), h("ul", { class: "plain" },
          h("li", {}, h("a", { href: search({ order: "specific" }) }, "The most specific latents"), h("span", { class: "quiet" }, " – those whose firings few tokens account for")),
          h("li", {}, h("a", { href: search({ order: "energy" }) }, "Those with the most energy"), h("span", { class: "quiet" }, " – what the dictionary spends itself on")),
          h("li", {}, h("a", { href: search({ order: "density" }) }, "Those that fire most")),
          h("li", {}, h("a", { href: search({ labelled: "1" }) }, "Those with a label or a star")))));
    },
  };
})();
