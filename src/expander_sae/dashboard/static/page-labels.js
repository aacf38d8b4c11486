"use strict";
(() => {
  const { h, put, count } = app;

  app.pages.labels = {
    name: "Labels",
    async draw(root, route, signal) {
      const all = await app.get("labels", {}, signal);
      const said = h("p", { role: "status" });
      const file = h("input", { type: "file", accept: "application/json,.json", id: "labels-file", class: "unseen" });
      file.addEventListener("change", async () => {
        if (!file.files.length) return;
        try {
          const text = await file.files[0].text();
          let labels;
          try {
            labels = JSON.parse(text);
          } catch {
            throw new Error("This file is not JSON; expected one that was exported here.");
          }
          const result = await app.send("POST", "labels/import", {}, labels);
          await app.draw();
          app.announce(`${result.taken} labels taken`);
        } catch (error) {
          put(said, app.problem(error));
        }
        file.value = "";
      });
      const rows = all.items.map((one) => h("tr", {},
        h("td", { class: "star" }, one.star ? "★" : ""),
        h("td", {}, one.view ? app.latentLink(one.view, one.latent) : one.latent),
        h("td", {}, app.shown(one.text, 300), one.note && h("div", { class: "quiet" }, app.shown(one.note, 300))),
        h("td", { class: "quiet" }, one.view ? app.shown(one.view) : "not in this store"),
        h("td", { class: "quiet" }, app.shown((one.changed || "").slice(0, 16).replace("T", " ")))));
      put(root, h("h1", {}, "Labels"),
        h("p", { class: "lead" }, app.store.static ? "As they were when this site was made." : ["Kept in ", app.shown(all.file || "a file beside the store"), ", apart from the store: a store that is built again keeps them."]),
        !app.store.static && h("div", { class: "actions" },
          h("button", { type: "button", id: "export-labels", onclick: async () => {
            try {
              app.download("labels.json", JSON.stringify(await app.get("labels/export"), null, 1));
            } catch (error) {
              put(said, app.problem(error));
            }
          } }, "Export as JSON"),
          h("button", { type: "button", onclick: () => file.click() }, "Import …"), h("label", { for: "labels-file", class: "unseen" }, "File of labels to import"), file), said,
        rows.length === 0 ? h("p", { class: "quiet" }, "No labels yet. Open a latent and write one.") : h("div", { class: "table-box" }, h("table", {},
          h("caption", {}, `${count(rows.length)} labelled or starred`),
          h("thead", {}, h("tr", {}, ["", "latent", "label", "view", "changed"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", { class: "list" }, rows))));
    },
  };
})();
