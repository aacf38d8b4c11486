"use strict";
(() => {
  const { h, put } = app;
  const ORDER = ["overview", "search", "compare", "text", "steer", "ablate", "labels"];
  const watchers = new Set();
  const darkNow = () => document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);

  // What is kept between visits is the theme alone; a browser that keeps nothing does no harm.
  const kept = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("theme");
      localStorage.setItem("theme", value);
    } catch {
      // no storage
    }
    return null;
  };

  app.onTheme = (fn) => watchers.add(fn);
  const themed = () => {
    const button = document.getElementById("theme");
    if (button) button.textContent = darkNow() ? "☀" : "☾";
    watchers.forEach((fn) => fn());
  };
  app.switchTheme = () => {
    const next = darkNow() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    kept(next);
    themed();
  };
  const saved = kept();
  if (saved === "dark" || saved === "light") document.documentElement.dataset.theme = saved;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);

  app.drawBar = (route) => {
    watchers.clear();
    const names = app.store.views.map((view) => [view.name, app.plain(view.name, 60)]);
    const chosen = names.some(([name]) => name === route.params.view) ? route.params.view : names[0][0];
    const select = app.select(names, chosen, { "aria-label": "View: SAE and reading", id: "view" });
    select.addEventListener("change", () => {
      const now = app.route();
      const { q, order, lo, hi, part, text, latent } = now.params;
      app.go(now.page, now.args, { view: select.value, q, order, lo, hi, part, text, latent });
    });
    const pages = ORDER.filter((name) => !(app.store.static && app.pages[name].live));
    put(document.getElementById("bar"),
      h("a", { class: "brand", href: app.link("overview", [], { view: chosen }) }, app.shown(app.store.title, 60)),
      h("nav", { "aria-label": "Pages" }, pages.map((name) => h("a", { href: app.link(name, [], { view: chosen }), "aria-current": route.page === name && "page" }, app.pages[name].name))),
      h("div", { class: "bar-end" }, names.length > 1 && select,
        h("button", { type: "button", id: "theme", class: "plain-button", "aria-label": "Dark or light", title: "Dark or light (d)", onclick: app.switchTheme }, darkNow() ? "☀" : "☾"),
        h("button", { type: "button", class: "plain-button", "aria-label": "Keys", title: "Keys (?)", onclick: () => app.help() }, "?")));
  };

  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
  window.addEventListener("hashchange", app.draw);

  (async () => {
    try {
      app.store = await app.get("store");
    } catch (error) {
      put(document.getElementById("main"), h("h1", {}, "Latents"), app.problem(error));
      return;
    }
    await app.draw();
  })();
})();
