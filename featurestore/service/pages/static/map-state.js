// What of the page an address keeps, so that it can be sent to somebody.

const numbers = (text) => text.split(",").map(Number);

export function readState(search) {
  const query = new URLSearchParams(search);
  const view = numbers(query.get("view") || "");
  const pin = /^(.+):(\d{1,12})$/.exec(query.get("pin") || "");
  const hidden = {};
  for (const [name, value] of query) {
    if (name.startsWith("hide-")) hidden[name.slice(5)] = numbers(value).filter(Number.isInteger);
  }
  return {
    fingerprint: query.get("fingerprint"),
    colour: query.get("colour") || "class",
    run: query.get("run"),
    view: view.length === 3 && view.every(Number.isFinite) && view[2] >= 0.7 && view[2] <= 400 ? view : null,
    hidden,
    pin: pin && [pin[1], Number(pin[2])],
  };
}

export function writeState({ fingerprint, colour, run, view, dims, pin }) {
  const query = new URLSearchParams();
  if (fingerprint) query.set("fingerprint", fingerprint);
  if (colour !== "class") query.set("colour", colour);
  if (run) query.set("run", run);
  if (!view.isWhole) {
    query.set("view", [view.x.toFixed(4), view.y.toFixed(4), view.zoom.toPrecision(4)].join(","));
  }
  // A long list of what is hidden would not fit into an address.
  for (const { key, hidden } of dims) {
    if (hidden.size && hidden.size <= 200) query.set(`hide-${key}`, [...hidden].join(","));
  }
  if (pin) query.set("pin", `${pin.split}:${pin.row}`);
  const text = query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  return text ? `?${text}` : "";
}
