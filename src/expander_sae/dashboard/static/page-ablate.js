"use strict";
(() => {
  const { h, put, number, percent } = app;

  app.pages.ablate = {
    name: "Ablate",
    live: true,
    async draw(root, route, signal) {
      if (app.needsModel(root, "Ablate")) return;
      const view = app.view(route.params);
      const p = route.params;
      const prompt = app.promptBox(p.text || "In the spring of 1913 the river", "Prompt", 3);
      const picker = app.latentPicker(view, p.latent ?? 0, signal);
      const result = h("div", {});
      const runner = app.runner("Take it away", async (stop) => {
        const latent = Number(picker.input.value);
        app.remember("ablate", [], { view: view.name, latent, text: prompt.value.slice(0, 1500) });
        show(await app.send("POST", "live/ablate", { view: view.name }, { prompt: prompt.value, latent }, stop));
      });
      function show(found) {
        const most = Math.max(1e-9, ...found.tokens.map((token) => Math.abs(token.value)));
        const far = Math.max(1e-9, ...found.tokens.map((token) => token.kl));
        const top = Math.max(...found.next.map((one) => Math.max(one.before, one.after)), 1e-9);
        put(result,
          h("section", { class: "card" }, h("h2", {}, "Where it fires, and what its absence changes"),
            found.note && h("p", { class: "problem" }, app.shown(found.note, 500)),
            found.fires === 0 ? h("p", { class: "problem" }, "It fires nowhere in this text, so nothing changes.") : h("p", { class: "quiet" }, `It fires on ${found.fires} of ${found.tokens.length} tokens. Colour: its activation. Lines below: how far the next token's distribution moves (KL, at most ${number(far)} nats).`),
            h("p", { class: "passage large kl" }, found.tokens.map((token) => {
              const span = app.token(token.text, token.value, token.value / most, {});
              const box = h("span", { class: "kl-token", style: { "--kl": (token.kl / far).toFixed(3) } }, span);
              app.tipFor(box, () => [h("span", { class: "tip-token" }, app.tokenChip(token.text)), token.value ? `fires: ${number(token.value)}` : "silent", h("small", {}, `KL of what comes next: ${number(token.kl)} nats`)]);
              return box;
            }))),
          h("section", { class: "card" }, h("h2", {}, "The next token, after the last"),
            h("div", { class: "table-box" }, h("table", {}, h("thead", {}, h("tr", {}, ["token", "as it is", "without it", "change"].map((name) => h("th", { scope: "col" }, name)))),
              h("tbody", {}, found.next.map((one) => h("tr", {}, h("td", {}, app.tokenChip(one.token)), h("td", {}, app.bar(1, one.before / top, percent(one.before))), h("td", {}, app.bar(1, one.after / top, percent(one.after))),
                Math.abs(one.after - one.before) < 1e-5 ? h("td", { class: "quiet" }, "none") : h("td", { class: one.after < one.before ? "down" : "up" }, `${one.after >= one.before ? "+" : "−"}${number(100 * Math.abs(one.after - one.before), 2)} pp`))))))));
      }
      const form = h("form", { class: "live-form" }, app.field("Prompt", prompt, "Ctrl+Enter runs it."), picker.field, runner.bar);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        runner.run(signal);
      });
      app.sendable(form);
      put(root, h("h1", {}, "Ablate"), app.hookLine(view), form, result);
      if (p.text && p.latent) runner.run(signal);
    },
  };
})();
