"use strict";
// Histograms, strips of residual coordinates, and small bars; each says in words what it shows.
(() => {
  const { h, svg } = app;

  // counts over equal bins; `ticks` are [share of the width, text]; `link(i)` makes a bar something to click.
  app.histogram = ({ counts, label, ticks, tip, link, height = 96, root = true }) => {
    const width = 400;
    const most = Math.max(1, ...counts);
    const scale = (n) => (n === 0 ? 0 : Math.max(1.5, (root ? Math.sqrt(n / most) : n / most) * (height - 4)));
    const step = width / counts.length;
    const bars = counts.map((n, i) => {
      const rect = svg("rect", { class: "histogram-bar", x: i * step + 0.5, width: Math.max(0.5, step - 1), y: height - scale(n), height: scale(n) });
      const hit = svg("rect", { class: "histogram-hit", x: i * step, width: step, y: 0, height });
      const group = svg(link && n ? "a" : "g", link && n ? { href: link(i), tabindex: -1, "aria-label": tip(i) } : {}, rect, hit);
      app.tipFor(group, () => tip(i));
      return group;
    });
    return h("figure", { class: "histogram" },
      svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, bars,
        svg("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height })),
      h("div", { class: "ticks", "aria-hidden": "true" }, ticks.map(([at, text]) =>
        h("span", { style: { left: `${100 * at}%` }, class: at <= 0.02 ? "first" : at >= 0.98 ? "last" : "" }, text))));
  };

  // Powers of ten between two logarithms, as ticks.
  app.decades = (low, high) => {
    const ticks = [];
    for (let power = Math.ceil(low - 1e-9); power <= high + 1e-9; power += 1) {
      ticks.push([(power - low) / (high - low || 1), power === 0 ? "1" : `10${superscript(power)}`]);
    }
    return ticks.length > 8 ? ticks.filter((_, i) => i % 2 === 0) : ticks;
  };

  const superscript = (n) => Array.from(String(n), (c) => ({ "-": "⁻" })[c] || "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]).join("");

  // A sparse column on the d_in residual coordinates: a stem for each entry; those also in `shared` are set apart.
  app.strip = ({ rows, weights, d_in, shared = new Set(), label, height = 34, marks = true }) => {
    const width = 1000;
    const most = Math.max(1e-12, ...weights.map(Math.abs));
    const middle = height / 2;
    const stems = rows.map((row, i) => {
      const x = ((row + 0.5) / d_in) * width;
      const long = marks ? (Math.abs(weights[i]) / most) * (middle - 2) : middle - 4;
      const sign = weights[i] < 0 ? 1 : -1;
      const both = shared.has(row);
      const group = svg("g", { class: `stem${both ? " both" : ""}` },
        svg("line", { x1: x, x2: x, y1: middle, y2: middle + sign * Math.max(3, long), "vector-effect": "non-scaling-stroke" }),
        svg("rect", { class: "histogram-hit", x: x - 4, width: 8, y: 0, height }));
      app.tipFor(group, () => `coordinate ${row}: ${app.number(weights[i])}${both ? ", shared" : ""}`);
      return group;
    });
    return svg("svg", { class: "strip", style: { height: `${height}px` }, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
      svg("line", { class: "axis", x1: 0, x2: width, y1: middle, y2: middle, "vector-effect": "non-scaling-stroke" }), stems);
  };

  // A number with a bar of its share behind it.
  app.bar = (value, share, text) =>
    h("span", { class: `bar-cell${value < 0 ? " negative" : ""}`, style: { "--share": Math.min(1, Math.abs(share)).toFixed(3) } }, text ?? app.number(value));
})();
