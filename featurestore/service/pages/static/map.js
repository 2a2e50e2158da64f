// The map of a feature set: holds the state of the page and puts its parts together.

import { Painter, View } from "./map-canvas.js";
import { Palette } from "./map-colours.js";
import { Api, Rows } from "./map-data.js";
import { listen, listenForFiles } from "./map-gestures.js";
import { PointIndex } from "./map-index.js";
import { counts, dimensions, Legend } from "./map-legend.js";
import { Overlay } from "./map-overlay.js";
import { Card, Describe, Listing, Pinned } from "./map-panel.js";
import { readState, writeState } from "./map-state.js";

const NEIGHBOURS = 12;
const REACH_PX = 22;
const REST_MS = 140;
const ASK_MS = 700;
const TILES_FROM = 120;
const STEPS = {
  waiting: "waiting for another map", reading: "reading the features", components: "finding the main components",
  layout: "laying neighbours out", placing: "placing the rest",
};
const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const gentle = matchMedia("(prefers-reduced-motion: reduce)");

class FeatureMap {
  constructor(root) {
    this.api = new Api(root.dataset.api, root.dataset.fingerprint);
    this.stage = $("stage");
    this.view = new View();
    this.palette = new Palette(root);
    this.painter = new Painter($("points"), this.view);
    this.overlay = new Overlay($("overlay"), this.view, {
      address: (position) => { const { split, row } = this.rows.row(position); return this.api.photograph(split, row); },
      loaded: () => this.redraw(),
    });
    this.legend = new Legend($("legend"), {
      changed: () => this.filter(),
      emphasise: (dim, value) => { this.emphasis = dim && { dim, value }; this.restyle(); },
    });
    this.card = new Card($("card"), this.stage);
    this.pinnedView = new Pinned($("pinned"), { pick: (i) => this.pin(i, { look: true }), close: () => this.unpin() });
    this.listing = new Listing($("listing"), { pick: (i) => this.pin(i, { look: true, focus: true }) });
    this.hover = this.pinned = this.dropped = this.emphasis = null;
    this.near = [];
    this.order = new Uint32Array(0);
    this.asked = readState(location.search);
  }

  async begin() {
    for (;;) {
      const state = await this.patiently(() => this.api.state());
      if (!this.state) this.prepare(state);
      if (state.points !== "none" && state.points !== this.has) {
        await this.takePoints(state, await this.patiently(() => this.api.points()));
      }
      this.tell(state);
      if (state.step === "ready" || state.step === "failed") break;
      await pause(ASK_MS);
    }
  }

