"use strict";
// Text of tokens, labels and names is anybody's: what cannot be seen, or changes how its neighbours are seen, is spelt out.
(() => {
  const { h } = app;
  const LONG = 200;
  const NAMES = { "\n": "↵", "\t": "⇥", "\r": "␍" };
  // Controls, bidirectional and other format characters, line separators, lone surrogates, private use, unassigned.
  const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\p{Cn}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0]/u;
  const SPLIT = new RegExp(`(${HIDDEN.source})`, "u");
  // More marks over one letter than any script has would cover the lines above and below.
  const STACKED = /(\p{M}{4})\p{M}+/gu;

  const spelt = (c) => {
    const code = c.codePointAt(0);
    return NAMES[c] || (code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`);
  };

  // The server cuts very long tokens itself, and says how long they were.
  const ENDED = /… \(([\d,]+) characters\)$/;
  const lengthOf = (text) => (ENDED.exec(text) || [null, app.count(text.length)])[1];

  const cut = (text, limit) => (text.length > limit ? Array.from(text.slice(0, limit)).join("") : text);

  // As one string, for places that take no elements: aria-label, option, title of the page.
  app.plain = (text, limit = LONG) => {
    text = String(text);
    const short = cut(text, limit).replace(STACKED, "$1…");
    const seen = Array.from(short, (c) => (HIDDEN.test(c) ? spelt(c) : c)).join("");
    return text.length > limit ? `${seen}… (${lengthOf(text)} characters)` : seen;
  };

  // As an element of its own direction, with what was hidden set apart.
  app.shown = (text, limit = LONG, attributes) => {
    text = String(text);
    const short = cut(text, limit).replace(STACKED, "$1…");
    const parts = short.split(SPLIT).filter((part) => part !== "");
    const children = parts.map((part) => (HIDDEN.test(part) ? h("span", { class: "escape" }, spelt(part)) : part));
    if (text.length > limit) children.push(h("span", { class: "escape" }, `… ${lengthOf(text)} characters`));
    return h("bdi", { dir: "auto", ...attributes }, children);
  };

  // A token by itself: its leading space is part of it.
  app.tokenChip = (text) => {
    const spaced = /^ +/.exec(text);
    const rest = spaced ? text.slice(spaced[0].length) : text;
    return h("span", { class: "chip" }, spaced && h("span", { class: "space", "aria-hidden": "true" }, "·".repeat(Math.min(spaced[0].length, 8))),
      app.shown(rest, 40), text === "" && h("span", { class: "escape" }, "empty"));
  };

  app.count = (n) => Number(n).toLocaleString("en");

  app.number = (value, digits = 3) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 1).replace("e-", "e−").replace("e+", "e");
    return String(Number(value.toPrecision(digits))).replace("-", "−");
  };

  app.percent = (share) => {
    if (share === null || share === undefined || !Number.isFinite(share)) return "–";
    return share === 0 ? "0%" : `${app.number(100 * share, share < 0.1 ? 2 : 3)}%`;
  };
})();
