"use strict";
(() => {
  const { h, put } = app;
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
        const detail = h("section", { class: "card", "aria-live": "polite" });
        const list = h("section", { class: "card" });
        const all = { detail: false, list: false };
        let at = Math.max(0, found.tokens.findIndex((token) => token.read));
        if (!about.has(chosen)) chosen = found.latents.length ? found.latents[0].latent : null;
        const valueOf = (token, j) => (token.latents.find(([other]) => other === j) || [0, 0])[1];

        const spans = found.tokens.map((token, i) => {
          const span = app.token(token.text, 0, 0, { role: "button" });
          span.classList.toggle("unread", !token.read);
          app.tipFor(span, () => [h("span", { class: "tip-token" }, app.tokenChip(token.text)), token.read ? `${token.latents.length} latents fire` : "not read: first or special token"]);
          span.addEventListener("click", () => pick(i));
          span.addEventListener("keydown", (event) => {
            const way = { ArrowLeft: -1, ArrowRight: 1, Enter: 0, " ": 0 }[event.key];
            if (way === undefined || !spans[i + way]) return;
            event.preventDefault();
            pick(i + way);
            spans[i + way].focus();
          });
          return span;
        });

        // The text in the colours of one latent: the chosen one, or that which is pointed at.
        function paint(j = chosen) {
          const max = Math.max(about.has(j) ? about.get(j).max || 0 : 0, ...found.tokens.map((token) => Math.abs(valueOf(token, j)))) || 1;
          spans.forEach((span, i) => {
            app.colour(span, valueOf(found.tokens[i], j), valueOf(found.tokens[i], j) / max);
            span.classList.toggle("picked-token", i === at);
            span.tabIndex = i === at ? 0 : -1;
            span.setAttribute("aria-pressed", i === at);
          });
        }
        function pick(i) {
          at = i;
          paint();
          lists();
        }
        function line(j, value, more) {
          const follow = h("button", { type: "button", class: "small", "aria-pressed": chosen === j, "aria-label": `Colour the text by latent ${j}`, onclick: () => {
            chosen = j;
            app.remember("text", [], { view: view.name, text: prompt.value.slice(0, 1500), latent: chosen });
            pick(at);
          } }, "colour");
          const item = h("li", {}, app.latentLine(view.name, about.get(j)), app.bar(value, value / (about.get(j).max || value)), more, follow,
            h("a", { class: "small-link", href: app.link("ablate", [], { view: view.name, latent: j, text: prompt.value.slice(0, 1500) }) }, "ablate"));
          for (const [event, shown] of [["pointerenter", j], ["focusin", j], ["pointerleave", undefined], ["focusout", undefined]]) item.addEventListener(event, () => paint(shown));
          return item;
        }
        const some = (items, name) => [h("ul", { class: "plain near list" }, items.slice(0, all[name] ? Infinity : 24)), items.length > 24 && !all[name] && h("button", { type: "button", class: "small", onclick: () => {
          all[name] = true;
          lists();
        } }, `all ${items.length}`)];
        function lists() {
          const token = found.tokens[at];
          put(detail, h("h2", {}, "On ", app.tokenChip(token.text)), token.read ? some(token.latents.map(([j, value]) => line(j, value)), "detail")
            : h("p", { class: "quiet" }, "The first position and special tokens are not read: SAEs are not trained on them."));
          put(list, h("h2", {}, "In this text"), h("p", { class: "quiet" }, "Those first that fire near their largest and are specific to few tokens."),
            some(found.latents.map((item) => line(item.latent, item.here, h("small", { class: "quiet" }, `${item.times}×`))), "list"));
        }
        put(result, h("section", { class: "card" }, h("div", { class: "reading-text" }, passage), h("p", { class: "quiet" }, "Choose a token to see its latents; point at a latent to colour the text by it."),
          found.cut && h("p", { class: "problem" }, `Only the first ${found.tokens.length} tokens were read.`), found.note && h("p", { class: "problem" }, app.shown(found.note, 500))),
        h("div", { class: "two" }, detail, list));
        put(passage, spans);
        pick(at);
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
