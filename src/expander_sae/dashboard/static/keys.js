"use strict";
// Everything by keyboard; the list of keys is what `?` shows.
(() => {
  const { h } = app;
  const PAGES = [["o", "overview"], ["s", "search"], ["c", "compare"], ["l", "labels"], ["t", "text"], ["x", "steer"], ["a", "ablate"]];
  const LISTED = [["/", "search"], ["g then o, s, c, l", "overview, search, compare, labels"], ["g then t, x, a", "text, steer, ablate"], ["[ and ]", "latent before, latent after"], ["j and k", "next and previous in a list; Enter opens"],
    ["1 to 5", "contexts: top, then the quarters from the highest"], ["← and →", "in a passage: its tokens"], ["e", "write the label"], ["*", "star"], ["d", "dark or light"], ["?", "these keys"]];
  let waiting = false;

  const dialog = () => {
    const shown = h("dialog", { class: "help", "aria-labelledby": "help-title" }, h("h2", { id: "help-title" }, "Keys"),
      h("dl", {}, LISTED.map(([key, does]) => [h("dt", {}, key), h("dd", {}, does)])), h("button", { type: "button", onclick: () => shown.close() }, "Close"));
    shown.addEventListener("close", () => shown.remove());
    document.body.append(shown);
    shown.showModal();
  };
  app.help = dialog;

  function walk(by) {
    const links = [...document.querySelectorAll("#main .list .latent-number, #main .near .latent-number")].filter((link) => link.offsetParent !== null);
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + by))].focus();
  }

  const click = (id) => {
    const found = document.getElementById(id);
    if (found) found.click();
  };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, select, dialog[open]")) return;
    const key = event.key;
    const view = app.route().params.view;
    if (waiting) {
      waiting = false;
      const page = PAGES.find(([letter]) => letter === key);
      if (page) {
        event.preventDefault();
        app.go(page[1], [], { view });
        return;
      }
    }
    const acts = {
      "/": () => (app.route().page === "search" ? document.getElementById("q").focus() : app.go("search", [], { view, focus: "1" })),
      g: () => (waiting = true), "?": dialog, j: () => walk(1), k: () => walk(-1), d: () => app.switchTheme(), "[": () => click("previous-latent"), "]": () => click("next-latent"),
      e: () => document.getElementById("label-input") && document.getElementById("label-input").focus(), "*": () => click("star-button"),
    };
    if (acts[key]) {
      event.preventDefault();
      acts[key]();
    } else if (/^[1-5]$/.test(key)) {
      const page = document.querySelector("#main > .page");
      if (page && page.openPart) page.openPart(Number(key) - 1);
    }
  });
})();
