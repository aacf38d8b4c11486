"use strict";
// Text with the activation of one latent on each token, as colour and in the tooltip.
(() => {
  const { h } = app;

  // The activation of a token as colour; `share` is its share of the latent's largest.
  app.colour = (span, value, share) => {
    const strong = Math.min(1, Math.abs(share || 0));
    span.classList.toggle("on", Boolean(value));
    span.classList.toggle("negative", value < 0);
    span.classList.toggle("strong", Boolean(value) && strong > 0.6);
    if (value) span.style.setProperty("--a", (0.12 + 0.88 * strong).toFixed(3));
    return span;
  };

  // The space before a word is no part of what is coloured: at the end of a line it would be a blot.
  app.token = (text, value, share, attributes) => {
    const space = /^ (?=[^ ])/.test(text) ? " " : "";
    return app.colour(h("span", { class: "token", ...attributes }, space, h("span", { class: "ink" }, app.shown(text.slice(space.length)))), value, share);
  };

  const tipText = (text, value, more) => [
    h("span", { class: "tip-token" }, app.tokenChip(text)), h("span", {}, value ? app.number(value, 4) : "silent"), more && h("small", {}, more)];

  // A passage. Left and right go from token to token, so that a keyboard sees what the mouse does.
  app.passage = (context, max) => {
    const spans = context.tokens.map((text, i) => {
      const value = context.values[i];
      const span = app.token(i === 0 ? text.replace(/^ (?=[^ ])/, "") : text, value, max ? value / max : 0, { class: i === context.peak ? "token peak" : "token" });
      app.tipFor(span, () => tipText(text, value, `position ${context.position + i - context.peak}`));
      return span;
    });
    const peak = context.tokens[context.peak];
    const text = h("p", {
      class: "passage", tabindex: 0, role: "group",
      "aria-label": `activation ${app.number(context.activation)} on ${app.plain(peak, 60)}, in: ${app.plain(context.tokens.join(""), 400)}`,
    }, spans);
    let at = context.peak;
    text.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      event.preventDefault();
      at = Math.min(spans.length - 1, Math.max(0, at + (event.key === "ArrowRight" ? 1 : -1)));
      app.showTip(spans[at], tipText(context.tokens[at], context.values[at]));
      app.announce(`${app.plain(context.tokens[at], 60)}: ${context.values[at] ? app.number(context.values[at]) : "silent"}`);
    });
    text.addEventListener("blur", app.hideTip);
    return text;
  };

  app.passages = (contexts, max, limit = Infinity) =>
    h("ol", { class: "passages" }, contexts.slice(0, limit).map((context) =>
      h("li", {}, h("div", { class: "passage-head" }, app.bar(context.activation, max ? context.activation / max : 0),
        h("small", { class: "quiet" }, context.document === null ? `block ${context.block}` : `document ${context.document}`)), app.passage(context, max))));

  // The words a latent likes, for lists.
  app.topTokens = (tokens, limit = 5) => h("span", { class: "chips" }, tokens.slice(0, limit).map((text) => app.tokenChip(text)));

  // A latent in a list: its number, what somebody called it, and its words.
  app.latentLine = (view, item, attributes) =>
    h("span", { class: "latent-line", ...attributes }, app.latentLink(view, item.latent, { class: "latent-number" }),
      item.star && h("span", { class: "star", title: "starred" }, "★"),
      item.label && h("span", { class: "label-text" }, app.shown(item.label, 120)),
      item.firings === 0 && h("small", { class: "quiet" }, "dead"), app.topTokens(item.tokens || [], item.label ? 3 : 5));
})();
