// What the map knows of the rows, and how it asks the service for more.

const MAGIC = "FSCOLUMN";
const ARRAYS = { uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };
export const NOTHING = 0xffff;

export class Refusal extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function refusal(answer) {
  let detail = `the service answered ${answer.status}`;
  try {
    const problem = await answer.json();
    detail = problem.next_step ? `${problem.detail} (${problem.next_step})` : problem.detail;
  } catch { /* not a problem document: its status says enough */ }
  if (answer.status === 401) detail = "You are signed out: load this page again to sign in.";
  return new Refusal(answer.status, detail, Number(answer.headers.get("Retry-After")) || 2);
}

// Returns the columns of one body; `map_points.py` describes the format.
export function parseColumns(buffer) {
  const bytes = new Uint8Array(buffer);
  if (new TextDecoder().decode(bytes.subarray(0, 8)) !== MAGIC) throw new Error("not columns");
  const length = new DataView(buffer).getUint32(8, true);
  const about = JSON.parse(new TextDecoder().decode(bytes.subarray(12, 12 + length)));
  const columns = {};
  for (const { name, dtype, start } of about.columns) {
    columns[name] = new ARRAYS[dtype](buffer, 12 + length + start, about.rows);
  }
  return { about, columns };
}

export class Api {
  constructor(address, fingerprint) {
    this.address = address;
    this.fingerprint = fingerprint;
    this.names = new Map();
    this.wanted = new Map();
  }

  url(path, query = {}) {
    const fields = new URLSearchParams({ ...query, fingerprint: this.fingerprint });
    return `${this.address}/${path}?${fields}`;
  }

  async ask(path, query, options) {
    const answer = await fetch(this.url(path, query), options);
    if (!answer.ok) throw await refusal(answer);
    return answer;
  }

  async state() {
    return (await this.ask("map", {})).json();
  }

  async points() {
    return parseColumns(await (await this.ask("map/points", {})).arrayBuffer());
  }

  async answers(run) {
    return parseColumns(await (await this.ask("map/answers", { run })).arrayBuffer()).columns;
  }

  async neighbours(split, row, k) {
    return (await this.ask("neighbours", { split, row, k })).json();
  }

  async neighboursOf(file, k) {
    const headers = { "Content-Type": "application/octet-stream" };
    return (await this.ask("neighbours", { k }, { method: "POST", body: file, headers })).json();
  }

  photograph(split, row) {
    return this.url(`images/${encodeURIComponent(split)}/${row}`);
  }

  // Names asked for in one moment go in one request.
  name(position) {
    const known = this.names.get(position);
    if (known !== undefined) return Promise.resolve(known);
    if (!this.wanted.has(position)) {
      let settle;
      const promise = new Promise((resolve, reject) => { settle = { resolve, reject }; });
      this.wanted.set(position, { promise, ...settle });
      if (this.wanted.size === 1) setTimeout(() => this.fetchNames(), 30);
    }
    return this.wanted.get(position).promise;
  }

  async fetchNames() {
    const asked = [...this.wanted];
    this.wanted = new Map();
    for (let start = 0; start < asked.length; start += 256) {
      const part = asked.slice(start, start + 256);
      try {
        const positions = part.map(([position]) => position).join(",");
        const { names } = await (await this.ask("map/names", { positions })).json();
        part.forEach(([position, { resolve }], at) => {
          this.names.set(position, names[at]);
          resolve(names[at]);
        });
      } catch (error) {
        part.forEach(([, { reject }]) => reject(error));
      }
    }
  }
}

// The rows as columns, in the order of the splits.
export class Rows {
  constructor(state, columns) {
    this.count = state.rows;
    this.classNames = state.class_names;
    this.splits = state.splits;
    this.label = columns.label;
    this.split = new Uint8Array(this.count);
    this.splits.forEach(({ start, rows }, at) => this.split.fill(at, start, start + rows));
    this.x = new Float32Array(this.count);
    this.y = new Float32Array(this.count);
    this.place(columns);
    this.predicted = this.probability = null;
  }

  // Places are kept from 0 to 1, with y downwards as on a screen.
  place({ x, y }) {
    for (let i = 0; i < this.count; i++) {
      this.x[i] = x[i] / 65535;
      this.y[i] = 1 - y[i] / 65535;
    }
  }

  row(position) {
    const split = this.splits[this.split[position]];
    return { split: split.name, row: position - split.start };
  }

  position(split, row) {
    const found = this.splits.find(({ name }) => name === split);
    return found && row >= 0 && row < found.rows ? found.start + row : null;
  }

  // 0 right, 1 wrong, 2 no answer
  answer(position) {
    const predicted = this.predicted[position];
    return predicted === NOTHING ? 2 : predicted === this.label[position] ? 0 : 1;
  }
}
