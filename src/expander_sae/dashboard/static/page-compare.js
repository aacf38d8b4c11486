"use strict";
(() => {
  const { h, put, count, number } = app;
  const PER_PAGE = 50;

  app.pages.compare = {
    name: "Compare",
    async draw(root, route, signal) {
      const view = app.view(route.params);
      const others = app.store.views.filter((other) => other.name !== view.name && other.d_in === view.d_in);
      if (!others.length) {
        put(root, h("h1", {}, "Compare"), h("p", {}, "This store has one view of this width. Give ", h("code", {}, "expander-sae features"), " several SAEs or several readings, and they can be compared here: two seeds, a dense SAE and what ", h("code", {}, "compress"), " made of it."));
        return;
      }
      const wanted = others.find((other) => other.name === route.params.other) || others.find((other) => !view.same.includes(other.name)) || others[0];
      const other = app.select(others.map((one) => [one.name, app.plain(one.name, 80)]), wanted.name);
      const order = app.select([["", "least alike first"], ["alike", "most alike first"], ["latent", "by number"]], route.params.order || "");
      const body = h("div", {});
      let offset = Number(route.params.offset) || 0;
      async function find() {
        app.remember("compare", [], { view: view.name, other: other.value, order: order.value, offset: offset || "" });
        try {
          const found = await app.get("compare", { view: view.name, other: other.value, order: order.value, offset, limit: PER_PAGE }, signal);
          put(body, table(found));
        } catch (error) {
          if (error.name !== "AbortError") put(body, app.problem(error));
        }
      }
      function table(found) {
        const far = view.name;
        return [
          h("section", { class: "card" }, h("h2", {}, "Cosine with the nearest"),
            h("p", { class: "quiet" }, `${count(found.total)} latents; median ${number(found.median, 3)}; ${count(found.above)} of them above 0.9.`),
            app.histogram({ counts: found.counts, label: `Cosines of ${count(found.total)} latents with their nearest, median ${number(found.median)}`,
              ticks: [[0, number(found.low, 2)], [0.5, number((found.low + 1) / 2, 2)], [1, "1"]],
              tip: (i) => `${number(found.low + ((1 - found.low) * i) / found.counts.length, 3)} and more: ${count(found.counts[i])} latents` })),
          h("div", { class: "table-box" }, h("table", { class: "compare" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, app.shown(far)), h("th", { scope: "col" }, "cosine"), h("th", { scope: "col" }, app.shown(other.value)))),
            h("tbody", { class: "list" }, found.items.map((m) => h("tr", {}, h("td", {}, app.latentLine(view.name, m.mine)), h("td", {}, app.bar(m.cosine, m.cosine, number(m.cosine, 3))), h("td", {}, app.latentLine(other.value, m.other))))))),
          h("div", { class: "pager" },
            h("button", { type: "button", disabled: offset === 0, onclick: () => turn(-PER_PAGE) }, "Previous"),
            h("span", { class: "quiet" }, found.items.length ? `${count(offset + 1)} to ${count(offset + found.items.length)} of ${count(found.total)}` : "none"),
            h("button", { type: "button", disabled: offset + PER_PAGE >= found.total, onclick: () => turn(PER_PAGE) }, "Next"))];
      }
      function turn(by) {
        offset = Math.max(0, offset + by);
        find();
      }
      for (const control of [other, order]) control.addEventListener("change", () => {
        offset = 0;
        find();
      });
      put(root, h("h1", {}, "Compare"), h("p", { class: "lead" }, "Each latent of ", app.shown(view.name), " beside the nearest direction of another dictionary. Choose the first one in the bar above."),
        h("div", { class: "search-more" }, app.field("with", other), app.field("order", order)), body);
      await find();
    },
  };
})();
