"use strict";
// How the pages of a static site get their data: scripts beside them, each loaded when it is first needed.
(() => {
  const KEPT = 24;
  const waiting = new Map();
  const loaded = new Map();
  const LINE = ["firings", "density", "max", "specific", "tokens", "label", "star"];

  app.frozen = (name, data) => {
    const one = waiting.get(name);
    waiting.delete(name);
    if (one) one(data);
  };

  function load(name) {
    if (loaded.has(name)) return loaded.get(name);
    const promise = new Promise((done, fail) => {
      waiting.set(name, done);
      const script = app.h("script", { src: `data/${name}.js`, onerror: () => {
        loaded.delete(name);
        fail(new Error(`data/${name}.js is missing from this site.`));
      }, onload: () => script.remove() });
      document.head.append(script);
    });
    loaded.set(name, promise);
    const shards = [...loaded.keys()].filter((other) => other.includes("/latents-"));
    if (shards.length > KEPT) loaded.delete(shards[0]);
    return promise;
  }

  const number = (store, name) => (name ? store.views.findIndex((view) => view.name === name) : 0);
  const line = (item) => ({ latent: item.latent, ...Object.fromEntries(LINE.map((key) => [key, item[key]])) });

  function fits(item, q, where) {
    if (!q) return true;
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    const label = (item.label || "").toLowerCase();
    const tokens = item.tokens.map((token) => token.trim().toLowerCase());
    if (where === "label") return words.every((word) => label.includes(word));
    if (where === "token") return tokens.includes(q.trim().toLowerCase());
    return words.every((word) => label.includes(word) || tokens.some((token) => token.startsWith(word)));
  }

  async function search(view, p) {
    const alive = (item) => (p.alive === "all" ? true : p.alive === "dead" ? !item.firings : item.firings > 0);
    const [lo, hi] = [p.lo ? Number(p.lo) : 0, p.hi ? Number(p.hi) : 1];
    const all = (await load(`${view}/lines`)).filter((item) => alive(item) && item.density >= lo && item.density <= hi && (!p.labelled || item.label || item.star) && fits(item, p.q, p.in));
    const key = { specific: "specific", density: "density", max: "max", energy: "energy", latent: null }[p.order || "density"];
    if (key) all.sort((a, b) => (b[key] || 0) - (a[key] || 0));
    const start = Number(p.offset) || 0;
    const end = start + (p.limit || 50);
    return { items: all.slice(start, end).map(line), more: all.length > end, total: all.length };
  }

  async function latent(store, view, j) {
    const shard = await load(`${view}/latents-${Math.floor(j / store.shard)}`);
    const lines = await load(`${view}/lines`);
    const found = structuredClone(shard.latents[j % store.shard]);
    for (const contexts of Object.values(found.contexts)) for (const one of contexts) one.tokens = one.tokens.map((i) => shard.words[i]);
    for (const near of [found.nearest, found.together, found.row_neighbours]) for (const one of near) Object.assign(one, line(lines[one.latent]));
    for (const one of found.matches) Object.assign(one, line((await load(`${number(store, one.view)}/lines`))[one.latent]));
    return found;
  }

  async function compare(store, view, p) {
    const other = number(store, p.other);
    const [latents, others, cosines] = await load(`${view}/compare-${other}`);
    const [mine, theirs] = [await load(`${view}/lines`), await load(`${other}/lines`)];
    const n = latents.length;
    const order = [...latents.keys()];
    if (p.order === "latent") order.sort((a, b) => latents[a] - latents[b]);
    else if (p.order !== "alike") order.reverse();
    const low = Math.min(0, n ? cosines[n - 1] : 0);
    const counts = new Array(40).fill(0);
    for (const cosine of cosines) counts[Math.min(39, Math.floor((40 * (Math.min(1, cosine) - low)) / (1 - low)))] += 1;
    const chosen = order.slice(p.offset || 0, (p.offset || 0) + (p.limit || 50));
    return { total: n, low, counts, median: n ? (cosines[Math.floor((n - 1) / 2)] + cosines[Math.ceil((n - 1) / 2)]) / 2 : null, above: cosines.filter((cosine) => cosine > 0.9).length,
      items: chosen.map((i) => ({ mine: line(mine[latents[i]]), other: line(theirs[others[i]]), cosine: cosines[i] })) };
  }

  app.get = async (path, params = {}) => {
    const store = await load("store");
    if (path === "store" || path === "labels") return load(path);
    const view = number(store, params.view);
    if (path === "overview" || path === "places") return (await load(`${view}/overview`))[path];
    if (path === "search") return search(view, params);
    if (path === "summaries") {
      const lines = await load(`${view}/lines`);
      return { items: String(params.latents).split(",").map((j) => line(lines[Number(j)])) };
    }
    if (path === "compare") return compare(store, view, params);
    if (path.startsWith("latent/")) return latent(store, view, Number(path.slice(7)));
    throw new Error(`A static site has no ${path}.`);
  };
  app.send = () => Promise.reject(new Error("A static site cannot be changed."));
})();
