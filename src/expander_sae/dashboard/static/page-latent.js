"use strict";
(() => {
  const { h, put, count, number, percent } = app;
  const PARTS = [["top", "Top"], ["4", "Highest quarter"], ["3", "3rd quarter"], ["2", "2nd quarter"], ["1", "Lowest quarter"]];

  const stat = (name, value, hint) => h("div", { class: "fact", title: hint }, h("dt", {}, name), h("dd", {}, value));

  function facts(d) {
    return h("dl", { class: "facts small" },
      stat("density", percent(d.density), "share of tokens on which it fires"), stat("firings", count(d.firings)),
      stat("largest", number(d.max), "its largest activation"), stat("mean", number(d.mean), "its mean activation where it fires"),
      stat("energy", percent(d.energy), "its share of the squared activation of all latents"),
      stat("token entropy", d.token_entropy === null ? "–" : `${number(d.token_entropy)} bits`, "over the tokens it fires on; 0: one token"),
      stat("specific", `${number(d.specific)} bits`, "how much its firings say about the token: 0 if it fires on tokens as they come"));
  }

  function contexts(d, root) {
    const panel = h("div", { role: "tabpanel", id: "contexts-panel", "aria-labelledby": "tab-top" });
    const present = PARTS.filter(([part]) => d.contexts[part] && d.contexts[part].length);
    if (!present.length) return h("p", { class: "quiet" }, "It never fired on the text that was read: there is nothing to show.");
    const tabs = present.map(([part, name]) =>
      h("button", { type: "button", role: "tab", id: `tab-${part}`, "aria-controls": "contexts-panel", class: "tab", onclick: () => open(part) }, name));
    function open(part) {
      present.forEach(([other], i) => {
        tabs[i].setAttribute("aria-selected", other === part);
        tabs[i].tabIndex = other === part ? 0 : -1;
      });
      panel.setAttribute("aria-labelledby", `tab-${part}`);
      put(panel, app.passages(d.contexts[part], d.max));
      app.remember("latent", [d.latent], { ...app.route().params, part: part === "top" ? "" : part });
    }
    const bar = h("div", { class: "tabs", role: "tablist", "aria-label": "Contexts by activation" }, tabs);
    bar.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!way) return;
      const next = tabs[(tabs.indexOf(document.activeElement) + way + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
    root.openPart = (number) => present[number] && (open(present[number][0]), tabs[number].focus());
    const wanted = app.route().params.part;
    open(present.some(([part]) => part === wanted) ? wanted : present[0][0]);
    return [bar, h("p", { class: "quiet legend" }, "Colour is activation, against its largest:",
      [0.1, 0.35, 0.6, 0.85, 1].map((share) => app.token(` ${Math.round(100 * share)}% `, 1, share))), panel];
  }

  const words = (items, kind) => h("ol", { class: "logits" }, items.map((item) =>
    h("li", {}, app.tokenChip(item.token), app.bar(item.value, Math.abs(item.value) / (Math.abs(items[0].value) || 1), number(item.value)))), items.length ? null : h("li", { class: "quiet" }, `no ${kind} tokens in the store`));

  const card = (title, hint, ...content) => h("section", { class: "card" }, h("h2", {}, title), hint && h("p", { class: "quiet" }, hint), content);

  const near = (view, items, digits = 2) => h("ul", { class: "plain near" }, items.map((item) =>
    h("li", {}, app.latentLine(view, item), app.bar(item.value, item.value, number(item.value, digits)))));

  function support(view, d) {
    if (!d.rows.length) return card("Decoder", null, h("p", { class: "quiet" }, "A dense column: it writes every coordinate."));
    const mine = new Set(d.rows);
    return card("Rows it writes", `${d.rows.length} of ${view.d_in} residual coordinates, and latents that write some of the same.`,
      app.strip({ rows: d.rows, weights: d.weights, d_in: view.d_in, height: 56, label: `Latent ${d.latent} writes coordinates ${d.rows.join(", ")}` }),
      h("div", { class: "strip-ends", "aria-hidden": "true" }, h("span", {}, "0"), h("span", {}, `coordinate`), h("span", {}, view.d_in - 1)),
      d.row_neighbours.length > 0 && h("ul", { class: "plain strips" }, d.row_neighbours.slice(0, 8).map((item) =>
        h("li", {}, app.strip({ rows: item.rows, weights: item.weights, d_in: view.d_in, shared: mine, marks: false, height: 18, label: `Latent ${item.latent} shares ${item.rows.filter((row) => mine.has(row)).length} rows` }),
          h("span", { class: "strip-name" }, app.latentLine(view.name, item), h("small", { class: "quiet" }, `${item.rows.filter((row) => mine.has(row)).length} shared`))))),
      h("details", {}, h("summary", {}, "Weights"), h("table", { class: "narrow" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "coordinate"), h("th", { scope: "col" }, "weight"))),
        h("tbody", {}, d.rows.map((row, i) => h("tr", {}, h("td", {}, row), h("td", {}, number(d.weights[i]))))))));
  }

  function readings(d, signal) {
    if (d.readings.length < 2) return null;
    const box = h("div", { class: "readings" });
    const rows = d.readings.map((r) => h("tr", { class: r.view === d.view ? "here" : "" },
      h("th", { scope: "row" }, app.latentLink(r.view, d.latent, {}, app.shown(r.reading || r.view))), h("td", {}, r.firings ? percent(r.density) : "dead"), h("td", {}, number(r.mean)), h("td", {}, number(r.max)), h("td", {}, percent(r.energy))));
    const show = h("button", { type: "button" }, "Show the contexts side by side");
    show.addEventListener("click", async () => {
      show.disabled = true;
      try {
        const all = await Promise.all(d.readings.map((r) => app.get(`latent/${d.latent}`, { view: r.view }, signal)));
        put(box, all.map((one, i) => h("div", { class: "side" }, h("h3", {}, app.shown(d.readings[i].reading || one.view)), one.firings ? app.passages(one.contexts.top || [], one.max, 6) : h("p", { class: "quiet" }, "It never fires, read so."))));
      } catch (error) {
        if (error.name !== "AbortError") put(box, app.problem(error));
      }
    });
    return card("Read in other ways", "The same column of the same dictionary; only how codes are found differs.",
      h("table", {}, h("thead", {}, h("tr", {}, ["reading", "density", "mean", "largest", "energy"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)), show, box);
  }

  const matches = (d) => d.matches.length > 0 && card("In other dictionaries", "The nearest direction of each.", h("ul", { class: "plain near" }, d.matches.map((m) =>
    h("li", {}, h("span", { class: "quiet" }, app.shown(m.view), " "), app.latentLine(m.view, m), app.bar(m.cosine, m.cosine, number(m.cosine, 2))))));

  const score = (one) => Object.entries(one.scores || {}).filter(([, s]) => s.balanced_accuracy !== undefined).map(([name, s]) =>
    h("small", { class: "quiet" }, ` ${name} ${number(s.balanced_accuracy, 2)}${s.null === undefined || s.null === null ? "" : ` (chance ${number(s.null, 2)})`}`));

  const explanations = (d) => d.explanations.length > 0 && h("ul", { class: "plain explanations" }, d.explanations.map((one) =>
    h("li", {}, h("span", { class: "method" }, app.shown(one.method)), " ", app.shown(one.text, 500), score(one))));

  function histogram(d) {
    if (!d.firings) return null;
    return card("Activations", null, app.histogram({ counts: d.histogram, label: `Histogram of ${count(d.firings)} activations from 0 to ${number(d.histogram_top)}`,
      ticks: [[0, "0"], [0.5, number(d.histogram_top / 2)], [1, number(d.histogram_top)]],
      tip: (i) => `${number((i * d.histogram_top) / d.histogram.length)} to ${number(((i + 1) * d.histogram_top) / d.histogram.length)}: ${count(d.histogram[i])} firings` }),
      h("p", { class: "quiet" }, "Heights are square roots of counts."));
  }

  app.pages.latent = {
    name: "Latent",
    async draw(root, route, signal) {
      const view = app.view(route.params);
      const j = Number(route.args[0]);
      if (!Number.isInteger(j) || j < 0 || j >= view.n_latents) throw new Error(`Latents of this view are 0 to ${view.n_latents - 1}; got ${app.plain(route.args[0] || "none", 50)}.`);
      const d = await app.get(`latent/${j}`, { view: view.name }, signal);
      const step = (by) => (j + by + view.n_latents) % view.n_latents;
      const use = (page, text) => app.store.live.enabled && h("a", { class: "button", href: app.link(page, [], { view: view.name, latent: j }) }, text);
      put(root,
        h("div", { class: "title-row" }, h("h1", {}, `Latent ${j}`), h("span", { class: "quiet" }, app.shown(view.name)), d.dead && h("span", { class: "badge" }, "dead"),
          h("nav", { class: "steps", "aria-label": "Neighbouring numbers" }, use("steer", "Steer"), use("ablate", "Ablate"),
            h("a", { class: "button", id: "previous-latent", href: app.link("latent", [step(-1)], { view: view.name }), "aria-label": `Latent ${step(-1)}` }, "‹"),
            h("a", { class: "button", id: "next-latent", href: app.link("latent", [step(1)], { view: view.name }), "aria-label": `Latent ${step(1)}` }, "›"))),
        app.labelEditor(view.name, j, d.label), explanations(d), facts(d),
        h("div", { class: "latent-columns" },
          h("section", { class: "contexts" }, h("h2", {}, "Contexts"), contexts(d, root), readings(d, signal)),
          h("div", { class: "side-column" },
            card("Tokens it fires on", null, h("ol", { class: "logits" }, d.top_tokens.map((t) => h("li", { title: `mean activation ${number(t.mean)}` }, app.tokenChip(t.token), app.bar(1, t.firings / (d.top_tokens[0].firings || 1), `${count(t.firings)}×`))))),
            card("What it writes to the logits", "Through the final norm and the unembedding.", h("div", { class: "two tight" }, h("div", {}, h("h3", {}, "promoted"), words(d.promoted, "promoted")), h("div", {}, h("h3", {}, "suppressed"), words(d.suppressed, "suppressed")))),
            histogram(d), support(view, d),
            d.nearest.length > 0 && card("Nearest directions", "Cosine of decoder columns.", near(view.name, d.nearest)),
            d.together.length > 0 && card("Fires together with", null, near(view.name, d.together)),
            matches(d))));
    },
  };
})();
