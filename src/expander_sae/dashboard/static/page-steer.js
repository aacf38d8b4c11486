"use strict";
(() => {
  const { h, put, number } = app;

  app.pages.steer = {
    name: "Steer",
    live: true,
    async draw(root, route, signal) {
      if (app.needsModel(root, "Steer")) return;
      const view = app.view(route.params);
      const p = route.params;
      const prompt = app.promptBox(p.text || "The best thing about the old town is", "Prompt", 3);
      const strength = h("input", { type: "range", min: -4, max: 8, step: 0.25, value: p.strength || 2, id: "strength", list: "strength-marks" });
      const how = app.select([["clamp", "clamp: it has this activation on every token"], ["add", "add: this much more of it on every token"]], p.how || "clamp");
      const tokens = h("input", { type: "number", min: 1, max: 128, value: p.tokens || 40, id: "tokens" });
      const heat = h("input", { type: "number", min: 0, max: 2, step: 0.1, value: p.temperature || 0 });
      const seed = h("input", { type: "number", min: 0, max: 999999, value: p.seed || 0 });
      const value = h("output", { for: "strength" });
      const said = h("p", { class: "quiet" });
      const result = h("div", { class: "two" });
      const picker = app.latentPicker(view, p.latent ?? 0, signal, tell);
      function tell() {
        const max = picker.known.item ? picker.known.item.max : null;
        value.textContent = `${number(Number(strength.value), 3)} × its largest${max ? ` = ${number(Number(strength.value) * max)}` : ""}`;
      }
      strength.addEventListener("input", tell);
      tell();
      const runner = app.runner("Generate", async (stop) => {
        const asked = { latent: Number(picker.input.value), strength: Number(strength.value), how: how.value, tokens: Number(tokens.value), temperature: Number(heat.value), seed: Number(seed.value) };
        app.remember("steer", [], { view: view.name, ...asked, text: prompt.value.slice(0, 1500) });
        const plain = h("p", { class: "generated" }, h("span", { class: "given" }, app.shown(prompt.value, 4000)));
        const steered = h("p", { class: "generated" }, h("span", { class: "given" }, app.shown(prompt.value, 4000)));
        put(result, h("section", { class: "card" }, h("h2", {}, "As it is"), plain), h("section", { class: "card steered" }, h("h2", {}, "Steered"), steered));
        put(said);
        await app.stream("live/steer", { view: view.name }, { prompt: prompt.value, ...asked }, (part) => {
          if (part.plain) plain.append(app.shown(part.plain));
          if (part.steered) steered.append(app.shown(part.steered));
          if (part.note) put(said, app.shown(part.note, 500));
        }, stop);
      });
      const form = h("form", { class: "live-form" }, app.field("Prompt", prompt, "Ctrl+Enter generates."), picker.field,
        h("div", { class: "search-more" }, app.field("Strength", h("span", { class: "range" }, strength, value)), app.field("How", how)),
        h("div", { class: "search-more" }, app.field("Tokens", tokens), app.field("Temperature", heat, "0: the likeliest token"), app.field("Seed", seed)), runner.bar);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        runner.run(signal);
      });
      app.sendable(form);
      put(root, h("h1", {}, "Steer"), app.hookLine(view), form, said, result);
    },
  };
})();
