"use strict";
// Elements are made here and nowhere else, and text gets into them as text: no string is ever read as markup.
const app = { pages: {} };

(() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
      else if (name === "value") element.value = value;
      else if (name === "checked") element.checked = true;
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    add(element, children);
    return element;
  }

  function add(element, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      element.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
  }

  app.h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  app.svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  app.put = (element, ...children) => {
    element.replaceChildren();
    add(element, children);
    return element;
  };

  app.announce = (text) => {
    document.getElementById("announce").textContent = text;
  };

  // A label and its control, side by side or one over the other.
  app.field = (name, control, hint) =>
    app.h("label", { class: "field" }, app.h("span", { class: "field-name" }, name), control, hint && app.h("small", {}, hint));

  app.select = (options, chosen, attributes) => {
    const made = app.h("select", attributes || {},
      options.map(([value, text]) => app.h("option", { value, selected: value === chosen }, text)));
    made.value = chosen;
    return made;
  };

  app.problem = (error) => app.h("p", { class: "problem", role: "alert" }, app.shown(error.message || String(error), 2000));

  // fn, once no call came for some milliseconds.
  app.later = (fn, milliseconds) => {
    let timer = 0;
    return (...values) => {
      clearTimeout(timer);
      timer = setTimeout(() => fn(...values), milliseconds);
    };
  };
})();
