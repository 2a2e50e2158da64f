// What the points are filtered and coloured by: classes, splits, and a run's answers.

import { swatch } from "./map-colours.js";

const LONG = 12;

export class Dimension {
  constructor(key, title, names, of) {
    Object.assign(this, { key, title, names, of, hidden: new Set() });
  }
}

export function dimensions(rows) {
  const found = [
    new Dimension("class", "Class", rows.classNames, (i) => rows.label[i]),
    new Dimension("split", "Split", rows.splits.map(({ name }) => name), (i) => rows.split[i]),
  ];
  if (rows.predicted) {
    const none = rows.classNames.length;
    found.push(
      new Dimension("answer", "Answer", ["right", "wrong", "no answer"], (i) => rows.answer(i)),
      new Dimension("predicted", "Predicted class", [...rows.classNames, "no answer"],
        (i) => Math.min(rows.predicted[i], none)),
    );
  }
  return found;
}

// How many points each value of each dimension has, of those that the others show.
export function counts(rows, dims) {
  const found = dims.map(({ names }) => new Array(names.length).fill(0));
  const values = new Array(dims.length);
  for (let i = 0; i < rows.count; i++) {
    let hiders = 0, hider = -1;
    for (let d = 0; d < dims.length; d++) {
      values[d] = dims[d].of(i);
      if (dims[d].hidden.has(values[d])) [hiders, hider] = [hiders + 1, d];
    }
    if (hiders > 1) continue;
    if (hiders === 1) found[hider][values[hider]]++;
    else for (let d = 0; d < dims.length; d++) found[d][values[d]]++;
  }
  return found;
}

function element(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

export class Legend {
  constructor(root, { changed, emphasise }) {
    Object.assign(this, { root, changed, emphasise });
  }

  // Builds the lists anew: colours, or what there is to filter by, have changed.
  build(dims, coloured, styles) {
    const focused = document.activeElement && document.activeElement.dataset.value;
    this.dims = dims;
    this.counts = new Map();
    const shown = dims.filter(({ key, names }) => key === coloured || (key !== "predicted" && names.length > 1));
    shown.sort((a, b) => (b.key === coloured) - (a.key === coloured));
    this.root.replaceChildren(...shown.map((dim) => this.fieldset(dim, dim.key === coloured, styles)));
    if (focused) this.root.querySelector(`[data-value="${focused}"]`)?.focus();
  }

  fieldset(dim, coloured, styles) {
    const list = element("ul", { className: "values" });
    const items = dim.names.map((name, value) => this.item(dim, value, coloured ? styles[value] : null));
    // Of many names, those that have a colour come first.
    const order = items.map((_, value) => value);
    if (coloured && items.length > LONG) order.sort((a, b) => styles[b].layer - styles[a].layer || a - b);
    list.append(...order.map((value) => items[value]));
    const all = element("button", { type: "button", className: "small", textContent: "all" });
    all.setAttribute("aria-label", `show all: ${dim.title}`);
    all.addEventListener("click", () => {
      dim.hidden.clear();
      this.check(list, dim);
      this.changed();
    });
    const head = element("legend", { textContent: dim.title });
    const made = element("fieldset", {}, head, all);
    if (dim.names.length > LONG) made.append(this.finder(dim, items));
    made.append(list);
    return made;
  }

  item(dim, value, style) {
    const box = element("input", { type: "checkbox", checked: !dim.hidden.has(value) });
    box.dataset.value = `${dim.key} ${value}`;
    box.addEventListener("change", () => {
      if (box.checked) dim.hidden.delete(value);
      else dim.hidden.add(value);
      this.changed();
    });
    const count = element("span", { className: "count" });
    this.counts.set(`${dim.key} ${value}`, count);
    const label = element("label", {}, box, ...(style ? [swatch(style)] : []),
      element("bdi", { textContent: dim.names[value] }), count);
    const only = element("button", { type: "button", className: "small", textContent: "only" });
    only.setAttribute("aria-label", `only ${dim.names[value]}`);
    only.addEventListener("click", () => {
      dim.names.forEach((_, other) => dim.hidden.add(other));
      dim.hidden.delete(value);
      this.check(only.closest("ul"), dim);
      this.changed();
    });
    const item = element("li", {}, label, only);
    item.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && this.emphasise(dim, value));
    item.addEventListener("pointerleave", () => this.emphasise(null));
    box.addEventListener("focus", () => box.matches(":focus-visible") && this.emphasise(dim, value));
    box.addEventListener("blur", () => this.emphasise(null));
    return item;
  }

  finder(dim, items) {
    const field = element("input", { type: "search", placeholder: "find a name" });
    field.setAttribute("aria-label", `find: ${dim.title}`);
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      items.forEach((item, at) => { item.hidden = !dim.names[at].toLowerCase().includes(wanted); });
    });
    return field;
  }

  check(list, dim) {
    list.querySelectorAll("input").forEach((box) => {
      box.checked = !dim.hidden.has(Number(box.dataset.value.split(" ")[1]));
    });
  }

  tell(found) {
    this.dims.forEach((dim, d) => found[d].forEach((count, value) => {
      const span = this.counts.get(`${dim.key} ${value}`);
      if (!span) return;
      span.textContent = count.toLocaleString("en");
      span.closest("li").classList.toggle("nil", count === 0);
    }));
  }
}
