"use strict";
(() => {
  const { h, put, count, number, percent } = app;
  const ORDERS = [["", "best match"], ["specific", "most specific"], ["density", "density"], ["max", "largest activation"], ["energy", "energy"], ["latent", "number"]];
  const PER_PAGE = 50;

  function row(view, item) {
    return h("li", { class: item.firings ? "result" : "result dead" },
      app.latentLine(view, item),
      h("span", { class: "result-numbers" },
        h("span", { title: "share of tokens on which it fires" }, item.firings ? percent(item.density) : "dead"),
        h("span", { title: "largest activation" }, item.firings ? `max ${number(item.max)}` : ""),
        h("span", { title: "how much a firing says about the token, in bits" }, item.firings && item.specific !== null ? `${number(item.specific, 2)} bits` : "")));
  }

  app.pages.search = {
    name: "Search",
    async draw(root, route, signal) {
      const view = app.view(route.params);
      const asked = { ...route.params };
      const q = h("input", { type: "search", value: asked.q || "", id: "q", autocomplete: "off", maxlength: 200, spellcheck: "false", placeholder: "words, a label, or a number" });
      const where = app.select([["", "words in contexts and tokens"], ["token", "exactly this token"], ["label", "labels and notes"]], asked.in || "");
      const order = app.select(ORDERS, asked.order || "");
      const alive = app.select([["", "alive"], ["all", "alive and dead"], ["dead", "dead"]], asked.alive || "");
      const lo = h("input", { type: "text", inputmode: "decimal", value: asked.lo || "", size: 8, placeholder: "0" });
      const hi = h("input", { type: "text", inputmode: "decimal", value: asked.hi || "", size: 8, placeholder: "1" });
      const labelled = h("input", { type: "checkbox", checked: Boolean(asked.labelled) });
      const results = h("div", { class: "results" });
      const said = h("p", { class: "quiet", role: "status" });
      let offset = Number(asked.offset) || 0;
      let turn = 0;

      const params = () => ({ view: view.name, q: q.value, in: where.value, order: order.value, alive: alive.value, lo: lo.value.trim(), hi: hi.value.trim(), labelled: labelled.checked ? "1" : "", offset: offset || "" });

      async function find() {
        if (signal.aborted) return; // typed, and gone to another page before it was looked up
        const now = params();
        const mine = (turn += 1);
        app.remember("search", [], now);
        try {
          const found = await app.get("search", { ...now, limit: PER_PAGE }, signal);
          if (mine !== turn) return;
          const jump = /^\s*#?(\d{1,9})\s*$/.exec(now.q);
          const there = jump && Number(jump[1]) < view.n_latents;
          const items = found.items;
          const more = found.more;
          said.textContent = items.length === 0 ? "No latents match." : `${count(offset + 1)} to ${count(offset + items.length)}${found.total === null ? (more ? ", and more" : "") : ` of ${count(found.total)}`}`;
          if (app.store.static && now.q && !now.in) said.textContent += " (top tokens and labels; a static site does not search contexts)";
          put(results,
            there && h("p", { class: "jump" }, "Number ", app.latentLink(view.name, Number(jump[1]), { class: "latent-number" })),
            h("ul", { class: "result-list list" }, items.map((item) => row(view.name, item))),
            h("div", { class: "pager" },
              h("button", { type: "button", disabled: offset === 0, onclick: () => turnTo(offset - PER_PAGE) }, "Previous"),
              h("button", { type: "button", disabled: !more, onclick: () => turnTo(offset + PER_PAGE) }, "Next")));
        } catch (error) {
          if (error.name !== "AbortError" && mine === turn) put(results, app.problem(error));
        }
      }
      function turnTo(start) {
        offset = Math.max(0, start);
        find();
        window.scrollTo(0, 0);
      }
      const anew = () => {
        offset = 0;
        find();
      };
      const soon = app.later(anew, 180);
      for (const input of [q, lo, hi]) input.addEventListener("input", soon);
      for (const input of [where, order, alive, labelled]) input.addEventListener("change", anew);
      const form = h("form", { class: "search-form", role: "search" },
        h("div", { class: "search-main" }, app.field("Find", q), app.field("in", where)), h("button", { type: "submit", class: "unseen", tabindex: -1 }, "Find"),
        h("div", { class: "search-more" }, app.field("order by", order), app.field("latents", alive), app.field("density from", lo), app.field("to", hi),
          h("label", { class: "check" }, labelled, " labelled or starred")));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        const number = /^\s*#?(\d{1,9})\s*$/.exec(q.value);
        if (number && !where.value && Number(number[1]) < view.n_latents) app.go("latent", [Number(number[1])], { view: view.name });
        else anew();
      });
      put(root, h("h1", {}, "Search"), form, said, results);
      if (route.params.focus) q.focus();
      await find();
    },
  };
})();
