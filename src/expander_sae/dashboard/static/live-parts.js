"use strict";
// What the pages that run the model share: its state, a prompt, a latent, the progress.
(() => {
  const { h, put } = app;

  app.needsModel = (root, title) => {
    if (app.store.live.enabled) return false;
    put(root, h("h1", {}, title), h("p", {}, app.store.static ? "This page runs the language model, and a static site has none." : "This page runs the language model. Start the browser with it:"),
      !app.store.static && h("pre", {}, "expander-sae browse latents.db --model FOLDER"), app.store.live.reason && h("p", { class: "quiet" }, app.shown(app.store.live.reason, 500)));
    return true;
  };

  app.hookLine = (view) => h("p", { class: "quiet hook" }, "Hook point: ", h("strong", {}, app.shown(view.hook || app.store.meta.hook || "unknown")), " of ", app.shown(app.store.live.model || ""), ", through ", app.shown(view.name), ".");

  // A button that runs `work(signal)`, can be stopped, and says how it goes.
  app.runner = (text, work) => {
    let running = null;
    const said = h("span", { class: "quiet", role: "status" });
    const go = h("button", { type: "submit", class: "primary" }, text);
    const stop = h("button", { type: "button", hidden: true, onclick: () => running && running.abort() }, "Stop");
    const run = async (outer) => {
      if (running) running.abort();
      const mine = (running = new AbortController());
      const leave = () => mine.abort();
      outer.addEventListener("abort", leave, { once: true });
      stop.hidden = false;
      said.className = "quiet";
      const began = performance.now();
      const tick = setInterval(() => {
        const seconds = Math.round((performance.now() - began) / 1000);
        said.textContent = `${app.store.live.ready ? "working" : "loading the model the first time"} … ${seconds} s`;
      }, 250);
      try {
        await work(mine.signal);
        app.store.live.ready = true;
        said.textContent = `done in ${((performance.now() - began) / 1000).toFixed(1)} s`;
      } catch (error) {
        if (error.name === "AbortError") said.textContent = mine === running ? "stopped" : said.textContent;
        else {
          said.className = "problem";
          said.setAttribute("role", "alert");
          put(said, app.shown(error.message, 1000));
        }
      } finally {
        clearInterval(tick);
        outer.removeEventListener("abort", leave);
        if (mine === running) {
          running = null;
          stop.hidden = true;
        }
      }
    };
    return { run, bar: h("div", { class: "actions" }, go, stop, said) };
  };

  // Which latent: a number, and what is known of it.
  app.latentPicker = (view, latent, signal, onChange) => {
    const input = h("input", { type: "number", min: 0, max: view.n_latents - 1, value: latent, id: "latent", required: true });
    const about = h("div", { class: "picked" });
    const known = { item: null };
    const look = async () => {
      known.item = null;
      put(about);
      if (input.value === "" || !input.checkValidity()) return;
      try {
        known.item = (await app.get("summaries", { view: view.name, latents: input.value }, signal)).items[0];
        put(about, app.latentLine(view.name, known.item), h("small", { class: "quiet" }, known.item.firings ? ` largest activation ${app.number(known.item.max)}` : " never fired on the text that was read"));
        if (onChange) onChange(known.item);
      } catch (error) {
        if (error.name !== "AbortError") put(about, app.problem(error));
      }
    };
    input.addEventListener("input", app.later(look, 200));
    look();
    return { input, about, known, field: h("div", {}, app.field("Latent", input), about) };
  };

  app.promptBox = (text, name = "Text", rows = 4) =>
    h("textarea", { rows, maxlength: 4000, id: "prompt", value: text, "aria-label": name, spellcheck: "false" });

  // Ctrl or Command and Enter send a form from a field of several lines.
  app.sendable = (form) => form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
})();
