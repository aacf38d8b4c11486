"use strict";
// One tooltip for the whole page, by mouse, touch and focus.
(() => {
  const tip = () => document.getElementById("tip");
  let over = null;

  app.hideTip = () => {
    over = null;
    tip().hidden = true;
  };

  app.showTip = (element, content) => {
    over = element;
    app.put(tip(), content);
    tip().hidden = false;
    const box = element.getBoundingClientRect();
    const size = tip().getBoundingClientRect();
    const left = Math.min(Math.max(6, box.left + box.width / 2 - size.width / 2), Math.max(6, document.documentElement.clientWidth - size.width - 6));
    const above = box.top - size.height - 8;
    tip().style.left = `${left}px`;
    tip().style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };

  app.tipFor = (element, content) => {
    element.addEventListener("pointerenter", () => app.showTip(element, content()));
    element.addEventListener("pointerleave", () => over === element && app.hideTip());
    element.addEventListener("focus", () => app.showTip(element, content()));
    element.addEventListener("blur", () => over === element && app.hideTip());
  };

  window.addEventListener("scroll", () => app.hideTip(), { passive: true, capture: true });
})();
