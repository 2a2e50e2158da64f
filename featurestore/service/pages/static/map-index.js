// Finds points by place: a grid of cells, each a run of one sorted array.

const CELLS = 128;

export class PointIndex {
  constructor(rows) {
    this.rows = rows;
    this.build();
  }

  build() {
    const { x, y, count } = this.rows;
    const cell = new Uint16Array(count);
    const starts = new Uint32Array(CELLS * CELLS + 1);
    for (let i = 0; i < count; i++) {
      cell[i] = this.cell(x[i], y[i]);
      starts[cell[i] + 1]++;
    }
    for (let c = 0; c < CELLS * CELLS; c++) starts[c + 1] += starts[c];
    const next = starts.slice();
    this.sorted = new Uint32Array(count);
    for (let i = 0; i < count; i++) this.sorted[next[cell[i]]++] = i;
    this.starts = starts;
  }

  column(place) {
    return Math.max(0, Math.min(CELLS - 1, Math.floor(place * CELLS)));
  }

  cell(x, y) {
    return this.column(y) * CELLS + this.column(x);
  }

  // Calls `visit` with each point of the cells that a rectangle touches.
  each(left, top, right, bottom, visit) {
    const from = this.column(left), to = this.column(right);
    for (let row = this.column(top); row <= this.column(bottom); row++) {
      const start = this.starts[row * CELLS + from], stop = this.starts[row * CELLS + to + 1];
      for (let at = start; at < stop; at++) visit(this.sorted[at]);
    }
  }

  // The shown point nearest to a place, within `reach`; null if there is none.
  nearest(px, py, reach, shown) {
    const { x, y } = this.rows;
    let best = null, least = reach * reach;
    this.each(px - reach, py - reach, px + reach, py + reach, (i) => {
      const distance = (x[i] - px) ** 2 + (y[i] - py) ** 2;
      if (distance <= least && shown(i)) [best, least] = [i, distance];
    });
    return best;
  }

  within(left, top, right, bottom, shown) {
    const { x, y } = this.rows;
    const found = [];
    this.each(left, top, right, bottom, (i) => {
      if (x[i] >= left && x[i] <= right && y[i] >= top && y[i] <= bottom && shown(i)) found.push(i);
    });
    return found;
  }

  // The next shown point from one point in a direction, (1, 0) being right: near and ahead.
  towards(from, dx, dy, shown) {
    const { x, y, count } = this.rows;
    let best = null, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (i === from || !shown(i)) continue;
      const ahead = (x[i] - x[from]) * dx + (y[i] - y[from]) * dy;
      if (ahead <= 0) continue;
      const aside = Math.abs((x[i] - x[from]) * dy - (y[i] - y[from]) * dx);
      if (aside > ahead) continue;
      const cost = ahead + 2 * aside;
      if (cost < least) [best, least] = [i, cost];
    }
    return best;
  }
}
