// What is drawn above the points: the rings of the point in hand and the pinned one, lines to
// neighbours, the place of a dropped image, and photographs where few points are in sight.

const TILE = 56;
const MOST_TILES = 60;
const MOST_LOADING = 6;
const MOST_KEPT = 400;

// Photographs on the map, loaded a few at a time, those asked for last first.
class Tiles {
  constructor(address, loaded) {
    this.address = address;
    this.loaded = loaded;
    this.kept = new Map();
    this.wanted = [];
    this.loading = 0;
  }

  find(positions) {
    this.wanted = positions.filter((position) => !this.kept.has(position));
    this.load();
    return positions.map((position) => this.kept.get(position) || null);
  }

  load() {
    while (this.loading < MOST_LOADING && this.wanted.length) {
      const position = this.wanted.shift();
      this.kept.set(position, null);
      if (this.kept.size > MOST_KEPT) this.kept.delete(this.kept.keys().next().value);
      this.loading++;
      const image = new Image();
      const done = (found) => {
        this.loading--;
        if (found) this.kept.set(position, image);
        this.loaded();
        this.load();
      };
      image.addEventListener("load", () => done(true));
      image.addEventListener("error", () => done(false));
      image.src = this.address(position);
    }
  }
}

export class Overlay {
  constructor(canvas, view, { address, loaded }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.view = view;
    this.tiles = new Tiles(address, loaded);
  }

  draw({ rows, palette, styleOf, hover, pinned, near, dropped, visible }) {
    const ratio = devicePixelRatio || 1;
    const width = Math.round(this.view.width * ratio), height = Math.round(this.view.height * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const pen = this.context;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.view.width, this.view.height);
    const at = (position) => this.view.toScreen(rows.x[position], rows.y[position]);
    const from = dropped ? this.view.toScreen(dropped[0], dropped[1]) : pinned !== null ? at(pinned) : null;
    if (from) this.lines(pen, from, near.map(at), palette);
    if (visible) this.photographs(pen, visible, at, styleOf, palette);
    for (const position of near) this.ring(pen, at(position), 7, palette.ink, 1.25, palette.paper);
    if (pinned !== null) this.ring(pen, at(pinned), 11, palette.ink, 2.5, palette.paper);
    if (dropped) this.star(pen, from, palette);
    if (hover !== null) this.ring(pen, at(hover), 9, palette.ink, 2, palette.paper);
  }

  ring(pen, [x, y], radius, colour, width, paper) {
    for (const [stroke, line] of [[paper, width + 2.5], [colour, width]]) {
      pen.strokeStyle = stroke;
      pen.lineWidth = line;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  lines(pen, from, to, palette) {
    pen.strokeStyle = palette.ink;
    pen.lineWidth = 1;
    pen.globalAlpha = 0.45;
    pen.beginPath();
    for (const [x, y] of to) {
      pen.moveTo(from[0], from[1]);
      pen.lineTo(x, y);
    }
    pen.stroke();
    pen.globalAlpha = 1;
  }

  star(pen, [x, y], palette) {
    pen.beginPath();
    for (let k = 0; k < 10; k++) {
      const radius = k % 2 ? 5.5 : 13, angle = (k * Math.PI) / 5 - Math.PI / 2;
      pen.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
    }
    pen.closePath();
    pen.lineJoin = "round";
    pen.strokeStyle = palette.paper;
    pen.lineWidth = 5;
    pen.stroke();
    pen.fillStyle = palette.ink;
    pen.fill();
  }

  photographs(pen, visible, at, styleOf, palette) {
    const placed = [], chosen = [];
    for (const position of visible) {
      const [x, y] = at(position);
      if (placed.some(([px, py]) => Math.abs(px - x) < TILE + 4 && Math.abs(py - y) < TILE + 4)) continue;
      placed.push([x, y]);
      chosen.push(position);
      if (chosen.length === MOST_TILES) break;
    }
    const images = this.tiles.find(chosen);
    images.forEach((image, each) => {
      if (!image) return;
      const [x, y] = placed[each];
      const shrink = TILE / Math.max(image.naturalWidth, image.naturalHeight);
      const w = image.naturalWidth * shrink, h = image.naturalHeight * shrink;
      const { colour } = styleOf(chosen[each]);
      pen.fillStyle = palette.paper;
      pen.fillRect(x - w / 2 - 4, y - h / 2 - 4, w + 8, h + 8);
      pen.fillStyle = colour;
      pen.fillRect(x - w / 2 - 3, y - h / 2 - 3, w + 6, h + 6);
      pen.drawImage(image, x - w / 2, y - h / 2, w, h);
    });
  }
}
