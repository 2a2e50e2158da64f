// Colours and shapes. Shapes tell apart what colours alone would not to everybody.

export const SHAPES = ["circle", "diamond", "square", "triangle"];
const HUES = 6;
const TOLD_APART = HUES * SHAPES.length;

// Paths in a box from -1 to 1, for swatches; the painter has the same shapes as functions.
const PATHS = {
  circle: "M-.8 0a.8 .8 0 1 0 1.6 0a.8 .8 0 1 0-1.6 0z",
  square: "M-.72-.72H.72V.72H-.72z",
  diamond: "M0-1L1 0L0 1L-1 0z",
  triangle: "M0-.95L.95 .7H-.95z",
};
const INSIDE = {
  circle: (x, y) => x * x + y * y <= 1,
  square: (x, y) => Math.max(Math.abs(x), Math.abs(y)) <= 0.88,
  diamond: (x, y) => Math.abs(x) + Math.abs(y) <= 1.22,
  triangle: (x, y) => y <= 0.82 && y >= 2 * Math.abs(x) - 1.14,
};

export class Palette {
  constructor(element) {
    this.element = element;
    this.read();
  }

  read() {
    const style = getComputedStyle(this.element);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.hues = Array.from({ length: HUES }, (_, at) => colour(`--map-${at + 1}`));
    for (const name of ["paper", "ink", "right", "wrong", "none", "faint"]) {
      this[name] = colour(`--map-${name}`);
    }
  }

  // Values that most points have get the colours first; what is left over is grey.
  categories(counts) {
    const styles = new Array(counts.length).fill(null).map(() => ({
      colour: this.none, shape: "circle", size: 0.8, layer: 0,
    }));
    const order = counts.map((count, at) => [count, at]).filter(([count]) => count > 0);
    if (order.length > TOLD_APART) order.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    order.slice(0, TOLD_APART).forEach(([, value], at) => {
      const shape = SHAPES[(at + Math.floor(at / HUES)) % SHAPES.length];
      styles[value] = { colour: this.hues[at % HUES], shape, size: 1, layer: 1 };
    });
    return styles;
  }

  answers() {
    return [
      { colour: this.right, shape: "circle", size: 0.75, layer: 0 },
      { colour: this.wrong, shape: "diamond", size: 1.35, layer: 2 },
      { colour: this.none, shape: "square", size: 0.6, layer: 0 },
    ];
  }
}

export function swatch({ colour, shape }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-1.1 -1.1 2.2 2.2");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[shape]);
  path.setAttribute("fill", colour);
  svg.append(path);
  return svg;
}

export function rgb(colour) {
  const hex = colour.replace("#", "");
  const long = hex.length === 3 ? [...hex].map((digit) => digit + digit).join("") : hex;
  const value = parseInt(long, 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

// One shape as pixels: where each lies from the middle, its colour times its cover, and how much of
// what lies below shows through. An edge in the paper's colour keeps crowded points apart.
export function sprite({ colour, shape }, radius, paper, stride) {
  const inside = INSIDE[shape];
  const fill = rgb(colour), edge = rgb(paper);
  const rim = Math.min(1, radius / 4);
  const reach = Math.ceil(radius + rim + 1);
  const offsets = [], solid = [], mixed = [];
  const cover = (x, y, r) => {
    let hits = 0;
    for (let sy = -3; sy <= 3; sy += 2) {
      for (let sx = -3; sx <= 3; sx += 2) hits += inside((x + sx / 8) / r, (y + sy / 8) / r);
    }
    return hits / 16;
  };
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const core = cover(x, y, radius), all = Math.max(core, 0.75 * cover(x, y, radius + rim));
      if (all < 0.02) continue;
      const part = core / all;
      const [r, g, b] = fill.map((value, at) => value * part + edge[at] * (1 - part));
      if (all > 0.99) offsets.push(y * stride + x), solid.push(pack(r, g, b));
      else mixed.push([y * stride + x, r, g, b, Math.round(all * 256)]);
    }
  }
  return {
    offsets: Int32Array.from(offsets),
    solid: Uint32Array.from(solid),
    at: Int32Array.from(mixed, (each) => each[0]),
    // Red and blue, and green, each already times its cover; little-endian pixels are ABGR.
    redBlue: Uint32Array.from(mixed, ([, r, , b, a]) => ((Math.round(b) << 16) | Math.round(r)) * a),
    green: Uint32Array.from(mixed, ([, , g, , a]) => (Math.round(g) << 8) * a),
    through: Uint16Array.from(mixed, ([, , , , a]) => 256 - a),
    reach,
  };
}

export function pack(r, g, b) {
  return (0xff000000 | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;
}