  // Asks again where the network fails or the service is busy or starts anew: a map takes minutes.
  async patiently(ask) {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        // `fetch` tells of a network that fails by a TypeError.
        if (!(error instanceof TypeError) && ![429, 503].includes(error.status)) throw error;
        if (!this.has) $("progress-text").textContent = `Asking again: ${error.status ? error.message : "the service does not answer"} …`;
        await pause(1000 * (error.retryAfter || 2));
      }
    }
  }

  tell(state) {
    const making = state.step !== "ready";
    $("progress").hidden = !making;
    if (state.step === "failed") {
      $("progress").classList.add("failed");
      $("progress-text").textContent = `The map cannot be made: ${state.reason}`;
      $("bar").hidden = true;
      return;
    }
    const first = state.points === "draft" ? "A first look, by two main components. " : "";
    $("progress-text").textContent = `${first}The map is being made, once: ${STEPS[state.step] || state.step} …`;
    $("bar").value = state.done;
  }

  prepare(state) {
    this.state = state;
    const select = $("run");
    for (const run of state.runs) {
      const accuracy = run.accuracy.test ?? run.accuracy.validation ?? null;
      const told = accuracy === null ? "" : ` · ${(100 * accuracy).toFixed(1)} %`;
      const other = run.of_this_set ? "" : " · on other features";
      select.append(new Option(`${run.id}${told}${other}`, run.id));
    }
    for (const option of $("colour").options) {
      if (["answer", "predicted"].includes(option.value)) option.disabled = !state.runs.length;
    }
    if (state.runs.some(({ id }) => id === this.asked.run)) select.value = this.asked.run;
    const wanted = [...$("colour").options].find(({ value, disabled }) => value === this.asked.colour && !disabled);
    if (wanted) $("colour").value = wanted.value;
  }

  async takePoints(state, { about, columns }) {
    if (!this.rows) {
      this.rows = new Rows(state, columns);
      this.describe = new Describe(this.api, this.rows);
      this.index = new PointIndex(this.rows);
      this.shuffled = shuffle(this.rows.count);
      this.visible = new Uint8Array(this.rows.count).fill(1);
      this.dims = dimensions(this.rows);
      this.has = about.points;
      this.painter.resize();
      this.view.fit(this.rows);
      this.restore();
      this.listen();
      await this.chooseRun();
      this.stage.classList.add("ready");
      if (this.asked.pin) this.pin(this.rows.position(...this.asked.pin), { look: false });
    } else {
      this.has = about.points;
      await this.move(columns);
      this.index.build();
      this.settle();
    }
  }

  // From the draft to the layout, so that the eye can follow.
  async move(columns) {
    const { rows } = this;
    const from = [rows.x.slice(), rows.y.slice()];
    const { isWhole } = this.view;
    rows.place(columns);
    this.view.fit(rows);
    if (isWhole) this.view.whole();
    if (gentle.matches) return;
    const to = [rows.x.slice(), rows.y.slice()];
    const began = performance.now();
    for (let share = 0; share < 1;) {
      share = Math.min(1, (performance.now() - began) / 900);
      const eased = share * share * (3 - 2 * share);
      for (let i = 0; i < rows.count; i++) {
        rows.x[i] = from[0][i] + (to[0][i] - from[0][i]) * eased;
        rows.y[i] = from[1][i] + (to[1][i] - from[1][i]) * eased;
      }
      this.redraw(true);
      await new Promise(requestAnimationFrame);
    }
  }

  restore() {
    const { view, hidden } = this.asked;
    this.view.whole();
    if (view) [this.view.x, this.view.y, this.view.zoom] = view;
    this.view.keep();
    for (const dim of this.dims) for (const value of hidden[dim.key] || []) dim.hidden.add(value);
  }

  listen() {
    const centre = () => [this.view.width / 2, this.view.height / 2];
    listen(this.stage, {
      zoom: (factor, x, y) => { this.view.zoomAt(factor, ...(x === undefined ? centre() : [x, y])); this.moved(); },
      pan: (dx, dy) => { this.view.pan(dx, dy); this.moved(); },
      hover: (x, y) => this.point(this.at(x, y)),
      leave: () => this.point(null),
      rest: () => this.moved(),
      pick: (x, y) => {
        const found = this.at(x, y);
        this.point(found); // a finger does not hover
        if (found !== null) this.pin(found, {});
      },
      step: (dx, dy) => this.step(dx, dy),
      middle: () => this.point(this.middle(), true),
      whole: () => this.whole(),
      pin: () => { const at = this.hover ?? this.middle(); if (at !== null) this.pin(at, {}); },
      unpin: () => this.unpin(),
    });
    this.stage.addEventListener("blur", () => this.point(null));
    $("closer").addEventListener("click", () => { this.view.zoomAt(1.6, ...centre()); this.moved(); });
    $("farther").addEventListener("click", () => { this.view.zoomAt(1 / 1.6, ...centre()); this.moved(); });
    $("whole").addEventListener("click", () => this.whole());
    $("colour").addEventListener("change", () => this.chooseRun());
    $("run").addEventListener("change", () => this.chooseRun());
    listenForFiles(document.body, this.stage, (file) => this.drop(file));
    $("file").addEventListener("change", () => { if ($("file").files.length) this.drop($("file").files[0]); });
    new ResizeObserver(() => { this.painter.resize(); this.moved(); }).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
  }

  async chooseRun() {
    const colour = $("colour").value, wanted = ["answer", "predicted"].includes(colour) ? $("run").value : null;
    $("run-field").hidden = !wanted;
    if (wanted !== this.run) {
      this.run = wanted;
      const hidden = new Map(this.dims.map(({ key, hidden: values }) => [key, values]));
      try {
        const found = wanted ? await this.api.answers(wanted) : { predicted: null, probability: null };
        if (wanted !== this.run) return; // another was chosen meanwhile
        Object.assign(this.rows, found);
      } catch (error) {
        this.run = null;
        $("colour").value = "class";
        this.say(error.message);
      }
      this.dims = dimensions(this.rows);
      for (const dim of this.dims) dim.hidden = hidden.get(dim.key) || dim.hidden;
      for (const dim of this.dims) for (const value of this.asked.hidden[dim.key] || []) dim.hidden.add(value);
      this.asked.hidden = {};
    }
    this.point(null);
    this.recolour();
    if (this.pinned !== null) this.pin(this.pinned, {}); // what it says of the answer is another now
  }

  recolour() {
    this.palette.read();
    const colour = $("colour").value;
    this.coloured = this.dims.find(({ key }) => key === colour) || this.dims[0];
    const found = counts(this.rows, this.dims.map((dim) => ({ ...dim, hidden: new Set() })));
    this.plain = this.coloured.key === "answer" ? this.palette.answers()
      : this.palette.categories(found[this.dims.indexOf(this.coloured)]);
    this.legend.build(this.dims, this.coloured.key, this.plain);
    this.filter();
  }

  filter() {
    this.legend.tell(counts(this.rows, this.dims));
    const active = this.dims.filter(({ hidden }) => hidden.size);
    const visible = this.visible = new Uint8Array(this.rows.count).fill(1);
    for (const { hidden, of } of active) {
      for (let i = 0; i < this.rows.count; i++) if (visible[i] && hidden.has(of(i))) visible[i] = 0;
    }
    this.restyle();
    this.settle();
  }

  // Which point is drawn how, and after which others.
  restyle() {
    if (!this.plain) return;
    const { coloured, plain, palette } = this;
    const emphasis = this.emphasis?.dim.hidden.has(this.emphasis.value) ? null : this.emphasis;
    const faint = { ...plain[0], colour: palette.faint, shape: "circle", size: 0.75, layer: -1 };
    const bright = emphasis && emphasis.dim.key === coloured.key && plain[emphasis.value].colour === palette.none;
    const accent = { ...plain[0], colour: palette.ink, shape: "circle", size: 1, layer: 1 };
    this.styles = [...plain, faint, accent];
    const style = this.style = new Uint16Array(this.rows.count);
    const layers = new Map();
    for (const i of this.shuffled) {
      if (!this.visible[i]) continue;
      let value = coloured.of(i);
      if (emphasis && emphasis.dim.of(i) !== emphasis.value) value = plain.length;
      else if (bright) value = plain.length + 1;
      style[i] = value;
      const { layer } = this.styles[value];
      if (!layers.has(layer)) layers.set(layer, []);
      layers.get(layer).push(i);
    }
    this.order = Uint32Array.from([...layers.keys()].sort((a, b) => a - b).flatMap((layer) => layers.get(layer)));
    this.redraw();
  }

  redraw(moving = false) {
    this.moving = this.moving || moving;
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      const { rows, palette } = this;
      if (!this.styles) return;
      this.painter.draw({ rows, palette, order: this.order, style: this.style, styles: this.styles, moving: this.moving });
      this.moving = false;
      this.overlay.draw({
        rows, palette, hover: this.hover, pinned: this.pinned, near: this.near, dropped: this.dropped,
        visible: this.tiles, styleOf: (i) => this.plain[this.coloured.of(i)],
      });
    });
  }

  moved() {
    this.redraw(true);
    if (this.hover !== null && !this.keyed) this.point(null);
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.settle(), REST_MS);
  }

  // What is done once nothing moves: full pixels, the list of what is seen, photographs, the address.
  settle() {
    const [left, top, right, bottom] = this.view.bounds;
    const seen = this.index.within(left, top, right, bottom, (i) => this.visible[i]);
    const { x, y } = this.rows, { x: cx, y: cy } = this.view;
    const nearer = (a, b) => (x[a] - cx) ** 2 + (y[a] - cy) ** 2 - (x[b] - cx) ** 2 - (y[b] - cy) ** 2;
    const few = TILES_FROM * Math.max(1, (this.view.width * this.view.height) / 4e5);
    this.tiles = seen.length && seen.length <= few ? seen.slice().sort(nearer) : null;
    this.listing.show(this.describe, seen, nearer);
    this.redraw();
    this.keep();
  }

  keep() {
    const pin = this.pinned === null ? null : this.rows.row(this.pinned);
    const { fingerprint } = this.asked; // of an older version
    const text = writeState({
      fingerprint, colour: $("colour").value, run: this.run, view: this.view, dims: this.dims, pin,
    });
    try {
      history.replaceState(null, "", `${location.pathname}${text}`);
    } catch { /* some browsers allow only so many a minute: the next one tells it all */ }
  }

  at(sx, sy) {
    return this.index.nearest(...this.view.toMap(sx, sy), REACH_PX / this.view.scale, (i) => this.visible[i]);
  }

  middle() {
    return this.index.nearest(this.view.x, this.view.y, 2, (i) => this.visible[i]);
  }

  point(position, keyed = false) {
    this.keyed = keyed && position !== null;
    this.hover = position;
    // What is pinned is shown beside the map: a card would lie over what is near it.
    if (position === null || (position === this.pinned && !keyed)) this.card.hide();
    else this.card.show(this.describe, position, this.view.toScreen(this.rows.x[position], this.rows.y[position]));
    if (keyed && position !== null) this.describe.sentence(position).then((text) => this.say(text));
    this.redraw();
  }

  step(dx, dy) {
    const from = this.hover ?? this.pinned;
    const next = from === null ? this.middle() : this.index.towards(from, dx, dy, (i) => this.visible[i]);
    if (next === null) return this.say("No photograph in that direction.");
    this.show(next);
    this.point(next, true);
  }

  // Moves the map only as far as it takes for a point to be seen.
  show(position) {
    const [sx, sy] = this.view.toScreen(this.rows.x[position], this.rows.y[position]);
    const inset = 60;
    const dx = Math.max(inset - sx, 0) + Math.min(this.view.width - inset - sx, 0);
    const dy = Math.max(inset - sy, 0) + Math.min(this.view.height - inset - sy, 0);
    if (dx || dy) { this.keyed = true; this.view.pan(dx, dy); this.moved(); }
  }

  whole() {
    this.view.whole();
    this.moved();
  }

  async pin(position, { look = false, focus = false }) {
    if (position === null) return;
    const ticket = this.ticket = {};
    [this.pinned, this.dropped, this.near] = [position, null, []];
    this.card.hide();
    this.pinnedView.showRow(this.describe, position);
    if (look) this.show(position);
    if (focus) $("pinned").querySelector("h2").focus();
    this.redraw();
    this.keep();
    const { split, row } = this.rows.row(position);
    await this.neighbours(ticket, () => this.api.neighbours(split, row, NEIGHBOURS));
  }

  async drop(file) {
    const ticket = this.ticket = {};
    [this.pinned, this.dropped, this.near] = [null, null, []];
    this.pinnedView.showImage(file);
    this.redraw();
    $("pinned").querySelector("h2").focus();
    $("file").value = "";
    await this.neighbours(ticket, () => this.api.neighboursOf(file, NEIGHBOURS));
  }

  async neighbours(ticket, ask) {
    this.say("Looking for the nearest neighbours …");
    try {
      const found = await ask();
      if (ticket !== this.ticket) return;
      this.near = found.neighbours.map(({ position }) => position);
      if (found.position === null && found.place) {
        this.dropped = [(found.place[0] + 1) / 2, (1 - found.place[1]) / 2];
      }
      this.pinnedView.neighbours(this.describe, found);
      const [first] = found.neighbours;
      this.say(first ? `${found.neighbours.length} neighbours found, the nearest: ${first.sample_id}` : "It has no neighbours.");
      this.redraw();
    } catch (error) {
      if (ticket !== this.ticket) return;
      this.pinnedView.fail(error.message);
      this.say(error.message);
    }
  }

  unpin() {
    this.ticket = null;
    [this.pinned, this.dropped, this.near] = [null, null, []];
    if ($("pinned").contains(document.activeElement)) this.stage.focus();
    this.pinnedView.clear();
    this.redraw();
    this.keep();
  }

  say(text) {
    $("said").textContent = text;
  }
}

// One fixed order in which no split and no class lies above the others.
function shuffle(count) {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  let seed = 1;
  for (let i = count - 1; i > 0; i--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const j = seed % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

const map = new FeatureMap($("map"));
window.featureMap = map; // for tests and the curious
map.begin().catch((error) => {
  $("progress").hidden = false;
  $("progress").classList.add("failed");
  $("bar").hidden = true;
  $("progress-text").textContent = error.message;
});
