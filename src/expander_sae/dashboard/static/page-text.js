"use strict";
(() => {
  const { h, put, number } = app;
  const EXAMPLE = "The river rose after three days of rain, and in March 1913 the town had to leave its houses.";

  app.pages.text = {
    name: "Text",
    live: true,
    async draw(root, route, signal) {
      if (app.needsModel(root, "Latents on a text")) return;
      const view = app.view(route.params);
      const prompt = app.promptBox(route.params.text || EXAMPLE);
      const result = h("div", {});
      let chosen = route.params.latent ? Number(route.params.latent) : null;
      const runner = app.runner("Show what fires", async (stop) => {
        app.remember("text", [], { view: view.name, text: prompt.value.slice(0, 1500), latent: chosen });
        show(await app.send("POST", "live/fire", { view: view.name }, { text: prompt.value }, stop));
      });

      function show(found) {
        const about = new Map(found.latents.map((item) => [item.latent, item]));
        const passage = h("p", { class: "passage large", "aria-label": "The text, token by token" });
        const detail = h("div", { class: "token-detail", "aria-live": "polite" });
        const list = h("ul", { class: "plain near latents-here" });
        let at = null;
        const valueOf = (token, j) => (token.latents.find(([other]) => other === j) || [0, 0])[1];
        const strongest = (token) => (token.latents.length ? token.latents.reduce((best, one) => (one[1] / (about.get(one[0]).max || 1) > best[1] / (about.get(best[0]).max || 1) ? one : best)) : null);

        function paint() {
          const max = chosen === null ? 0 : Math.max(about.has(chosen) ? about.get(chosen).max : 0, ...found.tokens.map((token) => Math.abs(valueOf(token, chosen))));
          put(passage, found.tokens.map((token, i) => {
            const best = strongest(token);
            const value = chosen === null ? (best ? best[1] : 0) : valueOf(token, chosen);
            const share = chosen === null ? (best ? best[1] / (about.get(best[0]).max || best[1]) : 0) : value / (max || 1);
            const span = app.token(token.text, value, share, { role: "button", tabindex: i === (at ?? 0) ? 0 : -1, "aria-pressed": i === at });
            span.classList.toggle("unread", !token.read);
            span.classList.toggle("picked-token", i === at);
            app.tipFor(span, () => [h("span", { class: "tip-token" }, app.tokenChip(token.text)), !token.read ? "not read: first or special token" : chosen === null ? `${token.latents.length} latents fire` : value ? number(value) : "silent"]);
            span.addEventListener("click", () => pick(i));
            span.addEventListener("keydown", (event) => {
              const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
              if (event.key === "Enter" || event.key === " ") {
                event.preventDefault();
                pick(i);
              } else if (way && passage.children[i + way]) {
                event.preventDefault();
                pick(i + way);
              }
            });
            return span;
          }));
        }
        function pick(i) {
          at = i;
          const token = found.tokens[i];
          paint();
          passage.children[i].focus();
          put(detail, h("h2", {}, "On ", app.tokenChip(token.text)), !token.read ? h("p", { class: "quiet" }, "The first position and special tokens are not read: SAEs are not trained on them.")
            : h("ul", { class: "plain near list" }, token.latents.map(([j, value]) => h("li", {}, app.latentLine(view.name, about.get(j)), app.bar(value, value / (about.get(j).max || value)), follow(j)))));
        }
        function follow(j) {
          return h("button", { type: "button", class: "small", "aria-pressed": chosen === j, onclick: () => {
            chosen = chosen === j ? null : j;
            app.remember("text", [], { view: view.name, text: prompt.value.slice(0, 1500), latent: chosen });
            paint();
            lists();
          } }, chosen === j ? "colour all" : "colour the text");
        }
        function lists() {
          put(list, found.latents.slice(0, 60).map((item) => h("li", {}, app.latentLine(view.name, item), app.bar(item.here, item.here / (item.max || item.here)), h("small", { class: "quiet" }, `${item.times}×`), follow(item.latent))));
          if (at !== null) pick(at);
        }
        put(result, h("section", { class: "card" }, passage, h("p", { class: "quiet" }, "Each token has the colour of its strongest latent, against that latent's largest activation; choose one to see all of them."),
          found.cut && h("p", { class: "problem" }, `Only the first ${found.tokens.length} tokens were read.`)),
        h("div", { class: "two" }, h("section", { class: "card" }, detail), h("section", { class: "card" }, h("h2", {}, "In this text"), h("p", { class: "quiet" }, "By largest share of their own largest activation."), list)));
        paint();
        lists();
        pick(Math.min(found.tokens.length - 1, Math.max(0, found.tokens.findIndex((token) => token.read))));
      }
      const form = h("form", { class: "live-form" }, app.field("Text", prompt, "Ctrl+Enter runs it."), runner.bar);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        runner.run(signal);
      });
      app.sendable(form);
      put(root, h("h1", {}, "Latents on a text"), app.hookLine(view), form, result);
      if (route.params.text) runner.run(signal);
    },
  };
})();
