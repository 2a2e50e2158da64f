// Where the map is looked at from, and the drawing of its points.
//
// Points are written into an array of pixels, shape by shape, and the array is shown at once. Without a
// graphics card 50,000 points took 21 ms so, 77 ms as rectangles by canvas calls and 257 ms as copied
// shapes; WebGL is not to be had in every browser, and this is the same everywhere, to the pixel.

import { pack, rgb, sprite } from "./map-colours.js";

const MARGIN = 28;
const MOST_ZOOM = 400;
const SLOW_MS = 12;

export class View {
  constructor() {
    this.frame = [0, 0, 1, 1];
    this.width = this.height = 1;
    this.whole();
  }

  // Pixels of the page in the width of the map, from 0 to 1.
  get scale() {
    const [left, top, right, bottom] = this.frame;
    const wide = (this.width - 2 * MARGIN) / (right - left), high = (this.height - 2 * MARGIN) / (bottom - top);
    return Math.max(1, Math.min(wide, high)) * this.zoom;
  }

  // What `whole` shows: all points, however flat they lie.
  fit({ x, y }) {
    const extent = (values) => {
      let low = Infinity, high = -Infinity;
      for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
      return [low, Math.max(high, low + 0.05)];
    };
    const [[left, right], [top, bottom]] = [extent(x), extent(y)];
    this.frame = [left, top, right, bottom];
  }

  get isWhole() {
    const { x, y, zoom } = this;
    this.whole();
    const same = this.x === x && this.y === y && zoom === 1;
    Object.assign(this, { x, y, zoom });
    return same;
  }

  toScreen(x, y) {
    return [(x - this.x) * this.scale + this.width / 2, (y - this.y) * this.scale + this.height / 2];
  }

  toMap(sx, sy) {
    return [(sx - this.width / 2) / this.scale + this.x, (sy - this.height / 2) / this.scale + this.y];
  }

  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.keep();
  }

  zoomAt(factor, sx, sy) {
    const [x, y] = this.toMap(sx, sy);
    this.zoom = Math.max(0.7, Math.min(MOST_ZOOM, this.zoom * factor));
    const [nx, ny] = this.toMap(sx, sy);
    this.x += x - nx;
    this.y += y - ny;
    this.keep();
  }

  keep() {
    this.x = Math.max(-0.2, Math.min(1.2, this.x));
    this.y = Math.max(-0.2, Math.min(1.2, this.y));
  }

  whole() {
    const [left, top, right, bottom] = this.frame;
    [this.x, this.y] = [(left + right) / 2, (top + bottom) / 2];
    this.zoom = 1;
  }

  get bounds() {
    return [...this.toMap(0, 0), ...this.toMap(this.width, this.height)];
  }
}

export class Painter {
  constructor(canvas, view) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.view = view;
    this.slow = false;
    this.sprites = new Map();
    this.frames = 0;
  }

  resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    this.view.width = Math.max(1, width);
    this.view.height = Math.max(1, height);
  }

  // The size of a point in pixels of the page: smaller where there are many, larger from near.
  radius(count) {
    const few = Math.max(1.5, Math.min(4.2, 4.6 - 0.55 * Math.log2(Math.max(count, 1) / 500)));
    const room = Math.max(0.7, Math.min(1, Math.min(this.view.width, this.view.height) / 560));
    return Math.min(9, few * room * Math.max(1, this.view.zoom ** 0.35));
  }

  // Draws the points that `order` names, the last on top; `moving` may take fewer pixels for them.
  draw({ rows, order, style, styles, palette, moving = false }) {
    const began = performance.now();
    const ratio = moving && this.slow ? 1 : Math.min(devicePixelRatio || 1, 2);
    const width = Math.round(this.view.width * ratio), height = Math.round(this.view.height * ratio);
    const radius = this.radius(order.length) * ratio;
    const pad = Math.ceil(radius * 1.4 + 3);
    const stride = width + 2 * pad, lines = height + 2 * pad;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    if (!this.image || this.image.width !== stride || this.image.height !== lines) {
      this.image = new ImageData(stride, lines);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const pixels = this.pixels;
    pixels.fill(pack(...rgb(palette.paper)));
    const made = styles.map((each) => this.sprite(each, radius * each.size, palette.paper, stride));
    const scale = this.view.scale * ratio;
    const left = width / 2 - this.view.x * scale, top = height / 2 - this.view.y * scale;
    const { x, y } = rows;
    for (let at = 0; at < order.length; at++) {
      const i = order[at];
      const px = (x[i] * scale + left + 0.5) | 0, py = (y[i] * scale + top + 0.5) | 0;
      if (px < 0 || py < 0 || px > width || py > height) continue;
      const { offsets, solid, at: edges, redBlue, green, through } = made[style[i]];
      const middle = (py + pad) * stride + px + pad;
      for (let k = 0; k < offsets.length; k++) pixels[middle + offsets[k]] = solid[k];
      for (let k = 0; k < edges.length; k++) {
        const below = pixels[middle + edges[k]], share = through[k];
        const rb = (Math.imul(below & 0xff00ff, share) + redBlue[k]) >>> 8;
        const g = (Math.imul(below & 0x00ff00, share) + green[k]) >>> 8;
        pixels[middle + edges[k]] = 0xff000000 | (rb & 0xff00ff) | (g & 0x00ff00);
      }
    }
    this.context.putImageData(this.image, -pad, -pad);
    const took = performance.now() - began;
    if (ratio > 1) this.slow = took > SLOW_MS;
    this.frames++;
    this.lastMs = took;
  }

  sprite(style, radius, paper, stride) {
    const rounded = Math.round(radius * 4) / 4;
    const key = `${style.colour} ${style.shape} ${rounded} ${paper} ${stride}`;
    let found = this.sprites.get(key);
    if (!found) {
      if (this.sprites.size > 300) this.sprites.clear();
      found = sprite(style, rounded, paper, stride);
      this.sprites.set(key, found);
    }
    return found;
  }
}
