"use strict";
// A latent's label, note and star, saved as they are typed; what another tab wrote meanwhile is never lost.
(() => {
  const { h, put } = app;

  app.labelEditor = (view, latent, label, onChange) => {
    let known = label;
    let saving = null;
    let again = false;
    let disputed = false; // until a person has chosen nothing is sent, whatever loses the focus meanwhile
    const state = h("span", { class: "save-state", role: "status" });
    const text = h("input", { class: "label-input", type: "text", maxlength: 500, value: label.text, placeholder: "Give it a label", "aria-label": "Label", id: "label-input", autocomplete: "off" });
    const note = h("textarea", { class: "note-input", rows: 2, maxlength: 8000, value: label.note, placeholder: "Notes", "aria-label": "Notes" });
    const star = h("button", { class: "star-button", type: "button", id: "star-button" });
    const conflict = h("div", {});
    let starred = label.star;

    const drawStar = () => {
      star.textContent = starred ? "★" : "☆";
      star.setAttribute("aria-pressed", starred);
      star.setAttribute("aria-label", starred ? "Starred; take the star away" : "Give it a star");
    };

    const mine = () => ({ text: text.value.trim(), note: note.value, star: starred });
    const same = (a, b) => a.text === b.text && a.note === b.note && a.star === b.star;

    async function save() {
      if (disputed) return;
      if (saving) {
        again = true;
        return;
      }
      const wanted = mine();
      if (same(wanted, known)) {
        state.textContent = known.version ? "saved" : "";
        return;
      }
      state.textContent = "saving …";
      state.classList.remove("bad");
      try {
        saving = app.send("PUT", `labels/${latent}`, { view }, { ...wanted, seen: known.version });
        known = (await saving).label;
        state.textContent = "saved";
        put(conflict);
        if (onChange) onChange(known);
      } catch (error) {
        if (error.status === 409) choose(error.body.current);
        else {
          state.textContent = `not saved: ${app.plain(error.message, 300)}`;
          state.classList.add("bad");
        }
      } finally {
        saving = null;
      }
      if (again) {
        again = false;
        await save();
      }
    }

    // Somebody else wrote since this page read: both are shown, and a person decides.
    function choose(theirs) {
      disputed = true;
      state.textContent = "not saved: it was changed elsewhere";
      state.classList.add("bad");
      const decide = (use) => () => {
        known = theirs;
        disputed = false;
        if (use === "theirs") {
          text.value = theirs.text;
          note.value = theirs.note;
          starred = theirs.star;
          drawStar();
          put(conflict);
          state.textContent = "saved";
          state.classList.remove("bad");
          if (onChange) onChange(known);
        } else save();
        text.focus();
      };
      const side = (name, one, use, id) =>
        h("div", { class: "side" }, h("h3", {}, name), h("p", {}, one.star ? "★ " : "", one.text ? app.shown(one.text, 500) : h("em", {}, "no label")),
          one.note && h("p", { class: "quiet" }, app.shown(one.note, 500)),
          h("button", { type: "button", id, onclick: decide(use) }, use === "theirs" ? "Take theirs" : "Keep mine"));
      put(conflict, h("div", { class: "conflict", role: "alertdialog", "aria-label": "This label was changed elsewhere" },
        h("p", {}, h("strong", {}, "This label was changed in another tab or by another program.")),
        h("div", { class: "two" }, side("Yours", mine(), "mine", "keep-mine"), side("Theirs", theirs, "theirs", "take-theirs"))));
      document.getElementById("take-theirs").focus();
    }

    const soon = app.later(save, 400);
    text.addEventListener("input", soon);
    note.addEventListener("input", soon);
    for (const field of [text, note]) field.addEventListener("change", save);
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter") save();
      if (event.key === "Escape") text.blur();
    });
    star.addEventListener("click", () => {
      starred = !starred;
      drawStar();
      save();
    });
    drawStar();
    if (app.store.static) {
      if (!label.text && !label.note && !label.star) return null;
      return h("div", { class: "label-editor" }, h("p", { class: "label-fixed" }, label.star && h("span", { class: "star" }, "★ "), app.shown(label.text, 500)), label.note && h("p", { class: "quiet" }, app.shown(label.note, 8000)));
    }
    return h("div", { class: "label-editor" }, h("div", { class: "label-row" }, star, text, state), note, conflict);
  };
})();
