// The photograph under the pointer, the pinned one with its neighbours, and the list of what is seen.

export function element(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.1 ? 1 : 0)} %`;

export class Describe {
  constructor(api, rows, styleOfClass) {
    Object.assign(this, { api, rows, styleOfClass });
  }

  photograph(position, eager = false) {
    const { split, row } = this.rows.row(position);
    const image = element("img", { alt: "", loading: eager ? "eager" : "lazy", decoding: "async" });
    const frame = element("span", { className: "photo" }, image);
    image.addEventListener("error", () => {
      frame.replaceChildren(element("span", { className: "gone", textContent: "no photograph" }));
    });
    image.src = this.api.photograph(split, row);
    return frame;
  }

  className(position) {
    return this.rows.classNames[this.rows.label[position]];
  }

  // What the run in use said of a row; null where there is none.
  answer(position) {
    if (!this.rows.predicted) return null;
    const kind = this.rows.answer(position);
    if (kind === 2) return element("span", { className: "answer", textContent: "no answer" });
    const name = this.rows.classNames[this.rows.predicted[position]];
    return element("span", { className: kind ? "answer wrong" : "answer right" },
      kind ? "✗ predicted " : "✓ predicted ", element("bdi", { textContent: name }),
      ` ${percent(this.rows.probability[position])}`);
  }

  name(position) {
    const made = element("bdi", { className: "name", textContent: "…" });
    this.api.name(position).then(
      (name) => { made.textContent = name; },
      () => { made.textContent = `row ${this.rows.row(position).row}`; },
    );
    return made;
  }

  facts(position) {
    const { split } = this.rows.row(position);
    return element("div", { className: "facts" }, this.name(position),
      element("span", { className: "class" }, element("bdi", { textContent: this.className(position) }),
        ` · ${split}`),
      this.answer(position));
  }

  async sentence(position) {
    const { split } = this.rows.row(position);
    const name = await this.api.name(position).catch(() => "");
    const answer = this.answer(position);
    return `${name}, ${this.className(position)}, ${split}${answer ? `, ${answer.textContent}` : ""}`;
  }
}

export class Card {
  constructor(root, stage) {
    Object.assign(this, { root, stage, position: null });
  }

  show(describe, position, [x, y]) {
    if (position !== this.position) {
      this.root.replaceChildren(describe.photograph(position, true), describe.facts(position));
      this.position = position;
    }
    this.root.hidden = false;
    const { clientWidth: width, clientHeight: height } = this.stage;
    const w = this.root.offsetWidth, h = this.root.offsetHeight;
    const left = x + 18 + w < width ? x + 18 : Math.max(4, x - 18 - w);
    this.root.style.left = `${Math.min(left, Math.max(4, width - w - 4))}px`;
    this.root.style.top = `${Math.max(4, Math.min(height - h - 4, y - h / 2))}px`;
  }

  hide() {
    this.root.hidden = true;
    this.position = null;
  }
}

export class Pinned {
  constructor(root, { pick, close }) {
    Object.assign(this, { root, pick, close });
  }

  clear() {
    this.root.hidden = true;
    this.root.replaceChildren();
  }

  frame(head, title) {
    const closing = element("button", { type: "button", className: "small close", textContent: "close" });
    closing.addEventListener("click", this.close);
    const heading = element("h2", { textContent: title, tabIndex: -1 });
    this.near = element("div", { className: "near" },
      element("p", { className: "note", textContent: "Looking for its neighbours …" }));
    this.root.replaceChildren(element("div", { className: "pin-head" }, heading, closing), head, this.near);
    this.root.hidden = false;
  }

  showRow(describe, position) {
    const head = element("div", { className: "pinned-row" },
      describe.photograph(position, true), describe.facts(position));
    this.frame(head, "Pinned photograph");
  }

  showImage(file) {
    const preview = element("canvas", { className: "preview", width: 160, height: 160 });
    preview.setAttribute("aria-hidden", "true");
    draw(file, preview);
    const head = element("div", { className: "pinned-row" },
      element("span", { className: "photo" }, preview),
      element("div", { className: "facts" }, element("bdi", { className: "name", textContent: file.name })));
    this.frame(head, "Your image");
  }

  fail(message) {
    this.near?.replaceChildren(element("p", { className: "problem", textContent: message }));
  }

  neighbours(describe, found) {
    const tally = new Map();
    for (const each of found.neighbours) {
      tally.set(each.class_name, (tally.get(each.class_name) || 0) + 1);
    }
    const parts = [...tally].sort((a, b) => b[1] - a[1]).slice(0, 4);
    const origin = found.origin === "computed" ? "Its features were computed just now. "
      : found.origin ? `Its features were known (${found.origin}). ` : "";
    const told = element("p", { className: "note" }, `${origin}The ${found.neighbours.length} nearest: `);
    parts.forEach(([name, count], at) => {
      told.append(at ? ", " : "", `${count} `, element("bdi", { textContent: name }));
    });
    told.append(tally.size > 4 ? " and others." : ".");
    const list = element("ol", { className: "neighbours" });
    for (const each of found.neighbours) {
      const distance = each.same_bytes ? "same bytes" : each.distance.toFixed(3);
      const button = element("button", { type: "button", title: each.sample_id },
        describe.photograph(each.position),
        element("span", { className: "caption" }, element("bdi", { textContent: each.class_name }),
          element("span", { className: "distance", textContent: distance })));
      button.setAttribute("aria-label",
        `${each.sample_id}, ${each.class_name}, ${each.split}, distance ${distance}`);
      button.addEventListener("click", () => this.pick(each.position));
      list.append(element("li", {}, button));
    }
    this.near.replaceChildren(element("h3", { textContent: "Nearest neighbours" }), told, list,
      element("p", { className: "note",
        textContent: "Distance: one minus the cosine of the features, averaged over space." }));
  }
}

// Shown on a canvas: an address for a file of one's own is not among those that pages may load.
async function draw(file, canvas) {
  try {
    const bitmap = await createImageBitmap(file);
    const shrink = 160 / Math.max(bitmap.width, bitmap.height);
    canvas.width = Math.max(1, Math.round(bitmap.width * shrink));
    canvas.height = Math.max(1, Math.round(bitmap.height * shrink));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  } catch { /* the service may read what this browser cannot */ }
}

const LISTED = 40;

export class Listing {
  constructor(root, { pick }) {
    this.details = root;
    this.summary = root.querySelector("summary");
    this.list = root.querySelector("ol");
    this.more = root.querySelector("button");
    this.pick = pick;
    this.positions = [];
    this.details.addEventListener("toggle", () => this.fill());
    this.more.addEventListener("click", () => this.add());
  }

  // Sorted only when it is to be seen: of 50,000 photographs that takes longer than drawing them.
  show(describe, positions, compare) {
    this.describe = describe;
    this.positions = positions;
    this.compare = compare;
    const count = positions.length.toLocaleString("en");
    this.summary.textContent = `List of what is in view: ${count} photograph${positions.length === 1 ? "" : "s"}`;
    this.fill();
  }

  fill() {
    this.list.replaceChildren();
    if (this.details.open) {
      this.positions.sort(this.compare);
      this.add();
    }
    if (!this.details.open) this.more.hidden = true;
  }

  add() {
    const start = this.list.children.length;
    for (const position of this.positions.slice(start, start + LISTED)) {
      const button = element("button", { type: "button" },
        this.describe.photograph(position), this.describe.facts(position));
      button.addEventListener("click", () => this.pick(position));
      this.list.append(element("li", {}, button));
    }
    if (start && this.list.children[start]) this.list.children[start].firstChild.focus();
    this.more.hidden = this.list.children.length >= this.positions.length;
  }
}
