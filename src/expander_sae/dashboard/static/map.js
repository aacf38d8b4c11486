"use strict";
// The map of latents by similarity: a canvas that can be moved, enlarged, pointed at, and walked with the arrow keys.
(() => {
  const { h } = app;

  const numbers = (text, Kind) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Kind(bytes.buffer);
  };

  app.map = (view, places, describe) => {
    const n = places.n;
    const latent = numbers(places.latent, Int32Array);
    const density = numbers(places.density, Float32Array);
    const x = Float32Array.from(numbers(places.x, Int16Array), (v) => v / 32767);
    const y = Float32Array.from(numbers(places.y, Int16Array), (v) => v / 32767);
    let center = [0, 0];
    let zoom = 1;
    let chosen = -1;
    const canvas = h("canvas", { class: "map", tabindex: 0, role: "application", "aria-roledescription": "map",
      "aria-label": `Map of ${app.count(n)} latents by similarity. Arrow keys go to the next latent in a direction, Enter opens it, plus and minus enlarge and shrink.` });
    // Pixels of one unit each way: only who is near whom means something, so the map fills its box.
    let scale = [1, 1];
    let middle = [0, 0];
    const toScreen = (i) => [middle[0] + (x[i] - center[0]) * scale[0] * zoom, middle[1] - (y[i] - center[1]) * scale[1] * zoom];
    const toMap = (sx, sy) => [center[0] + (sx - middle[0]) / (scale[0] * zoom), center[1] - (sy - middle[1]) / (scale[1] * zoom)];

    // Six shades with as many latents each: densities lie close together, and far from evenly.
    const alive = Float32Array.from(density).filter((value) => value > 0).sort();
    const edges = [1, 2, 3, 4, 5].map((step) => alive[Math.floor((step * alive.length) / 6)]);
    const level = Uint8Array.from(density, (value) => (value > 0 ? 1 + edges.filter((edge) => value >= edge).length : 0));

    function paint() {
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      if (!width) return;
      middle = [width / 2, height / 2];
      scale = [width / 2.08, height / 2.08];
      if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
      if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
      const pen = canvas.getContext("2d");
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      const style = getComputedStyle(canvas);
      const size = Math.max(1, Math.min(5, (n > 30000 ? 1.1 : n > 4000 ? 2.4 : 3.4) * Math.sqrt(zoom)));
      for (let step = 0; step <= 6; step += 1) {
        pen.fillStyle = style.getPropertyValue(`--map-${step}`);
        for (let i = 0; i < n; i += 1) {
          if (level[i] !== step) continue;
          const [sx, sy] = toScreen(i);
          if (sx > -4 && sy > -4 && sx < width + 4 && sy < height + 4) pen.fillRect(sx - size / 2, sy - size / 2, size, size);
        }
      }
      if (chosen >= 0) {
        const [sx, sy] = toScreen(chosen);
        pen.strokeStyle = style.getPropertyValue("--ink");
        pen.lineWidth = 2;
        pen.beginPath();
        pen.arc(sx, sy, 7, 0, 2 * Math.PI);
        pen.stroke();
      }
    }

    function nearest(sx, sy, reach) {
      let best = -1;
      let least = reach * reach;
      for (let i = 0; i < n; i += 1) {
        const [px, py] = toScreen(i);
        const far = (px - sx) ** 2 + (py - sy) ** 2;
        if (far < least) [best, least] = [i, far];
      }
      return best;
    }

    // The closest latent that lies in the direction asked for.
    function towards(dx, dy) {
      if (chosen < 0) return nearest(...middle, Infinity);
      let best = chosen;
      let least = Infinity;
      for (let i = 0; i < n; i += 1) {
        const [ax, ay] = [x[i] - x[chosen], y[i] - y[chosen]];
        const along = ax * dx + ay * dy;
        const across = Math.abs(ax * dy) + Math.abs(ay * dx);
        if (along > 0 && across <= along && along + 2 * across < least) [best, least] = [i, along + 2 * across];
      }
      return best;
    }

    const box = h("div", { class: "map-box" });
    const words = h("p", { class: "map-words", "aria-live": "polite" }, "Point at a latent, or walk with the arrow keys.");
    const tell = app.later(async (i) => {
      if (i !== chosen) return;
      app.put(words, app.latentLine(view, await describe(latent[i])));
    }, 60);
    function choose(i) {
      if (i === chosen) return;
      chosen = i;
      paint();
      if (i >= 0) tell(i);
    }
    function enlarge(by, at) {
      const focus = at || middle;
      const was = toMap(...focus);
      zoom = Math.min(200, Math.max(1, zoom * by));
      const now = toMap(...focus);
      center = zoom === 1 ? [0, 0] : [center[0] + was[0] - now[0], center[1] + was[1] - now[1]];
      paint();
    }

    let drag = null;
    let moved = false;
    canvas.addEventListener("pointerdown", (event) => {
      drag = [event.offsetX, event.offsetY];
      moved = false;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return choose(nearest(event.offsetX, event.offsetY, 14));
      const [dx, dy] = [event.offsetX - drag[0], event.offsetY - drag[1]];
      if (!moved && Math.hypot(dx, dy) < 5) return undefined;
      moved = true;
      center = [center[0] - dx / (scale[0] * zoom), center[1] + dy / (scale[1] * zoom)];
      drag = [event.offsetX, event.offsetY];
      return paint();
    });
    canvas.addEventListener("pointerup", (event) => {
      drag = null;
      if (moved) return;
      const i = nearest(event.offsetX, event.offsetY, 14);
      if (i >= 0) app.go("latent", [latent[i]], { view });
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      enlarge(Math.exp(-event.deltaY / 300), [event.offsetX, event.offsetY]);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (ways[event.key]) {
        event.preventDefault();
        const i = towards(...ways[event.key]);
        if (i >= 0 && zoom > 1) center = [x[i], y[i]];
        choose(i);
      } else if (event.key === "+" || event.key === "=") enlarge(1.5);
      else if (event.key === "-") enlarge(1 / 1.5);
      else if (event.key === "Enter" && chosen >= 0) app.go("latent", [latent[chosen]], { view });
    });
    const button = (text, name, by) => h("button", { type: "button", "aria-label": name, onclick: () => enlarge(by) }, text);
    const legend = h("div", { class: "map-legend" }, h("span", {}, "rare"), [1, 2, 3, 4, 5, 6].map((step) => h("i", { class: `map-step map-step-${step}` })), h("span", {}, "frequent"));
    app.put(box, h("div", { class: "map-tools" }, button("+", "Enlarge", 1.6), button("−", "Shrink", 1 / 1.6)), canvas, h("div", { class: "map-foot" }, words, legend));
    const watch = new ResizeObserver(paint);
    watch.observe(canvas);
    app.onTheme(paint);
    return box;
  };
})();
