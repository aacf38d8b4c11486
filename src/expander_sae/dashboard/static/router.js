"use strict";
// Every state that is worth a link is in the address: #/page/argument?view=...&...
(() => {
  const { h, put } = app;
  let leaving = null;
  let before = "";

  app.route = () => {
    const [path, query] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
    const [page, ...rest] = path.split("/").map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    });
    return { page: page || "overview", args: rest, params: Object.fromEntries(new URLSearchParams(query || "")) };
  };

  app.link = (page, args = [], params = {}) => {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(params)) {
      if (value === null || value === undefined || value === "" || value === false) continue;
      if (name === "view" && app.store && value === app.store.views[0].name) continue;
      query.set(name, value === true ? "1" : value);
    }
    const text = query.toString();
    return `#/${[page, ...args].map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
  };

  // The address says what the page shows now, without drawing the page again.
  app.remember = (page, args, params) => history.replaceState(null, "", app.link(page, args, params));

  app.go = (page, args, params) => {
    location.hash = app.link(page, args, params);
  };

  app.view = (params = app.route().params) => {
    const wanted = params.view;
    const found = wanted === undefined ? app.store.views[0] : app.store.views.find((view) => view.name === wanted);
    if (!found) throw new Error(`This store has no view ${wanted}. It has: ${app.store.views.map((view) => view.name).join("; ")}.`);
    return found;
  };

  app.latentLink = (view, latent, attributes, ...children) =>
    h("a", { href: app.link("latent", [latent], { view }), ...attributes }, children.length ? children : `${latent}`);

  app.draw = async () => {
    if (leaving) leaving.abort();
    const mine = (leaving = new AbortController());
    const route = app.route();
    const main = document.getElementById("main");
    const place = [route.page, ...route.args].join("/");
    const page = app.pages[route.page];
    app.hideTip();
    app.drawBar(route);
    const root = h("div", { class: `page page-${page ? route.page : "none"}` });
    root.setAttribute("aria-busy", "true");
    put(main, root);
    try {
      if (!page) throw new Error(`There is no page ${route.page}.`);
      await page.draw(root, route, mine.signal);
    } catch (error) {
      if (mine.signal.aborted || error.name === "AbortError") return;
      put(root, h("h1", {}, "This page cannot be shown"), app.problem(error), h("p", {}, h("a", { href: "#/overview" }, "To the overview")));
    }
    if (mine.signal.aborted) return;
    root.removeAttribute("aria-busy");
    const heading = root.querySelector("h1");
    document.title = `${heading ? heading.textContent : "Latents"} – ${app.plain(app.store.title, 60)}`;
    if (before && before !== place) {
      window.scrollTo(0, 0);
      if (!root.contains(document.activeElement)) main.focus({ preventScroll: true });
      app.announce(heading ? heading.textContent : "");
    }
    before = place;
  };
})();
